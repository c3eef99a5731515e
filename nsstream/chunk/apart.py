"""RowsApart: the late and the future rows that came since a chunk last closed, so that an operator can look at them.

They are in no chunk, and nothing learns from them. When a chunk closes, its tally tells of them, and they leave as
chunks of their own, one of each fate (`Chunk.fate`), with the interval of the chunk that closed: of their arrival, not
of their times. Room is bounded for each fate; where there is none, whole conversations go, as in `sampling`.

Promises: the tally of a chunk apart adds up, and is offered every late (or future) row that the chunker counted since
the one before: ``offered = kept + sampled_out + dropped by the disk``. Batches change nothing, digest for digest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.chunk.admission import FUTURE, LATE
from nsstream.chunk.chunk import Chunk
from nsstream.chunk.open_interval import OpenInterval, Unsaved
from nsstream.chunk.rows import Fate, Kind, Rows, kind_of
from nsstream.chunk.sampling import ChunkLimits
from nsstream.counters import Tally

_FATES: Final = ((LATE, Fate.LATE), (FUTURE, Fate.FUTURE))


class RowsApart:
    """Rows apart, by fate.

    Args:
        limits: how many rows of each fate; none are held where that is 0.
        sampling_key: as of chunks, so that a conversation that is in a sampled chunk is here before others are.
        first_part: which part of an interval (by start and end) of a fate opens.
    """

    def __init__(
        self, limits: ChunkLimits, sampling_key: bytes, first_part: Callable[[int, int, Fate], int] | None = None
    ) -> None:
        self.number = 0  # how often rows have left: names what the journal has of those that have not
        self.lost: dict[Fate, Tally] = {}  # of chunks apart that could not be stored; the next one tells of them
        self._limits = limits
        self._key = sampling_key
        self._first_part = first_part or (lambda start_ns, end_ns, fate: 0)
        self._held: dict[Fate, OpenInterval] = {}

    @property
    def row_count(self) -> int:
        """Rows that are held."""
        return sum(held.row_count for held in self._held.values())

    def add(self, rows: Rows, fates: NDArray[np.uint8]) -> None:
        """Take those of these rows that are late or future, in order of arrival."""
        most = self._limits.rows_apart(kind_of(rows))
        if not most:
            return
        for code, fate in _FATES:
            is_apart = fates == code
            if is_apart.any():
                held = self._open(fate, kind_of(rows))
                held.add(rows.take(is_apart))
                held.raise_level(held.level_that_fits(most))

    def take(self, start_ns: int, end_ns: int, *, is_partial: bool) -> tuple[Chunk, ...]:
        """All rows as chunks of an interval, in time order (rows of one time in order of arrival)."""
        if not self._held:
            return ()
        self.number += 1
        held, self._held = self._held, {}
        return tuple(self._chunk_of(fate, held[fate], start_ns, end_ns, is_partial) for fate in sorted(held))

    def lose(self, chunk: Chunk) -> None:
        """Count a chunk apart that could not be stored as dropped by the disk."""
        tally = chunk.tally
        lost = replace(tally, kept=0, dropped=tally.dropped + Counter(disk=tally.kept))
        self.lost.setdefault(chunk.fate, Tally()).add(lost)

    def unsaved(self) -> list[Unsaved]:
        """What the journal has not got yet; the index is `number`."""
        return [
            Unsaved(self.number, 0, held.unsaved(), held.level, held.sampled_out, fate)
            for fate, held in sorted(self._held.items())
            if not held.is_saved
        ]

    def mark_saved(self, fate: Fate) -> None:
        """Say that the journal has all rows of a fate."""
        self._held[fate].mark_saved()

    def resume(self, number: int, lost: Mapping[Fate, Tally]) -> None:
        """Go on where a process that died stood."""
        self.number, self.lost = number, dict(lost)

    def restore(self, fate: Fate, kind: Kind, pieces: Iterable[Rows], *, level: int, sampled_out: int) -> None:
        """Hold again what a journal has, in order."""
        held = self._open(fate, kind, level=level)
        for piece in pieces:
            held.add(piece)
        held.sampled_out, held.recovered = sampled_out, held.row_count
        held.mark_saved()

    def _open(self, fate: Fate, kind: Kind, *, level: int = 0) -> OpenInterval:
        if fate not in self._held:
            self._held[fate] = OpenInterval(kind, 0, self._key, level=level)
        return self._held[fate]

    def _chunk_of(self, fate: Fate, held: OpenInterval, start_ns: int, end_ns: int, is_partial: bool) -> Chunk:
        rows = held.take_rows()
        tally = Tally(offered=len(rows) + held.sampled_out, kept=len(rows), sampled_out=held.sampled_out)
        tally.add(self.lost.pop(fate, Tally()))
        return Chunk.of(
            start_ns,
            end_ns,
            rows,
            tally,
            is_partial=is_partial,
            part=self._first_part(start_ns, end_ns, fate),
            sampling_interval=2**held.level,
            recovered=held.recovered,
            fate=fate,
        )
