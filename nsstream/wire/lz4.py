"""LZ4 blocks, decompressed: what nfdump calls its "lz4" compression, without a frame or a length around it.

Source: LZ4 Block Format Description (doc/lz4_Block_format.md of the reference implementation).
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.errors import WireError
from nsstream.wire.octets import u8, u16_little


def lz4_decompress(octets: NDArray[np.uint8], out: NDArray[np.uint8]) -> int:
    """Decompress one block into `out`; how many octets it gave.

    Raises WireError if the block is cut, refers to octets before its start, or holds more than `out` has room for.
    """
    written = int(_decompress(octets, out))
    if written < 0:
        raise WireError(f"corrupt LZ4 block of {len(octets)} octets")
    return written


@njit(cache=True)
def _length(octets: NDArray[np.uint8], at: int, nibble: int) -> tuple[int, int]:
    """A length of 15 goes on in octets of 255 and ends in a smaller one; a negative one is corrupt."""
    length = nibble
    if nibble == 15:
        more = 255
        while more == 255:
            if at >= len(octets):
                return -1, at
            more = u8(octets, at)
            length += more
            at += 1
    return length, at


@njit(cache=True)
def _decompress(octets: NDArray[np.uint8], out: NDArray[np.uint8]) -> int:
    """Octets written, or -1 where the block is corrupt. The last sequence is of literals only."""
    n, room = len(octets), len(out)
    at = written = 0
    while at < n:
        token = u8(octets, at)
        literals, at = _length(octets, at + 1, token >> 4)
        if literals < 0 or at + literals > n or written + literals > room:
            return -1
        for i in range(literals):
            out[written + i] = octets[at + i]
        at += literals
        written += literals
        if at == n:
            return written
        if at + 2 > n:
            return -1
        distance = u16_little(octets, at)
        length, at = _length(octets, at + 2, token & 15)
        if length < 0 or distance == 0 or distance > written or written + length + 4 > room:
            return -1
        for i in range(length + 4):  # one by one: the two may overlap
            out[written + i] = out[written + i - distance]
        written += length + 4
    return -1
