"""The last loop: planned packets in time order to octets.

Promises: `emit` writes every octet of its buffer; all checksums (IPv4, TCP, UDP, ICMP, ICMPv6, SCTP's CRC32c) are
right.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.assemble.bodies import write_body
from nsstream.assemble.internet import frame_length, write_ethernet, write_ipv4, write_ipv6
from nsstream.assemble.octets import Octets, copy_run, put_run, put_u16, signed, sum_run
from nsstream.assemble.payload import write_payload
from nsstream.assemble.services import ServiceTable
from nsstream.assemble.tcp_repeat import copy_repeated
from nsstream.assemble.transport import crc32c, write_sctp, write_tcp, write_udp
from nsstream.trace.fields import ICMP, ICMPV6, SCTP, TCP, UDP
from nsstream.wire.checksum import fold, internet_checksum, ones_complement_sum


@njit(cache=True, nogil=True)
def lay_out(packets: Any, conversations: Any, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Times that rise strictly (an equal one is pushed by 1 ns) and offsets of the frames of these packets.

    Args:
        packets: `PACKET` rows.
        conversations: `CONVERSATION` rows.
        rows: (k,) packets to send, in time order.

    Returns:
        times_ns (k,) and offset (k + 1,).
    """
    times_ns = np.empty(len(rows), np.int64)
    offset = np.empty(len(rows) + 1, np.int64)
    offset[0] = 0
    last = np.iinfo(np.int64).min
    for k in range(len(rows)):
        packet = packets[rows[k]]
        last = max(packet.time_ns, last + 1)
        times_ns[k] = last
        offset[k + 1] = offset[k] + frame_length(packet, conversations[packet.conversation])
    return times_ns, offset


@njit(cache=True, nogil=True)
def emit(
    packets: Any,
    conversations: Any,
    rows: NDArray[np.int64],
    offset: NDArray[np.int64],
    services: ServiceTable,
    crc_table: NDArray[np.uint32],
    place: NDArray[np.int64],
    mtu: int,
    octets: Octets,
) -> None:
    """Write the frame of packet ``rows[k]`` to ``octets[offset[k]:offset[k + 1]]``; ``place[rows[k]]`` is k."""
    for k in range(len(rows)):
        packet = packets[rows[k]]
        conversation = conversations[packet.conversation]
        at = write_ethernet(octets, offset[k], packet, conversation)
        if conversation.version == 4:
            start = write_ipv4(octets, at, packet, conversation)
        else:
            start = write_ipv6(octets, at, packet, conversation)
        protocol = signed(conversation.protocol)
        length = signed(packet.transport_header) + packet.payload
        # Where all payload is one octet the services stay unasked: numba counts references to each of their arrays.
        fill = signed(conversation.fill[np.uintp(packet.direction)])
        pseudo = conversation.address_sum + protocol + length + packet.tail
        if conversation.is_fragment:
            write_body(octets, start, packet, conversation, services, pseudo)
        elif protocol == TCP:
            at, total = write_tcp(octets, start, packet, conversation, mtu)
            if packet.source_row >= 0:
                copy_repeated(octets, at, packets, rows[k], place, offset)
                total = ones_complement_sum(octets, at, packet.payload, total)
            elif packet.payload and fill >= 0:
                put_run(octets, at, signed(packet.payload), fill)
                total += sum_run(fill, signed(packet.payload))
            elif packet.payload:
                total += write_payload(octets, at, packet, conversation, services, pseudo)
            put_u16(octets, start + 16, 0xFFFF & ~fold(total + pseudo))
        elif protocol == UDP:
            at, total = write_udp(octets, start, packet, conversation)
            if fill >= 0:
                put_run(octets, at, signed(packet.payload), fill)
                total += sum_run(fill, signed(packet.payload))
            else:
                total += write_payload(octets, at, packet, conversation, services, pseudo)
            checksum = 0xFFFF & ~fold(total + pseudo)
            put_u16(octets, start + 6, checksum if checksum else 0xFFFF)
        elif protocol == SCTP:
            at = write_sctp(octets, start, packet, conversation, signed(conversation.flow_label) + 1)
            write_body(octets, at, packet, conversation, services, pseudo)
            crc = crc32c(octets, start, length, crc_table)
            for i in range(4):
                octets[start + 8 + i] = (crc >> (8 * i)) & 0xFF
        else:
            write_body(octets, start, packet, conversation, services, pseudo)
            if packet.source_row >= 0:
                quoted = place[packet.source_row]
                quoted_length = signed(packets[packet.source_row].total_length)
                copy_run(octets, start + 8, octets, offset[quoted + 1] - quoted_length, packet.payload - 8)
            if protocol == ICMP and conversation.version == 4:
                put_u16(octets, start + 2, internet_checksum(octets, start, length, 0))
            elif protocol == ICMPV6 and conversation.version == 6:
                put_u16(octets, start + 2, internet_checksum(octets, start, length, pseudo))
