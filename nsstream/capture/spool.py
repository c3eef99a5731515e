"""SpoolSource: a directory that a capture tool rotates its files into, each read once, for as long as files come.

Rules:

- A file is read when its writer has closed it or renamed it into place, as inotify tells; a file that was there before,
  or whose closing nobody told, when nobody has it open for writing (a lease says so), or, where that cannot be asked,
  when it has not changed for `quiet_s`. The last file of a rotation is no different from the others.
- What was there before is read first, in the order of last changes, then names (numbers in them count as numbers).
- The ledger, written when a file ends, on `close`, and at least each second, makes a restart go on where the last
  packet was given. A file that grew after it was read gives its new packets only. ``X.gz`` is not read if ``X`` was, as
  its time of change shows; the same for ``.xz``, ``.zst`` and ``.bz2``.
- A record that its file ends in the middle of is counted as ``malformed["cut_record"]``. A file that is no capture, or
  breaks in the middle, counts one record as ``malformed["refused_file"]``, is named in `complaints` and in the log, and
  the next file follows. A file that is deleted unread counts one as ``dropped["disk"]``.
- Nothing in the directory is ever changed. Hidden files, and those that `pattern` does not match, are not looked at.
"""

from __future__ import annotations

import fcntl
import fnmatch
import logging
import os
import re
import signal
import stat
import time
from collections import Counter, deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from nsstream.capture.inotify import IS_GONE, DirectoryWatch, Happening
from nsstream.capture.pcap_file import PcapFileSource
from nsstream.capture.source import IDLE_S
from nsstream.capture.spool_ledger import HEAD_BYTES, Entry, SpoolFile, SpoolLedger, head_of
from nsstream.clock import Clock, SystemClock
from nsstream.counters import Tally
from nsstream.errors import InputError
from nsstream.trace import PacketBatch

REFUSED_FILE: Final = "refused_file"
MAX_COMPLAINTS: Final = 100

_COMPRESSION_SUFFIXES: Final = (".gz", ".xz", ".zst", ".bz2")
_SCAN_S: Final = 1.0  # between looks at the whole directory, where nobody tells what happens in it
_WATCHED_SCAN_S: Final = 30.0  # and where inotify does
_PROGRESS_S: Final = 1.0
_MTIME_SLACK_NS: Final = 1_000_000_000  # compressors keep a file's time, some only to the second

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Waiting:
    """A file to be read when its writer is through with it."""

    device: int
    inode: int
    is_closed: bool


@dataclass(slots=True)
class _Current:
    """The file that is being read."""

    source: PcapFileSource
    entry: Entry  # as of its start
    before: Tally  # of records that an earlier reading of the file gave
    rows_to_skip: int
    added: Tally  # what of it is in the source's tally


