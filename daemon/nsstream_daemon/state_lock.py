"""StateLock: one daemon a state directory; who comes second learns the number of the process that holds it."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from nsstream.errors import OutputError, StateError
from nsstream.pipeline.intake import LOCK_FILE as INGEST_FILE
from nsstream.pipeline.intake import ingest_lock

FILE: Final = "daemon.lock"
_HINTS: Final = {
    errno.EROFS: "; the unit may write in /var/lib/nsstream, and where its ReadWritePaths= says",
    errno.EACCES: "; if another user ran nsstream in it before: `nsstream doctor --repair`, as root, sets owners right",
}


class StateLock:
    """The lock of a state directory, which is made, private to its owner, if it is missing.

    Raises StateError where another daemon holds it, OutputError where the directory cannot be used. The kernel lets go
    of the lock when the process ends, however it ends; the number in the file is then of no meaning.
    """

    def __init__(self, state: Path) -> None:
        try:
            state.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file: IO[str] = (state / FILE).open("a+", encoding="ascii")
        except OSError as err:
            hint = _HINTS.get(err.errno or 0, "")
            raise OutputError(f"cannot use the state directory {state}: {err.strerror}{hint}") from err
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            self._file.seek(0)
            holder = self._file.read(32).strip() or "a process that is just starting"
            self._file.close()
            raise StateError(f"{state} is held by another daemon, pid {holder}; stop it, or use another state") from err
        self._file.truncate(0)
        self._file.write(f"{os.getpid()}\n")
        self._file.flush()

    def release(self) -> None:
        """Let the next one in."""
        self._file.truncate(0)
        self._file.close()


def held_by(state: Path) -> str | None:
    """Which process is in a state directory, None where none is; raises OutputError where that cannot be found out."""
    for name, words in ((FILE, "a daemon"), (INGEST_FILE, "an ingest")):
        try:
            with (state / name).open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    pid = file.read(32).decode(errors="replace").strip()
                    return f"{words}, pid {pid}" if pid else words
        except FileNotFoundError:
            continue
        except OSError as err:
            raise OutputError(f"cannot look at {state / name}: {err.strerror}") from err
    return None


@contextmanager
def kept_out(state: Path) -> Iterator[None]:
    """Let no daemon and no ingest into a state directory meanwhile; raises StateError where one is in it."""
    lock, owner = StateLock(state), state.stat()
    try:
        with ingest_lock(state):
            for name in (FILE, INGEST_FILE):
                if (state / name).stat().st_uid != owner.st_uid:  # root made it now: the daemon is to open it, too
                    os.chown(state / name, owner.st_uid, owner.st_gid)
            yield
    finally:
        lock.release()
