"""SpoolSource: a directory that a capture tool rotates its files into, each read once, for as long as files come.

Rules:

- A file is read when its writer has closed it or renamed it into place, as inotify tells; a file that was there before,
  or whose closing nobody told, when nobody has it open for writing (a lease says so), or, where that cannot be asked,
  when it has not changed for `quiet_s`. The last file of a rotation is no different from the others.
- What was there before is read first, in the order of last changes, then names (numbers in them count as numbers).
- Without a ledger it is a `HandsOver`: a successor that is told so goes on behind the last row. With one, written when
  a file ends, on `close`, and at least each second, a restart does; after a crash rows of that second come again.
- A file that grew after it was read gives its new packets only. ``X.gz`` is not read if ``X`` was, as its time of
  change shows; the same for ``.xz``, ``.zst`` and ``.bz2``.
- A record that its file ends in the middle of is counted as ``malformed["cut_record"]``. A file that is no capture, or
  breaks in the middle, counts one record as ``malformed["refused_file"]``, is named in `complaints` and in the log, and
  the next file follows. A file that is deleted unread counts one as ``dropped["disk"]``.
- Nothing in the directory is ever changed. Hidden files, and those that `pattern` does not match, are not looked at.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from nsstream.capture.pcap_file import PcapFileSource
from nsstream.capture.source import COLLECTOR_LATENESS_S, DEFAULT_LATENESS_S, IDLE_S
from nsstream.capture.spool_file import SpoolFile, status_of
from nsstream.capture.spool_history import SpoolHistory
from nsstream.capture.spool_ledger import Ledger, SpoolLedger
from nsstream.capture.spool_memory import SpoolMemory
from nsstream.capture.spool_queue import SpoolQueue
from nsstream.capture.spool_reading import FileSource, Rows, SpoolReading
from nsstream.capture.spool_watch import News, SpoolWatch
from nsstream.clock import Clock, SystemClock
from nsstream.counters import Tally
from nsstream.errors import InputError
from nsstream.trace import FlowTable, PacketBatch

REFUSED_FILE: Final = "refused_file"
MAX_COMPLAINTS: Final = 100

_PROGRESS_S: Final = 1.0

log = logging.getLogger(__name__)


class SpoolSource:
    """Reads a directory of capture files, plain or compressed, or of nfdump's files.

    Args:
        directory: to watch; not those below it.
        ledger: the file that remembers what was read, made if it is not there; None: this object remembers, and whom
            it hands over to.
        pattern: of file names, as a shell's.
        follow: whether to wait for more files when all are read; else the source ends there.
        content: "packets", of captures, or "flows", of nfdump's files; a directory has one kind.
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
        content: str = "packets",
        quiet_s: float = 60.0,
        is_polled: bool = False,
        buffer_bytes: int = 1 << 20,
        clock: Clock | None = None,
    ) -> None:
        if content not in ("packets", "flows"):
            raise ValueError(f"content must be packets or flows, got {content!r}")
        self.lateness_s: Final = DEFAULT_LATENESS_S if content == "packets" else COLLECTOR_LATENESS_S
        self.tally = Tally()
        self.complaints: deque[str] = deque(maxlen=MAX_COMPLAINTS)  # what was wrong with files, the last ones
        self._directory = Path(directory)
        self._ledger_path = None if ledger is None else Path(ledger)
        self._memory = SpoolMemory()
        self._pattern = pattern
        self._follow = follow
        self._content = content
        self._quiet_ns = int(quiet_s * 1e9)
        self._is_polled = is_polled
        self._buffer_bytes = buffer_bytes
        self._clock = clock or SystemClock()
        self._room: _Room | None = None
        self._reading: SpoolReading | None = None
        self._progress_s = 0.0
        self._has_ended = False

    def open(self) -> None:
        """Open the ledger, watch the directory, and look at what is there.

        Raises InputError if it is no directory that can be read, or the ledger cannot be used.
        """
        self.close()
        self.tally = Tally()
        self._has_ended = False
        if not self._directory.is_dir():
            raise InputError(f"{self._directory}: not a directory; make it, then let the capture tool write there")
        ledger: Ledger = self._memory
        if self._ledger_path is not None:
            ledger = SpoolLedger(self._ledger_path, self._directory.absolute())
        history = SpoolHistory(ledger, self._clock)
        queue = SpoolQueue(
            self._directory,
            history,
            pattern=self._pattern,
            ledger_path=self._ledger_path,
            quiet_ns=self._quiet_ns,
            clock=self._clock,
            on_lost=self._count_lost,
        )
        self._room = _Room(ledger, history, SpoolWatch(self._directory, is_polled=self._is_polled), queue)
        try:
            self._take_news(self._room, News(there=self._room.watch.scan()))
        except InputError:
            self.close()
            raise

    def read_batch(self) -> Rows | None:
        """The next rows; none where none came for `IDLE_S`; None at the end.

        Raises InputError if the directory is gone, when all that was found in it is read.
        """
        if self._has_ended:
            return None
        room = self._room
        if room is None:
            raise RuntimeError("read_batch before open")
        until_s = time.monotonic() + IDLE_S
        self._note_progress(room)
        while True:
            self._take_news(room, room.watch.look(0))
            if self._reading is not None or self._start_next(room):
                batch = self._read_on(room)
                if len(batch) or time.monotonic() >= until_s:
                    return batch
                continue
            if room.watch.is_gone:
                self._has_ended = True
                raise InputError(f"{self._directory}: the spool directory is gone")
            if not self._follow:
                self._has_ended = True
                return None
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                return self._no_rows()
            self._take_news(room, room.watch.look(left_s))

    def close(self) -> None:
        """Write down how far the file in hand was read, and stop watching; the tally stays."""
        room, self._room = self._room, None
        if room is None:
            return
        reading, self._reading = self._reading, None
        self._has_ended = True
        try:
            if reading is not None:
                reading.close()
                room.history.put(reading.entry(is_done=False))
        finally:
            room.watch.close()
            room.ledger.close()

    def handover(self) -> dict[str, Any] | None:
        """Which files were read and how far, with the rows given last; None where a ledger remembers it."""
        if self._ledger_path is not None:
            return None
        if self._room is not None and self._reading is not None:
            self._room.history.put(self._reading.entry(is_done=False))
        return self._memory.handover()

    def take_over(self, handover: object) -> None:
        """Know what a predecessor read; raises InputError where that is not what one hands over."""
        if self._ledger_path is not None:
            raise InputError(f"{self._directory}: this spool has a ledger, {self._ledger_path}, and takes nothing over")
        self._memory.take_over(handover)

    def _take_news(self, room: _Room, news: News) -> None:
        for name, is_closed in news.came:
            room.queue.expect(name, is_closed=is_closed)
        if news.there is not None:
            room.queue.expect_all(news.there)
            room.history.forget_gone({(status.st_dev, status.st_ino) for status in news.there.values()})

    def _start_next(self, room: _Room) -> bool:
        """Begin the first file that waits and whose writer is through with it."""
        self._memory.check_room()
        return any(self._begin(room, path, file) for path, file in room.queue.finished())

    def _begin(self, room: _Room, path: Path, file: SpoolFile) -> bool:
        """Open a file, unless it was read meanwhile, cannot be, or was renamed under our hands."""
        if room.history.is_read(path, file):
            return False
        try:
            known = room.history.known(path, file)
            before = Tally() if known is None else known.tally
            entry = room.history.begin(path, file)
            reading = SpoolReading(self._source_of(path), entry, before)
            reading.open()
        except (OSError, InputError) as err:
            if status_of(path) is None:
                room.queue.see_gone(path, file.device, file.inode)
                return False
            self._complain(str(err) if isinstance(err, InputError) else f"{path}: cannot be read: {err.strerror}")
            room.history.refuse(path, file)
            return False
        after = status_of(path)
        if after is None or (after.st_dev, after.st_ino) != (file.device, file.inode):
            reading.close()
            room.queue.expect(path.name, is_closed=False)
            return False
        self._reading = reading
        self._progress_s = time.monotonic()
        return True

    def _read_on(self, room: _Room) -> Rows:
        """The next rows of the file in hand that were not given before; none where it has ended."""
        assert self._reading is not None
        batch: Rows | None = None
        try:
            batch = self._reading.read_batch()
        except InputError as err:
            self._complain(str(err))
        self.tally.add(self._reading.take_tally())
        if batch is None:
            room.history.put(self._reading.entry(is_done=True))
            self._reading.close()
            self._reading = None
            return self._no_rows()
        return batch

    def _source_of(self, path: Path) -> FileSource:
        if self._content == "packets":
            return PcapFileSource(path, allow_cut=True, buffer_bytes=self._buffer_bytes)
        from nsstream.capture.nfcapd_file import NfcapdFileSource

        return NfcapdFileSource(path, allow_cut=True)

    def _no_rows(self) -> Rows:
        return PacketBatch.empty() if self._content == "packets" else FlowTable.empty()

    def _note_progress(self, room: _Room) -> None:
        """What was given before this call was taken: write it down, at most each `_PROGRESS_S`."""
        if self._ledger_path is None or self._reading is None:
            return
        if time.monotonic() - self._progress_s >= _PROGRESS_S:
            room.history.put(self._reading.entry(is_done=False))
            self._progress_s = time.monotonic()

    def _count_lost(self, path: Path) -> None:
        self.tally.drop("disk", 1)
        self._name(f"{path}: deleted or moved away before it was read")

    def _complain(self, complaint: str) -> None:
        self.tally.offered += 1
        self.tally.malformed[REFUSED_FILE] += 1
        self._name(complaint)

    def _name(self, complaint: str) -> None:
        self.complaints.append(complaint)
        log.warning("spool file refused reason=%s", complaint)


@dataclass(frozen=True, slots=True)
class _Room:
    """What is there between open and close."""

    ledger: Ledger
    history: SpoolHistory
    watch: SpoolWatch
    queue: SpoolQueue
