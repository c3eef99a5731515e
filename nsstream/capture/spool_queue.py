"""SpoolQueue: the files of a spool that wait to be read, until their writers are through with them.

Promises: a file that is read, hidden, the ledger's, or not of the pattern never waits; one that goes away unread is
either known under another name or told as lost. Those that wait keep the order in which they were told.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from nsstream.capture.spool_file import COMPRESSION_SUFFIXES, SpoolFile, is_finished, status_of
from nsstream.capture.spool_history import SpoolHistory
from nsstream.clock import Clock


@dataclass(slots=True)
class _Waiting:
    """A file to be read when its writer is through with it."""

    device: int
    inode: int
    is_closed: bool


class SpoolQueue:
    """The queue of one directory.

    Args:
        directory: of the files.
        history: what was read before.
        pattern: of file names, as a shell's.
        ledger_path: of the ledger, which may lie in the directory.
        quiet_ns: how long a file must not have changed to be taken for finished, where its writer cannot be seen.
        clock: of quiet files.
        on_lost: is given the path of each file that was deleted unread.
    """

    def __init__(
        self,
        directory: Path,
        history: SpoolHistory,
        *,
        pattern: str,
        ledger_path: Path | None,
        quiet_ns: int,
        clock: Clock,
        on_lost: Callable[[Path], None],
    ) -> None:
        self._directory = directory
        self._history = history
        self._pattern = pattern
        self._ledger_path = ledger_path
        self._quiet_ns = quiet_ns
        self._clock = clock
        self._on_lost = on_lost
        self._waiting: dict[str, _Waiting] = {}
        self._read: set[tuple[str, SpoolFile]] = set()  # of those that are there, so as not to ask the ledger each time

    def expect_all(self, there: Mapping[str, os.stat_result]) -> None:
        """Put all files of the directory among those that wait, but for those that are read or not for us."""
        seen = {(name, SpoolFile.of(status)) for name, status in there.items()}
        self._read &= seen
        for name, status in there.items():
            if (name, SpoolFile.of(status)) not in self._read:
                self.expect(name, is_closed=False)

    def expect(self, name: str, *, is_closed: bool) -> None:
        """Put a file among those that wait, unless it is read or not for us."""
        path = self._directory / name
        if not self._is_ours(name):
            return
        status = status_of(path)
        if status is None:
            return
        waiting = self._waiting.get(name)
        if waiting is not None and (waiting.device, waiting.inode) == (status.st_dev, status.st_ino):
            waiting.is_closed |= is_closed
        elif self._history.is_read(path, SpoolFile.of(status)):
            self._read.add((name, SpoolFile.of(status)))
        else:
            self._waiting[name] = _Waiting(status.st_dev, status.st_ino, is_closed)

    def finished(self) -> Iterator[tuple[Path, SpoolFile]]:
        """Those that wait now and whose writers are through with them; each is out of the queue when it is given."""
        for name in list(self._waiting):
            waiting = self._waiting[name]
            path = self._directory / name
            status = status_of(path)
            if status is None:
                del self._waiting[name]
                self.see_gone(path, waiting.device, waiting.inode)
                continue
            if not waiting.is_closed and not is_finished(path, status, self._clock.wall_ns(), self._quiet_ns):
                continue
            del self._waiting[name]
            yield path, SpoolFile.of(status)

    def see_gone(self, path: Path, device: int, inode: int) -> None:
        """A file is gone: renamed, compressed, or deleted before we came to it."""
        is_renamed = any((other.device, other.inode) == (device, inode) for other in self._waiting.values())
        is_renamed = is_renamed or self._is_there(inode)  # though nobody has told yet
        is_compressed = any(path.with_name(f"{path.name}{suffix}").exists() for suffix in COMPRESSION_SUFFIXES)
        if not (is_renamed or is_compressed or self._history.knows_inode(device, inode)):
            self._on_lost(path)

    def _is_there(self, inode: int) -> bool:
        """Whether a file of ours in the directory has that inode."""
        try:
            with os.scandir(self._directory) as entries:
                return any(one.inode() == inode and self._is_ours(one.name) for one in entries)
        except OSError:
            return False

    def _is_ours(self, name: str) -> bool:
        """Whether a file of that name is to be read; the ledger and SQLite's journal of it are not."""
        if name.startswith(".") or not fnmatch.fnmatchcase(name, self._pattern):
            return False
        ledger = self._ledger_path
        return ledger is None or not (name.startswith(ledger.name) and self._directory.samefile(ledger.parent))
