"""Scratch: rows that wait stand in nameless files, mapped, so that they cost memory only while they are looked at.

A file is gone once its last column is, or with the process: nothing is to be cleaned up, and nothing to be recovered
(that is the journal's). Where the disk is short of room, rows stay in memory: `put` and `join` say so by giving none.
`shed` gives the memory of columns back that were looked at; what is not of a scratch file it leaves alone.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.chunk.rows import FIELDS, Kind, Rows, concatenate, kind_of, label_names_of, make_rows, time_of

PIECE_ROWS: Final = 1 << 16  # fewer rows are not worth a file
BLOCK_ROWS: Final = 1 << 18  # of a column, in memory at a time
SPARE_OCTETS: Final = 2 << 30  # left to the journal and to the chunks
_ALIGNMENT: Final = 64


class _Map(mmap.mmap):
    """The map of a scratch file, to be told from other maps: of no other may pages be dropped unasked."""


class Scratch:
    """Nameless files in a folder, each of `piece_rows` rows or more; `spare_octets` of the disk stay free."""

    def __init__(self, directory: Path, *, piece_rows: int = PIECE_ROWS, spare_octets: int = SPARE_OCTETS) -> None:
        self.piece_rows = piece_rows
        self._directory = directory
        self._spare_octets = spare_octets

    def put(self, pieces: Sequence[Rows]) -> Rows | None:
        """The rows of all pieces in order, out of memory; None where there is no room."""
        return self._write(pieces, None)

    def join(self, pieces: list[Rows]) -> Rows | None:
        """Empty a list of pieces into one, in time order (rows of one time as they came); None where there is no room.

        A column at a time is in memory; where there is no room, the pieces stay.
        """
        order = None
        if not _is_in_time_order(pieces):
            order = np.argsort(np.concatenate([time_of(rows) for rows in pieces]), kind="stable")
        joined = self._write(pieces, order)
        if joined is not None:
            pieces.clear()
        return joined

    def _write(self, pieces: Sequence[Rows], order: NDArray[np.intp] | None) -> Rows | None:
        if len({label_names_of(rows) for rows in pieces}) > 1:
            pieces = [concatenate(Kind.FLOWS, pieces)]  # of several codes for labels, one
        kind, n = kind_of(pieces[0]), sum(map(len, pieces))
        places: dict[str, int] = {}
        size = 0
        for name, (dtype, cell, _) in FIELDS[kind].items():
            places[name] = size
            size += -(-n * dtype.itemsize * int(np.prod(cell, dtype=np.int64)) // _ALIGNMENT) * _ALIGNMENT
        try:
            status = os.statvfs(self._directory)
            if not n or status.f_bavail * status.f_frsize < size + self._spare_octets:
                return None
            with tempfile.TemporaryFile(dir=self._directory, buffering=0) as file:
                os.truncate(file.fileno(), size)
                for name, place in places.items():
                    self._write_column(file.fileno(), place, [getattr(rows, name) for rows in pieces], order)
                mapped = _Map(file.fileno(), size, access=mmap.ACCESS_READ)
        except OSError:
            return None
        columns: dict[str, NDArray[np.generic]] = {}
        for name, (dtype, cell, _) in FIELDS[kind].items():
            count = n * int(np.prod(cell, dtype=np.int64))
            columns[name] = np.frombuffer(mapped, dtype, count, places[name]).reshape(n, *cell)
        return make_rows(kind, columns, label_names_of(pieces[0]))

    def _write_column(
        self, descriptor: int, place: int, parts: list[NDArray[np.generic]], order: NDArray[np.intp] | None
    ) -> None:
        if order is not None:
            joined = np.concatenate(parts)
            shed(parts)
            parts = [joined[order]]
        for part in parts:
            if not len(part):
                continue
            left = np.ascontiguousarray(part).data.cast("B")
            while left:
                count = os.pwrite(descriptor, left, place)
                left, place = left[count:], place + count
            shed([part])


def shed(columns: Iterable[NDArray[np.generic]]) -> None:
    """Give back the memory that columns in scratch files cost since they were looked at; they stay as they are."""
    for mapped in {id(found): found for found in map(_map_of, columns) if found is not None}.values():
        mapped.madvise(mmap.MADV_DONTNEED)


def shed_rows(rows: Rows) -> None:
    """`shed` all columns of rows."""
    shed(rows.columns().values())


def _is_in_time_order(pieces: Sequence[Rows]) -> bool:
    latest_ns = np.iinfo(np.int64).min
    for time_ns in map(time_of, pieces):
        if len(time_ns) and (time_ns[0] < latest_ns or (time_ns[1:] < time_ns[:-1]).any()):
            return False
        latest_ns = time_ns[-1] if len(time_ns) else latest_ns
        shed([time_ns])
    return True


def _map_of(column: NDArray[np.generic]) -> _Map | None:
    base: object = column
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    return base if isinstance(base, _Map) else None
