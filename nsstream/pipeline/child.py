"""Child processes of a run: started, listened to line by line, and ended with all of their group, whatever happens.

A child reads one JSON job on its standard input and writes JSON lines on its standard output. It fails by an ``error``
line, by its exit status, by ending without ``done``, by taking too long or too much memory, or by silence: a child that
says nothing for too long is killed. A child on a `Leash` has niceness and processors of its own, none of the ambient
capabilities that a service manager gave us, and dies with us even where we are killed. One that passes on what became
of a job elsewhere names a `Failure` in its ``error`` line.
"""

from __future__ import annotations

import ctypes
import json
import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from threading import Event
from typing import IO, Any, Final

from nsstream.capture.tool_guard import ToolGuard

_POLL_S: Final = 0.2
_GRACE_S: Final = 5.0
_MOST_LINE_OCTETS: Final = 1 << 20
_LAST_WORDS_OCTETS: Final = 1 << 12  # of what it wrote to standard error
_PR_CAP_AMBIENT: Final = 47  # of <linux/prctl.h>, as the next
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4


class Failure(StrEnum):
    """How a child failed."""

    ERROR = "error"  # it said so
    DIED = "died"  # it ended without a word, or garbled
    STUCK = "stuck"  # it said nothing for too long
    TIME = "time"  # it took too long
    MEMORY = "memory"  # it took too much
    LOST = "lost"  # the machine that it ran on went away, or the connection to it
    UNREACHABLE = "unreachable"  # there was no machine to run on
    GPU_MEMORY = "gpu_memory"  # the GPU that it was given had too little memory


class ChildFailedError(Exception):
    """A child did not do its job; the message is a clause that says why, in its own words if `is_told`."""

    def __init__(self, message: str, kind: Failure = Failure.DIED, *, is_told: bool = False) -> None:
        super().__init__(message)
        self.kind, self.is_told = kind, is_told


@dataclass(frozen=True, slots=True)
class Leash:
    """What a child may use, and where it runs."""

    cores: tuple[int, ...] = ()  # that it is pinned to; none: any
    nice: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)  # beside ours
    most_octets: int | None = None  # of resident memory

    def command(self, command: Sequence[str]) -> list[str]:
        """The command, behind the tools that set niceness and processors before its first thread is there."""
        nice = ["nice", "-n", str(self.nice)] if self.nice else []
        cores = ["taskset", "-c", ",".join(map(str, self.cores))] if self.cores else []
        return [*nice, *cores, *command]


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
    leash: Leash | None = None,
) -> dict[str, Any]:
    """Run a child on a job, hand every line but the last to `on_line`, and return the ``done`` line.

    Args:
        command: the child's program and arguments.
        job: what it reads, as one JSON object.
        on_line: called in this thread with each line's object.
        cancelled: once set, the child is killed and CancelledError raised.
        limit_s: the child is killed after this long; None: it may take as long as it keeps talking.
        silence_s: the child is killed after this long without a line.
        leash: what it may use; then it dies with this process, too. Nothing that the calling thread starts from then on
            holds its ambient capabilities.

    Raises:
        ChildFailedError: the child failed in one of the ways that the module names.
    """
    with _scratch() as errors, _started(command, leash, errors) as child:
        _send(child, job)
        done: dict[str, Any] | None = None
        most_octets = None if leash is None else leash.most_octets
        for line in _lines(child, cancelled, limit_s=limit_s, silence_s=silence_s, most_octets=most_octets):
            message = _parse(line)
            if message.get("event") == "error":
                raise ChildFailedError(str(message.get("message")), _kind_of(message), is_told=True)
            if message.get("event") == "done":
                done = message
            else:
                on_line(message)
        status = _wait(child)
        if status or done is None:
            raise ChildFailedError(_obituary(status, errors))
        return done


def _scratch() -> IO[bytes]:
    """What a child writes its last words into: in memory where no disk has room for a file."""
    try:
        return tempfile.TemporaryFile()
    except OSError:
        return os.fdopen(os.memfd_create("nsstream-errors"), "w+b")


