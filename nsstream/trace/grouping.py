"""Packets to conversations: both directions of a five-tuple become one record, in order of first packet.

Rules
- The key is protocol, both addresses and ports, direction folded. Later fragments (offset > 0) have no ports and make
  conversations of their own.
- The initiator is who it was in the previous chunk, if the conversation was open there; else the sender of the first
  packet, unless that packet is a SYN|ACK, or goes from a port below 1024 to one above: then its receiver.
- Flow tags need no future: *continues from before* is read from the previous chunk's open conversations, *is open at
  end* from what this chunk has seen (TCP: no RST, and no FIN from both sides; all else: open).
- `TcpEvent`s come from sequence numbers alone, with nothing known of the previous chunk. What fills a hole that was
  left open came late and is not a retransmission. A SYN with a number of its own
  begins a new connection on the old five-tuple: all that was known of the old one is forgotten.

The hash table (`identify`) compares whole keys, so equal hashes cost time and never correctness; ids do not depend on
the hash. It is keyed anew for each call, so that nobody can choose addresses and ports that make it slow.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.trace.conversations import ConversationTable, TcpEvent
from nsstream.trace.fields import ACK, FIN, ICMP, ICMPV6, RST, SYN, TCP
from nsstream.trace.identify import arrange, identify
from nsstream.trace.keyed_hash import random_key
from nsstream.trace.packets import PacketBatch

_FRESH = int(TcpEvent.FRESH)
_RETRANSMISSION = int(TcpEvent.RETRANSMISSION)
_IDLE_ACK = int(TcpEvent.IDLE_ACK)
_KEEP_ALIVE = int(TcpEvent.KEEP_ALIVE)
_KEEP_ALIVE_ACK = int(TcpEvent.KEEP_ALIVE_ACK)
_WINDOW_UPDATE = int(TcpEvent.WINDOW_UPDATE)
_KEY_OCTETS: Final = 38  # low end (16 + 2), high end (16 + 2), protocol, is_fragment


@dataclass(frozen=True, slots=True)
class OpenConversations:
    """The conversations that a chunk left open: folded key -> 1 where the initiator is the key's high end."""

    initiator_is_high: dict[bytes, int] = field(default_factory=dict)


def group_conversations(
    packets: PacketBatch, before: OpenConversations | None = None
) -> tuple[ConversationTable, OpenConversations]:
    """Group one chunk's packets (n rows, any order) into conversations, and say which are open at its end."""
    before = before or OpenConversations()
    times = packets.observation_time_ns
    is_in_order = bool((times[1:] >= times[:-1]).all())
    by_time = np.arange(len(times)) if is_in_order else np.argsort(times, kind="stable")
    ids, is_high, first = identify(
        by_time,
        np.ascontiguousarray(packets.source_address).view(np.int64),
        np.ascontiguousarray(packets.destination_address).view(np.int64),
        packets.source_transport_port, packets.destination_transport_port,
        packets.protocol_identifier, packets.fragment_offset, *random_key(),
    )  # fmt: skip
    opening = packets.take(first)
    keys, opening_is_high = _fold_keys(opening)
    offset = np.concatenate([[0], np.cumsum(np.bincount(ids, minlength=len(first)))]).astype(np.int64)

    octets = keys.tobytes()
    folded = [octets[at : at + _KEY_OCTETS] for at in range(0, len(octets), _KEY_OCTETS)]
    known = np.array([before.initiator_is_high.get(k, -1) for k in folded], dtype=np.int8)
    initiator_is_high = np.where(known >= 0, known, _guess_initiator(opening, opening_is_high)).astype(np.uint8)
    order, direction, first_of_direction = arrange(by_time, ids, is_high, initiator_is_high, offset)

    def arranged(column: NDArray[Any]) -> NDArray[Any]:
        return np.take(column, order)

    is_tcp = arranged(packets.protocol_identifier == TCP) & (arranged(packets.fragment_offset) == 0)
    total_length, header_length = arranged(packets.ip_total_length), arranged(packets.ip_header_length)
    tcp_header_length = np.where(is_tcp, arranged(packets.tcp_header_length), 0).astype(np.uint8)
    flags = arranged(packets.tcp_control_bits)
    event, is_open = _tcp_events(
        offset, direction, is_tcp, flags, arranged(packets.tcp_sequence_number),
        arranged(packets.tcp_acknowledgement_number), arranged(packets.tcp_window_size),
        total_length.astype(np.int64) - header_length - tcp_header_length,
    )  # fmt: skip

    low_address, low_port = keys[:, :16], _port(keys[:, 16:18])
    high_address, high_port = keys[:, 18:34], _port(keys[:, 34:36])
    flipped = initiator_is_high.astype(bool)
    forward, back = first_of_direction[:, 0], first_of_direction[:, 1]
    table = ConversationTable(
        initiator_address=np.where(flipped[:, None], high_address, low_address),
        responder_address=np.where(flipped[:, None], low_address, high_address),
        ip_version=opening.ip_version,
        protocol_identifier=opening.protocol_identifier,
        initiator_port=np.where(flipped, high_port, low_port),
        responder_port=np.where(flipped, low_port, high_port),
        initiator_ttl=_at(packets.ip_ttl, forward),
        responder_ttl=_at(packets.ip_ttl, back),
        initiator_class_of_service=_at(packets.ip_class_of_service, forward),
        responder_class_of_service=_at(packets.ip_class_of_service, back),
        vlan_id=opening.vlan_id,
        is_fragment=(opening.fragment_offset > 0).astype(np.uint8),
        continues_from_before=(known >= 0).astype(np.uint8),
        is_open_at_end=is_open,
        packet_offset=offset,
        observation_time_ns=arranged(times),
        direction=direction,
        ip_total_length=total_length,
        ip_header_length=header_length,
        control=_control(packets, order, is_tcp, flags),
        tcp_header_length=tcp_header_length,
        tcp_event=event,
    )
    left_open = {k: h for k, h, o in zip(folded, initiator_is_high.tolist(), is_open.tolist(), strict=True) if o}
    return table, OpenConversations(left_open)


