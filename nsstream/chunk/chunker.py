"""Chunker: rows fall into intervals; a watermark closes an interval and makes it a chunk.

The watermark is the latest time seen so far less the allowed lateness, and an interval closes once the watermark has
reached its end. Several intervals are open at once. A row whose interval was closed *before that row came* is late: it
is counted and not kept.

Promises: every row that is pushed is kept, late or malformed, and counted so. What happens to a row depends on the rows
before it, never on where batches begin: any batching of the same packets gives the same chunks, digest for digest.
Memory is bounded by the rows of open intervals and the batch in hand. An interval without rows makes no chunk.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from nsstream.chunk.interval import Grid, id_of
from nsstream.counters import Tally
from nsstream.trace import PacketBatch
from nsstream.trace.fields import PACKET_FIELDS


@dataclass(frozen=True, slots=True)
class Chunk:
    """The packets of one interval, in time order (rows of one time in order of arrival); immutable.

    `tally` counts the rows kept and the late rows that came while this interval was the newest. `is_partial` says that
    the input ended before the interval did. `digest` is the SHA-256 of interval and columns: same input, same digest.
    """

    id: str
    start_ns: int
    end_ns: int
    packets: PacketBatch
    tally: Tally
    is_partial: bool
    digest: str

    def __post_init__(self) -> None:
        time_ns = self.packets.observation_time_ns
        if len(time_ns) and not (self.start_ns <= time_ns[0] and time_ns[-1] < self.end_ns):
            raise ValueError(f"chunk {self.id} holds rows outside [{self.start_ns}, {self.end_ns})")
        if (np.diff(time_ns) < 0).any():
            raise ValueError(f"chunk {self.id} is not in time order")

    @classmethod
    def of(cls, start_ns: int, end_ns: int, packets: PacketBatch, tally: Tally, *, is_partial: bool) -> Self:
        """A chunk of these packets, which are in time order; id and digest follow from interval and packets."""
        chunk_id = id_of(start_ns, end_ns)
        return cls(chunk_id, start_ns, end_ns, packets, tally, is_partial, digest_of(chunk_id, packets))


class Chunker:
    """Cuts a stream of batches into chunks of `length_ns` on the UTC grid.

    Late, and out of [1970, 2262): counted in `tally` (``late``; malformed ``time_out_of_range``).
    """

    def __init__(self, length_ns: int, *, allowed_lateness_ns: int = 5_000_000_000) -> None:
        if allowed_lateness_ns < 0:
            raise ValueError(f"allowed_lateness_ns must be >= 0, got {allowed_lateness_ns!r}")
        self.grid = Grid(length_ns)
        self.tally = Tally()
        self._allowed_lateness_ns = allowed_lateness_ns
        self._latest_ns = -1  # the latest time seen; -1 before any
        self._open: dict[int, list[PacketBatch]] = {}
        self._late: dict[int, int] = {}  # late rows by the interval that was the newest when they came

    def push(self, batch: PacketBatch) -> list[Chunk]:
        """Take a batch; return the chunks that it closed, by start."""
        self.tally.offered += len(batch)
        batch = self._within_range(batch)
        if not len(batch):
            return []
        latest_ns = np.maximum.accumulate(np.maximum(batch.observation_time_ns, self._latest_ns))
        self._latest_ns = int(latest_ns[-1])
        index = self.grid.index_of(batch.observation_time_ns)
        # end <= watermark, written without the sum and difference that could leave int64
        is_late = index < self.grid.index_of(np.maximum(latest_ns - self._allowed_lateness_ns, 0))
        if is_late.any():
            self._count_late(self.grid.index_of(latest_ns[is_late]))
            batch, index = batch.take(~is_late), index[~is_late]
        self.tally.kept += len(batch)
        self._file(batch, index)
        closed_before = max(self._latest_ns - self._allowed_lateness_ns, 0) // self.grid.length_ns
        return [self._close(i) for i in sorted(self._open) if i < closed_before]

    def flush(self) -> list[Chunk]:
        """Close every open interval, by start; those that the input did not reach the end of are marked partial."""
        return [self._close(i) for i in sorted(self._open)]

    def _within_range(self, batch: PacketBatch) -> PacketBatch:
        time_ns = batch.observation_time_ns
        in_range = (time_ns >= 0) & (time_ns <= self.grid.last_time_ns)
        if in_range.all():
            return batch
        self.tally.malformed["time_out_of_range"] += int((~in_range).sum())
        return batch.take(in_range)

    def _count_late(self, newest_index: NDArray[np.int64]) -> None:
        self.tally.late += len(newest_index)
        for index, count in zip(*np.unique(newest_index, return_counts=True), strict=True):
            self._late[int(index)] = self._late.get(int(index), 0) + int(count)

    def _file(self, batch: PacketBatch, index: NDArray[np.int64]) -> None:
        if (np.diff(index) < 0).any():
            order = np.argsort(index, kind="stable")
            batch, index = batch.take(order), index[order]
        starts = np.concatenate([[0], np.flatnonzero(np.diff(index)) + 1]) if len(index) else np.empty(0, np.int64)
        for start, end in zip(starts, [*starts[1:], len(index)], strict=False):
            self._open.setdefault(int(index[start]), []).append(batch.take(slice(int(start), int(end))))

    def _close(self, index: int) -> Chunk:
        packets = PacketBatch.concatenate(self._open.pop(index))
        if (np.diff(packets.observation_time_ns) < 0).any():
            packets = packets.take(np.argsort(packets.observation_time_ns, kind="stable"))
        late = self._late.pop(index, 0)
        tally = Tally(offered=len(packets) + late, kept=len(packets), late=late)
        start_ns, end_ns = self.grid.start_ns(index), self.grid.end_ns(index)
        return Chunk.of(start_ns, end_ns, packets, tally, is_partial=self._latest_ns < end_ns - 1)


def digest_of(chunk_id: str, packets: PacketBatch) -> str:
    """SHA-256 over an interval's id and every column's name, dtype and octets (little endian), in hexadecimal."""
    digest = hashlib.sha256(chunk_id.encode())
    for name, (dtype, _, _) in PACKET_FIELDS.items():
        digest.update(f"\0{name}:{dtype.newbyteorder('<').str}\0".encode())
        digest.update(np.ascontiguousarray(getattr(packets, name), dtype.newbyteorder("<")).data)
    return digest.hexdigest()
