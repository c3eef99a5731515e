"""ChunkTokens: one chunk as a model sees it, and the running features that training and drawing compute alike.

Shapes: n conversations in order of start, m packets in all; a attributes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nsstream.encode.schema import COUNTDOWNS, MOMENTS, POSITIONS, SLICES, START_FEATURES, TIMES_LEFT


@dataclass(frozen=True)
class ChunkTokens:
    """Tokens of a chunk.

    Attributes:
        attributes: (n, a) tokens, columns as in `schema.ATTRIBUTES`.
        start_features: (n, START_FEATURES) float32, what is known before a conversation starts.
        start_ns: (n,) time of the first packet.
        stack: (n,) which packet kinds a conversation may have, see `codec.stack_of`.
        packet_offset: (n + 1,) ragged rows of the packet columns.
        kind, size, gap: (m,) tokens; gap is that before the packet by its kind's clock (`clocks`), 0 for
            the first.
        needs_size: (m,) whether the size is not already said by the kind.
        countdown, position, time_left: (m,) running features, known before the packet.
    """

    attributes: NDArray[np.int64]
    start_features: NDArray[np.float32]
    start_ns: NDArray[np.int64]
    stack: NDArray[np.int64]
    packet_offset: NDArray[np.int64]
    kind: NDArray[np.int64]
    size: NDArray[np.int64]
    gap: NDArray[np.int64]
    needs_size: NDArray[np.bool_]
    countdown: NDArray[np.int64]
    position: NDArray[np.int64]
    time_left: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.attributes)


def start_features(
    where: NDArray[np.int64],
    left_in_slice: NDArray[np.float64],
    slice_left_ns: NDArray[np.float64],
    is_first: NDArray[np.bool_],
    length_ns: int,
) -> NDArray[np.float32]:
    """Numbers (n, START_FEATURES) that go with each start, all of order 1.

    Args:
        where: (n,) the slice.
        left_in_slice: (n,) conversations still to start in this slice, this one included.
        slice_left_ns: (n,) time from the previous start (or the slice's) to the slice's end.
        is_first: (n,) whether this is the slice's first.
        length_ns: the slice's length.
    """
    out = np.zeros((len(left_in_slice), START_FEATURES), np.float32)
    out[:, 0] = np.log10(left_in_slice) / 2
    out[:, 1] = np.log10(np.maximum(slice_left_ns, 1e3)) / 4 - 1
    out[:, 2] = is_first
    out[:, 3] = np.log10(max(length_ns, 1)) / 4 - 1
    out[np.arange(len(out)), 4 + moment_of(where)] = 1
    return out


def moment_of(where: NDArray[np.int64]) -> NDArray[np.int64]:
    """Coarse part of the chunk (n,), 0..MOMENTS - 1, in which each slice (n,) lies."""
    return where * MOMENTS // SLICES


def countdown_token(left: NDArray[np.int64]) -> NDArray[np.int64]:
    """Bin of the number of packets left (n,), the present one included: exact to 12, then five for two doublings."""
    coarse = 12 + np.floor(np.log2(np.maximum(left, 12) / 12) * 2.5).astype(np.int64)
    return np.where(left <= 12, left, np.minimum(coarse + 1, COUNTDOWNS - 1))


def position_token(index: NDArray[np.int64]) -> NDArray[np.int64]:
    """Bin of a packet's place in its conversation (n,): exact to 7, then one a doubling."""
    coarse = 8 + np.floor(np.log2(np.maximum(index, 8) / 8)).astype(np.int64)
    return np.where(index < 8, index, np.minimum(coarse, POSITIONS - 1))


def time_left_token(left_ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Bin of the time to the chunk's end (n,), from 10 microseconds up, four a decade."""
    decades = np.log10(np.maximum(left_ns, 1e4) / 1e4)
    tokens: NDArray[np.int64] = np.clip(decades * 4, 0, TIMES_LEFT - 1).astype(np.int64)
    return tokens
