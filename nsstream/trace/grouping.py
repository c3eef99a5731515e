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
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.trace.conversations import ConversationTable, TcpEvent
from nsstream.trace.fields import ACK, FIN, ICMP, ICMPV6, RST, SYN, TCP
from nsstream.trace.identify import arrange, identify, recall, tail_parts
from nsstream.trace.keyed_hash import KEY_WORDS, random_key
from nsstream.trace.packets import PacketBatch

_FRESH = int(TcpEvent.FRESH)
_RETRANSMISSION = int(TcpEvent.RETRANSMISSION)
_IDLE_ACK = int(TcpEvent.IDLE_ACK)
_KEEP_ALIVE = int(TcpEvent.KEEP_ALIVE)
_KEEP_ALIVE_ACK = int(TcpEvent.KEEP_ALIVE_ACK)
_WINDOW_UPDATE = int(TcpEvent.WINDOW_UPDATE)


@dataclass(frozen=True, slots=True, eq=False)
class OpenConversations:
    """The k conversations that a chunk left open."""

    keys: NDArray[np.int64] = field(default_factory=lambda: np.empty((0, KEY_WORDS), np.int64))  # (k, KEY_WORDS)
    initiator_is_high: NDArray[np.uint8] = field(default_factory=lambda: np.empty(0, np.uint8))  # (k,) of the key's end

    def __len__(self) -> int:
        return len(self.keys)


def group_conversations(
    packets: PacketBatch, before: OpenConversations | None = None
) -> tuple[ConversationTable, OpenConversations]:
    """Group one chunk's packets (n rows, any order) into conversations, and say which are open at its end."""
    before = before or OpenConversations()
    times = packets.observation_time_ns
    is_in_order = bool((times[1:] >= times[:-1]).all())
    by_time = np.arange(len(times)) if is_in_order else np.argsort(times, kind="stable")
    k0, k1 = random_key()
    ids, is_high, first, keys = identify(
        by_time,
        np.ascontiguousarray(packets.source_address).view(np.int64),
        np.ascontiguousarray(packets.destination_address).view(np.int64),
        packets.source_transport_port, packets.destination_transport_port,
        packets.protocol_identifier, packets.fragment_offset, k0, k1,
    )  # fmt: skip
    opening = packets.take(by_time[first])
    offset = np.concatenate([[0], np.cumsum(np.bincount(ids, minlength=len(first)))]).astype(np.int64)

    known = recall(keys, before.keys, k0, k1)
    is_known = known >= 0
    initiator_is_high = _guess_initiator(opening, is_high[first])
    initiator_is_high[is_known] = before.initiator_is_high[known[is_known]]
    order, direction, first_sent, middle = arrange(by_time, ids, is_high, initiator_is_high, offset)

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

    address = keys.view(np.uint8)
    low_address, high_address = address[:, :16], address[:, 16:32]
    low_port, high_port, protocol, is_fragment = tail_parts(keys[:, 4])
    flipped = initiator_is_high.astype(bool)
    forward, back, answer = middle[:, 0], middle[:, 1], first_sent[:, 1]
    is_syn = (protocol == TCP) & (is_fragment == 0) & (_at(packets.tcp_control_bits, answer) & SYN > 0)
    table = ConversationTable(
        initiator_address=np.where(flipped[:, None], high_address, low_address),
        responder_address=np.where(flipped[:, None], low_address, high_address),
        ip_version=opening.ip_version,
        protocol_identifier=protocol,
        initiator_port=np.where(flipped, high_port, low_port),
        responder_port=np.where(flipped, low_port, high_port),
        initiator_ttl=_at(packets.ip_ttl, forward),
        responder_ttl=_at(packets.ip_ttl, back),
        responder_syn_ttl=_at(packets.ip_ttl, np.where(is_syn, answer, back)),
        initiator_class_of_service=_at(packets.ip_class_of_service, forward),
        responder_class_of_service=_at(packets.ip_class_of_service, back),
        vlan_id=opening.vlan_id,
        is_fragment=is_fragment,
        continues_from_before=is_known.astype(np.uint8),
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
    left = is_open.astype(bool)
    return table, OpenConversations(keys[left], initiator_is_high[left])


def _at(column: NDArray[np.unsignedinteger], rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The low octet of the column at these rows, 0 where a row is -1."""
    if not len(column):
        return np.zeros(len(rows), np.uint8)
    return np.where(rows >= 0, column[rows], 0).astype(np.uint8)


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


@njit(cache=True, nogil=True)
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
    next_seq, last_ack, first_seq = np.zeros(2, np.uint32), np.zeros(2, np.uint32), np.zeros(2, np.uint32)
    last_window = np.zeros(2, np.uint16)
    has_seq, has_ack, has_fin = np.zeros(2, np.bool_), np.zeros(2, np.bool_), np.zeros(2, np.bool_)
    answers_keep_alive = np.zeros(2, np.bool_)
    hole = np.zeros(2, np.int64)  # octets that were passed over and have not come yet
    for c in range(len(offset) - 1):
        next_seq[:], last_ack[:], first_seq[:], last_window[:], hole[:] = 0, 0, 0, 0, 0
        has_seq[:], has_ack[:], has_fin[:], answers_keep_alive[:] = False, False, False, False
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
