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
from nsstream.assemble.octets import Octets, put_u16, signed, sum_run
from nsstream.assemble.payload import write_payload
from nsstream.assemble.services import ServiceTable
from nsstream.assemble.transport import crc32c, write_sctp, write_tcp, write_udp
from nsstream.trace.fields import ICMP, ICMPV6, SCTP, TCP, UDP
from nsstream.wire.checksum import fold, ones_complement_sum


@njit(cache=True)
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


@njit(cache=True)
def emit(
    packets: Any,
    conversations: Any,
    rows: NDArray[np.int64],
    offset: NDArray[np.int64],
    services: ServiceTable,
    crc_table: NDArray[np.uint32],
    octets: Octets,
) -> None:
    """Write the frame of packet ``rows[k]`` to ``octets[offset[k]:offset[k + 1]]``."""
    for k in range(len(rows)):
        packet = packets[rows[k]]
        conversation = conversations[packet.conversation]
        at = write_ethernet(octets, offset[k], packet, conversation)
        if conversation.version == 4:
            start = write_ipv4(octets, at, packet, conversation)
            addresses = ones_complement_sum(octets, at + 12, 8, 0)
        else:
            start = write_ipv6(octets, at, packet, conversation)
            addresses = ones_complement_sum(octets, at + 8, 32, 0)
        protocol = signed(conversation.protocol)
        length = signed(packet.transport_header) + packet.payload
        pseudo = addresses + protocol + length
        if conversation.is_fragment:
            write_body(octets, start, packet, conversation, services, pseudo)
        elif protocol == TCP:
            at = write_tcp(octets, start, packet, conversation)
            run, value = write_payload(octets, at, packet, conversation, services, pseudo)
            put_u16(octets, start + 16, _checksum(octets, start, length - run, value, run, pseudo))
        elif protocol == UDP:
            at = write_udp(octets, start, packet, conversation)
            run, value = write_payload(octets, at, packet, conversation, services, pseudo)
            checksum = _checksum(octets, start, length - run, value, run, pseudo)
            put_u16(octets, start + 6, checksum if checksum else 0xFFFF)
        elif protocol == SCTP:
            at = write_sctp(octets, start, packet, conversation, signed(conversation.flow_label) + 1)
            write_body(octets, at, packet, conversation, services, pseudo)
            crc = crc32c(octets, start, length, crc_table)
            for i in range(4):
                octets[start + 8 + i] = (crc >> (8 * i)) & 0xFF
        else:
            write_body(octets, start, packet, conversation, services, pseudo)
            if protocol == ICMP and conversation.version == 4:
                put_u16(octets, start + 2, _checksum(octets, start, length, 0, 0, 0))
            elif protocol == ICMPV6 and conversation.version == 6:
                put_u16(octets, start + 2, _checksum(octets, start, length, 0, 0, pseudo))


@njit(cache=True)
def _checksum(octets: Octets, start: int, length: int, value: int, run: int, initial: int) -> int:
    """The checksum of `length` octets (an even number if a run follows) and of a run of one value behind them."""
    return 0xFFFF & ~fold(ones_complement_sum(octets, start, length, initial) + sum_run(value, run))