class SpoolSource:
    """Reads a directory of capture files, plain or compressed.

    Args:
        directory: to watch; not those below it.
        ledger: the file that remembers what was read, made if it is not there; None: only this process remembers.
        pattern: of file names, as a shell's.
        follow: whether to wait for more files when all are read; else the source ends there.
        quiet_s: how long a file must not have changed to be taken for finished, where its writer cannot be seen.
        is_polled: look at the directory each second and do not ask inotify, which tells nothing about a file system
            that another machine writes to. Also what happens where inotify fails.
        buffer_bytes: as of `PcapFileSource`.
        clock: of quiet files and of the ledger.
    """

    def __init__(
        self,
        directory: Path | str,
        ledger: Path | str | None = None,
        *,
        pattern: str = "*",
        follow: bool = True,
        quiet_s: float = 60.0,
        is_polled: bool = False,
        buffer_bytes: int = 1 << 20,
        clock: Clock | None = None,
    ) -> None:
        self.tally = Tally()
        self.complaints: deque[str] = deque(maxlen=MAX_COMPLAINTS)  # what was wrong with files, the last ones
        self._directory = Path(directory)
        self._ledger_path = None if ledger is None else Path(ledger)
        self._pattern = pattern
        self._follow = follow
        self._quiet_ns = int(quiet_s * 1e9)
        self._is_polled = is_polled
        self._buffer_bytes = buffer_bytes
        self._clock = clock or SystemClock()
        self._ledger: SpoolLedger | None = None
        self._watch: DirectoryWatch | None = None
        self._waiting: dict[str, _Waiting] = {}
        self._read: set[tuple[str, SpoolFile]] = set()  # of those that are there, so as not to ask the ledger each time
        self._current: _Current | None = None
        self._scanned_s = 0.0
        self._progress_s = 0.0
        self._is_gone = False
        self._has_ended = False

    def open(self) -> None:
        """Open the ledger, watch the directory, and look at what is there.

        Raises InputError if it is no directory that can be read, or the ledger cannot be used.
        """
        self.close()
        self.tally = Tally()
        self._has_ended = self._is_gone = False
        self._waiting = {}
        if not self._directory.is_dir():
            raise InputError(f"{self._directory}: not a directory; make it, then let the capture tool write there")
        self._ledger = SpoolLedger(self._ledger_path, self._directory.absolute())
        if not self._is_polled:
            try:
                self._watch = DirectoryWatch(self._directory)
            except OSError as err:
                log.warning("inotify failed, polling directory=%s reason=%s", self._directory, err)
        try:
            self._scan()
        except InputError:
            self.close()
            raise

    def read_batch(self) -> PacketBatch | None:
        """The next packets; none where none came for `IDLE_S`; None at the end.

        Raises InputError if the directory is gone, when all that was found in it is read.
        """
        if self._has_ended:
            return None
        if self._ledger is None:
            raise RuntimeError("read_batch before open")
        until_s = time.monotonic() + IDLE_S
        self._note_progress()
        while True:
            self._look_around(0)
            if self._current is not None or self._start_next():
                batch = self._read_on()
                if len(batch) or time.monotonic() >= until_s:
                    return batch
                continue
            if self._is_gone:
                self._has_ended = True
                raise InputError(f"{self._directory}: the spool directory is gone")
            if not self._follow:
                self._has_ended = True
                return None
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                return PacketBatch.empty()
            self._look_around(left_s)

    def close(self) -> None:
        """Write down how far the file in hand was read, and stop watching; the tally stays."""
        if self._current is not None:
            self._record(is_done=False)
            self._current.source.close()
            self._current = None
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None
            self._has_ended = True

    def _look_around(self, wait_s: float) -> None:
        """Learn what happened in the directory, for so long at most, or until something did."""
        needs_scan = False
        if self._watch is not None:
            for event in self._watch.read(wait_s):
                if event.mask & IS_GONE:
                    self._is_gone = True
                elif event.mask & Happening.Q_OVERFLOW:
                    needs_scan = True
                elif event.mask & (Happening.CLOSE_WRITE | Happening.MOVED_TO):
                    self._expect(event.name, is_closed=bool(event.mask & Happening.CLOSE_WRITE))
        elif wait_s:
            time.sleep(wait_s)
        if needs_scan or time.monotonic() - self._scanned_s > (_WATCHED_SCAN_S if self._watch else _SCAN_S):
            self._scan()

    def _scan(self) -> None:
        """Look at the whole directory."""
        assert self._ledger is not None
        self._scanned_s = time.monotonic()
        found: list[tuple[int, list[str | int], str]] = []
        there: set[tuple[int, int]] = set()
        read: set[tuple[str, SpoolFile]] = set()
        try:
            with os.scandir(self._directory) as entries:
                for one in entries:
                    status = _status(Path(one.path))
                    if status is not None:
                        there.add((status.st_dev, status.st_ino))
                        who = (one.name, SpoolFile.of(status))
                        if who in self._read:
                            read.add(who)
                        else:
                            found.append((status.st_mtime_ns, _natural(one.name), one.name))
        except FileNotFoundError:
            self._is_gone = True
            return
        except OSError as err:
            raise InputError(f"{self._directory}: cannot be read: {err.strerror}") from err
        self._read = read
        for _, _, name in sorted(found):
            self._expect(name, is_closed=False)
        self._ledger.forget_gone(there, self._clock.wall_ns())

    def _expect(self, name: str, *, is_closed: bool) -> None:
        """Put a file among those that wait, unless it is read or not for us."""
        path = self._directory / name
        if name.startswith(".") or not fnmatch.fnmatchcase(name, self._pattern) or self._is_ledger(path):
            return
        status = _status(path)
        if status is None:
            return
        waiting = self._waiting.get(name)
        if waiting is not None and (waiting.device, waiting.inode) == (status.st_dev, status.st_ino):
            waiting.is_closed |= is_closed
        elif self._is_read(path, SpoolFile.of(status)):
            self._read.add((name, SpoolFile.of(status)))
        else:
            self._waiting[name] = _Waiting(status.st_dev, status.st_ino, is_closed)

    def _is_ledger(self, path: Path) -> bool:
        """Whether this is the ledger or SQLite's journal of it."""
        ledger = self._ledger_path
        return ledger is not None and path.name.startswith(ledger.name) and path.parent.samefile(ledger.parent)

    def _is_read(self, path: Path, file: SpoolFile) -> bool:
        """Whether all of the file was read, as itself or before it was compressed."""
        if file.size == 0:
            return True  # it will have octets, or it is none of ours
        try:
            known = self._known(path, file)
        except OSError:
            return False  # reading it will say why
        return known is not None and known.is_done and known.file.size == file.size

    def _known(self, path: Path, file: SpoolFile) -> Entry | None:
        """How far the file was read, as itself, under another name, or before it was compressed."""
        assert self._ledger is not None
        entry = self._ledger.find(path, file)
        if entry is not None:
            if entry.name != path.name:
                entry = replace(entry, name=path.name)
                self._ledger.put(entry, self._clock.wall_ns())
            return entry
        if path.suffix in _COMPRESSION_SUFFIXES:
            plain = self._ledger.find_name(path.stem)
            if plain is not None and abs(plain.file.mtime_ns - file.mtime_ns) < _MTIME_SLACK_NS:
                return self._inherit(plain, path, file)
        return None

    def _inherit(self, plain: Entry, path: Path, file: SpoolFile) -> Entry:
        """Give a file's entry to its compressed self, for its own goes when its inode is used again."""
        assert self._ledger is not None
        head_bytes = min(HEAD_BYTES, file.size)
        entry = Entry(path.name, file, head_bytes, head_of(path, head_bytes), plain.is_done, plain.tally)
        self._ledger.put(entry, self._clock.wall_ns())
        return entry

    def _start_next(self) -> bool:
        """Begin the first file that waits and whose writer is through with it."""
        for name in list(self._waiting):
            waiting = self._waiting[name]
            path = self._directory / name
            status = _status(path)
            if status is None:
                del self._waiting[name]
                self._count_if_lost(name, waiting)
                continue
            if not waiting.is_closed and not self._is_finished(path, status):
                continue
            del self._waiting[name]
            if self._begin(path, SpoolFile.of(status)):
                return True
        return False

    def _is_finished(self, path: Path, status: os.stat_result) -> bool:
        """Whether nobody writes to the file any more, as far as can be told."""
        is_being_written = _is_being_written(path)
        if is_being_written is None:
            return self._clock.wall_ns() - status.st_mtime_ns >= self._quiet_ns
        return not is_being_written

    def _begin(self, path: Path, file: SpoolFile) -> bool:
        """Open a file, unless it was read meanwhile, cannot be, or was renamed under our hands."""
        assert self._ledger is not None
        if self._is_read(path, file):
            return False
        source = PcapFileSource(path, allow_cut=True, buffer_bytes=self._buffer_bytes)
        head_bytes = min(HEAD_BYTES, file.size)
        try:
            known = self._known(path, file)
            entry = Entry(path.name, file, head_bytes, head_of(path, head_bytes), is_done=False)
            source.open()
        except (OSError, InputError) as err:
            if _status(path) is None:
                self._count_if_lost(path.name, _Waiting(file.device, file.inode, is_closed=True))
                return False
            self._complain(str(err) if isinstance(err, InputError) else f"{path}: cannot be read: {err.strerror}")
            refused = Entry(path.name, file, 0, "", is_done=True)
            self._ledger.put(refused, self._clock.wall_ns())
            return False
        after = _status(path)
        if after is None or (after.st_dev, after.st_ino) != (file.device, file.inode):
            source.close()
            self._expect(path.name, is_closed=False)
            return False
        before = Tally() if known is None else known.tally
        self._current = _Current(source, entry, before, before.kept, Tally())
        self._progress_s = time.monotonic()
        return True

    def _read_on(self) -> PacketBatch:
        """The next rows of the file in hand that were not given before; none where it has ended."""
        assert self._current is not None
        current = self._current
        batch: PacketBatch | None = None
        try:
            batch = current.source.read_batch()
        except InputError as err:
            self._complain(str(err))
        self._take_tally(current)
        if batch is None:
            self._record(is_done=True)
            current.source.close()
            self._current = None
            return PacketBatch.empty()
        skipped = min(current.rows_to_skip, len(batch))
        current.rows_to_skip -= skipped
        return batch.take(slice(skipped, None)) if skipped else batch

    def _take_tally(self, current: _Current) -> None:
        """Add to our tally what its own has that an earlier reading did not count."""
        fresh = _less(current.source.tally, current.before)
        self.tally.add(_less(fresh, current.added))
        current.added = fresh

    def _note_progress(self) -> None:
        """What was given before this call was taken: write it down, at most each `_PROGRESS_S`."""
        if self._current is not None and time.monotonic() - self._progress_s >= _PROGRESS_S:
            self._record(is_done=False)
            self._progress_s = time.monotonic()

    def _record(self, *, is_done: bool) -> None:
        assert self._current is not None
        assert self._ledger is not None
        entry = self._current.entry
        tally = self._current.source.tally
        if tally.kept < self._current.before.kept:
            tally = self._current.before  # still among what was given before
        done = Entry(entry.name, entry.file, entry.head_bytes, entry.head_digest, is_done, tally)
        self._ledger.put(done, self._clock.wall_ns())

    def _count_if_lost(self, name: str, waiting: _Waiting) -> None:
        """A file is gone: renamed, compressed, or deleted before we came to it."""
        assert self._ledger is not None
        inode = (waiting.device, waiting.inode)
        is_renamed = any((other.device, other.inode) == inode for other in self._waiting.values())
        is_compressed = any((self._directory / f"{name}{suffix}").exists() for suffix in _COMPRESSION_SUFFIXES)
        if is_renamed or is_compressed or self._ledger.knows_inode(*inode):
            return
        self.tally.drop("disk", 1)
        self._name(f"{self._directory / name}: deleted or moved away before it was read")

    def _complain(self, complaint: str) -> None:
        self.tally.offered += 1
        self.tally.malformed[REFUSED_FILE] += 1
        self._name(complaint)

    def _name(self, complaint: str) -> None:
        self.complaints.append(complaint)
        log.warning("spool file refused reason=%s", complaint)


def _status(path: Path) -> os.stat_result | None:
    """Of a regular file, or None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def _natural(name: str) -> list[str | int]:
    """A sort key: text and numbers in turn."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _is_being_written(path: Path) -> bool | None:
    """Whether anybody has the file open for writing; None where the kernel does not tell (not ours, remote)."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        # A writer that comes while we hold the lease has us told by a signal; SIGIO would end us, SIGURG does nothing.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return False


def _less(tally: Tally, known: Tally) -> Tally:
    """What a tally counts beyond another one, count by count, never below zero."""
    less = Tally(kept=max(0, tally.kept - known.kept))
    for name in "malformed", "unsupported", "dropped":
        fewer: Counter[str] = getattr(tally, name) - getattr(known, name)  # drops what is not positive
        setattr(less, name, fewer)
    parts = (less.malformed, less.unsupported, less.dropped)
    less.offered = less.kept + sum(sum(part.values()) for part in parts)
    return less
