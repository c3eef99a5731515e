"""Integers out of octets, for numba loops: network order, little endian, or the byte order of a file.

Promises: every result but that of the last two is a non-negative int64, so that no caller mixes signed and unsigned
64-bit numbers (numba would make them floats). Bounds are the caller's: nothing here checks that the octets are there.
Indices are made unsigned, so that numba does not look for negative ones, and LLVM makes one load of what stands
together.
"""

from __future__ import annotations

import sys
from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

_IS_LITTLE_ENDIAN: Final = sys.byteorder == "little"


@njit(cache=True, inline="always")
def u8(octets: NDArray[np.uint8], at: int) -> int:
    """One octet."""
    return int(np.int64(octets[np.uintp(at)]))


@njit(cache=True, inline="always")
def u16(octets: NDArray[np.uint8], at: int) -> int:
    """16 bits in network order."""
    return int((np.int64(octets[np.uintp(at)]) << 8) | np.int64(octets[np.uintp(at + 1)]))


@njit(cache=True, inline="always")
def u32(octets: NDArray[np.uint8], at: int) -> int:
    """32 bits in network order."""
    return int(
        (np.int64(octets[np.uintp(at)]) << 24)
        | (np.int64(octets[np.uintp(at + 1)]) << 16)
        | (np.int64(octets[np.uintp(at + 2)]) << 8)
        | np.int64(octets[np.uintp(at + 3)])
    )


@njit(cache=True, inline="always")
def u16_little(octets: NDArray[np.uint8], at: int) -> int:
    """16 bits, little endian."""
    return int(np.int64(octets[np.uintp(at)]) | (np.int64(octets[np.uintp(at + 1)]) << 8))


@njit(cache=True, inline="always")
def u32_little(octets: NDArray[np.uint8], at: int) -> int:
    """32 bits, little endian."""
    return int(
        np.int64(octets[np.uintp(at)])
        | (np.int64(octets[np.uintp(at + 1)]) << 8)
        | (np.int64(octets[np.uintp(at + 2)]) << 16)
        | (np.int64(octets[np.uintp(at + 3)]) << 24)
    )


@njit(cache=True, inline="always")
def u32_in_order(octets: NDArray[np.uint8], at: int, is_big_endian: bool) -> int:
    """32 bits in the byte order of the file."""
    if is_big_endian:
        return u32(octets, at)
    return u32_little(octets, at)


@njit(cache=True, inline="always")
def memory_word(octets: NDArray[np.uint8], at: int) -> np.uint64:
    """64 bits that stand in this machine's memory as the octets do."""
    if _IS_LITTLE_ENDIAN:
        return np.uint64(u32_little(octets, at) | (u32_little(octets, at + 4) << 32))
    return np.uint64((u32(octets, at) << 32) | u32(octets, at + 4))


@njit(cache=True, inline="always")
def ipv4_mapped_word(octets: NDArray[np.uint8], at: int) -> np.uint64:
    """The second 64 bits of an IPv4 address as ::ffff:a.b.c.d (RFC 4291 2.5.5.2), as `memory_word` gives them."""
    if _IS_LITTLE_ENDIAN:
        return np.uint64(0xFFFF0000 | (u32_little(octets, at) << 32))
    return np.uint64((0xFFFF << 32) | u32(octets, at))
