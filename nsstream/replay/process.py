"""A replay server as a child process: started, awaited, and ended with its user. Imports neither torch nor numba.

Promises: when `spawn_server` gives the client, the server answers; when the context ends, the child has ended, however
it had to be made to, and its socket is gone. A server whose parent is killed ends by itself.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

from nsstream.clock import Clock, SystemClock
from nsstream.errors import ReplayError
from nsstream.replay.client import ReplayClient
from nsstream.replay.keys import ClientKeys

COMMAND: Final = (sys.executable, "-m", "nsstream.replay.server")
READY_TIMEOUT_S: Final = 180.0  # the first start after an installation compiles, perhaps beside much else
END_TIMEOUT_S: Final = 10.0
MAX_READY_LINE_BYTES: Final = 4096
LOG_TAIL_BYTES: Final = 2000


@contextmanager
def spawn_server(
    endpoint: str | None = None,
    log: Path | None = None,
    command: Sequence[str] = COMMAND,
    timeout_s: float = 30.0,  # a server that loads a model on a busy machine is slow to answer
    keys: tuple[Path, ClientKeys] | None = None,
) -> Iterator[ReplayClient]:
    """Start a server and give a client that has said hello to it.

    Args:
        endpoint: where it listens; None: a socket in a new directory that only this user can enter.
        log: gets what the server logs, appended; None: it is kept only to explain a failed start.
        command: the server's program, to which options are added.
        timeout_s: of the client's calls.
        keys: for tcp, the server's directory of keys, and what the client needs.

    Raises ReplayError if the server does not come up.
    """
    with tempfile.TemporaryDirectory(prefix="nsstream-replay-") as directory, _open_log(log) as log_file:
        where = endpoint or f"ipc://{directory}/control.sock"
        key_options = () if keys is None else ("--keys", str(keys[0]))
        try:
            child = subprocess.Popen(
                [*command, "--endpoint", where, "--exit-with-parent", str(os.getpid()), *key_options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log_file,
            )
        except OSError as err:
            raise ReplayError(f"the replay server cannot be started: {command[0]}: {err.strerror}") from err
        with child:
            try:
                bound = _await_ready(child, log_file, SystemClock())
                with ReplayClient(bound, timeout_s, keys=None if keys is None else keys[1]) as client:
                    client.hello()
                    yield client
                    with suppress(ReplayError):  # it may have been told before, or have died
                        client.shutdown()
            except BaseException:
                child.terminate()
                raise
            finally:
                _end(child)


@contextmanager
def _open_log(path: Path | None) -> Iterator[IO[bytes]]:
    with tempfile.TemporaryFile() if path is None else path.open("a+b") as file:
        yield file


def _await_ready(child: subprocess.Popen[bytes], log: IO[bytes], clock: Clock) -> str:
    """Wait for the ready line; gives the endpoint that it names."""
    assert child.stdout is not None
    deadline_ns = clock.monotonic_ns() + int(READY_TIMEOUT_S * 1e9)
    line = b""
    while not line.endswith(b"\n"):
        left_s = (deadline_ns - clock.monotonic_ns()) * 1e-9
        if left_s <= 0 or not select.select([child.stdout], [], [], left_s)[0]:
            raise ReplayError(f"the replay server is not ready within {READY_TIMEOUT_S:g} s{_tail(log)}")
        octets = os.read(child.stdout.fileno(), 4096)
        line += octets
        if not octets or len(line) > MAX_READY_LINE_BYTES:
            raise ReplayError(f"the replay server ended before it was ready{_tail(log)}")
    try:
        endpoint = json.loads(line)["endpoint"]
    except (ValueError, KeyError, TypeError) as err:
        raise ReplayError(f"the replay server said {line!r:.200} and not that it is ready") from err
    return str(endpoint)


def _tail(log: IO[bytes]) -> str:
    """The last line of the log, as the end of a sentence."""
    size = log.seek(0, os.SEEK_END)
    log.seek(max(size - LOG_TAIL_BYTES, 0))
    lines = log.read().decode(errors="replace").strip().splitlines()
    return f": {lines[-1]}" if lines else ""


def _end(child: subprocess.Popen[bytes]) -> None:
    """Wait for the child, and make it end if it does not."""
    for make_end in (child.terminate, child.kill):
        try:
            child.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            make_end()
        else:
            return
    child.wait()
