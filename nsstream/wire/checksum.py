"""The Internet checksum (RFC 1071) over slices of an array of octets, for numba callers and for Python.

Promises: pure functions, no copy, no allocation; a slice of odd length is padded with a zero octet on the right, as
RFC 1071 section 1 says. A sum may be carried from slice to slice (`initial`) as long as all but the last are even in
length: so a pseudo-header and a segment are summed in one go. Left to the caller: `start + length <= len(octets)`.
"""

from __future__ import annotations

import sys
from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.wire.octets import memory_word, u8, u16

_IS_LITTLE_ENDIAN: Final = sys.byteorder == "little"
_LOW_HALF = np.uint64(0xFFFFFFFF)
_HALF_BITS = np.uint64(32)


@njit(cache=True, nogil=True)
def fold(total: int) -> int:
    """Fold the carries of a sum back in: the 16-bit ones' complement sum (not yet complemented)."""
    total = int(total)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@njit(cache=True, nogil=True)
def ones_complement_sum(octets: NDArray[np.uint8], start: int, length: int, initial: int) -> int:
    """Add the 16-bit big-endian words of ``octets[start:start + length]`` to `initial`, carries not all folded.

    Args:
        octets: uint8, one-dimensional.
        start: index of the first octet.
        length: octets to sum; if odd, one zero octet is added.
        initial: sum so far, 0 at the start; sums of up to 2**46 octets fit the int64 that holds the result.
    """
    words = length >> 3
    low, high = np.uint64(0), np.uint64(0)
    for k in range(words):
        word = memory_word(octets, start + 8 * k)
        low += word & _LOW_HALF
        high += word >> _HALF_BITS
    total = int(initial)
    if words:
        # Sums of 32-bit halves fold to the same 16 bits as sums of their 16-bit words, and in either byte order: RFC
        # 1071 section 2 (B).
        both = (low & _LOW_HALF) + (low >> _HALF_BITS) + (high & _LOW_HALF) + (high >> _HALF_BITS)
        halves = fold(np.int64(both))  # type: ignore[arg-type]  # numba's int is numpy's int64
        total += (halves & 0xFF) << 8 | halves >> 8 if _IS_LITTLE_ENDIAN else halves
    even_end = start + (length & ~1)
    for i in range(start + 8 * words, even_end, 2):
        total += u16(octets, i)
    if length & 1:
        total += u8(octets, even_end) << 8
    return total


@njit(cache=True, nogil=True)
def internet_checksum(octets: NDArray[np.uint8], start: int, length: int, initial: int) -> int:
    """The value of a checksum field whose own two octets are zero in the slice: ``~fold(sum)``, 0 to 0xFFFF.

    Over a slice that holds its right checksum the result is 0. UDP sends 0xFFFF for 0 (RFC 768): the caller's business.
    """
    return 0xFFFF & ~int(fold(ones_complement_sum(octets, start, length, initial)))
