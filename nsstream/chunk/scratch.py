"""Scratch: rows that wait stand in nameless files, mapped, so that they cost memory only while they are looked at.

A file is gone once its last column is, or with the process: nothing is to be cleaned up, and nothing to be recovered
(that is the journal's). Where the disk is short of room, rows stay in memory: what has no room gives None.
`shed` gives the memory of columns back that were looked at; what is not of a scratch file it leaves alone.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nsstream.chunk.rows import FIELDS, ROW_OCTETS, Kind, Rows, concatenate, kind_of, label_names_of, make_rows, time_of

FILE_ROWS: Final = 4 << 20
PIECE_ROWS: Final = 1 << 15  # fewer rows are not worth a file
BLOCK_ROWS: Final = 1 << 18  # of a column, in memory at a time
_MOST_BLOCKS: Final = 64
SPARE_OCTETS: Final = 2 << 30  # left to the journal and to the chunks


class _Map(mmap.mmap):
    """The map of a scratch file, to be told from other maps: of no other may pages be dropped unasked."""


class Scratch:
    """Nameless files in a folder, opened for `piece_rows` rows or more; `spare_octets` of the disk stay free."""

    def __init__(
        self,
        directory: Path,
        *,
        piece_rows: int = PIECE_ROWS,
        file_rows: int = FILE_ROWS,
        spare_octets: int = SPARE_OCTETS,
    ) -> None:
        self.piece_rows = piece_rows
        self._directory = directory
        self._file_rows = file_rows
        self._spare_octets = spare_octets

    def open(self, first: Rows, row_count: int = 0) -> ScratchFile | None:
        """A file for rows such as these, as many as that at least; None where there is no room."""
        try:
            status = os.statvfs(self._directory)
            needed = max(row_count, self.piece_rows) * ROW_OCTETS[kind_of(first)]
            if status.f_bavail * status.f_frsize < needed + self._spare_octets:
                return None
            return ScratchFile(self._directory, first, max(row_count, self._file_rows))
        except OSError:
            return None

    def join(self, pieces: list[Rows]) -> Rows | None:
        """Empty a list of pieces into one, in time order (rows of one time as they came); None where there is no room.

        A column at a time is in memory; where there is no room, the pieces stay.
        """
        order = None
        if not is_in_time_order(pieces):
            order = order_of(_joined([time_of(rows) for rows in pieces]))
        if len({label_names_of(rows) for rows in pieces}) > 1:
            pieces[:] = [concatenate(Kind.FLOWS, pieces)]  # of several codes for labels, one
        file = self.open(pieces[0], sum(map(len, pieces)))
        joined = None if file is None else file.append(pieces, order)
        if joined is not None:
            pieces.clear()
        return joined


class ScratchFile:
    """A file of columns with room for so many rows; raises OSError where it cannot be made."""

    def __init__(self, directory: Path, first: Rows, room: int) -> None:
        self._kind, self._names, self._room = kind_of(first), label_names_of(first), room
        self._place: dict[str, int] = {}
        size = 0
        for name, (dtype, cell, _) in FIELDS[self._kind].items():
            self._place[name] = size
            size += -(-room * _width(dtype, cell) // mmap.PAGESIZE) * mmap.PAGESIZE
        self._is_in_time_order = True
        self._latest_ns = int(np.iinfo(np.int64).min)
        with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
            file.truncate(size)  # holes: room is taken as it is filled
            mapped = _Map(file.fileno(), size, access=mmap.ACCESS_READ)
            self._descriptor = os.dup(file.fileno())
        self._columns: dict[str, NDArray[np.generic]] = {}
        for name, (dtype, cell, _) in FIELDS[self._kind].items():
            count = room * int(np.prod(cell, dtype=np.int64))
            self._columns[name] = np.frombuffer(mapped, dtype, count, self._place[name]).reshape(room, *cell)
        self.row_count = 0

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)

    def append(self, pieces: Sequence[Rows], order: NDArray[np.uint32] | None = None) -> Rows | None:
        """The rows of all pieces, in this order, out of memory; None where there is no room, or labels differ."""
        count = sum(map(len, pieces))
        if self.row_count + count > self._room or any(label_names_of(rows) != self._names for rows in pieces):
            return None
        try:
            for name, (dtype, cell, _) in FIELDS[self._kind].items():
                place = self._place[name] + self.row_count * _width(dtype, cell)
                self._write(place, [getattr(rows, name) for rows in pieces], order)
        except OSError:
            return None
        if order is None:
            self._is_in_time_order &= is_in_time_order(pieces, self._latest_ns)
            self._latest_ns = max([self._latest_ns, *(int(time_of(rows)[-1]) for rows in pieces if len(rows))])
        self.row_count += count
        return self._rows(self.row_count - count)

    @property
    def is_in_time_order(self) -> bool:
        """Whether all rows so far are, if none was reordered on the way."""
        return self._is_in_time_order

    def rows(self) -> Rows:
        """All rows."""
        return self._rows(0)

    def _rows(self, start: int) -> Rows:
        columns = {name: column[start : self.row_count] for name, column in self._columns.items()}
        return make_rows(self._kind, columns, self._names)

    def _write(self, place: int, parts: list[NDArray[np.generic]], order: NDArray[np.uint32] | None) -> None:
        if order is not None:
            joined = _joined(parts)
            blocks = (joined[order[at : at + BLOCK_ROWS]] for at in range(0, len(order), BLOCK_ROWS))
        else:
            blocks = (part for part in parts if len(part))
        for block in blocks:
            left = np.ascontiguousarray(block).data.cast("B")
            while left:
                count = os.pwrite(self._descriptor, left, place)
                left, place = left[count:], place + count
            shed(parts)


def _joined(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _width(dtype: np.dtype[np.generic], cell: tuple[int, ...]) -> int:
    return dtype.itemsize * int(np.prod(cell, dtype=np.int64))


def order_of(time_ns: NDArray[np.int64]) -> NDArray[np.uint32]:
    """What puts times in order, those that are the same as they came; a part of them in memory at a time.

    Times that are nearly in order are cut into spans at the least time of each block, and few blocks reach into a span.
    """
    n = len(time_ns)
    size = max(BLOCK_ROWS, -(-n // _MOST_BLOCKS))
    bounds: list[tuple[int, int, int]] = []  # of each block: its first row, its least and its latest time
    for start in range(0, n, size):
        block = time_ns[start : start + size]
        bounds.append((start, int(block.min()), int(block.max())))
        shed([time_ns])
    order = np.empty(n, np.uint32)
    done = 0
    cuts = sorted({least for _, least, _ in bounds} | {1 + max(latest for _, _, latest in bounds)})
    for cut, until in pairwise(cuts):
        rows = []
        for start, least, latest in bounds:
            if least < until and latest >= cut:
                block = time_ns[start : start + size]
                rows.append(start + np.flatnonzero((block >= cut) & (block < until)))
        span = np.concatenate(rows)
        order[done : done + len(span)] = span[np.argsort(time_ns[span], kind="stable")]
        done += len(span)
        shed([time_ns])
    return order


def is_in_time_order(pieces: Sequence[Rows], latest_ns: int = np.iinfo(np.int64).min) -> bool:
    """Whether no row is before the one that came before it, nor the first one before `latest_ns`."""
    for column in map(time_of, pieces):
        for start in range(0, len(column), BLOCK_ROWS):
            time_ns = column[start : start + BLOCK_ROWS]
            if time_ns[0] < latest_ns or (time_ns[1:] < time_ns[:-1]).any():
                return False
            latest_ns = int(time_ns[-1])
            shed([column])
    return True


def shed(columns: Iterable[NDArray[np.generic]]) -> None:
    """Give back the memory that columns in scratch files cost since they were looked at; they stay as they are."""
    for mapped in {id(found): found for found in map(_map_of, columns) if found is not None}.values():
        mapped.madvise(mmap.MADV_DONTNEED)


def shed_rows(rows: Rows) -> None:
    """`shed` all columns of rows."""
    shed(rows.columns().values())


def _map_of(column: NDArray[np.generic]) -> _Map | None:
    base: object = column
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    return base if isinstance(base, _Map) else None
