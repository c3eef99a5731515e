"""Big-endian numbers, runs of one octet and addresses into a buffer of octets, for numba loops.

Indices are made unsigned, so that numba does not look for negative ones, and LLVM makes one store of what stands
together. Bounds are the caller's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Octets = NDArray[np.uint8]


@njit(cache=True, inline="always")
def signed(value: Any) -> int:
    """A field of a record as int64: numba makes a float of an unsigned and a signed number together."""
    return np.int64(value)  # type: ignore[return-value]  # numba's int is numpy's int64


@njit(cache=True, inline="always")
def put_u16(octets: Octets, at: int, value: int) -> None:
    """Write the low 16 bits of `value`."""
    octets[np.uintp(at)] = (value >> 8) & 0xFF
    octets[np.uintp(at + 1)] = value & 0xFF


@njit(cache=True, inline="always")
def put_u32(octets: Octets, at: int, value: int) -> None:
    """Write the low 32 bits of `value`."""
    octets[np.uintp(at)] = (value >> 24) & 0xFF
    octets[np.uintp(at + 1)] = (value >> 16) & 0xFF
    octets[np.uintp(at + 2)] = (value >> 8) & 0xFF
    octets[np.uintp(at + 3)] = value & 0xFF


@njit(cache=True, inline="always")
def put_u64(octets: Octets, at: int, value: int) -> None:
    """Write 64 bits, of a negative `value` those of its two's complement."""
    put_u32(octets, at, value >> 32)
    put_u32(octets, at + 4, value)


@njit(cache=True, inline="always")
def put_run(octets: Octets, at: int, length: int, value: int) -> None:
    """Write `length` times the octet `value`."""
    octet = np.uint8(value)
    for i in range(np.uintp(at), np.uintp(at + max(length, 0))):
        octets[i] = octet


@njit(cache=True, inline="always")
def copy_run(octets: Octets, at: int, source: Octets, start: int, length: int) -> None:
    """Write ``source[start:start + length]``, which may be of the same buffer but must not overlap what is written."""
    for i in range(length):
        octets[np.uintp(at + i)] = source[np.uintp(start + i)]


@njit(cache=True, nogil=True)
def put_address(octets: Octets, at: int, address: Any, version: int) -> int:
    """Write an address of 4 or 16 octets out of its 16-octet form; returns the position behind it."""
    skip = 12 if version == 4 else 0
    for i in range(skip, 16):
        octets[at + i - skip] = address[i]
    return at + 16 - skip


@njit(cache=True, inline="always")
def sum_run(value: int, length: int) -> int:
    """The ones' complement sum (carries not folded) of `length` octets of one value, from an even position."""
    total = (length >> 1) * (value << 8 | value)
    if length & 1:
        total += value << 8
    return total