@contextmanager
def _started(command: Sequence[str], leash: Leash | None, errors: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """A child in a session of its own, which is gone with its group when the block ends."""
    if leash is not None:
        _give_up_ambient_capabilities()
    try:
        child = subprocess.Popen(
            command if leash is None else leash.command(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
            env=None if leash is None else os.environ | dict(leash.environment),
        )
    except OSError as err:
        raise ChildFailedError(f"it could not be started: {err.strerror}") from err
    guard = None
    try:
        if leash is not None:
            guard = _guard(child)
        yield child
    finally:
        try:
            end_child(child)
        finally:
            if guard is not None:
                guard.dismiss()


def _guard(child: subprocess.Popen[bytes]) -> ToolGuard:
    """What kills the child's group where we die; before it stands, the child still waits for its job, and ends."""
    try:
        return ToolGuard(child.pid)
    except OSError as err:
        raise ChildFailedError(f"it could not be guarded: {err.strerror}") from err


def end_child(child: subprocess.Popen[bytes]) -> None:
    """End a child that may still run, and its group: ask, wait a little, kill; all are gone when this returns."""
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except OSError:
                continue  # a broken pipe: what was left unsent has no reader
    if child.returncode is None:
        os.kill(child.pid, signal.SIGTERM)  # not `send_signal`, which would reap a child that has just ended
        _ends_within(child, _GRACE_S)
        _reap(child)


def _ends_within(child: subprocess.Popen[bytes], grace_s: float) -> bool:
    """Whether a child ends in time; it is not reaped by that, so its number stays its own."""
    deadline_s = time.monotonic() + grace_s
    while os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.01)
    return True


def _reap(child: subprocess.Popen[bytes]) -> int:
    """Kill whatever is left of a child's group, and take its status."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    return child.wait()


def _send(child: subprocess.Popen[bytes], job: Mapping[str, object]) -> None:
    assert child.stdin is not None
    try:
        child.stdin.write(json.dumps(job).encode() + b"\n")
        child.stdin.close()
    except BrokenPipeError:
        return  # it died before it read: its exit status says so


def _lines(
    child: subprocess.Popen[bytes],
    cancelled: Event,
    *,
    limit_s: float | None,
    silence_s: float,
    most_octets: int | None,
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
                raise ChildFailedError(f"it was still running {limit_s:.0f} s after it started", Failure.TIME)
            if now_s - heard_s > silence_s:
                raise ChildFailedError(f"it said nothing for {silence_s:.0f} s", Failure.STUCK)
            if most_octets is not None and (resident := resident_octets(child.pid)) > most_octets:
                raise ChildFailedError(
                    f"it took {resident >> 20} MB of memory, more than {most_octets >> 20} MB", Failure.MEMORY
                )
            if not selector.select(_POLL_S):
                continue
            octets = os.read(child.stdout.fileno(), 1 << 16)
            if not octets:
                return
            heard_s = time.monotonic()
            *lines, rest = (rest + octets).split(b"\n")
            if len(rest) > _MOST_LINE_OCTETS:
                raise ChildFailedError(f"it wrote a line of more than {_MOST_LINE_OCTETS} octets")
            yield from filter(None, lines)


def _parse(line: bytes) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except ValueError as err:
        raise ChildFailedError(f"it wrote {line[:80]!r}, which is not JSON") from err
    if not isinstance(message, dict):
        raise ChildFailedError(f"it wrote {line[:80]!r}, which is not a JSON object")
    return message


def _kind_of(error: Mapping[str, Any]) -> Failure:
    """What an ``error`` line says it is; one that passes on another's failure names its kind."""
    try:
        return Failure(error.get("kind", Failure.ERROR))
    except ValueError:
        return Failure.ERROR


def _wait(child: subprocess.Popen[bytes]) -> int:
    if not _ends_within(child, _GRACE_S):
        raise ChildFailedError("it closed its output and did not end")
    return _reap(child)


def resident_octets(pid: int) -> int:
    """Resident memory of a process; 0 where it is gone."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    except (OSError, IndexError):
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _give_up_ambient_capabilities() -> None:
    """Let what this thread starts hold no capability, such as CAP_NET_RAW, only because we do (capabilities(7)).

    The thread keeps its own. Not by setpriv, which calls capset whatever it is told to do, and our unit forbids that.
    """
    ctypes.CDLL(None).prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)


def _obituary(status: int, errors: IO[bytes]) -> str:
    """Why a child ended without a word on its standard output."""
    if status < 0:
        return f"it was killed by {signal.Signals(-status).name}"
    errors.seek(max(0, errors.seek(0, os.SEEK_END) - _LAST_WORDS_OCTETS))
    last = errors.read().decode(errors="replace").strip().rsplit("\n", 1)[-1]
    return f"it ended with status {status}" + (f": {last}" if last else "")
