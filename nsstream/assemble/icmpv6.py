"""ICMPv6 messages (RFC 4443, 4861, 2710, 3810): lengths that each type can have, and the octets behind type and code.

An error quotes a datagram that its receiver could have sent to its sender. Neighbour discovery carries the link-layer
address of its sender where there is room, and a nonce (RFC 3971) of the length that is left.
"""

from __future__ import annotations

from typing import Any, Final

from numba import njit

from nsstream.assemble.icmp import write_quoted_udp
from nsstream.assemble.octets import Octets, put_address, put_run, put_u16, put_u32, signed
from nsstream.trace.fields import UDP
from nsstream.wire.checksum import ones_complement_sum

_PACKET_TOO_BIG: Final = 2
_PARAMETER_PROBLEM: Final = 4
_LISTENER_QUERY: Final = 130
_LISTENER_DONE: Final = 132
ROUTER_SOLICITATION: Final = 133
_ROUTER_ADVERTISEMENT: Final = 134
_NEIGHBOUR_SOLICITATION: Final = 135
_NEIGHBOUR_ADVERTISEMENT: Final = 136
REDIRECT: Final = 137
_LISTENER_REPORT: Final = 143  # version 2

_SOURCE_LINK: Final = 1  # options of neighbour discovery
_TARGET_LINK: Final = 2
_NONCE: Final = 14


@njit(cache=True, nogil=True)
def icmpv6_length(icmp_type: int, length: int) -> int:
    """The length nearest to `length`, type and code included, that a message of this type can have."""
    if 1 <= icmp_type <= _PARAMETER_PROBLEM:
        return max(length, 56)
    if icmp_type == _LISTENER_QUERY and length >= 28:
        return 28 + (length - 28) // 16 * 16
    if _LISTENER_QUERY <= icmp_type <= _LISTENER_DONE:
        return 24
    if ROUTER_SOLICITATION <= icmp_type <= REDIRECT:
        return max(length & ~7, _fixed_part(icmp_type))
    if icmp_type == _LISTENER_REPORT:
        return max(length & ~3, 28)
    return max(length, 8)


@njit(cache=True, nogil=True)
def is_error_6(icmp_type: int) -> bool:
    """Whether a message of this type quotes the datagram that it is about."""
    return 1 <= icmp_type <= _PARAMETER_PROBLEM


@njit(cache=True, nogil=True)
def is_foreign(icmp_type: int) -> bool:
    """Whether messages of this type are not of Ethernet hosts: inverse discovery, mobility, RPL and the like."""
    return 137 < icmp_type < 160 and icmp_type != _LISTENER_REPORT


@njit(cache=True, nogil=True)
def wanted_hop_limit(icmp_type: int, hop_limit: int) -> int:
    """The hop limit that receivers of this type insist on: 255 for neighbour discovery, 1 for listener discovery."""
    if ROUTER_SOLICITATION <= icmp_type <= REDIRECT:
        return 255
    if _LISTENER_QUERY <= icmp_type <= _LISTENER_DONE or icmp_type == _LISTENER_REPORT:
        return 1
    return hop_limit