def _port(octets: NDArray[np.uint8]) -> NDArray[np.uint16]:
    return (octets[:, 0].astype(np.uint16) << np.uint16(8)) | octets[:, 1].astype(np.uint16)


def _at(column: NDArray[np.uint8], rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The column at these rows, 0 where a row is -1."""
    if not len(column):
        return np.zeros(len(rows), np.uint8)
    return np.where(rows >= 0, column[rows], 0).astype(np.uint8)


def _fold_keys(p: PacketBatch) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Keys (n, 38) with the lower endpoint first, and 1 where the packet's source is the higher one."""
    n = len(p)
    source, destination = np.empty((n, 18), np.uint8), np.empty((n, 18), np.uint8)
    for end, address, port in (
        (source, p.source_address, p.source_transport_port),
        (destination, p.destination_address, p.destination_transport_port),
    ):
        end[:, :16], end[:, 16], end[:, 17] = address, port >> 8, port & 0xFF
    is_high = _source_is_high(source, destination)
    swap = is_high.astype(bool)[:, None]
    keys = np.empty((n, _KEY_OCTETS), np.uint8)
    keys[:, :18] = np.where(swap, destination, source)
    keys[:, 18:36] = np.where(swap, source, destination)
    keys[:, 36] = p.protocol_identifier
    keys[:, 37] = p.fragment_offset > 0
    return keys, is_high


@njit(cache=True)
def _source_is_high(source: NDArray[np.uint8], destination: NDArray[np.uint8]) -> NDArray[np.uint8]:
    out = np.zeros(len(source), np.uint8)
    for i in range(len(source)):
        for j in range(18):
            if source[i, j] != destination[i, j]:
                out[i] = source[i, j] > destination[i, j]
                break
    return out


def _control(
    packets: PacketBatch, order: NDArray[np.int64], is_tcp: NDArray[np.bool_], flags: NDArray[np.uint16]
) -> NDArray[np.uint16]:
    """What the column of that name says of each packet, in this order: control bits, or type and code of ICMP."""
    is_icmp = (packets.protocol_identifier == ICMP) | (packets.protocol_identifier == ICMPV6)
    is_icmp &= packets.fragment_offset == 0
    code = np.where(is_icmp, packets.icmp_type.astype(np.uint16) << 8 | packets.icmp_code, 0).astype(np.uint16)
    return np.where(is_tcp, flags & 0xFF, np.take(code, order)).astype(np.uint16)


def _guess_initiator(p: PacketBatch, is_high: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """1 where the key's high end began, judged by the conversations' first packets alone."""
    flags = p.tcp_control_bits
    source, destination = p.source_transport_port, p.destination_transport_port
    is_answer = (flags & (SYN | ACK)) == (SYN | ACK)
    from_service = (flags & SYN == 0) & (source < 1024) & (destination >= 1024)
    guess: NDArray[np.uint8] = (is_high ^ (is_answer | from_service)).astype(np.uint8)
    return guess


@njit(cache=True)
def _tcp_events(
    offset: NDArray[np.int64],
    direction: NDArray[np.uint8],
    is_tcp: NDArray[np.bool_],
    flags: NDArray[np.uint16],
    seq: NDArray[np.uint32],
    ack: NDArray[np.uint32],
    window: NDArray[np.uint16],
    payload: NDArray[np.int64],
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Event of each packet, and 1 for each open conversation; sequence arithmetic modulo 2**32 (RFC 9293 3.4)."""
    event = np.zeros(len(direction), np.uint8)
    is_open = np.ones(len(offset) - 1, np.uint8)
    for c in range(len(offset) - 1):
        next_seq, last_ack = np.zeros(2, np.uint32), np.zeros(2, np.uint32)
        last_window = np.zeros(2, np.uint16)
        has_seq, has_ack, has_fin = np.zeros(2, np.bool_), np.zeros(2, np.bool_), np.zeros(2, np.bool_)
        answers_keep_alive = np.zeros(2, np.bool_)
        first_seq = np.zeros(2, np.uint32)
        hole = np.zeros(2, np.int64)  # octets that were passed over and have not come yet
        for i in range(offset[c], offset[c + 1]):
            if not is_tcp[i]:
                continue
            d = direction[i]
            octets = payload[i] if payload[i] > 0 else 0
            length = octets + (1 if flags[i] & SYN else 0) + (1 if flags[i] & FIN else 0)
            if flags[i] & (SYN | ACK) == SYN and has_seq[d] and seq[i] != first_seq[d]:
                has_seq[:], has_ack[:], has_fin[:], answers_keep_alive[:], hole[:] = False, False, False, False, 0
                is_open[c] = 1
            if flags[i] & SYN and not has_seq[d]:
                first_seq[d] = seq[i]
            ahead = np.int64(np.int32(np.uint32(seq[i] - next_seq[d])))
            bare = (flags[i] & (SYN | FIN | RST)) == 0 and octets <= 1
            kind = _FRESH
            if has_seq[d]:
                if bare and ahead == -1:
                    kind = _KEEP_ALIVE
                elif length > 0 and ahead < 0 and hole[d] > 0 and flags[i] & SYN == 0:
                    hole[d] = max(0, hole[d] - length)
                elif length > 0 and ahead < 0:
                    kind = _RETRANSMISSION
                elif bare and octets == 0 and has_ack[d] and np.int32(np.uint32(ack[i] - last_ack[d])) <= 0:
                    if answers_keep_alive[d]:
                        kind = _KEEP_ALIVE_ACK
                    else:
                        kind = _IDLE_ACK if window[i] == last_window[d] else _WINDOW_UPDATE
            event[i] = kind
            last_window[d] = window[i]
            answers_keep_alive[1 - d] = kind == _KEEP_ALIVE
            answers_keep_alive[d] = False
            if has_seq[d] and length > 0 and 0 < ahead < 1 << 24:
                hole[d] += ahead
            end = np.uint32(seq[i] + np.uint32(length))
            if not has_seq[d] or np.int32(np.uint32(end - next_seq[d])) > 0:
                if flags[i] & RST == 0 or not has_seq[d]:
                    next_seq[d] = end
                has_seq[d] = True
            if flags[i] & ACK and (not has_ack[d] or np.int32(np.uint32(ack[i] - last_ack[d])) > 0):
                last_ack[d] = ack[i]
                has_ack[d] = True
            if flags[i] & FIN:
                has_fin[d] = True
            if flags[i] & RST or (has_fin[0] and has_fin[1]):
                is_open[c] = 0
    return event, is_open
