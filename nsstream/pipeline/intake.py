"""Intake: rows go in, chunks stand on the disk: chunker, journal, store and retention under one account.

One thread calls it; time comes from a clock that it is given. What a full disk does: the journal falls behind, which is
counted (`unprotected_rows`) and lost only if the process dies, too; a chunk that cannot be written even after
retention made what room it may is dropped and counted as ``disk``. Late and future rows go into a store of their own,
so that nothing learns from them. The state directory is locked against a second intake.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Final

from nsstream.chunk import Chunk, Chunker, ChunkLimits, Fate, Kind, Rows
from nsstream.chunk.interval import SECOND_NS, Grid
from nsstream.chunk.journal import Journal, Recovered
from nsstream.chunk.retention import Retention
from nsstream.chunk.rows import kind_of, time_of
from nsstream.chunk.sampling import KEY_BYTES
from nsstream.chunk.scratch import Scratch
from nsstream.chunk.whole_file import whole_file
from nsstream.clock import Clock
from nsstream.counters import Tally
from nsstream.errors import OutputError, StateError
from nsstream.pipeline.closed_chunks import ClosedChunks
from nsstream.pipeline.handover_files import HandoverFiles

_log = logging.getLogger(__name__)
KEY_FILE: Final = "sampling.key"  # in the state directory, in hexadecimal
LOCK_FILE: Final = "ingest.lock"
EXPIRE_EVERY_NS: Final = 60 * SECOND_NS


@dataclass(frozen=True, slots=True)
class IntakeConfig:
    """How rows become chunks."""

    length_s: int = 60
    allowed_lateness_s: float = 5.0  # how long the watermark waits for stragglers
    allowed_future_s: float | None = 3600.0  # how far ahead of the clock or of the stream a row may be
    witnesses: int = 8  # rows that must attest a leap further than that
    limits: ChunkLimits = field(default_factory=ChunkLimits)
    sync_s: float = 1.0  # between commits of the journal: what kill -9 may cost
    is_live: bool = False  # rows are of now: the clock says what is future, and closes intervals while nothing comes
    retention: Retention = field(default_factory=Retention)
    closed_rows: int = 0  # of closed chunks, that may wait for a disk that refuses; beyond, the oldest are dropped

    def __post_init__(self) -> None:
        Grid(self.length_s * SECOND_NS)
        if self.allowed_lateness_s < 0 or (self.allowed_future_s is not None and self.allowed_future_s < 0):
            raise ValueError("allowed_lateness_s and allowed_future_s must be >= 0")
        if self.sync_s <= 0:
            raise ValueError(f"sync_s must be > 0, got {self.sync_s!r}")


class Intake:
    """The way into one state directory, which is made if it is missing.

    Args:
        state: holds ``chunks/``, ``apart/``, ``journal/``, ``handover/``, and the key that says which conversations
            stay.
        source_id: names where rows come from; a process that goes on with the same one continues the same grid.
        config: how rows become chunks.
        clock: for the age of chunks, for commits, and for what is future where the source is live.
        on_chunk: told of every chunk that is stored, not of rows apart.
    """

    def __init__(
        self,
        state: Path,
        source_id: str,
        config: IntakeConfig,
        *,
        clock: Clock,
        on_chunk: Callable[[Chunk], None] | None = None,
    ) -> None:
        self._config = config
        self._source_id = source_id
        self._clock = clock
        try:
            state.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as err:
            raise OutputError(f"cannot make the state directory {state}: {err.strerror}") from err
        self._lock = ingest_lock(state)
        self._key = _key_in(state)
        self._closed = ClosedChunks(
            state, config.retention, config.closed_rows, clock,
            is_live=config.is_live, commit=self.sync, lose=self._lose, on_chunk=on_chunk or (lambda chunk: None),
        )  # fmt: skip
        self.store, self.apart = self._closed.store, self._closed.apart
        self._journal = Journal(state / "journal")
        self._scratch = Scratch(state / "journal")
        self._kind = Kind.PACKETS
        self._lateness_ns = round(config.allowed_lateness_s * SECOND_NS)
        self._ahead_ns = clock.wall_ns() - clock.monotonic_ns()
        self._has_stepped_back = False
        self._chunker = self._new_chunker(config.length_s * SECOND_NS)
        self._waiting = Tally()  # in the source, at this moment
        self._handover_files = HandoverFiles(state / "handover")
        self._handover: dict[str, Any] | None = None
        self._source_total: dict[str, object] = {}
        self._synced_ns = self._moved_ns = self._expired_ns = clock.monotonic_ns()
        self.unprotected_rows = 0  # taken, and not in the journal since the disk refused
        self.recovered = self._recover()

    @property
    def tally(self) -> Tally:
        """What became of every record so far, of source, channel and chunker; adds up at every moment."""
        tally = Tally()
        tally.add(self._chunker.tally)
        tally.add(self._waiting)
        return tally

    @property
    def open_rows(self) -> int:
        """Rows of open intervals."""
        return self._chunker.open_rows

    @property
    def is_full(self) -> bool:
        """Whether no more is to be taken of a source that can wait: the disk refuses chunks that are closed."""
        return self._closed.waiting_rows > 0 and not self._config.is_live

    @property
    def chunk_count(self) -> int:
        """Chunks stored by this intake."""
        return self._closed.chunk_count

    @property
    def apart_rows(self) -> int:
        """Of the late and future rows, those that this intake stored."""
        return self._closed.apart_rows

    @property
    def expired_count(self) -> int:
        """Chunks that expired under this intake."""
        return self._closed.expired_count

    @property
    def latest_ns(self) -> int:
        """The latest time admitted, -1 before any."""
        return self._chunker.latest_ns

    @property
    def source_total(self) -> Mapping[str, Any]:
        """The source's tally where the process before stood, as plain values; empty where there is nothing to skip."""
        is_same = self.recovered.progress.get("source") == self._source_id
        return self.recovered.progress.get("total", {}) if is_same else {}

    @property
    def handover(self) -> dict[str, Any] | None:
        """What the source handed over last, in this process or the one before; None where it was another one."""
        return self._handover

    def take(
        self,
        rows: Rows | None,
        told: Tally,
        *,
        parked: int = 0,
        total: Tally | None = None,
        handover: dict[str, Any] | None = None,
    ) -> None:
        """Take rows, and what became of all records since the last call; ``told.kept`` are the rows.

        `handover` is what the source's successor has to know behind these rows, where that is something new.
        """
        row_count = 0 if rows is None else len(rows)
        if told.kept != row_count:
            raise ValueError(f"{row_count} rows came, and {told.kept} were told of")
        self._waiting = Tally(offered=parked, parked=parked)
        if total is not None and total.behind is not None:
            self._waiting.behind = Tally(offered=total.behind.parked, parked=total.behind.parked)
        if handover is not None:
            self._handover = handover
        if total is not None:
            self._source_total = total.as_dict()
        self._chunker.account(replace(told, kept=0, offered=told.offered - row_count))
        if rows is None or not row_count:
            return
        self._kind = kind_of(rows)
        latest_ns = self._chunker.latest_ns
        if self._has_stepped_back and time_of(rows).max() < latest_ns - self._lateness_ns:
            self._begin_anew()
            latest_ns = self._chunker.latest_ns
        chunks = self._chunker.push(rows, now_ns=self._clock.wall_ns() if self._config.is_live else None)
        if self._chunker.latest_ns > latest_ns:
            self._moved_ns = self._clock.monotonic_ns()
        self._put_away(chunks)

    def forget_waiting(self) -> None:
        """Count what the rows to come were to be made of when the process before ended: it is not given again."""
        behind = self.source_total.get("behind")
        if behind is not None and behind["parked"]:
            lost = Tally()
            lost.drop("restart", behind["parked"])
            self.take(None, Tally(behind=lost), total=Tally())

    def tick(self) -> None:
        """Do what is due by the clock; call it often."""
        now_ns = self._clock.monotonic_ns()
        self._look_at_clock(now_ns)
        if self._config.is_live and self._chunker.open_count:
            # The stream's own time, as if it had gone on with the clock since its last row.
            self._put_away(self._chunker.advance_to(self._chunker.latest_ns + now_ns - self._moved_ns))
        if now_ns - self._synced_ns >= self._config.sync_s * SECOND_NS:
            self._synced_ns = now_ns
            self._put_away([])
            self.sync()
        if now_ns - self._expired_ns >= EXPIRE_EVERY_NS:
            self._expired_ns = now_ns
            self._closed.expire()

    def sync(self, closing: Sequence[Chunk] = ()) -> bool:
        """Commit the journal, but not while a closed chunk waits: no journal has its last rows; whether it was done."""
        self._synced_ns = self._clock.monotonic_ns()
        if self._closed.waiting_rows:
            self.unprotected_rows = self._unsaved_rows()
            return False
        try:
            handover = self._handover_files.save(self._handover)
            progress = {"source": self._source_id, "total": self._source_total, "handover": handover}
            self._journal.sync(self._chunker, closing, progress)
        except OutputError as err:
            self.unprotected_rows = self._unsaved_rows()
            _log.warning("journal_behind rows=%d error=%s", self.unprotected_rows, err)
            return False
        if self.unprotected_rows:
            _log.info("journal_caught_up rows=%d", self.unprotected_rows)
        self._handover_files.keep_only(handover)
        self.unprotected_rows = 0
        return True

    def retain(self, retention: Retention) -> None:
        """Let chunks expire by other bounds from now on; from any thread."""
        self._closed.retention = retention

    def flush(self) -> None:
        """Close every interval, and commit."""
        self._put_away(self._chunker.flush() + self._chunker.close_apart())
        self.sync()

    def close(self) -> None:
        """Let go of the state; what was not flushed stays in the journal."""
        self._lock.close()

    def _look_at_clock(self, now_ns: int) -> None:
        """Notice that the wall clock was set: rows that are stamped by it may now be of a time that is past."""
        ahead_ns = self._clock.wall_ns() - now_ns
        by_ns, self._ahead_ns = ahead_ns - self._ahead_ns, ahead_ns
        if abs(by_ns) > self._lateness_ns + SECOND_NS:
            _log.warning("clock_stepped seconds=%+.0f", by_ns * 1e-9)
            self._has_stepped_back = self._config.is_live and by_ns < 0

    def _begin_anew(self) -> None:
        """Close all that is open, and take rows of any time again, where those of now would be late for so long."""
        old = self._chunker
        _log.warning("chunks_begin_anew before=%d", old.latest_ns)
        self._put_away(old.flush() + old.close_apart())
        self._chunker = self._new_chunker(old.grid.length_ns)
        self._chunker.tally, self._chunker.loose = old.tally, old.loose
        self._chunker.apart.resume(old.apart.number, old.apart.lost)
        self._has_stepped_back = False

    def _put_away(self, chunks: list[Chunk]) -> None:
        """Store chunks, and forget what the journal has of those that need it no more."""
        done = self._closed.put_away(chunks)
        if done:
            self._journal.remove([chunk.id for chunk in done])
        if self._closed.waiting_rows:
            self.unprotected_rows = self._unsaved_rows()
        elif done:
            self._journal.remove_apart(self._chunker.apart.number)

    def _lose(self, chunk: Chunk) -> None:
        (self._chunker if chunk.fate is Fate.KEPT else self._chunker.apart).lose(chunk)

    def _unsaved_rows(self) -> int:
        return sum(unsaved.row_count for unsaved in self._chunker.unsaved()) + self._closed.waiting_rows

    def _new_chunker(self, length_ns: int) -> Chunker:
        config = self._config
        return Chunker(
            length_ns,
            allowed_lateness_ns=self._lateness_ns,
            allowed_future_ns=None if config.allowed_future_s is None else round(config.allowed_future_s * SECOND_NS),
            witnesses=config.witnesses,
            limits=config.limits,
            sampling_key=self._key,
            first_part=self._first_part,
            first_part_apart=lambda start_ns, end_ns, fate: self.apart.next_part(start_ns, end_ns, self._kind, fate),
            scratch=self._scratch,
        )

    def _first_part(self, start_ns: int, end_ns: int) -> int:
        return self.store.next_part(start_ns, end_ns, self._kind) + self._closed.waiting_of(start_ns)

    def _recover(self) -> Recovered:
        """Take up the intervals that a process before left open: in the same grid, or closed where ours is another."""
        found = self._journal.recover(lambda chunk_id: self.store.path_of(chunk_id).exists(), self._closed.publish)
        self.store.sweep()
        self.apart.sweep()
        if found.length_ns is None:
            return found
        is_same = found.progress.get("source") == self._source_id
        goes_on = is_same and found.length_ns == self._chunker.grid.length_ns
        chunker = self._chunker if goes_on else self._new_chunker(found.length_ns)
        chunker.resume(found.latest_ns, found.closed_before, found.loose)
        for rows in found.intervals:
            self._kind = rows.kind
            chunker.restore(
                rows.index, rows.part, rows.kind, rows.pieces, level=rows.level, sampled_out=rows.sampled_out
            )
        chunker.apart.resume(found.apart_number, found.apart_lost)
        for rows in found.apart:
            self._kind = rows.kind
            chunker.apart.restore(rows.fate, rows.kind, rows.pieces, level=rows.level, sampled_out=rows.sampled_out)
        if found.row_count:
            _log.info("journal_recovered rows=%d torn_octets=%d", found.row_count, found.torn_octets)
        if is_same:
            self._source_total = found.progress.get("total", {})
            self._handover = self._handover_files.read(found.progress.get("handover"))
        ours, self._chunker = self._chunker, chunker
        self._put_away(chunker.close_ended() if goes_on else chunker.flush() + chunker.close_apart())
        if not goes_on:
            self._chunker = ours
            ours.account(chunker.loose)
            ours.apart.resume(chunker.apart.number, chunker.apart.lost)
        return replace(found, intervals=(), apart=())  # their rows are the chunker's now


def ingest_lock(state: Path) -> IO[bytes]:
    """The lock of the way into a state directory, held until it is closed; raises StateError where another has it."""
    path = state / LOCK_FILE
    try:
        file = path.open("ab")
    except OSError as err:
        raise OutputError(f"cannot use the state directory {path.parent}: {err.strerror}") from err
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as err:
        file.close()
        raise StateError(f"{path.parent} is in use by another ingest; stop it, or use another --state") from err
    return file


def _key_in(state: Path) -> bytes:
    path = state / KEY_FILE
    if not path.exists():
        with whole_file(path, mode=0o600) as file:
            file.write(os.urandom(KEY_BYTES).hex().encode() + b"\n")
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii"))
    except (OSError, ValueError) as err:
        raise StateError(f"{path} is not a sampling key: {err}") from err
    if len(key) != KEY_BYTES:
        raise StateError(f"{path} holds {len(key)} octets, not {KEY_BYTES}")
    return key