@njit(cache=True, nogil=True)
def write_icmpv6(
    octets: Octets, at: int, packet: Any, source: Any, destination: Any, mac: Any, identifier: int
) -> None:
    """Write ``packet.payload`` octets; the checksum field is left zero."""
    length = signed(packet.payload)
    icmp_type = signed(packet.control) >> 8
    put_run(octets, at, length, 0)
    put_u16(octets, at, packet.control)
    if 1 <= icmp_type <= _PARAMETER_PROBLEM:
        if icmp_type == _PACKET_TOO_BIG:
            put_u32(octets, at + 4, 1280)
        _write_quote(octets, at + 8, length - 8, destination, source, identifier, signed(packet.serial))
    elif _LISTENER_QUERY <= icmp_type <= _LISTENER_DONE:
        if icmp_type == _LISTENER_QUERY:
            put_u16(octets, at + 4, 10_000)
        if destination[0] == 0xFF and destination[15] != 1 and destination[15] != 2:
            put_address(octets, at + 8, destination, 6)
        if length >= 28:
            octets[at + 25] = 125
            put_u16(octets, at + 26, (length - 28) // 16)
            for entry in range(at + 28, at + length, 16):
                put_address(octets, entry, source, 6)
    elif icmp_type == _LISTENER_REPORT:
        _write_report(octets, at, length, mac)
    elif ROUTER_SOLICITATION <= icmp_type <= REDIRECT:
        _write_discovery(octets, at, length, icmp_type, source, destination, mac)
    else:
        put_u16(octets, at + 4, identifier)
        put_u16(octets, at + 6, signed(packet.serial) + 1)


@njit(cache=True, nogil=True)
def _fixed_part(icmp_type: int) -> int:
    if icmp_type == ROUTER_SOLICITATION:
        return 8
    if icmp_type == _ROUTER_ADVERTISEMENT:
        return 16
    return 40 if icmp_type == REDIRECT else 24


@njit(cache=True, nogil=True)
def _write_discovery(
    octets: Octets, at: int, length: int, icmp_type: int, source: Any, destination: Any, mac: Any
) -> None:
    fixed = _fixed_part(icmp_type)
    link = _SOURCE_LINK
    if icmp_type == _ROUTER_ADVERTISEMENT:
        octets[at + 4] = 64
        put_u16(octets, at + 6, 1800)
    elif icmp_type == _NEIGHBOUR_SOLICITATION:
        put_address(octets, at + 8, destination, 6)
        if destination[0] == 0xFF:  # solicited-node group: its last 24 bits are the target's
            put_run(octets, at + 8, 13, 0)
            put_u16(octets, at + 8, 0xFE80)
    elif icmp_type == _NEIGHBOUR_ADVERTISEMENT:
        octets[at + 4] = 0x20 if destination[0] == 0xFF else 0x60
        put_address(octets, at + 8, source, 6)
        link = _TARGET_LINK
    elif icmp_type == REDIRECT:
        put_address(octets, at + 8, source, 6)
        put_address(octets, at + 24, source, 6)
        link = _TARGET_LINK
    rest = at + fixed
    end = at + length
    is_unspecified = True
    for i in range(16):
        is_unspecified = is_unspecified and source[i] == 0
    if rest < end and not is_unspecified:
        octets[rest] = link
        octets[rest + 1] = 1
        for i in range(6):
            octets[rest + 2 + i] = mac[i]
        rest += 8
    while rest < end:
        units = min((end - rest) // 8, 255)
        octets[rest] = _NONCE
        octets[rest + 1] = units
        rest += 8 * units


@njit(cache=True, nogil=True)
def _write_report(octets: Octets, at: int, length: int, mac: Any) -> None:
    """Write as many records as fit, each a change to exclude nothing; what is left is auxiliary data of the last."""
    records = min((length - 8) // 20, 255)
    put_u16(octets, at + 6, records)
    for k in range(records):
        record = at + 8 + 20 * k
        octets[record] = 4
        put_u16(octets, record + 4, 0xFF02)
        put_u32(octets, record + 16, 0xFF00_0000 | (signed(mac[4]) << 8) | signed(mac[5]) + k)
        octets[record + 15] = 1
    spare = (length - 8 - 20 * records) // 4
    if spare:
        octets[at + 8 + 20 * (records - 1) + 1] = spare


@njit(cache=True, nogil=True)
def _write_quote(
    octets: Octets, at: int, length: int, source: Any, destination: Any, identifier: int, serial: int
) -> None:
    put_u32(octets, at, 0x6000_0000)
    put_u16(octets, at + 4, length - 40)
    octets[at + 6] = UDP
    octets[at + 7] = 1
    put_address(octets, at + 8, source, 6)
    put_address(octets, at + 24, destination, 6)
    write_quoted_udp(octets, at + 40, length - 40, ones_complement_sum(octets, at + 8, 32, 0), identifier, serial)
