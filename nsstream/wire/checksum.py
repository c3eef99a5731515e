"""The Internet checksum (RFC 1071) over slices of an array of octets, for numba callers and for Python.

Promises: pure functions, no copy, no allocation; a slice of odd length is padded with a zero octet on the right, as
RFC 1071 section 1 says. A sum may be carried from slice to slice (`initial`) as long as all but the last are even in
length: so a pseudo-header and a segment are summed in one go. Left to the caller: `start + length <= len(octets)`.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True)
def ones_complement_sum(octets: NDArray[np.uint8], start: int, length: int, initial: int) -> int:
    """Add the 16-bit big-endian words of ``octets[start:start + length]`` to `initial`, carries not yet folded.

    Args:
        octets: uint8, one-dimensional.
        start: index of the first octet.
        length: octets to sum; if odd, one zero octet is added.
        initial: sum so far, 0 at the start; sums of up to 2**46 octets fit the int64 that holds the result.
    """
    total = int(initial)
    even_end = start + (length & ~1)
    for i in range(start, even_end, 2):
        total += int((np.int64(octets[i]) << 8) | np.int64(octets[i + 1]))
    if length & 1:
        total += int(np.int64(octets[even_end]) << 8)
    return total


@njit(cache=True)
def fold(total: int) -> int:
    """Fold the carries of a sum back in: the 16-bit ones' complement sum (not yet complemented)."""
    total = int(total)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@njit(cache=True)
def internet_checksum(octets: NDArray[np.uint8], start: int, length: int, initial: int) -> int:
    """The value of a checksum field whose own two octets are zero in the slice: ``~fold(sum)``, 0 to 0xFFFF.

    Over a slice that holds its right checksum the result is 0. UDP sends 0xFFFF for 0 (RFC 768): the caller's business.
    """
    return 0xFFFF & ~int(fold(ones_complement_sum(octets, start, length, initial)))
