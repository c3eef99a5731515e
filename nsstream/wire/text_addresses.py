"""IP addresses in text to octets, in a numba loop over the cells of a column (laid out as in `text_numbers`).

Source: RFC 4291 section 2.2 for IPv6; IPv4 as four decimal numbers.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.wire.octets import u8
from nsstream.wire.text_numbers import read_digits, trim


@njit(cache=True)
def _read_ipv4(octets: NDArray[np.uint8], at: int, end: int, out: NDArray[np.uint8]) -> bool:
    """Whether the cell is an IPv4 address, which is then in ``out[12:]``."""
    for i in range(4):
        value, stop = read_digits(octets, at, end, 3)
        if stop == at or value > 255:
            return False
        out[12 + i] = value
        at = stop
        if i < 3:
            if at >= end or octets[at] != 46:
                return False
            at += 1
    return at == end


@njit(cache=True)
def _read_group(octets: NDArray[np.uint8], at: int, end: int) -> tuple[int, int]:
    """The number in up to four hexadecimal digits, and where they end."""
    value = 0
    stop = min(end, at + 4)
    while at < stop:
        octet = u8(octets, at)
        if 48 <= octet <= 57:
            value = value << 4 | (octet - 48)
        elif 97 <= (octet | 32) <= 102:
            value = value << 4 | ((octet | 32) - 87)
        else:
            break
        at += 1
    return value, at


@njit(cache=True)
def _read_ipv6(octets: NDArray[np.uint8], at: int, end: int, out: NDArray[np.uint8]) -> bool:
    """Whether the cell is an IPv6 address; a zone behind ``%`` is left away."""
    for i in range(at, end):
        if octets[i] == 37:
            end = i
            break
    filled, gap = 0, -1
    if end - at >= 2 and octets[at] == 58:
        if octets[at + 1] != 58:
            return False
        gap = 0
        at += 2
    while at < end:
        if filled > 14:
            return False
        value, stop = _read_group(octets, at, end)
        if stop == at:
            return False
        if stop < end and octets[stop] == 46:  # the last 32 bits as IPv4
            if filled > 12:
                return False
            last = np.zeros(16, np.uint8)
            if not _read_ipv4(octets, at, end, last):
                return False
            out[filled : filled + 4] = last[12:]
            filled += 4
            break
        out[filled] = value >> 8
        out[filled + 1] = value & 255
        filled += 2
        at = stop
        if at == end:
            break
        if octets[at] != 58:
            return False
        at += 1
        if at == end:
            return False
        if octets[at] == 58:
            if gap >= 0:
                return False
            gap = filled
            at += 1
    if gap < 0:
        return filled == 16
    if filled > 14:
        return False
    moved = filled - gap
    for i in range(moved):
        out[15 - i] = out[filled - 1 - i]
    out[gap : 16 - moved] = 0
    return True


@njit(cache=True)
def parse_addresses(
    octets: NDArray[np.uint8], offsets: NDArray[np.int32], addresses: NDArray[np.uint8], versions: NDArray[np.uint8]
) -> None:
    """Read each cell: addresses (n, 16), IPv4 as ::ffff:a.b.c.d; versions 4, 6, or 0 where there is no address."""
    for row in range(len(versions)):
        at, end = trim(octets, offsets[row], offsets[row + 1])
        out = addresses[row]
        out[:] = 0
        versions[row] = 0
        if _read_ipv4(octets, at, end, out):
            out[10] = out[11] = 255
            versions[row] = 4
        elif _read_ipv6(octets, at, end, out):
            is_mapped = out[10] == 255 and out[11] == 255
            for i in range(10):
                is_mapped = is_mapped and out[i] == 0
            versions[row] = 4 if is_mapped else 6
        else:
            out[:] = 0
