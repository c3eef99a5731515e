"""Chunker: rows fall into intervals; a watermark closes an interval and makes it a chunk.

The watermark is the latest time admitted so far less the allowed lateness, and an interval closes once the watermark
has reached its end; `advance_to` moves the watermark on while nothing comes. Several intervals are open at once. What a
row must be to get in is told in `admission`; what happens where there is no room, in `sampling`:

- A chunk over its limit goes up to the lowest level at which what it was offered fits.
- If all open intervals together are over theirs, all go up to the lowest level at which what they were offered fits,
  each counted up to the limit of a chunk. Levels fall to 0 only for intervals that open after one has closed.

Promises: every row that is pushed is kept, or counted as late, future, parked (undecided), sampled out or malformed;
what became of it depends on the rows before it, never on where batches begin: any batching of the same rows gives the
same chunks, digest for digest, tally for tally. Memory is bounded by the limits and the batch in hand. The sum of the
chunks' tallies, of what is open and of `loose` is `tally`. An interval that was offered no row makes no chunk. Late and
future rows are in no chunk's columns, but beside them (`Chunk.apart`), as far as there is room.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.chunk.admission import (
    ADMITTED,
    FUTURE,
    LATE,
    MALFORMED,
    UNDECIDED,
    AdmissionRules,
    judge,
)
from nsstream.chunk.apart import RowsApart
from nsstream.chunk.chunk import Chunk
from nsstream.chunk.interval import Grid
from nsstream.chunk.open_interval import OpenInterval, Unsaved
from nsstream.chunk.rows import Fate, Kind, Rows, concatenate, kind_of, time_of
from nsstream.chunk.sampling import KEY_BYTES, UNLIMITED, ChunkLimits
from nsstream.chunk.scratch import Scratch
from nsstream.counters import Tally

DEFAULT_LATENESS_NS: Final = 5_000_000_000
TIME_OUT_OF_RANGE: Final = "time_out_of_range"


class Chunker:
    """Cuts a stream of batches, all of packets or all of flows, into chunks of `length_ns` on the UTC grid.

    Args:
        length_ns: whole seconds.
        allowed_lateness_ns: how long the watermark waits for stragglers.
        allowed_future_ns: how far ahead of the clock, or of the stream's own progress, a row may be; None: any.
        witnesses: rows that must stand there before the stream is believed to have jumped further than that.
        limits: of rows and memory.
        sampling_key: 16 octets that say which conversations stay where there is no room for all.
        first_part: which part of an interval (by start and end) opens; parts before it are stored already.
        first_part_apart: the same of the late and the future rows that came in an interval.
        scratch: where rows wait that are many; None: in memory.
    """

    def __init__(
        self,
        length_ns: int,
        *,
        allowed_lateness_ns: int = DEFAULT_LATENESS_NS,
        allowed_future_ns: int | None = None,
        witnesses: int = 8,
        limits: ChunkLimits = UNLIMITED,
        sampling_key: bytes = bytes(KEY_BYTES),
        first_part: Callable[[int, int], int] | None = None,
        first_part_apart: Callable[[int, int, Fate], int] | None = None,
        scratch: Scratch | None = None,
    ) -> None:
        if allowed_lateness_ns < 0:
            raise ValueError(f"allowed_lateness_ns must be >= 0, got {allowed_lateness_ns!r}")
        if allowed_future_ns is not None and allowed_future_ns < 0:
            raise ValueError(f"allowed_future_ns must be >= 0, got {allowed_future_ns!r}")
        if witnesses < 1 or len(sampling_key) != KEY_BYTES:
            raise ValueError(f"witnesses must be >= 1, the key {KEY_BYTES} octets")
        self.grid = Grid(length_ns)
        self.tally = Tally()
        self.loose = Tally()  # counted since a chunk last closed, and of no row that is open
        self.latest_ns = -1  # the latest time admitted; -1 before any
        self.closed_before = 0  # intervals with a smaller index are closed
        self.apart = RowsApart(limits, sampling_key, first_part_apart)
        self._rules = AdmissionRules(
            length_ns, self.grid.last_time_ns, allowed_lateness_ns, allowed_future_ns, witnesses
        )
        self._limits = limits
        self._key = sampling_key
        self._first_part = first_part or (lambda start_ns, end_ns: 0)
        self._scratch = scratch
        self._kind: Kind | None = None
        self._open: dict[int, OpenInterval] = {}
        self._undecided: Rows | None = None
        self._joint_level = 0  # of the intervals that open before one closes
        self._clock_ns = -1
        self._pushed_ns = -1  # the clock of the last push

    @property
    def open_count(self) -> int:
        """Intervals that are open."""
        return len(self._open)

    @property
    def open_rows(self) -> int:
        """Rows in them."""
        return sum(interval.row_count for interval in self._open.values())

    def push(self, batch: Rows, *, now_ns: int | None = None) -> list[Chunk]:
        """Take a batch; return the chunks that it closed, by start.

        `now_ns` is the clock of a source that observes now; None: what is future is judged by the stream's progress.
        """
        if not len(batch):
            return []
        if self._kind not in (None, kind_of(batch)):
            raise TypeError(f"a chunker of {self._kind} was given {kind_of(batch)}")
        self.tally.offered += len(batch)
        self._pushed_ns = -1 if now_ns is None else now_ns
        return self._push(batch, self._rules, now_ns)

    def advance_to(self, now_ns: int) -> list[Chunk]:
        """Close what has ended at least the allowed lateness before `now_ns`, on the clock that rows' times follow."""
        self._clock_ns = max(self._clock_ns, now_ns)
        watermark_ns = min(max(now_ns - self._rules.allowed_lateness_ns, 0), self.grid.last_time_ns)
        self.closed_before = max(self.closed_before, watermark_ns // self.grid.length_ns)
        return self.close_ended()

    def flush(self) -> list[Chunk]:
        """Close every open interval, by start; those that the input did not reach the end of are marked partial."""
        chunks: list[Chunk] = []
        if self._undecided is not None:
            if self.latest_ns < 0 or len(self._undecided) > 1:  # several rows, and nothing contradicts them
                before = self.latest_ns, self.closed_before
                chunks = self._push(None, replace(self._rules, allowed_future_ns=None), None)
                if before[0] >= 0:  # yet who goes on from here is not to be late by them
                    chunks += [self._close(index) for index in sorted(self._open)]
                    self.latest_ns, self.closed_before = before
            else:
                self._count("future", len(self._undecided))
                self.apart.add(self._undecided, np.full(len(self._undecided), FUTURE, np.uint8))
                self.tally.parked -= len(self._undecided)
                self._undecided = None
        return chunks + [self._close(index) for index in sorted(self._open)]

    def close_apart(self) -> list[Chunk]:
        """Give the late and future rows that no chunk took along, as chunks of the interval that we are in."""
        now_ns = min(max(self.latest_ns, self._clock_ns, self._pushed_ns, 0), self.grid.last_time_ns)
        index = now_ns // self.grid.length_ns
        return list(self.apart.take(self.grid.start_ns(index), self.grid.end_ns(index), is_partial=True))

    def account(self, tally: Tally) -> None:
        """Count records that never became rows, by the source's tally of them."""
        self.tally.add(tally)
        self.loose.add(tally)

    def lose(self, chunk: Chunk) -> None:
        """Count a chunk that could not be stored as dropped by the disk; the next chunk tells of it."""
        self.tally.kept -= chunk.tally.kept
        self.tally.dropped["disk"] += chunk.tally.kept
        lost = replace(chunk.tally, kept=0, dropped=chunk.tally.dropped + Counter(disk=chunk.tally.kept))
        self.loose.add(lost)

    def unsaved(self) -> list[Unsaved]:
        """What the journal has not got yet, by interval, rows apart last; `mark_saved` says that it has."""
        return [
            Unsaved(index, interval.part, interval.unsaved(), interval.level, interval.sampled_out)
            for index, interval in sorted(self._open.items())
            if not interval.is_saved
        ] + self.apart.unsaved()

    def mark_saved(self, unsaved: Unsaved) -> None:
        """Say that the journal has all rows of an open interval, or all rows apart of a fate."""
        if unsaved.fate is Fate.KEPT:
            self._open[unsaved.index].mark_saved()
        else:
            self.apart.mark_saved(unsaved.fate)

    def resume(self, latest_ns: int, closed_before: int, loose: Tally) -> None:
        """Go on where a process that died stood; before anything is pushed or restored."""
        self.latest_ns, self.closed_before = latest_ns, closed_before
        self.account(loose)

    def restore(
        self, index: int, part: int, kind: Kind, pieces: Iterable[Rows], *, level: int, sampled_out: int
    ) -> int:
        """Open an interval again with the rows that a journal holds, in order; return how many came back."""
        if index in self._open:
            raise ValueError(f"interval {index} is open already")
        self._kind = kind
        interval = self._open[index] = self._new_interval(self._kind, part, level)
        for piece in pieces:
            interval.add(piece)
        interval.sampled_out, interval.recovered = sampled_out, interval.row_count
        interval.mark_saved()
        self.tally.offered += interval.row_count + sampled_out
        self.tally.kept += interval.row_count
        self.tally.sampled_out += sampled_out
        return interval.row_count

    def _push(self, batch: Rows | None, rules: AdmissionRules, now_ns: int | None) -> list[Chunk]:
        parts = [rows for rows in (self._undecided, batch) if rows is not None]
        self._kind = kind_of(parts[0])
        rows = concatenate(self._kind, parts)
        fate, closed, self.latest_ns = judge(time_of(rows), rules, self.latest_ns, self.closed_before, now_ns)
        undecided = fate == UNDECIDED
        self.tally.parked += int(undecided.sum()) - (0 if self._undecided is None else len(self._undecided))
        self._undecided = rows.take(undecided) if undecided.any() else None
        chunks: list[Chunk] = []
        if (closed == closed[0]).all():
            return self._take(rows, fate, int(closed[0]))
        for step in np.unique(closed):
            at = np.flatnonzero(closed == step)
            chunks += self._take(rows.take(at), fate[at], int(step))
        return chunks

    def _take(self, rows: Rows, fate: NDArray[np.uint8], closed_before: int) -> list[Chunk]:
        """Close what a step of the watermark closes, then file the rows that came after it."""
        self.closed_before = max(self.closed_before, closed_before)
        chunks = self.close_ended()
        admitted = fate == ADMITTED
        if not admitted.all():
            counts = np.bincount(fate, minlength=UNDECIDED + 1)
            self._count("late", int(counts[LATE]))
            self._count("future", int(counts[FUTURE]))
            self.apart.add(rows, fate)
            if counts[MALFORMED]:
                for tally in (self.tally, self.loose):
                    tally.malformed[TIME_OUT_OF_RANGE] += int(counts[MALFORMED])
                self.loose.offered += int(counts[MALFORMED])
            rows = rows.take(admitted)
        if len(rows):
            self._file(rows)
            self._make_room()
        return chunks

    def _count(self, fate: str, count: int) -> None:
        for tally in (self.tally, self.loose):
            setattr(tally, fate, getattr(tally, fate) + count)
        self.loose.offered += count

    def _file(self, rows: Rows) -> None:
        index = self.grid.index_of(time_of(rows))
        if (index == index[0]).all():
            self._add(int(index[0]), rows)
            return
        if (index[1:] < index[:-1]).any():
            order = np.argsort(index, kind="stable")
            rows, index = rows.take(order), index[order]
        starts = np.concatenate([[0], np.flatnonzero(np.diff(index)) + 1, [len(index)]])
        for start, end in pairwise(starts):
            self._add(int(index[start]), rows.take(slice(int(start), int(end))))

    def _add(self, index: int, rows: Rows) -> None:
        if index not in self._open:
            part = self._first_part(self.grid.start_ns(index), self.grid.end_ns(index))
            self._open[index] = self._new_interval(kind_of(rows), part, self._joint_level)
        gone = self._open[index].add(rows)
        self.tally.kept += len(rows) - gone
        self.tally.sampled_out += gone

    def _new_interval(self, kind: Kind, part: int, level: int) -> OpenInterval:
        return OpenInterval(kind, part, self._key, level=level, scratch=self._scratch)

    def _make_room(self) -> None:
        """Raise levels as far as the limits need; the result depends on what was offered, not on how often we ask."""
        assert self._kind is not None
        most, most_open = self._limits.rows_of_chunk(self._kind), self._limits.rows_of_open(self._kind)
        intervals = self._open.values()
        if not any(interval.looks_at_levels or interval.row_count > most for interval in intervals) and (
            self.open_rows <= most_open
        ):
            return

        def offered_at(level: int) -> int:
            return sum(min(interval.offered_at(max(interval.base, level)), most) for interval in intervals)

        if offered_at(self._joint_level) > most_open:
            for interval in intervals:
                interval.look_at_levels()
            while offered_at(self._joint_level) > most_open:
                self._joint_level += 1
        for interval in intervals:
            level = interval.level_that_fits(most, at_least=max(interval.base, self._joint_level))
            if level > interval.level:
                interval.look_at_levels()
            gone = interval.raise_level(level)
            self.tally.kept -= gone
            self.tally.sampled_out += gone

    def close_ended(self) -> list[Chunk]:
        """Close what the watermark has passed: needed only after `restore`, all else does it."""
        return [self._close(index) for index in sorted(self._open) if index < self.closed_before]

    def _close(self, index: int) -> Chunk:
        interval = self._open.pop(index)
        self._joint_level = 0
        for other in self._open.values():
            other.base = other.level
        rows = interval.take_rows()
        tally = Tally(offered=len(rows) + interval.sampled_out, kept=len(rows), sampled_out=interval.sampled_out)
        tally.add(self.loose)
        self.loose = Tally()
        start_ns, end_ns = self.grid.start_ns(index), self.grid.end_ns(index)
        is_partial = max(self.latest_ns, self._clock_ns) < end_ns - 1 or interval.part > 0
        return Chunk.of(
            start_ns,
            end_ns,
            rows,
            tally,
            is_partial=is_partial,
            part=interval.part,
            sampling_interval=2**interval.level,
            recovered=interval.recovered,
            apart=self.apart.take(start_ns, end_ns, is_partial=is_partial),
        )
