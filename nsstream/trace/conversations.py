"""ConversationTable: packets by conversation, both directions of a five-tuple as one record with a direction a packet.

The same type describes what was measured (made by `grouping.group_conversations`) and what was drawn (made by `draw`),
so that whatever reads the one reads the other. Ragged columns: packets of conversation i are rows
``packet_offset[i]:packet_offset[i + 1]`` of the packet columns, in time order.

Promises: lengths agree, dtypes are exact, every conversation has a packet, arrays are read-only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray


class TcpEvent(IntEnum):
    """What a TCP segment is to the stream that it belongs to, from sequence numbers alone."""

    FRESH = 0  # new octets, or an acknowledgement that advances; everything that is not TCP
    RETRANSMISSION = 1  # octets, SYN or FIN whose sequence numbers were seen before
    IDLE_ACK = 2  # a bare ACK that acknowledges nothing new and offers the same window: a duplicate ACK
    KEEP_ALIVE = 3  # at most one octet, one before the next sequence number (RFC 9293 3.8.4)
    KEEP_ALIVE_ACK = 4  # the bare ACK that answers a keep-alive
    WINDOW_UPDATE = 5  # a bare ACK that acknowledges nothing new and offers another window


CONVERSATION_FIELDS: Final[dict[str, tuple[type[np.generic], tuple[int, ...]]]] = {
    "initiator_address": (np.uint8, (16,)),  # IPv4 as ::ffff:a.b.c.d
    "responder_address": (np.uint8, (16,)),
    "ip_version": (np.uint8, ()),
    "protocol_identifier": (np.uint8, ()),
    "initiator_port": (np.uint16, ()),
    "responder_port": (np.uint16, ()),
    "initiator_ttl": (np.uint8, ()),  # of the middle packet in each direction; 0 where that direction is silent
    "responder_ttl": (np.uint8, ()),
    "responder_syn_ttl": (np.uint8, ()),  # of its SYN, which may be a proxy's; as the other where it sent none
    "initiator_class_of_service": (np.uint8, ()),
    "responder_class_of_service": (np.uint8, ()),
    "vlan_id": (np.uint16, ()),
    "is_fragment": (np.uint8, ()),  # 1: made of later fragments (offset > 0), which have no ports
    "continues_from_before": (np.uint8, ()),  # flow tag: 1 where the previous chunk held this conversation, still open
    "is_open_at_end": (np.uint8, ()),  # flow tag: 1 unless TCP closed it (FIN from both sides, or RST) in this chunk
}
PACKET_COLUMNS: Final[dict[str, type[np.generic]]] = {
    "observation_time_ns": np.int64,
    "direction": np.uint8,  # 0 initiator to responder, 1 back
    "ip_total_length": np.uint32,
    "ip_header_length": np.uint16,
    "control": np.uint16,  # TCP: control bits; ICMP and ICMPv6: type << 8 | code; else 0
    "tcp_header_length": np.uint8,  # 0 unless TCP
    "tcp_event": np.uint8,  # TcpEvent
}


@dataclass(frozen=True, slots=True)
class ConversationTable:
    """n conversations of m packets in all."""

    initiator_address: NDArray[np.uint8]
    responder_address: NDArray[np.uint8]
    ip_version: NDArray[np.uint8]
    protocol_identifier: NDArray[np.uint8]
    initiator_port: NDArray[np.uint16]
    responder_port: NDArray[np.uint16]
    initiator_ttl: NDArray[np.uint8]
    responder_ttl: NDArray[np.uint8]
    responder_syn_ttl: NDArray[np.uint8]
    initiator_class_of_service: NDArray[np.uint8]
    responder_class_of_service: NDArray[np.uint8]
    vlan_id: NDArray[np.uint16]
    is_fragment: NDArray[np.uint8]
    continues_from_before: NDArray[np.uint8]
    is_open_at_end: NDArray[np.uint8]
    packet_offset: NDArray[np.int64]  # (n + 1,)
    observation_time_ns: NDArray[np.int64]  # (m,), this and all below
    direction: NDArray[np.uint8]
    ip_total_length: NDArray[np.uint32]
    ip_header_length: NDArray[np.uint16]
    control: NDArray[np.uint16]
    tcp_header_length: NDArray[np.uint8]
    tcp_event: NDArray[np.uint8]

    def __post_init__(self) -> None:
        n, m = len(self.protocol_identifier), len(self.observation_time_ns)
        for name, (dtype, cell) in CONVERSATION_FIELDS.items():
            _expect(name, getattr(self, name), dtype, (n, *cell))
        for name, dtype in PACKET_COLUMNS.items():
            _expect(name, getattr(self, name), dtype, (m,))
        _expect("packet_offset", self.packet_offset, np.int64, (n + 1,))
        if self.packet_offset[0] != 0 or self.packet_offset[-1] != m or (np.diff(self.packet_offset) < 1).any():
            raise ValueError("packet_offset must rise from 0 to the number of packets, by at least 1 a conversation")

    @classmethod
    def empty(cls) -> Self:
        """No conversations."""
        columns = {name: np.empty((0, *cell), dtype) for name, (dtype, cell) in CONVERSATION_FIELDS.items()}
        columns |= {name: np.empty(0, dtype) for name, dtype in PACKET_COLUMNS.items()}
        return cls(packet_offset=np.zeros(1, np.int64), **columns)

    @classmethod
    def concatenate(cls, tables: Sequence[Self]) -> Self:
        """The conversations of all tables, in the order of the tables."""
        if len(tables) == 1:
            return tables[0]
        if not tables:
            return cls.empty()
        names = (*CONVERSATION_FIELDS, *PACKET_COLUMNS)
        columns = {name: np.concatenate([getattr(table, name) for table in tables]) for name in names}
        counts = np.concatenate([table.packet_count for table in tables])
        return cls(packet_offset=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), **columns)

    def __len__(self) -> int:
        return len(self.protocol_identifier)

    @property
    def packet_count(self) -> NDArray[np.int64]:
        """Packets of each conversation, both directions: (n,)."""
        return np.diff(self.packet_offset)

    def take(self, rows: NDArray[np.integer]) -> Self:
        """The conversations at these indices, in this order, with their packets."""
        counts = self.packet_count[rows]
        offset = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        packets = np.repeat(self.packet_offset[rows] - offset[:-1], counts) + np.arange(offset[-1])
        columns = {name: getattr(self, name)[rows] for name in CONVERSATION_FIELDS}
        columns |= {name: getattr(self, name)[packets] for name in PACKET_COLUMNS}
        return type(self)(packet_offset=offset, **columns)

    def columns(self) -> dict[str, NDArray[np.generic]]:
        """All columns by name, `packet_offset` among them."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


def _expect(name: str, column: NDArray[np.generic], dtype: type[np.generic], shape: tuple[int, ...]) -> None:
    if column.dtype != dtype or column.shape != shape:
        raise ValueError(f"{name} must be {np.dtype(dtype)} {shape}, got {column.dtype} {column.shape}")
    column.flags.writeable = False
