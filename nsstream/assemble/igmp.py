"""IGMP messages (RFC 2236, RFC 3376): which one a length and a group ask for, and its octets with its checksum."""

from __future__ import annotations

from typing import Any, Final

from numba import njit

from nsstream.assemble.octets import Octets, put_address, put_run, put_u16, put_u32
from nsstream.wire.checksum import internet_checksum

_QUERY: Final = 0x11
_REPORT: Final = 0x16  # version 2
_LEAVE: Final = 0x17
_REPORT_3: Final = 0x22
_ALL_SYSTEMS, _ALL_ROUTERS, _VERSION_3_ROUTERS = 1, 2, 22  # last octets in 224.0.0.0/24
_MOST_RECORDS: Final = 64


@njit(cache=True, nogil=True)
def igmp_length(group: Any, length: int) -> int:
    """The length nearest to `length` that a message to this group can have."""
    if _local_group(group) == _VERSION_3_ROUTERS:
        return max(length & ~3, 16)
    return 8 if length < 12 else length & ~3


@njit(cache=True, nogil=True)
def write_igmp(octets: Octets, at: int, length: int, group: Any) -> None:
    """Write a message of a length that `igmp_length` gave, checksum included."""
    put_run(octets, at, length, 0)
    local = _local_group(group)
    if local == _VERSION_3_ROUTERS:
        records = min((length - 8) // 8, _MOST_RECORDS)
        octets[at] = _REPORT_3
        put_u16(octets, at + 6, records)
        for k in range(records):
            octets[at + 8 + 8 * k] = 4  # change to exclude mode, no sources
            put_u32(octets, at + 12 + 8 * k, 0xEF00_0001 + k)
        sources = (length - 8 - 8 * records) // 4
        last = at + 8 + 8 * (records - 1)
        put_u16(octets, last + 2, sources)
        put_run(octets, last + 8, 4 * sources, 10)
    elif length >= 12:
        octets[at] = _QUERY
        octets[at + 1] = 100
        octets[at + 9] = 125
        sources = (length - 12) // 4
        put_u16(octets, at + 10, sources)
        put_run(octets, at + 12, 4 * sources, 10)
    elif local == _ALL_SYSTEMS:
        octets[at] = _QUERY
        octets[at + 1] = 100
    elif local == _ALL_ROUTERS:
        octets[at] = _LEAVE
        put_u32(octets, at + 4, 0xEF00_0001)
    else:
        octets[at] = _REPORT
        put_address(octets, at + 4, group, 4)
    put_u16(octets, at + 2, internet_checksum(octets, at, length, 0))


@njit(cache=True, nogil=True)
def _local_group(group: Any) -> int:
    """The last octet of a group in 224.0.0.0/24, -1 of any other address."""
    if group[12] == 224 and group[13] == 0 and group[14] == 0:
        return int(group[15])
    return -1
