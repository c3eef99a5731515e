"""Frames into packet columns: one pass over a `RecordIndex`, no Python object a packet.

Promises: any octets give a row or a counted fate, never an error; rows keep the order of the records; every value of a
row was read from captured octets, none is guessed, but for one: a datagram whose length field is 0 (segmentation
offload, IPv6 jumbograms) gets the length that the frame had on the wire.

A row needs its IP header, IPv6 extension headers, and of a first fragment's transport header: TCP 16 octets (through
the window), UDP and SCTP 4 (the ports), ICMP and ICMPv6 2 (type and code). What a snaplen cuts before that is counted
as `cut_by_snaplen`. Ethernet padding is not looked at. A total length beyond the frame is kept: some tools rewrite the
frame's.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.wire import fates
from nsstream.wire.ipv6 import walk_extension_headers
from nsstream.wire.link import ETHERNET, find_network_header
from nsstream.wire.octets import ipv4_mapped_word, memory_word, u8, u16, u32
from nsstream.wire.records import NO_TIME, RecordIndex

Columns = dict[str, NDArray[np.generic]]

# In the order of `_dissect`'s arguments. Names, dtypes and meanings are those of `nsstream.trace.fields.PACKET_FIELDS`,
# and a test holds the two tables together.
COLUMNS: Final[dict[str, tuple[type[np.generic], tuple[int, ...]]]] = {
    "observation_time_ns": (np.int64, ()),
    "ip_version": (np.uint8, ()),
    "source_address": (np.uint8, (16,)),
    "destination_address": (np.uint8, (16,)),
    "protocol_identifier": (np.uint8, ()),
    "source_transport_port": (np.uint16, ()),
    "destination_transport_port": (np.uint16, ()),
    "ip_total_length": (np.uint32, ()),
    "ip_header_length": (np.uint16, ()),
    "ip_class_of_service": (np.uint8, ()),
    "ip_ttl": (np.uint8, ()),
    "flow_label_ipv6": (np.uint32, ()),
    "fragment_identification": (np.uint32, ()),
    "fragment_offset": (np.uint16, ()),
    "fragment_flags": (np.uint8, ()),
    "tcp_control_bits": (np.uint16, ()),
    "tcp_sequence_number": (np.uint32, ()),
    "tcp_acknowledgement_number": (np.uint32, ()),
    "tcp_window_size": (np.uint16, ()),
    "tcp_header_length": (np.uint8, ()),
    "icmp_type": (np.uint8, ()),
    "icmp_code": (np.uint8, ()),
    "vlan_id": (np.uint16, ()),
}

_ICMP: Final = 1
_TCP: Final = 6
_UDP: Final = 17
_ICMPV6: Final = 58
_SCTP: Final = 132


def dissect(octets: NDArray[np.uint8], index: RecordIndex, record_count: int) -> tuple[Columns, NDArray[np.int64]]:
    """Dissect the first `record_count` records of the index into the block `octets`.

    Returns:
        the columns of the kept packets, by name, in memory of their own; and the count of records by fate code.
    """
    columns = {name: np.empty((record_count, *cell), dtype) for name, (dtype, cell) in COLUMNS.items()}
    counts = np.zeros(len(fates.REASONS), np.int64)
    stores: list[Any] = [column.view(np.uint64) if column.ndim == 2 else column for column in columns.values()]
    kept = _dissect(
        octets,
        index.time_ns,
        index.start,
        index.captured_length,
        index.original_length,
        index.link_type,
        record_count,
        counts,
        *stores,
    )
    if kept < record_count:
        columns = {name: column[:kept] for name, column in columns.items()}
    return columns, counts


@njit(cache=True, nogil=True)
def _dissect(
    octets: NDArray[np.uint8],
    time_ns: NDArray[np.int64],
    start: NDArray[np.int64],
    captured_length: NDArray[np.int64],
    original_length: NDArray[np.int64],
    link_type: NDArray[np.int64],
    record_count: int,
    counts: NDArray[np.int64],
    observation_time_ns: NDArray[np.int64],
    ip_version: NDArray[np.uint8],
    source_words: NDArray[np.uint64],
    destination_words: NDArray[np.uint64],
    protocol_identifier: NDArray[np.uint8],
    source_transport_port: NDArray[np.uint16],
    destination_transport_port: NDArray[np.uint16],
    ip_total_length: NDArray[np.uint32],
    ip_header_length: NDArray[np.uint16],
    ip_class_of_service: NDArray[np.uint8],
    ip_ttl: NDArray[np.uint8],
    flow_label_ipv6: NDArray[np.uint32],
    fragment_identification: NDArray[np.uint32],
    fragment_offset: NDArray[np.uint16],
    fragment_flags: NDArray[np.uint8],
    tcp_control_bits: NDArray[np.uint16],
    tcp_sequence_number: NDArray[np.uint32],
    tcp_acknowledgement_number: NDArray[np.uint32],
    tcp_window_size: NDArray[np.uint16],
    tcp_header_length: NDArray[np.uint8],
    icmp_type: NDArray[np.uint8],
    icmp_code: NDArray[np.uint8],
    vlan_id: NDArray[np.uint16],
) -> int:
    row = 0
    for i in range(record_count):
        record = np.uintp(i)
        if time_ns[record] < 0:
            counts[fates.NO_TIME if time_ns[record] == NO_TIME else fates.BAD_TIME] += 1
            continue
        end = start[record] + captured_length[record]
        wire_end = start[record] + original_length[record]
        # What is missing was on the wire, or never was.
        missing = fates.CUT_BY_SNAPLEN if end < wire_end else fates.SHORT_FRAME

        # Link layer; what most frames are goes without a call.
        at = int(start[record]) + 14
        ethertype = 0
        if link_type[record] == ETHERNET and at <= end:
            ethertype = u16(octets, at - 2)
        if ethertype == 0x0800:
            version, vlan = 4, 0
        elif ethertype == 0x86DD:
            version, vlan = 6, 0
        else:
            fate, at, version, vlan = find_network_header(octets, start[record], end, link_type[record])
            if fate != fates.KEPT:
                counts[missing if fate == fates.SHORT_FRAME else fate] += 1
                continue

        # IP header, the fixed part; nothing is stored before the last check has passed.
        if at >= end:
            counts[missing] += 1
            continue
        nibble = u8(octets, at) >> 4
        if (version != 0 and nibble != version) or (nibble != 4 and nibble != 6):
            counts[fates.BAD_IP_VERSION] += 1
            continue
        identification = 0
        offset = 0
        flags = 0
        if nibble == 4:
            if at + 20 > end:
                counts[missing] += 1
                continue
            header_length = (u8(octets, at) & 0x0F) << 2
            if header_length < 20:
                counts[fates.BAD_IP_HEADER_LENGTH] += 1
                continue
            total_length = u16(octets, at + 2)
            if total_length == 0:
                total_length = wire_end - at
            if total_length < header_length:
                counts[fates.BAD_IP_TOTAL_LENGTH] += 1
                continue
            if at + header_length > end:
                counts[missing] += 1
                continue
            identification = u16(octets, at + 4)
            flags_and_offset = u16(octets, at + 6)
            offset = flags_and_offset & 0x1FFF
            flags = (flags_and_offset >> 13) & 0x3
            protocol = u8(octets, at + 9)
        else:
            if at + 40 > end:
                counts[missing] += 1
                continue
            total_length = 40 + u16(octets, at + 4)
            protocol = u8(octets, at + 6)
            if total_length == 40 and protocol != 59:
                total_length = wire_end - at
            header_length = 40
            if protocol != _TCP and protocol != _UDP and protocol != _ICMPV6:
                fate, behind, protocol, identification, offset, flags = walk_extension_headers(
                    octets, at + 40, end, at + total_length, protocol
                )
                if fate != fates.KEPT:
                    counts[missing if fate == fates.CUT_BY_SNAPLEN else fate] += 1
                    continue
                header_length = behind - at

        # Transport header, in the first fragment only.
        transport = at + header_length
        room = total_length - header_length
        source_port = 0
        destination_port = 0
        control_bits = 0
        sequence = 0
        acknowledgement = 0
        window = 0
        tcp_length = 0
        kind = 0
        code = 0
        if offset == 0:
            if protocol == _TCP:
                if room < 20:
                    counts[fates.BAD_TRANSPORT_LENGTH] += 1
                    continue
                if transport + 16 > end:
                    counts[missing] += 1
                    continue
                tcp_length = (u8(octets, transport + 12) >> 4) << 2
                if tcp_length < 20 or (tcp_length > room and flags & 1 == 0):
                    counts[fates.BAD_TRANSPORT_LENGTH] += 1
                    continue
                source_port = u16(octets, transport)
                destination_port = u16(octets, transport + 2)
                sequence = u32(octets, transport + 4)
                acknowledgement = u32(octets, transport + 8)
                control_bits = u16(octets, transport + 12) & 0x0FFF
                window = u16(octets, transport + 14)
            elif protocol in (_UDP, _SCTP):
                if room < (8 if protocol == _UDP else 12):
                    counts[fates.BAD_TRANSPORT_LENGTH] += 1
                    continue
                if transport + 4 > end:
                    counts[missing] += 1
                    continue
                source_port = u16(octets, transport)
                destination_port = u16(octets, transport + 2)
            elif protocol in (_ICMP, _ICMPV6):
                if room < 4:
                    counts[fates.BAD_TRANSPORT_LENGTH] += 1
                    continue
                if transport + 2 > end:
                    counts[missing] += 1
                    continue
                kind = u8(octets, transport)
                code = u8(octets, transport + 1)

        # Store.
        r = np.uintp(row)
        if nibble == 4:
            ip_class_of_service[r] = u8(octets, at + 1)
            ip_ttl[r] = u8(octets, at + 8)
            flow_label_ipv6[r] = 0
            source_words[r, np.uintp(0)] = 0
            source_words[r, np.uintp(1)] = ipv4_mapped_word(octets, at + 12)
            destination_words[r, np.uintp(0)] = 0
            destination_words[r, np.uintp(1)] = ipv4_mapped_word(octets, at + 16)
        else:
            first_word = u32(octets, at)
            ip_class_of_service[r] = (first_word >> 20) & 0xFF
            ip_ttl[r] = u8(octets, at + 7)
            flow_label_ipv6[r] = first_word & 0xFFFFF
            source_words[r, np.uintp(0)] = memory_word(octets, at + 8)
            source_words[r, np.uintp(1)] = memory_word(octets, at + 16)
            destination_words[r, np.uintp(0)] = memory_word(octets, at + 24)
            destination_words[r, np.uintp(1)] = memory_word(octets, at + 32)
        observation_time_ns[r] = time_ns[record]
        ip_version[r] = nibble
        protocol_identifier[r] = protocol
        source_transport_port[r] = source_port
        destination_transport_port[r] = destination_port
        ip_total_length[r] = total_length
        ip_header_length[r] = header_length
        fragment_identification[r] = identification
        fragment_offset[r] = offset
        fragment_flags[r] = flags
        tcp_control_bits[r] = control_bits
        tcp_sequence_number[r] = sequence
        tcp_acknowledgement_number[r] = acknowledgement
        tcp_window_size[r] = window
        tcp_header_length[r] = tcp_length
        icmp_type[r] = kind
        icmp_code[r] = code
        vlan_id[r] = vlan
        row += 1
    counts[fates.KEPT] += row
    return row
