"""Ethernet, IPv4 and IPv6 headers (RFC 894, IEEE 802.1Q, RFC 791, RFC 8200, RFC 6864) out of planned packets.

Promises: the IPv4 header checksum is right; header lengths beyond the fixed part are filled with lawful options or a
hop-by-hop header, with a router alert (RFC 2113, RFC 2711) in group management; later fragments carry an offset.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit

from nsstream.assemble.icmpv6 import wanted_hop_limit
from nsstream.assemble.octets import Octets, put_run, put_u16, put_u32, put_u64, signed
from nsstream.trace.fields import ICMPV6, SYN, TCP
from nsstream.wire.checksum import fold, ones_complement_sum

ETHERNET_BYTES: Final = 14
_TAG_BYTES: Final = 4
_IGMP: Final = 2
_NO_OPERATION: Final = 1  # IPv4 option
_MORE: Final = 0x2000  # in the field `fragment`
_FRAGMENT_OFFSET: Final = 185  # of a later fragment, in units of 8 octets: the second one at an MTU of 1500
_HOP_BY_HOP: Final = 0
_FRAGMENT: Final = 44
_PAD_N: Final = 1
_ROUTER_ALERT_6: Final = 5
_MOST_PADDING: Final = 7  # octets of one PadN: RFC 8504 section 5.3 lets hosts drop more


@njit(cache=True, inline="always")
def frame_length(packet: Any, conversation: Any) -> int:
    """Octets of the whole frame, without padding."""
    return signed(packet.total_length) + ETHERNET_BYTES + (_TAG_BYTES if conversation.vlan_id & 0xFFF else 0)


@njit(cache=True, inline="always")
def write_ethernet(octets: Octets, at: int, packet: Any, conversation: Any) -> int:
    """Write the link header; returns the position of the datagram."""
    source = conversation.link[np.uintp(packet.direction)]
    put_u64(octets, at, conversation.link[np.uintp(1 - packet.direction)] << 16 | source >> 32)
    put_u32(octets, at + 8, source)
    at += 12
    vlan = signed(conversation.vlan_id) & 0xFFF
    if vlan:
        put_u32(octets, at, 0x8100 << 16 | vlan)
        at += _TAG_BYTES
    put_u16(octets, at, 0x0800 if conversation.version == 4 else 0x86DD)
    return at + 2


@njit(cache=True, inline="always")
def _hop_limit(packet: Any, conversation: Any) -> Any:
    """The TTL of a packet: a proxy that answers for a server may be nearer than the server behind it."""
    is_syn = conversation.protocol == TCP and packet.control & SYN != 0 and conversation.is_fragment == 0
    return (conversation.syn_ttl if is_syn else conversation.ttl)[np.uintp(packet.direction)]


@njit(cache=True, inline="always")
def write_ipv4(octets: Octets, at: int, packet: Any, conversation: Any) -> int:
    """Write the header with its checksum; returns the position behind it."""
    header = signed(packet.ip_header)
    direction = np.uintp(packet.direction)
    flags = 0
    if conversation.is_fragment:
        flags = signed(packet.fragment) if packet.fragment & 0x1FFF else _FRAGMENT_OFFSET
    elif packet.fragment:
        flags = signed(packet.fragment)
    elif conversation.protocol == TCP:
        flags = 0x4000
    first = (0x40 | header >> 2) << 24 | signed(conversation.class_of_service[direction]) << 16 | packet.total_length
    second = signed(packet.ip_id) << 16 | flags
    third = signed(_hop_limit(packet, conversation)) << 24 | signed(conversation.protocol) << 16
    total = first + second + third + conversation.address_sum
    if header > 20:
        put_run(octets, at + 20, header - 20, _NO_OPERATION)
        if conversation.protocol == _IGMP:
            put_u32(octets, at + 20, 0x9404_0000)
        total = ones_complement_sum(octets, at + 20, header - 20, total)
    put_u64(octets, at, first << 32 | second)
    put_u32(octets, at + 8, third | (0xFFFF & ~fold(total)))
    source, destination = conversation.word[direction, 1], conversation.word[np.uintp(1 - packet.direction), 1]
    put_u64(octets, at + 12, source << 32 | destination)
    return at + header


@njit(cache=True, nogil=True)
def write_ipv6(octets: Octets, at: int, packet: Any, conversation: Any) -> int:
    """Write the header and the extension headers that its length asks for; returns the position behind them."""
    header = signed(packet.ip_header)
    hop_limit = _hop_limit(packet, conversation)
    if conversation.protocol == ICMPV6 and not conversation.is_fragment:
        hop_limit = wanted_hop_limit(packet.control >> 8, hop_limit)
    traffic_class = signed(conversation.class_of_service[packet.direction])
    put_u32(octets, at, 0x6000_0000 | traffic_class << 20 | signed(conversation.flow_label))
    put_u16(octets, at + 4, packet.total_length - 40)
    octets[at + 7] = hop_limit
    end = at + 8
    for direction in (signed(packet.direction), 1 - signed(packet.direction)):
        put_u64(octets, end, conversation.word[np.uintp(direction), 0])
        put_u64(octets, end + 8, conversation.word[np.uintp(direction), 1])
        end += 16
    is_part = conversation.is_fragment != 0 or packet.fragment != 0
    last = _FRAGMENT if is_part else conversation.protocol
    options = header - 40 - (8 if is_part else 0)
    octets[at + 6] = _HOP_BY_HOP if options else last
    if options:
        octets[end] = last
        octets[end + 1] = options // 8 - 1
        _pad(octets, end + 2, options - 2, conversation.protocol == ICMPV6)
        end += options
    if is_part:
        octets[end] = conversation.protocol
        octets[end + 1] = 0
        offset = signed(packet.fragment) & 0x1FFF
        if conversation.is_fragment and offset == 0:
            offset = _FRAGMENT_OFFSET
        put_u16(octets, end + 2, offset << 3 | (1 if packet.fragment & _MORE else 0))
        put_u32(octets, end + 4, packet.ip_id)
        end += 8
    return end


@njit(cache=True, nogil=True)
def _pad(octets: Octets, at: int, length: int, is_alert: bool) -> None:
    """Fill a hop-by-hop header with PadN options, behind a router alert if one is asked for."""
    end = at + length
    if is_alert:
        put_u32(octets, at, _ROUTER_ALERT_6 << 24 | 2 << 16)
        at += 4
    while at < end:
        size = min(end - at, _MOST_PADDING)
        if end - at - size == 1:
            size -= 1
        octets[at] = _PAD_N
        octets[at + 1] = size - 2
        put_run(octets, at + 2, size - 2, 0)
        at += size
