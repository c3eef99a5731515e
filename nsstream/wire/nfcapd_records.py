"""Flow records of nfdump 1.7's files (its "V3" records): where their elements are, and columns of what they hold.

A record is a header and elements, each a type, a length and values in the byte order of the machine that wrote them,
which is little endian. `find_elements` walks the records once and notes where each element is; then `gather` takes one
column at a time. Elements that no column has room for (NAT, MPLS, MAC, latency, payload ...) are skipped.

Source: nfdump's headers nfxV3.h and id.h, releases 1.7.0 to 1.7.6, and files that nfdump 1.7.1 wrote.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.wire.octets import u8, u16_little, u32_little

RECORD_HEADER_BYTES: Final = 12

# Slots of an element index, one for each element that a column comes from.
GENERIC_FLOW: Final = 0
IPV4_FLOW: Final = 1
IPV6_FLOW: Final = 2
FLOW_MISC: Final = 3
OUT_COUNTS: Final = 4
VLAN: Final = 5
AS_NUMBERS: Final = 6
NEXT_HOP_IPV4: Final = 7
NEXT_HOP_IPV6: Final = 8
RECEIVED_IPV4: Final = 9
RECEIVED_IPV6: Final = 10
OBSERVATION: Final = 11
LONG_FLOW_MISC: Final = 12  # the same as FLOW_MISC, where it is of 16 octets: with end reason and reverse flags
SLOT_COUNT: Final = 13

# slot -> (type in the file, octets that it must hold at least)
_ELEMENTS: Final = {
    GENERIC_FLOW: (1, 48),
    IPV4_FLOW: (2, 8),
    IPV6_FLOW: (3, 32),
    FLOW_MISC: (4, 12),
    OUT_COUNTS: (5, 24),
    VLAN: (6, 8),
    AS_NUMBERS: (7, 8),
    NEXT_HOP_IPV4: (10, 4),
    NEXT_HOP_IPV6: (11, 16),
    RECEIVED_IPV4: (12, 4),
    RECEIVED_IPV6: (13, 16),
    OBSERVATION: (33, 12),
}
_TYPES: Final = 64
_SLOT_OF_TYPE: Final = np.full(_TYPES, -1, np.int64)
_ROOM_OF_TYPE: Final = np.zeros(_TYPES, np.int64)
for _slot, (_type, _room) in _ELEMENTS.items():
    _SLOT_OF_TYPE[_type] = _slot
    _ROOM_OF_TYPE[_type] = _room
_LONG_ROOM: Final = 16


@njit(cache=True)
def scan_block(
    octets: NDArray[np.uint8], offsets: NDArray[np.int64], types: NDArray[np.int64], limit: int
) -> tuple[int, int]:
    """Find where records start and of which type they are: at most `limit`; how many, and where the scan ended.

    It ends before the end of the octets at a record that claims to be shorter than its header, or longer than the rest.
    """
    at, count = 0, 0
    while at + 4 <= len(octets) and count < limit:
        size = u16_little(octets, at + 2)
        if size < 4 or at + size > len(octets):
            break
        offsets[count] = at
        types[count] = u16_little(octets, at)
        count += 1
        at += size
    return count, at


@njit(cache=True)
def find_elements(
    octets: NDArray[np.uint8], offsets: NDArray[np.int64], index: NDArray[np.int64], is_sound: NDArray[np.bool_]
) -> None:
    """Note where the values of each element of each record are: index (n, SLOT_COUNT), 0 where it is not there.

    A record is not sound where an element reaches beyond it, or is shorter than what it must hold.
    """
    index[:] = 0
    for row in range(len(offsets)):
        start = offsets[row]
        end = start + u16_little(octets, start + 2)
        is_sound[row] = end - start >= RECORD_HEADER_BYTES
        if not is_sound[row]:
            continue
        at = start + RECORD_HEADER_BYTES
        for _ in range(u16_little(octets, start + 4)):
            if at + 4 > end:
                is_sound[row] = False
                break
            kind = u16_little(octets, at)
            length = u16_little(octets, at + 2)
            if length < 4 or at + length > end or (kind < _TYPES and length - 4 < _ROOM_OF_TYPE[kind]):
                is_sound[row] = False
                break
            if kind < _TYPES and _SLOT_OF_TYPE[kind] >= 0:
                slot = _SLOT_OF_TYPE[kind]
                index[row, slot] = at + 4
                if slot == FLOW_MISC and length - 4 >= _LONG_ROOM:
                    index[row, LONG_FLOW_MISC] = at + 4
            at += length


@njit(cache=True)
def gather(octets: NDArray[np.uint8], at: NDArray[np.int64], offset: int, width: int, out: NDArray[Any]) -> None:
    """The numbers of 1, 2, 4 or 8 octets at ``at + offset``; a row stays as it is where `at` is 0.

    Those of 8 octets are given as the bits of a signed number.
    """
    for row in range(len(at)):
        if at[row]:
            here = at[row] + offset
            if width == 1:
                value = u8(octets, here)
            elif width == 2:
                value = u16_little(octets, here)
            elif width == 4:
                value = u32_little(octets, here)
            else:
                high = u32_little(octets, here + 4)
                value = u32_little(octets, here) | ((high - ((high & 0x80000000) << 1)) << 32)
            out[row] = value


@njit(cache=True)
def gather_ipv4(octets: NDArray[np.uint8], at: NDArray[np.int64], offset: int, out: NDArray[np.uint8]) -> None:
    """The IPv4 addresses at ``at + offset``, as ::ffff:a.b.c.d: out (n, 16); a row stays as it is where `at` is 0."""
    for row in range(len(at)):
        if at[row]:
            for i in range(10):
                out[row, i] = 0
            out[row, 10] = out[row, 11] = 255
            for i in range(4):
                out[row, 12 + i] = octets[at[row] + offset + 3 - i]


@njit(cache=True)
def gather_ipv6(octets: NDArray[np.uint8], at: NDArray[np.int64], offset: int, out: NDArray[np.uint8]) -> None:
    """The IPv6 addresses at ``at + offset``: out (n, 16); a row stays as it is where `at` is 0."""
    for row in range(len(at)):
        if at[row]:
            for i in range(8):  # two numbers of 64 bits
                out[row, i] = octets[at[row] + offset + 7 - i]
                out[row, 8 + i] = octets[at[row] + offset + 15 - i]
