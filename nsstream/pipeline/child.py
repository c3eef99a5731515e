"""Child processes of a run: started, listened to line by line, and ended by process id, whatever happens here.

A child reads one JSON job on its standard input and writes JSON lines on its standard output. It fails by an ``error``
line, by its exit status, by ending without ``done``, or by silence: a child that says nothing for too long is killed.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from threading import Event
from typing import IO, Any, Final

_POLL_S: Final = 0.2
_GRACE_S: Final = 5.0


class ChildFailedError(Exception):
    """A child did not do its job; the message is a clause that says why."""


class CancelledError(Exception):
    """The run that the child belongs to has ended; the child was killed."""


def run_job(
    command: Sequence[str],
    job: Mapping[str, object],
    on_line: Callable[[dict[str, Any]], None],
    *,
    cancelled: Event,
    limit_s: float | None,
    silence_s: float,
) -> dict[str, Any]:
    """Run a child on a job, hand every line but the last to `on_line`, and return the ``done`` line.

    Args:
        command: the child's program and arguments.
        job: what it reads, as one JSON object.
        on_line: called in this thread with each line's object.
        cancelled: once set, the child is killed and CancelledError raised.
        limit_s: the child is killed after this long; None: it may take as long as it keeps talking.
        silence_s: the child is killed after this long without a line.

    Raises:
        ChildFailedError: the child failed in one of the ways that the module names.
    """
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
        )
        try:
            _send(child, job)
            done: dict[str, Any] | None = None
            for line in _lines(child, cancelled, limit_s=limit_s, silence_s=silence_s):
                message = _parse(line)
                if message.get("event") == "error":
                    raise ChildFailedError(str(message.get("message")))
                if message.get("event") == "done":
                    done = message
                else:
                    on_line(message)
            status = _wait(child)
            if status or done is None:
                raise ChildFailedError(_obituary(status, errors))
            return done
        finally:
            end_child(child)


def end_child(child: subprocess.Popen[bytes]) -> None:
    """End a child that may still run: ask, wait a little, kill; it is gone when this returns."""
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except OSError:
                continue  # a broken pipe: what was left unsent has no reader
    if child.poll() is None:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _send(child: subprocess.Popen[bytes], job: Mapping[str, object]) -> None:
    assert child.stdin is not None
    try:
        child.stdin.write(json.dumps(job).encode() + b"\n")
        child.stdin.close()
    except BrokenPipeError:
        return  # it died before it read: its exit status says so


def _lines(
    child: subprocess.Popen[bytes], cancelled: Event, *, limit_s: float | None, silence_s: float
) -> Iterator[bytes]:
    """The child's lines until it closes its output."""
    assert child.stdout is not None
    began_s = heard_s = time.monotonic()
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while True:
            if cancelled.is_set():
                raise CancelledError
            now_s = time.monotonic()
            if limit_s is not None and now_s - began_s > limit_s:
                raise ChildFailedError(f"it was still running {limit_s:.0f} s after it started")
            if now_s - heard_s > silence_s:
                raise ChildFailedError(f"it said nothing for {silence_s:.0f} s")
            if not selector.select(_POLL_S):
                continue
            octets = os.read(child.stdout.fileno(), 1 << 16)
            if not octets:
                return
            heard_s = time.monotonic()
            *lines, rest = (rest + octets).split(b"\n")
            yield from filter(None, lines)


def _parse(line: bytes) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except ValueError as err:
        raise ChildFailedError(f"it wrote {line[:80]!r}, which is not JSON") from err
    if not isinstance(message, dict):
        raise ChildFailedError(f"it wrote {line[:80]!r}, which is not a JSON object")
    return message


def _wait(child: subprocess.Popen[bytes]) -> int:
    try:
        return child.wait(_GRACE_S)
    except subprocess.TimeoutExpired as err:
        raise ChildFailedError("it closed its output and did not end") from err


def _obituary(status: int, errors: IO[bytes]) -> str:
    """Why a child ended without a word on its standard output."""
    if status < 0:
        return f"it was killed by {signal.Signals(-status).name}"
    errors.seek(0)
    last = errors.read().decode(errors="replace").strip().rsplit("\n", 1)[-1]
    return f"it ended with status {status}" + (f": {last}" if last else "")
