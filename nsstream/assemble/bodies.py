"""Bodies of what has no ports: which lengths a message can have, and its octets.

Promises: `write_body` fills exactly the length that `lawful_body` gave; checksums inside a quoted datagram are
right, the message's own is left zero for `emit`.
"""

from __future__ import annotations

from typing import Any, Final

from numba import njit

from nsstream.assemble.icmp import icmp_length, write_icmp
from nsstream.assemble.icmpv6 import icmpv6_length, write_icmpv6
from nsstream.assemble.igmp import igmp_length, write_igmp
from nsstream.assemble.octets import Octets, put_run, put_u16
from nsstream.assemble.payload import write_payload
from nsstream.assemble.services import ServiceTable
from nsstream.trace.fields import ICMP, ICMPV6, SCTP

IGMP: Final = 2
_EXTENSIONS: Final = (0, 43, 44, 60, 135, 140)  # IPv6 extension headers but AH, ESP and HIP
_OBSOLETE: Final = (53, 54)  # SWIPE and NARP, of which no message can be built
_SCTP_HEARTBEAT: Final = 4
_SCTP_COOKIE_ACK: Final = 11


@njit(cache=True, nogil=True)
def can_carry(version: int, protocol: int) -> bool:
    """Whether this protocol can follow the headers of this IP version: no extension header, no other version's ICMP."""
    if protocol in _EXTENSIONS or protocol in _OBSOLETE:
        return False
    if version == 4:
        return protocol != ICMPV6
    return protocol != ICMP and protocol != IGMP


@njit(cache=True, nogil=True)
def lawful_body(conversation: Any, control: int, length: int, room: int) -> int:
    """The length nearest to `length` that the body of this protocol can have, at most `room` octets."""
    protocol = conversation.protocol
    if protocol == ICMP and conversation.version == 4:
        return min(icmp_length(control >> 8, length), room)
    if protocol == ICMPV6 and conversation.version == 6:
        return icmpv6_length(control >> 8, length)
    if protocol == IGMP and conversation.version == 4:
        return igmp_length(conversation.address[1], length)
    if protocol == SCTP:
        return max(length & ~3, 4)
    return length


@njit(cache=True, nogil=True)
def write_body(octets: Octets, at: int, packet: Any, conversation: Any, services: ServiceTable, pseudo: int) -> None:
    """Write ``packet.payload`` octets for any protocol but TCP and UDP; SCTP's common header is not among them."""
    protocol = conversation.protocol
    length = packet.payload
    source = conversation.address[packet.direction]
    destination = conversation.address[1 - packet.direction]
    if conversation.is_fragment:
        put_run(octets, at, length, 0)
    elif protocol == ICMP and conversation.version == 4:
        write_icmp(octets, at, packet, source, destination, conversation.identifier)
    elif protocol == ICMPV6 and conversation.version == 6:
        mac = conversation.mac[packet.direction]
        write_icmpv6(octets, at, packet, source, destination, mac, conversation.identifier)
    elif protocol == IGMP and conversation.version == 4:
        write_igmp(octets, at, length, destination)
    elif protocol == SCTP:
        put_run(octets, at, length, 0)
        octets[at] = _SCTP_HEARTBEAT if length >= 8 else _SCTP_COOKIE_ACK
        put_u16(octets, at + 2, length)
        if length >= 8:
            put_u16(octets, at + 4, 1)
            put_u16(octets, at + 6, length - 4)
    else:
        write_payload(octets, at, packet, conversation, services, pseudo)
