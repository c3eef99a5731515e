"""FrameReader: the octets of a pcap or pcapng file in, whole frames out; for those who play a capture. Sans-IO.

Rules and errors are `PcapReader`'s. Every record with a time gives a frame, whatever is in it; the others are counted.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.wire import fates
from nsstream.wire.dissect import Columns
from nsstream.wire.fates import add_fates
from nsstream.wire.records import NO_TIME, RecordIndex
from nsstream.wire.stream import PcapReader


class FrameReader(PcapReader):
    """Gives, in place of packet columns, `observation_time_ns`, `captured_length`, `original_length` and `link_type`
    of each frame (int64, one row each), and `octets`, the captured octets of all, one after another.
    """  # noqa: D205

    def _take(self, octets: NDArray[np.uint8], index: RecordIndex, record_count: int) -> Columns:
        rows = np.flatnonzero(index.time_ns[:record_count] >= 0)
        counts = np.zeros(len(fates.REASONS), np.int64)
        counts[fates.KEPT] = len(rows)
        counts[fates.NO_TIME] = np.count_nonzero(index.time_ns[:record_count] == NO_TIME)
        counts[fates.BAD_TIME] = record_count - len(rows) - counts[fates.NO_TIME]
        add_fates(self.tally, counts)
        lengths = index.captured_length[rows]
        return {
            "observation_time_ns": index.time_ns[rows],
            "captured_length": lengths,
            "original_length": index.original_length[rows],
            "link_type": index.link_type[rows],
            "octets": _collect(octets, index.start[rows], lengths),
        }


@njit(cache=True, nogil=True)
def _collect(octets: NDArray[np.uint8], start: NDArray[np.int64], length: NDArray[np.int64]) -> NDArray[np.uint8]:
    out = np.empty(length.sum(), np.uint8)
    at = 0
    for i in range(len(start)):
        out[at : at + length[i]] = octets[start[i] : start[i] + length[i]]
        at += length[i]
    return out
