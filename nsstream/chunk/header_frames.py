"""Packet columns back to frames of headers only: what a snaplen would have left of the packets.

Promises: each frame is Ethernet, an IEEE 802.1Q tag where the packet had one, and the IP and transport headers that the
columns tell of; what they do not tell of is zero, and the IPv4 header checksum is right. Payload is not there, and the
length on the wire says how much of it there was. Dissecting the frames gives the columns back, with these exceptions,
all of headers whose content was never kept: IPv4 options and TCP options become padding; of IPv6 extension headers
stay the fragment header and destination options, and a header length that is no multiple of 8 octets is made one.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.trace import PacketBatch
from nsstream.trace.fields import ICMP, ICMPV6, SCTP, TCP, UDP
from nsstream.wire.checksum import internet_checksum

_ETHERNET_OCTETS = 14
_TAG_OCTETS = 4
_FRAGMENT = 44
_DESTINATION_OPTIONS = 60
_LONGEST_OPTIONS = 2048
_Int = int | np.int64  # numba's int() of an unsigned column stays unsigned, and unsigned with signed is a float


def header_frames(packets: PacketBatch) -> tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64]]:
    """Frames of n packets: offsets (n + 1,), octets, and lengths on the wire (n,), at least those of the frames."""
    p = packets
    sizes = _sizes(
        p.ip_version, p.protocol_identifier, p.ip_header_length, p.ip_total_length, p.fragment_offset, p.vlan_id
    )
    offset = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    octets = np.zeros(int(offset[-1]), np.uint8)
    _fill(
        offset, octets, p.ip_version, p.source_address, p.destination_address, p.protocol_identifier,
        p.source_transport_port, p.destination_transport_port, p.ip_total_length, p.ip_header_length,
        p.ip_class_of_service, p.ip_ttl, p.flow_label_ipv6, p.fragment_identification, p.fragment_offset,
        p.fragment_flags, p.tcp_control_bits, p.tcp_sequence_number, p.tcp_acknowledgement_number, p.tcp_window_size,
        p.tcp_header_length, p.icmp_type, p.icmp_code, p.vlan_id,
    )  # fmt: skip
    link = _ETHERNET_OCTETS + _TAG_OCTETS * (p.vlan_id > 0)
    on_wire = np.maximum(sizes, link + p.ip_total_length.astype(np.int64))
    return offset, octets, on_wire


@njit(cache=True)
def _network_octets(version: _Int, header_length: _Int) -> _Int:
    """Octets of the IP header that is written."""
    if version == 4:
        return min(max(header_length & ~3, 20), 60)
    return 40 + (max(header_length - 40, 0) & ~7)


@njit(cache=True)
def _transport_octets(protocol: _Int, fragment_offset: _Int, room: _Int) -> _Int:
    """Octets of the transport header that is written without options; `room` is what the datagram has for it."""
    if fragment_offset > 0:
        return 0
    wanted = 0
    if protocol == TCP:
        wanted = 20
    elif protocol == SCTP:
        wanted = 12
    elif protocol in (UDP, ICMP, ICMPV6):
        wanted = 8
    return max(0, min(wanted, room))


@njit(cache=True)
def _sizes(
    ip_version: NDArray[np.uint8],
    protocol: NDArray[np.uint8],
    header_length: NDArray[np.uint16],
    total_length: NDArray[np.uint32],
    fragment_offset: NDArray[np.uint16],
    vlan_id: NDArray[np.uint16],
) -> NDArray[np.int64]:
    out = np.empty(len(protocol), np.int64)
    for i in range(len(protocol)):
        network = _network_octets(np.int64(ip_version[i]), np.int64(header_length[i]))
        room = np.int64(total_length[i]) - np.int64(header_length[i])
        transport = _transport_octets(np.int64(protocol[i]), np.int64(fragment_offset[i]), room)
        out[i] = _ETHERNET_OCTETS + (_TAG_OCTETS if vlan_id[i] else 0) + network + transport
    return out


@njit(cache=True)
def _fill(
    offset: NDArray[np.int64],
    octets: NDArray[np.uint8],
    ip_version: NDArray[np.uint8],
    source: NDArray[np.uint8],
    destination: NDArray[np.uint8],
    protocol: NDArray[np.uint8],
    source_port: NDArray[np.uint16],
    destination_port: NDArray[np.uint16],
    total_length: NDArray[np.uint32],
    header_length: NDArray[np.uint16],
    class_of_service: NDArray[np.uint8],
    ttl: NDArray[np.uint8],
    flow_label: NDArray[np.uint32],
    identification: NDArray[np.uint32],
    fragment_offset: NDArray[np.uint16],
    fragment_flags: NDArray[np.uint8],
    control_bits: NDArray[np.uint16],
    sequence: NDArray[np.uint32],
    acknowledgement: NDArray[np.uint32],
    window: NDArray[np.uint16],
    tcp_length: NDArray[np.uint8],
    icmp_type: NDArray[np.uint8],
    icmp_code: NDArray[np.uint8],
    vlan_id: NDArray[np.uint16],
) -> None:
    for i in range(len(protocol)):
        at, end = offset[i], offset[i + 1]
        octets[at], octets[at + 6] = 2, 2  # locally administered
        octets[at + 5], octets[at + 11] = 2, 1
        at += 12
        if vlan_id[i]:
            _put16(octets, at, 0x8100)
            _put16(octets, at + 2, np.int64(vlan_id[i]))
            at += _TAG_OCTETS
        is_4 = ip_version[i] == 4
        _put16(octets, at, 0x0800 if is_4 else 0x86DD)
        at += 2
        network = _network_octets(np.int64(ip_version[i]), np.int64(header_length[i]))
        total = np.int64(total_length[i])
        if is_4:
            octets[at] = 0x40 | (network >> 2)
            octets[at + 1] = class_of_service[i]
            _put16(octets, at + 2, total if total < 1 << 16 else 0)  # 0: segmentation offload, RFC 6864 knows none
            _put16(octets, at + 4, np.int64(identification[i]) & 0xFFFF)
            _put16(octets, at + 6, np.int64(fragment_flags[i]) << 13 | np.int64(fragment_offset[i]))
            octets[at + 8] = ttl[i]
            octets[at + 9] = protocol[i]
            for k in range(4):
                octets[at + 12 + k] = source[i, 12 + k]
                octets[at + 16 + k] = destination[i, 12 + k]
            checksum = internet_checksum(octets, at, network, 0)  # type: ignore[arg-type]  # numba takes either
            _put16(octets, at + 10, checksum)
        else:
            octets[at] = 0x60 | (class_of_service[i] >> 4)
            octets[at + 1] = (np.int64(class_of_service[i]) & 0x0F) << 4 | (np.int64(flow_label[i]) >> 16) & 0x0F
            _put16(octets, at + 2, np.int64(flow_label[i]) & 0xFFFF)
            _put16(octets, at + 4, total - 40 if 40 <= total < (1 << 16) + 40 else 0)
            octets[at + 7] = ttl[i]
            for k in range(16):
                octets[at + 8 + k] = source[i, k]
                octets[at + 24 + k] = destination[i, k]
            _put_extensions(
                octets, at, network, np.int64(protocol[i]), np.int64(identification[i]), np.int64(fragment_offset[i]),
                np.int64(fragment_flags[i]) & 1,
            )  # fmt: skip
        at += network
        size = end - at
        if size <= 0:
            continue
        if protocol[i] == TCP and size >= 20:
            _put16(octets, at, np.int64(source_port[i]))
            _put16(octets, at + 2, np.int64(destination_port[i]))
            _put32(octets, at + 4, np.int64(sequence[i]))
            _put32(octets, at + 8, np.int64(acknowledgement[i]))
            _put16(octets, at + 12, (np.int64(tcp_length[i]) >> 2) << 12 | np.int64(control_bits[i]) & 0x0FFF)
            _put16(octets, at + 14, np.int64(window[i]))
        elif (protocol[i] == UDP or protocol[i] == SCTP) and size >= 8:
            _put16(octets, at, np.int64(source_port[i]))
            _put16(octets, at + 2, np.int64(destination_port[i]))
            if protocol[i] == UDP:
                length = total - np.int64(header_length[i])
                _put16(octets, at + 4, length if length < 1 << 16 else 0)  # RFC 2675 section 4
        elif (protocol[i] == ICMP or protocol[i] == ICMPV6) and size >= 2:
            octets[at] = icmp_type[i]
            octets[at + 1] = icmp_code[i]


@njit(cache=True)
def _put_extensions(
    octets: NDArray[np.uint8],
    at: _Int,
    network: _Int,
    protocol: _Int,
    identification: _Int,
    fragment_offset: _Int,
    more_fragments: _Int,
) -> None:
    """Chain destination options, and a fragment header where the packet had one, behind an IPv6 header.

    The fragment header is the last: what follows it in a later fragment is no header.
    """
    left = network - 40
    link = at + 6  # the octet that names what comes next
    here = at + 40
    has_fragment = left >= 8 and (fragment_offset > 0 or more_fragments > 0 or identification > 0)
    if has_fragment:
        left -= 8
    while left >= 8:
        size = min(left, _LONGEST_OPTIONS)
        octets[link] = _DESTINATION_OPTIONS
        octets[here + 1] = size // 8 - 1
        filled = here + 2
        while filled < here + size:  # PadN, RFC 8200 section 4.2
            room = min(here + size - filled, 257)
            if room > 1:
                octets[filled] = 1
                octets[filled + 1] = room - 2
            filled += room  # a single octet is Pad1, which is 0
        link = here
        here += size
        left -= size
    if has_fragment:
        octets[link] = _FRAGMENT
        _put16(octets, here + 2, fragment_offset << 3 | more_fragments)
        _put32(octets, here + 4, identification)
        link = here
    octets[link] = protocol


@njit(cache=True, inline="always")
def _put16(octets: NDArray[np.uint8], at: _Int, value: _Int) -> None:
    octets[at] = (value >> 8) & 0xFF
    octets[at + 1] = value & 0xFF


@njit(cache=True, inline="always")
def _put32(octets: NDArray[np.uint8], at: _Int, value: _Int) -> None:
    octets[at] = (value >> 24) & 0xFF
    octets[at + 1] = (value >> 16) & 0xFF
    octets[at + 2] = (value >> 8) & 0xFF
    octets[at + 3] = value & 0xFF
