"""What runs on a node of a Ray cluster: a job's files are put into a folder of its own, and its worker is run there.

Promises: the worker is the child process that it would be at home, on a leash of the same bounds; it is gone when the
task is, however that ends (`child`, `tool_guard`), and the task ends with its node's raylet. The folder is the task's
user's alone, and gone with the task; one that a killed task left is removed by the next on that machine. The address
key is only ever in the worker's pipe.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any, Final

from nsstream import __version__
from nsstream.errors import NsstreamError, StateError
from nsstream.pipeline.child import CancelledError, ChildFailedError, Failure, Leash, run_job
from nsstream.pipeline.parcel import OUT, read_folder, unpack
from nsstream.pipeline.ray_engine import PYTHON

LOOK_S: Final = 1.0  # for the raylet, and for an interrupt
LOCK: Final = ".lock"  # in a task's folder, held as long as the task lives


def on_node(request: dict[str, Any], packed: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """`perform`, as a task of Ray."""
    import ray

    yield from perform(request, packed, [str(gpu) for gpu in ray.get_gpu_ids()])


def perform(request: Mapping[str, Any], packed: Mapping[str, Any] | None, gpus: list[str]) -> Iterator[dict[str, Any]]:
    """Run a job; yields ``started``, its worker's lines, and ``done`` (with `files`, if it made some) or ``error``.

    Args:
        request: as `RayEngine` sends it.
        packed: the files that it names; None: they are at the same paths here.
        gpus: that Ray lets it see.
    """
    yield {"event": "started", "pid": os.getpid()}
    try:
        if request["version"] != __version__:
            raise StateError(f"the node has nsstream {__version__}, the daemon {request['version']}")
        _set_threads(request["environment"])
        if packed is None:
            yield from _lines(request, request["told"], gpus)
            return
        with _room() as room:
            told = unpack(request["told"], packed, room)
            for line in _lines(request, told, gpus):
                if line["event"] == "done" and OUT in told:
                    made = Path(str(line["checkpoint"]))
                    line |= {"checkpoint": made.name, "files": read_folder(made)}
                yield line
    except ChildFailedError as err:
        yield {"event": "error", "message": str(err), "kind": err.kind.value}
    except NsstreamError as err:
        yield {"event": "error", "message": str(err), "kind": Failure.ERROR.value}


def _lines(request: Mapping[str, Any], told: Mapping[str, Any], gpus: list[str]) -> Iterator[dict[str, Any]]:
    """The worker's lines as they come, the last one too; raises ChildFailedError. The worker is gone at the end."""
    command = [sys.executable if part == PYTHON else part for part in request["command"]]
    leash = Leash((), request["nice"], {"CUDA_VISIBLE_DEVICES": ",".join(gpus)}, request["most_octets"])
    lines: SimpleQueue[dict[str, Any] | BaseException] = SimpleQueue()
    cancelled = Event()
    began_s = time.monotonic()

    def run() -> None:
        try:
            done = run_job(
                command, told, lines.put,
                cancelled=cancelled, limit_s=request["limit_s"], silence_s=request["silence_s"], leash=leash,
            )  # fmt: skip
            lines.put(done | {"took_s": time.monotonic() - began_s})
        except BaseException as err:  # the boundary of the thread
            lines.put(err)

    thread = Thread(target=run, name="worker", daemon=True)
    thread.start()
    raylet = os.getppid()
    try:
        while True:
            if os.getppid() != raylet:  # Ray lets a task live on whose node it has given up
                raise ChildFailedError("its node's raylet is gone", Failure.LOST)
            try:
                line = lines.get(timeout=LOOK_S)
            except Empty:
                continue
            if isinstance(line, CancelledError):
                return
            if isinstance(line, BaseException):
                raise line
            yield line
            if line.get("event") == "done":
                return
    finally:  # also where Ray cancels the task, which is an interrupt of this thread
        cancelled.set()
        thread.join()


def _set_threads(environment: Mapping[str, str | None]) -> None:
    """Let the worker's libraries have the threads that they have at home; Ray sets them by the processors asked for."""
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextmanager
def _room() -> Iterator[Path]:
    """A folder that nobody else may read, gone at the end; raises StateError where there is none to be had."""
    home = Path(tempfile.gettempdir()) / f"nsstream-ray-{os.geteuid()}"
    try:
        home.mkdir(mode=0o700, exist_ok=True)
        owner = home.lstat()
        if home.is_symlink() or owner.st_uid != os.geteuid() or owner.st_mode & 0o077:
            raise StateError(f"{home} is not ours alone")
        _sweep(home)
        room = Path(tempfile.mkdtemp(prefix="job-", dir=home))
        lock = os.open(room / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as err:
        raise StateError(f"there is no room for a job in {home}: {err.strerror}") from err
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield room
    finally:
        shutil.rmtree(room, ignore_errors=True)
        os.close(lock)


def _sweep(home: Path) -> None:
    """Remove the folders of tasks that were killed: nobody holds their locks."""
    for room in home.glob("job-*"):
        with suppress(OSError):  # it is held, or not begun, or gone
            lock = os.open(room / LOCK, os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(room, ignore_errors=True)
            finally:
                os.close(lock)
