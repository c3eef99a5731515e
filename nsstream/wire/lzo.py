"""LZO1X blocks, decompressed: what nfdump calls its "lzo" compression, without a frame or a length around it.

Source: the description of the stream in the Linux kernel's Documentation/staging/lzo.rst.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.errors import WireError
from nsstream.wire.octets import u8, u16_little


def lzo1x_decompress(octets: NDArray[np.uint8], out: NDArray[np.uint8]) -> int:
    """Decompress one block into `out`; how many octets it gave.

    Raises WireError if the block is cut, refers to octets before its start, or holds more than `out` has room for.
    """
    written = int(_decompress(octets, out))
    if written < 0:
        raise WireError(f"corrupt LZO block of {len(octets)} octets")
    return written


@njit(cache=True)
def _extended_length(octets: NDArray[np.uint8], at: int, base: int) -> tuple[int, int]:
    """A length that goes on in zero octets of 255 each and ends in one that is not zero; a negative one is corrupt."""
    length = base
    while at < len(octets) and octets[at] == 0:
        length += 255
        at += 1
    if at >= len(octets):
        return -1, at
    return length + u8(octets, at), at + 1


@njit(cache=True)
def _decompress(octets: NDArray[np.uint8], out: NDArray[np.uint8]) -> int:
    """Octets written, or -1 where the block is corrupt.

    Each instruction copies `length` octets from `distance` before the end of the output, and then `literals` octets of
    the input. `state` is what the next instruction's meaning rests on: how many literals were copied, 4 for a long run.
    """
    n, room = len(octets), len(out)
    at = written = state = 0
    if n > 0 and octets[0] > 17:  # the stream may start with a run of literals
        literals = u8(octets, 0) - 17
        if 1 + literals > n or literals > room:
            return -1
        out[:literals] = octets[1 : 1 + literals]
        at, written, state = 1 + literals, literals, min(literals, 4)
    while at < n:
        code = u8(octets, at)
        at += 1
        length = distance = literals = 0
        if code < 16 and state == 0:
            literals = code + 3
            if code == 0:
                literals, at = _extended_length(octets, at, 18)
            next_state = 4
        else:
            if code < 16 or code >= 64:
                if at >= n:
                    return -1
                high = u8(octets, at)
                at += 1
                next_state = literals = code & 3
                if code >= 64:
                    length = (code >> 5) + 1
                    distance = (high << 3) + ((code >> 2) & 7) + 1
                else:
                    length = 3 if state == 4 else 2
                    distance = (high << 2) + (code >> 2) + (2049 if state == 4 else 1)
            else:
                bits = 31 if code >= 32 else 7
                length = 2 + (code & bits)
                if length == 2:
                    length, at = _extended_length(octets, at, 2 + bits)
                if at + 2 > n or length < 0:
                    return -1
                low = u16_little(octets, at)
                at += 2
                next_state = literals = low & 3
                distance = (low >> 2) + 1
                if code < 32:
                    distance += 16383 + ((code & 8) << 11)
                    if distance == 16384:  # the end
                        return written
        if literals < 0 or distance > written or written + length + literals > room or at + literals > n:
            return -1
        for i in range(length):  # one by one: the two may overlap
            out[written + i] = out[written + i - distance]
        written += length
        for i in range(literals):
            out[written + i] = octets[at + i]
        written += literals
        at += literals
        state = next_state
    return -1  # the end is missing
