"""Our own check that Ethernet frames are lawful: lengths that agree, headers that are whole, checksums that are right.

It stands in where tshark is not installed, and reads octets, not columns: what it finds does not rest on the code that
assembled them. Promises: never reads past a frame; every frame is given exactly one `Fault`, the first that it has.
Left to tshark: whether sequence and acknowledgement numbers make sense.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.trace.fields import ICMP, ICMPV6, TCP, UDP
from nsstream.wire.checksum import fold, ones_complement_sum


class Fault(IntEnum):
    """Why a frame is not lawful."""

    NONE = 0
    NOT_IP = 1  # neither IPv4 nor IPv6 behind Ethernet and VLAN tags
    CUT = 2  # a header ends behind the frame, or a length promises more octets than there are
    IP_LENGTH = 3  # header or total length that contradict each other
    IP_CHECKSUM = 4
    TCP_HEADER = 5  # data offset below 5, or behind the datagram
    TCP_CHECKSUM = 6
    UDP_LENGTH = 7
    UDP_CHECKSUM = 8  # wrong, or missing in IPv6 (RFC 8200 8.1)
    ICMP_CHECKSUM = 9
    ICMPV6_CHECKSUM = 10


_ETHERNET_OCTETS: Final = 14
_ALL_ONES: Final = 0xFFFF


def faults(octets: NDArray[np.uint8], start: NDArray[np.int64], length: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The `Fault` of each of m Ethernet frames ``octets[start:start + length]``: (m,)."""
    out = np.zeros(len(start), np.uint8)
    _check(octets, start, length, out)
    return out


@njit(cache=True)
def _check(
    octets: NDArray[np.uint8], start: NDArray[np.int64], length: NDArray[np.int64], out: NDArray[np.uint8]
) -> None:
    for i in range(len(start)):
        out[i] = _fault(octets, start[i], start[i] + length[i])


@njit(cache=True)
def _u16(octets: NDArray[np.uint8], at: int) -> int:
    return int((np.int64(octets[at]) << 8) | np.int64(octets[at + 1]))


@njit(cache=True)
def _fault(octets: NDArray[np.uint8], start: int, end: int) -> int:
    if end - start < _ETHERNET_OCTETS:
        return Fault.CUT
    at = start + _ETHERNET_OCTETS
    kind = _u16(octets, at - 2)
    while kind == 0x8100 or kind == 0x88A8:  # IEEE 802.1Q and 802.1ad tags
        if at + 4 > end:
            return Fault.CUT
        kind = _u16(octets, at + 2)
        at += 4
    if kind == 0x0800:
        return _fault_of_ipv4(octets, at, end)
    if kind == 0x86DD:
        return _fault_of_ipv6(octets, at, end)
    return Fault.NOT_IP


@njit(cache=True)
def _fault_of_ipv4(octets: NDArray[np.uint8], at: int, end: int) -> int:
    if at + 20 > end:
        return Fault.CUT
    header = (octets[at] & 15) * 4
    total = _u16(octets, at + 2)
    if octets[at] >> 4 != 4 or header < 20 or total < header:
        return Fault.IP_LENGTH
    if at + total > end:
        return Fault.CUT
    if fold(ones_complement_sum(octets, at, header, 0)) != _ALL_ONES:
        return Fault.IP_CHECKSUM
    if _u16(octets, at + 6) & 0x3FFF:  # a fragment: its checksum spans datagrams
        return Fault.NONE
    addresses = ones_complement_sum(octets, at + 12, 8, 0)
    return _fault_of_transport(octets, at + header, at + total, octets[at + 9], addresses, 4)


@njit(cache=True)
def _fault_of_ipv6(octets: NDArray[np.uint8], at: int, end: int) -> int:
    if at + 40 > end:
        return Fault.CUT
    if octets[at] >> 4 != 6:
        return Fault.IP_LENGTH
    stop = at + 40 + _u16(octets, at + 4)
    if stop > end:
        return Fault.CUT
    protocol = octets[at + 6]
    addresses = ones_complement_sum(octets, at + 8, 32, 0)
    at += 40
    while protocol == 0 or protocol == 43 or protocol == 44 or protocol == 60:  # RFC 8200 4: extension headers
        if at + 8 > stop:
            return Fault.CUT
        if protocol == 44:
            if _u16(octets, at + 2) & 0xFFF9:  # a fragment in truth
                return Fault.NONE
            size = 8
        else:
            size = (int(octets[at + 1]) + 1) * 8
        protocol = octets[at]
        at += size
        if at > stop:
            return Fault.CUT
    return _fault_of_transport(octets, at, stop, protocol, addresses, 6)


@njit(cache=True)
def _fault_of_transport(
    octets: NDArray[np.uint8], at: int, stop: int, protocol: int, addresses: int, version: int
) -> int:
    size = stop - at
    pseudo = int(addresses + protocol + (size >> 16) + (size & 0xFFFF))
    if protocol == TCP:
        if size < 20:
            return Fault.TCP_HEADER
        header = (octets[at + 12] >> 4) * 4
        if header < 20 or header > size:
            return Fault.TCP_HEADER
        return Fault.NONE if fold(ones_complement_sum(octets, at, size, pseudo)) == _ALL_ONES else Fault.TCP_CHECKSUM
    if protocol == UDP:
        if size < 8 or _u16(octets, at + 4) != size:
            return Fault.UDP_LENGTH
        if _u16(octets, at + 6) == 0:
            return Fault.NONE if version == 4 else Fault.UDP_CHECKSUM
        return Fault.NONE if fold(ones_complement_sum(octets, at, size, pseudo)) == _ALL_ONES else Fault.UDP_CHECKSUM
    if protocol == ICMP and version == 4:
        return (
            Fault.NONE
            if size >= 8 and fold(ones_complement_sum(octets, at, size, 0)) == _ALL_ONES
            else Fault.ICMP_CHECKSUM
        )
    if protocol == ICMPV6 and version == 6:
        return (
            Fault.NONE
            if size >= 4 and fold(ones_complement_sum(octets, at, size, pseudo)) == _ALL_ONES
            else Fault.ICMPV6_CHECKSUM
        )
    return Fault.NONE
