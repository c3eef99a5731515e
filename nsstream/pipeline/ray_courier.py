"""The courier: one process, one job on a Ray cluster. ``python -m nsstream.pipeline.ray_courier`` reads a request.

stdin: one JSON object, as `RayEngine` sends it. stdout: the worker's JSON lines as they come from its node, then its
``done``, the checkpoint written under the job's own ``out``; or ``error`` with its `kind`. Until a node has room for
the job, ``progress`` with the stage ``waiting``. SIGTERM cancels the job on its node. Nothing of the request is logged.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Timer
from typing import Any, Final, TextIO

import ray
import ray.exceptions

from nsstream.errors import NsstreamError
from nsstream.pipeline.child import Failure
from nsstream.pipeline.parcel import OUT, pack, place_folder
from nsstream.pipeline.ray_task import on_node

PROBE_S: Final = 5.0
CONNECT_S: Final = 60.0  # Ray tries for minutes
LOOK_S: Final = 1.0
FETCH_S: Final = 120.0
SLACK_S: Final = 20.0  # beyond the silence that the node itself allows
CANCEL_S: Final = 3.0  # less than what `child.end_child` waits


class _FailedError(Exception):
    """The job failed; message and kind are as in an ``error`` line."""

    def __init__(self, message: str, kind: Failure) -> None:
        super().__init__(message)
        self.kind = kind


class _ToldToEndError(BaseException):
    """SIGTERM came."""


def main() -> int:
    """Do the request on stdin."""
    with os.fdopen(os.dup(1), "w") as lines:
        os.dup2(2, 1)  # what Ray prints is no line of ours
        try:
            for line in carry(json.load(sys.stdin), lines):
                _say(lines, line)
        except _FailedError as err:
            _say(lines, {"event": "error", "message": str(err), "kind": err.kind.value})
            return 1
        except NsstreamError as err:
            _say(lines, {"event": "error", "message": str(err)})
            return 1
        except _ToldToEndError:
            return 1
    return 0


def carry(request: dict[str, Any], lines: TextIO) -> Iterator[dict[str, Any]]:
    """The lines of a job on the cluster; raises _FailedError, and NsstreamError where files are not to be had."""
    settings, told = request["ray"], request["told"]
    packed = pack(told) if settings["files"] == "store" else None
    yield {"event": "progress", "stage": "connecting"}
    _connect(settings["address"], lines)
    signal.signal(signal.SIGTERM, _end)  # Ray has set one of its own
    try:
        for line in _from_node(request, packed):
            if line["event"] == "error":
                raise _FailedError(str(line["message"]), Failure(line["kind"]))
            files = line.pop("files", None)
            if files is not None:
                line["checkpoint"] = str(place_folder(Path(str(told[OUT])), line["checkpoint"], files))
            yield line
    except ray.exceptions.OutOfMemoryError as err:
        raise _FailedError("its node ran out of memory", Failure.MEMORY) from err
    except ray.exceptions.RayTaskError as err:  # the task itself has a defect, or its node has no nsstream
        raise _FailedError(f"its node failed: {_last_line(err)}", Failure.ERROR) from err
    except ray.exceptions.RayError as err:
        raise _FailedError(f"its worker or node was lost: {type(err).__name__}", Failure.LOST) from err
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        ray.shutdown()


def _connect(address: str, lines: TextIO) -> None:
    """Reach the cluster; raises _FailedError of kind UNREACHABLE."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), PROBE_S).close()
    except OSError as err:
        raise _FailedError(f"no Ray cluster answers at {address}: {err.strerror or err}", Failure.UNREACHABLE) from err

    def give_up() -> None:
        late = {"event": "error", "message": f"{address} let us wait", "kind": Failure.UNREACHABLE.value}
        _say(lines, late)
        os._exit(1)

    # Ray replaces 127.0.0.1 and localhost, spelt so, by the machine's outward address, where a cluster of loopback
    # alone does not listen.
    host = re.sub(r"^(127\.0\.0\.1|localhost)$", "LOCALHOST", host)
    limit = Timer(CONNECT_S, give_up)
    limit.daemon = True
    limit.start()
    try:
        ray.init(address=f"{host}:{port}", namespace="nsstream", log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as err:
        raise _FailedError(f"{address} cannot be joined: {_last_line(err)}", Failure.UNREACHABLE) from err
    finally:
        limit.cancel()


def _from_node(request: dict[str, Any], packed: Mapping[str, Any] | None) -> Iterator[dict[str, Any]]:
    """What the task yields, and that it waits; raises RayError where it is lost, _FailedError where it never starts."""
    settings = request["ray"]
    remote: Any = ray.remote(on_node)  # whose types know no task that yields
    task = remote.options(
        num_cpus=settings["cpus"],
        num_gpus=settings["gpus"],
        memory=request["most_octets"],
        max_retries=0,  # a second try is the queue's to give
        scheduling_strategy="SPREAD",
        name="nsstream-job",
    )
    files = None if packed is None else ray.put(packed)
    lines = task.remote(request, files)  # the request, and the key in it, is no object that Ray could spill to disk
    began_s = heard_s = time.monotonic()
    is_started = False
    try:
        while True:
            ready, _ = ray.wait([lines], timeout=LOOK_S, fetch_local=False)
            now_s = time.monotonic()
            if ready:
                try:
                    line = ray.get(next(lines), timeout=FETCH_S)
                except StopIteration:
                    return
                heard_s, is_started = now_s, True
                yield {"event": "progress", "stage": "started"} if line["event"] == "started" else dict(line)
            elif is_started and now_s - heard_s > request["silence_s"] + SLACK_S:
                raise _FailedError("its node says nothing any more", Failure.LOST)
            elif not is_started and now_s - began_s > settings["start_timeout_s"]:
                raise _FailedError(
                    f"no node had room for {settings['cpus']} processors, {settings['gpus']:g} GPUs and "
                    f"{(request['most_octets'] or 0) >> 20} MB within {settings['start_timeout_s']:g} s",
                    Failure.UNREACHABLE,
                )
            elif not is_started:
                yield {"event": "progress", "stage": "waiting"}
    except BaseException:
        _cancel(lines)
        raise


def _cancel(lines: Any) -> None:
    """End the task, and let it clean up behind itself, as far as it does so soon."""
    deadline_s = time.monotonic() + CANCEL_S
    with suppress(ray.exceptions.RayError, StopIteration, _ToldToEndError):
        ray.cancel(lines)
        while (left_s := deadline_s - time.monotonic()) > 0:
            if ray.wait([lines], timeout=left_s, fetch_local=False)[0]:
                ray.get(next(lines), timeout=left_s)


def _end(number: int, frame: object) -> None:
    raise _ToldToEndError


def _say(lines: TextIO, line: Mapping[str, Any]) -> None:
    lines.write(json.dumps(line) + "\n")
    lines.flush()


def _last_line(err: BaseException) -> str:
    return str(err).strip().rsplit("\n", 1)[-1][:300]


if __name__ == "__main__":
    sys.exit(main())
