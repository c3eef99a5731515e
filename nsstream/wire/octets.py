"""Integers out of octets, for numba loops: network order, little endian, or the byte order of a file.

Promises: every result is a non-negative int64, so that no caller mixes signed and unsigned 64-bit numbers (numba would
make them floats). Bounds are the caller's: nothing here checks that the octets are there.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True, inline="always")
def u8(octets: NDArray[np.uint8], at: int) -> int:
    """One octet."""
    return int(np.int64(octets[at]))


@njit(cache=True, inline="always")
def u16(octets: NDArray[np.uint8], at: int) -> int:
    """16 bits in network order."""
    return int((np.int64(octets[at]) << 8) | np.int64(octets[at + 1]))


@njit(cache=True, inline="always")
def u32(octets: NDArray[np.uint8], at: int) -> int:
    """32 bits in network order."""
    return int(
        (np.int64(octets[at]) << 24)
        | (np.int64(octets[at + 1]) << 16)
        | (np.int64(octets[at + 2]) << 8)
        | np.int64(octets[at + 3])
    )


@njit(cache=True, inline="always")
def u16_little(octets: NDArray[np.uint8], at: int) -> int:
    """16 bits, little endian."""
    return int(np.int64(octets[at]) | (np.int64(octets[at + 1]) << 8))


@njit(cache=True, inline="always")
def u32_little(octets: NDArray[np.uint8], at: int) -> int:
    """32 bits, little endian."""
    return int(
        np.int64(octets[at])
        | (np.int64(octets[at + 1]) << 8)
        | (np.int64(octets[at + 2]) << 16)
        | (np.int64(octets[at + 3]) << 24)
    )


@njit(cache=True, inline="always")
def u32_in_order(octets: NDArray[np.uint8], at: int, is_big_endian: bool) -> int:
    """32 bits in the byte order of the file."""
    if is_big_endian:
        return u32(octets, at)
    return u32_little(octets, at)
