"""Down-sampling by whole conversations: every conversation has a level, and a chunk keeps those from some level on.

The level of a row is the number of leading zero bits of a keyed hash of its unordered five-tuple, so both directions
of a conversation have one level, half of all conversations have level 1 or more, a quarter 2 or more, and so on: a
chunk at level k keeps one conversation in 2**k, and those are among what it would keep at any lower level. The same key
gives the same levels in every chunk. Who does not know the key cannot choose what is kept. Later fragments have no
ports and are a conversation of their own, as in `trace.grouping`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.chunk.rows import ROW_OCTETS, Kind, Rows
from nsstream.trace.keyed_hash import keyed_hash

LEVELS: Final = 66  # of rows: 0 .. 64; a chunk at level 65 keeps nothing
NOTHING: Final = LEVELS - 1
KEY_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class ChunkLimits:
    """How much memory rows may take, in rows and in octets of their columns.

    One chunk, all open ones together, and the late and the future rows (each) that are held apart until a chunk closes.
    """

    chunk_rows: int = 4_000_000
    chunk_octets: int = 512 << 20
    open_rows: int = 6_000_000
    open_octets: int = 768 << 20
    apart_rows: int = 1 << 16
    apart_octets: int = 8 << 20

    def __post_init__(self) -> None:
        if min(self.chunk_rows, self.chunk_octets) < 1:
            raise ValueError(f"a chunk must have room: {self!r}")
        if self.open_rows < self.chunk_rows or self.open_octets < self.chunk_octets:
            raise ValueError(f"all open chunks must have the room of one at least: {self!r}")
        if min(self.apart_rows, self.apart_octets) < 0:
            raise ValueError(f"rows apart cannot have less than no room: {self!r}")

    def rows_of_chunk(self, kind: Kind) -> int:
        """The most rows of one chunk."""
        return min(self.chunk_rows, self.chunk_octets // ROW_OCTETS[kind])

    def rows_of_open(self, kind: Kind) -> int:
        """The most rows of all open chunks."""
        return min(self.open_rows, self.open_octets // ROW_OCTETS[kind])

    def rows_apart(self, kind: Kind) -> int:
        """The most late rows, and the most future rows, that are held."""
        return min(self.apart_rows, self.apart_octets // ROW_OCTETS[kind])


UNLIMITED: Final = ChunkLimits(*[1 << 62] * 6)


def levels_of(rows: Rows, key: bytes) -> NDArray[np.uint8]:
    """The level of each row under a key of 16 octets."""
    k0, k1 = struct.unpack("<QQ", key)
    return _levels(
        np.uint64(k0),
        np.uint64(k1),
        np.ascontiguousarray(rows.source_address).view(np.int64),
        np.ascontiguousarray(rows.destination_address).view(np.int64),
        rows.source_transport_port,
        rows.destination_transport_port,
        rows.protocol_identifier,
    )


@njit(cache=True)
def _levels(
    k0: np.uint64,
    k1: np.uint64,
    source: NDArray[np.int64],
    destination: NDArray[np.int64],
    source_port: NDArray[np.uint16],
    destination_port: NDArray[np.uint16],
    protocol: NDArray[np.uint8],
) -> NDArray[np.uint8]:
    out = np.empty(len(protocol), np.uint8)
    for i in range(len(protocol)):
        a, b, c, d = source[i, 0], source[i, 1], destination[i, 0], destination[i, 1]
        p, q = np.int64(source_port[i]), np.int64(destination_port[i])
        if a > c or (a == c and (b > d or (b == d and p > q))):
            a, b, c, d, p, q = c, d, a, b, q, p
        h = keyed_hash(k0, k1, a, b, c, d, int((p << 24) | (q << 8) | np.int64(protocol[i])))
        level = 0
        while level < 64 and h >> np.uint64(63) == np.uint64(0):
            h = h << np.uint64(1)
            level += 1
        out[i] = level
    return out
