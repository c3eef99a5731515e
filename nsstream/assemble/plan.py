"""The plan of a table: lawful times, lengths and directions for every packet, then the life cycle of its protocol.

Promises: after `plan_table` every `PACKET` row that is kept has ``ip_header + transport_header + payload ==
total_length``, no more than the MTU, header lengths that IP and the transport can have, and times that do not fall
within a conversation.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.assemble.bodies import can_carry, lawful_body
from nsstream.assemble.chance import draw
from nsstream.assemble.icmpv6 import is_foreign
from nsstream.assemble.octets import signed
from nsstream.assemble.records import Repair
from nsstream.assemble.tcp import plan_tcp
from nsstream.assemble.tcp_sequence import Scratch
from nsstream.trace.fields import ICMPV6, SCTP, TCP, UDP

_DEFAULT_TTL: Final = 64
_LEAST_FRAGMENT: Final = 1
_MOST_OPEN: Final = 8  # requests in flight before an answer is taken to be for the newest


@njit(cache=True, nogil=True)
def plan_table(
    conversations: Any,
    packet_offset: NDArray[np.int64],
    order: NDArray[np.int64],
    streams: Any,
    packets: Any,
    event: NDArray[np.uint8],
    tcp_header_length: NDArray[np.uint8],
    minimum: NDArray[np.int32],
    mtu: int,
    scratch: Scratch,
    tally: NDArray[np.int64],
) -> None:
    """Plan every packet of a table.

    Args:
        conversations: (n,) `CONVERSATION` rows.
        packet_offset: (n + 1,) rows of each conversation in `packets`.
        order: (n,) conversations in the order in which they use their streams.
        streams: `STREAM` rows, carried on.
        packets: (m,) `PACKET` rows with time, direction, lengths and control as drawn; the rest is written.
        event: (m,) `TcpEvent`.
        tcp_header_length: (m,) octets as drawn.
        minimum: (s, 2) shortest payload by service, and the step from one length to the next.
        mtu: longest datagram in octets.
        scratch: work space for the longest conversation.
        tally: counts by `Repair`.
    """
    for n in order:
        conversation = conversations[n]
        stream = streams[conversation.stream]
        first, end = packet_offset[n], packet_offset[n + 1]
        if conversation.is_group == 2:  # both ends are groups: nobody can have sent this
            tally[Repair.ADDRESS_DROPPED] += end - first
            continue
        if not can_carry(conversation.version, conversation.protocol):
            tally[Repair.PROTOCOL_DROPPED] += end - first
            continue
        least, step = signed(minimum[conversation.service, 0]), signed(minimum[conversation.service, 1])
        time_ns = packets[first].time_ns
        for i in range(first, end):
            packet = packets[i]
            packet.conversation = n
            packet.is_kept = 1
            packet.source_row = -1
            packet.before_row = -1
            if packet.time_ns < time_ns:
                packet.time_ns = time_ns
                tally[Repair.TIME_RAISED] += 1
            time_ns = packet.time_ns
            packet.direction &= 1
            if packet.direction and conversation.is_group:
                packet.direction = 0
                tally[Repair.GROUP_SOURCE_TURNED] += 1
            if conversation.protocol == ICMPV6 and not conversation.is_fragment and is_foreign(packet.control >> 8):
                packet.is_kept = 0
                tally[Repair.PROTOCOL_DROPPED] += 1
                continue
            repairs = _plan_lengths(packet, conversation, tcp_header_length[i], least, step, mtu)
            if repairs:
                for repair in range(len(tally)):
                    tally[repair] += repairs >> repair & 1
        if conversation.protocol == TCP and not conversation.is_fragment:
            plan_tcp(packets, event, first, end, conversation.is_swapped, stream, scratch, tally)
        _number(packets, first, end, conversation, stream, tally)
        stream.last_time_ns = time_ns


@njit(cache=True, inline="always")
def _plan_lengths(packet: Any, conversation: Any, tcp_header: int, least: int, step: int, mtu: int) -> int:
    """Make header lengths possible, then fit the datagram between its headers and the MTU; returns repairs as bits.

    Args:
        packet: its lengths are written.
        conversation: what it belongs to.
        tcp_header: octets as drawn.
        least: shortest payload of its service.
        step: from one length of a payload to the next.
        mtu: longest datagram in octets.
    """
    repairs = 0
    header = signed(packet.ip_header)
    if conversation.version == 4:
        lawful = min(max(header, 20), 60) & ~3
    else:
        lawful = min(max(header, 48 if conversation.is_fragment else 40), 296) & ~7
    if lawful != header:
        repairs |= 1 << Repair.IP_HEADER_REPAIRED
    packet.ip_header = lawful
    transport = 0
    if conversation.is_fragment:
        least, step = _LEAST_FRAGMENT, 1
    else:
        if conversation.protocol == TCP:
            transport = min(max(signed(tcp_header), 20), 60) & ~3
            if transport != tcp_header:
                repairs |= 1 << Repair.TCP_HEADER_REPAIRED
        elif conversation.protocol == UDP:
            transport = 8
        elif conversation.protocol == SCTP:
            transport = 12
    total = signed(packet.total_length)
    if total > mtu:
        total = mtu
        repairs |= 1 << Repair.MTU_CLAMPED
    if total < lawful + transport:
        total = lawful + transport
        repairs |= 1 << Repair.LENGTH_ENLARGED
    payload = total - lawful - transport
    if (payload or transport == 0) and (least or step > 1):
        wanted = max(least, payload - (payload - least) % step)
        if wanted != payload:
            repairs |= 1 << Repair.PAYLOAD_RESIZED
            payload = wanted
    elif not conversation.is_fragment:
        room = mtu - lawful - transport
        wanted = lawful_body(conversation, packet.control, payload, room)
        if wanted != payload:
            repairs |= 1 << Repair.BODY_RESIZED
            payload = wanted
    packet.transport_header = transport
    packet.payload = payload
    packet.total_length = lawful + transport + payload
    return repairs


@njit(cache=True, nogil=True)
def _number(packets: Any, first: int, end: int, conversation: Any, stream: Any, tally: NDArray[np.int64]) -> None:
    """Give IP identifications and message numbers; they rise by direction as a host's counters do."""
    for i in range(first, end):
        packet = packets[i]
        if not packet.is_kept:
            continue
        side = packet.direction ^ conversation.is_swapped
        if conversation.ttl[packet.direction] == 0:
            conversation.ttl[packet.direction] = _DEFAULT_TTL
            conversation.syn_ttl[packet.direction] = _DEFAULT_TTL
            tally[Repair.TTL_DEFAULTED] += 1
        if conversation.version == 6:
            packet.ip_id = draw(stream, 1 << 32) if conversation.is_fragment else 0
        else:
            packet.ip_id = stream.ip_id[side]
            stream.ip_id[side] += 1
        if packet.payload and packet.source_row < 0:
            serial = signed(stream.serial[side])
            ahead = signed(stream.serial[1 - side]) - serial
            if packet.direction != conversation.server and ahead > _MOST_OPEN:
                serial += ahead - 1
            packet.serial = serial
            stream.serial[side] = serial + 1
