"""ICMP messages (RFC 792, 950, 1256): lengths that each type can have, and the octets behind type and code.

An error quotes a datagram that its receiver could have sent to its sender: an IP header and UDP, with right checksums.
"""

from __future__ import annotations

from typing import Any, Final

from numba import njit

from nsstream.assemble.octets import Octets, put_address, put_run, put_u16, put_u32, signed
from nsstream.trace.fields import UDP
from nsstream.wire.checksum import internet_checksum, ones_complement_sum

ECHO_REPLY: Final = 0
_UNREACHABLE: Final = 3
_SOURCE_QUENCH: Final = 4
_REDIRECT: Final = 5
ECHO: Final = 8
_ROUTER_ADVERTISEMENT: Final = 9
_TIME_EXCEEDED: Final = 11
_PARAMETER_PROBLEM: Final = 12
_FRAGMENTATION_NEEDED: Final = 4  # code of _UNREACHABLE

_QUOTE_TTL: Final = 1
_TRACEROUTE_PORT: Final = 33_434
_QUOTE_FILL: Final = 0x40
_NEXT_HOP_MTU: Final = 1400


@njit(cache=True, nogil=True)
def icmp_length(icmp_type: int, length: int) -> int:
    """The length nearest to `length`, type and code included, that a message of this type can have."""
    if is_error(icmp_type):
        return max(length, 36)
    if icmp_type == 13 or icmp_type == 14:  # timestamps
        return max(length, 20)
    if icmp_type == 17 or icmp_type == 18:  # address mask
        return max(length, 12)
    if icmp_type == _ROUTER_ADVERTISEMENT:
        return max(length & ~7, 16)
    return max(length, 8)


@njit(cache=True, nogil=True)
def is_error(icmp_type: int) -> bool:
    """Whether a message of this type quotes the datagram that it is about."""
    return (_UNREACHABLE <= icmp_type <= _REDIRECT) or icmp_type in (_TIME_EXCEEDED, _PARAMETER_PROBLEM)


@njit(cache=True, nogil=True)
def write_icmp(octets: Octets, at: int, packet: Any, source: Any, destination: Any, identifier: int) -> None:
    """Write ``packet.payload`` octets; the checksum field is left zero."""
    length = signed(packet.payload)
    icmp_type, code = signed(packet.control) >> 8, signed(packet.control) & 0xFF
    put_run(octets, at, length, 0)
    octets[at] = icmp_type
    octets[at + 1] = code
    if is_error(icmp_type):
        if icmp_type == _UNREACHABLE and code == _FRAGMENTATION_NEEDED:
            put_u16(octets, at + 6, _NEXT_HOP_MTU)
        elif icmp_type == _REDIRECT:
            put_address(octets, at + 4, source, 4)
        _write_quote(octets, at + 8, length - 8, destination, source, identifier, signed(packet.serial))
    elif icmp_type == _ROUTER_ADVERTISEMENT:
        octets[at + 4] = min((length - 8) // 8, 255)
        octets[at + 5] = 2
        put_u16(octets, at + 6, 1800)
        for entry in range(at + 8, at + length, 8):
            put_address(octets, entry, source, 4)
    else:
        put_u16(octets, at + 4, identifier)
        put_u16(octets, at + 6, signed(packet.serial) + 1)
        if icmp_type == 13 or icmp_type == 14:
            midnight_ms = (packet.time_ns // 1_000_000) % 86_400_000
            for field in range(at + 8, at + (12 if icmp_type == 13 else 20), 4):
                put_u32(octets, field, midnight_ms)
        elif icmp_type == 18:
            put_u32(octets, at + 8, 0xFFFFFF00)


@njit(cache=True, nogil=True)
def _write_quote(
    octets: Octets, at: int, length: int, source: Any, destination: Any, identifier: int, serial: int
) -> None:
    put_u16(octets, at, 0x4500)
    put_u16(octets, at + 2, length)
    put_u16(octets, at + 4, identifier + serial)
    octets[at + 8] = _QUOTE_TTL
    octets[at + 9] = UDP
    put_address(octets, at + 12, source, 4)
    put_address(octets, at + 16, destination, 4)
    put_u16(octets, at + 10, internet_checksum(octets, at, 20, 0))
    write_quoted_udp(octets, at + 20, length - 20, ones_complement_sum(octets, at + 12, 8, 0), identifier, serial)


@njit(cache=True, nogil=True)
def write_quoted_udp(octets: Octets, at: int, length: int, address_sum: int, identifier: int, serial: int) -> None:
    """Write a UDP datagram as traceroute sends it; `address_sum` is the sum of its two addresses."""
    put_u16(octets, at, 0xC000 | identifier & 0x3FFF)
    put_u16(octets, at + 2, _TRACEROUTE_PORT + serial % 90)
    put_u16(octets, at + 4, length)
    put_run(octets, at + 8, length - 8, _QUOTE_FILL)
    checksum = internet_checksum(octets, at, length, address_sum + UDP + length)
    put_u16(octets, at + 6, checksum if checksum else 0xFFFF)
