"""OpenInterval: the rows of an interval that has not closed yet, and how it is thinned when there is no room.

Rows are kept in order of arrival, in pieces; small ones are joined as they come, so that a source of one row at a time
costs no more than one of many. Where there is a `scratch`, many rows stand there, and only the last ones in memory.
Levels (`sampling`) are looked at only once room runs out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nsstream.chunk.rows import Fate, Kind, Rows, concatenate, join, label_names_of, time_of
from nsstream.chunk.sampling import LEVELS, NOTHING, levels_of
from nsstream.chunk.scratch import Scratch, ScratchFile, is_in_time_order, shed_rows

_SMALL_ROWS = 4096  # pieces below this are joined with their neighbours


@dataclass(frozen=True, slots=True)
class Unsaved:
    """What the journal has not got yet of one open interval."""

    index: int
    part: int
    pieces: list[Rows]  # at least one; it may have no rows, where only the level or `sampled_out` is new
    level: int
    sampled_out: int
    fate: Fate = Fate.KEPT  # else it is of rows apart (`apart`)

    @property
    def row_count(self) -> int:
        """Rows of all pieces."""
        return sum(map(len, self.pieces))


class OpenInterval:
    """Rows of one interval."""

    def __init__(self, kind: Kind, part: int, key: bytes, *, level: int = 0, scratch: Scratch | None = None) -> None:
        self.part = part
        self.level = level  # one conversation in 2**level is kept
        self.base = level  # the level that later joint decisions start from (`Chunker`)
        self.row_count = 0
        self.sampled_out = 0
        self.recovered = 0  # rows that came out of the journal
        self.saved = 0  # rows at the front that are in the journal
        self._saved_as = (0, 0)  # level and sampled_out as the journal knows them
        self._kind = kind
        self._key = key
        self._pieces: list[Rows] = []
        self._scratch = scratch
        self._file: ScratchFile | None = None  # the last one
        self._put_count = 0  # pieces at the front that are in scratch files
        self._put_at = 0 if scratch is None else scratch.piece_rows  # rows in memory that go there
        self._memory_rows = 0
        self._levels: list[NDArray[np.uint8]] = []  # of each piece, once levels are looked at
        self._offered_by_level: NDArray[np.int64] | None = None
        if level:
            self.look_at_levels()

    def add(self, rows: Rows) -> int:
        """Take rows, and return how many of them were sampled out."""
        offered = len(rows)
        if self._offered_by_level is not None:
            levels = levels_of(rows, self._key)
            self._offered_by_level += np.bincount(levels, minlength=LEVELS)
            if self.level:
                is_kept = levels >= self.level
                rows, levels = rows.take(is_kept), levels[is_kept]
            self._levels.append(levels)
        self._keep(_owning(rows))
        self.row_count += len(rows)
        self.sampled_out += offered - len(rows)
        return offered - len(rows)

    def look_at_levels(self) -> None:
        """Count rows by level from here on; what was offered before is what is held, since nothing was left out."""
        if self._offered_by_level is None:
            self._offered_by_level = np.zeros(LEVELS, np.int64)
            for piece in self._pieces:
                self._levels.append(levels_of(piece, self._key))
                self._offered_by_level += np.bincount(self._levels[-1], minlength=LEVELS)
                shed_rows(piece)

    def offered_at(self, level: int) -> int:
        """Rows offered so far that a chunk at this level keeps; known for `base` and above."""
        if self._offered_by_level is None:
            return self.row_count if level == 0 else 0
        return int(self._offered_by_level[level:].sum())

    @property
    def looks_at_levels(self) -> bool:
        """Whether rows are counted by level."""
        return self._offered_by_level is not None

    def level_that_fits(self, most: int, *, at_least: int = 0) -> int:
        """The lowest level from `at_least` on at which what was offered is at most so many rows."""
        level = max(self.level, at_least)
        if self.offered_at(level) > most:
            self.look_at_levels()
            while level < NOTHING and self.offered_at(level) > most:
                level += 1
        return level

    def raise_level(self, level: int) -> int:
        """Leave out the conversations below a level, and return how many rows that were kept before go with them."""
        if level <= self.level:
            return 0
        self.level = level
        saved, before = 0, 0
        pieces = list(zip(self._pieces, self._levels, strict=True))
        self._pieces, self._levels, self._file, self._put_count, self._memory_rows = [], [], None, 0, 0
        for piece, levels in pieces:
            is_kept = levels >= level
            saved += int(is_kept[: max(0, self.saved - before)].sum())
            before += len(piece)
            if is_kept.any():
                self._levels.append(levels[is_kept])
                self._keep(piece.take(is_kept))
                shed_rows(piece)
        self.saved = saved
        left = sum(map(len, self._pieces))
        gone, self.row_count = self.row_count - left, left
        self.sampled_out += gone
        return gone

    @property
    def is_saved(self) -> bool:
        """Whether the journal knows all there is to know."""
        return self.saved == self.row_count and self._saved_as == (self.level, self.sampled_out)

    def mark_saved(self) -> None:
        """Say that it does."""
        self.saved, self._saved_as = self.row_count, (self.level, self.sampled_out)

    def unsaved(self) -> list[Rows]:
        """The rows that the journal has not got yet, in pieces."""
        wanted, pieces = self.row_count - self.saved, []
        for piece in reversed(self._pieces):
            if wanted <= 0:
                break
            pieces.append(piece if len(piece) <= wanted else piece.take(slice(len(piece) - wanted, len(piece))))
            wanted -= len(piece)
        return pieces[::-1] or [concatenate(self._kind, [])]

    def take_rows(self) -> Rows:
        """All rows in time order (those of one time as they came), which leave the interval."""
        if self._file is not None:
            self._put()
        pieces, file, self._pieces, self._file = self._pieces, self._file, [], None
        if self._scratch is not None and file is not None:
            if file.row_count == self.row_count:
                pieces = [file.rows()]
                if file.is_in_time_order:
                    return pieces[0]
            if (joined := self._scratch.join(pieces)) is not None:
                return joined
        rows = join(self._kind, pieces)
        return rows if is_in_time_order([rows]) else rows.take(np.argsort(time_of(rows), kind="stable"))

    def _keep(self, rows: Rows) -> None:
        self._pieces.append(rows)
        self._memory_rows += len(rows)
        self._join_small()
        if self._scratch is not None and self._memory_rows >= self._put_at and not self._put():
            self._put_at = 2 * self._memory_rows  # the disk is short of room: ask again later

    def _put(self) -> bool:
        """Move what is in memory into a scratch file; whether there is room for it."""
        pieces = self._pieces[self._put_count :]
        if self._scratch is None or not pieces:
            return False
        put = None if self._file is None else self._file.append(pieces)
        if put is None:
            if len({label_names_of(piece) for piece in pieces}) > 1:
                pieces = [concatenate(self._kind, pieces)]  # of several codes for labels, one
            file = self._scratch.open(pieces[0], sum(map(len, pieces)))
            put = None if file is None else file.append(pieces)
            if put is None:
                return False
            self._file = file
        self._pieces[self._put_count :] = [put]
        if self._offered_by_level is not None:
            self._levels[self._put_count :] = [np.concatenate(self._levels[self._put_count :])]
        self._put_count += 1
        self._put_at, self._memory_rows = self._scratch.piece_rows, 0
        return True

    def _join_small(self) -> None:
        pieces = self._pieces
        while (
            len(pieces) > self._put_count + 1
            and len(pieces[-1]) < _SMALL_ROWS
            and len(pieces[-2]) < 2 * len(pieces[-1]) + 1
        ):
            pieces[-2:] = [concatenate(self._kind, pieces[-2:])]
            if self._offered_by_level is not None:
                self._levels[-2:] = [np.concatenate(self._levels[-2:])]


def _owning(rows: Rows) -> Rows:
    """The rows in memory of their own where they are a small part of a larger block, which they would keep alive."""
    time_ns = time_of(rows)
    if time_ns.base is None or time_ns.base.nbytes <= 2 * time_ns.nbytes:
        return rows
    return rows.take(np.arange(len(rows)))
