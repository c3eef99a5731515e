"""Endings: how a chunk's TCP connections end and begin again, as three numbers that bound what may be drawn."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from nsstream.trace.conversations import ConversationTable, TcpEvent
from nsstream.trace.fields import ACK, FIN, RST, SYN


@dataclass(frozen=True)
class Endings:
    """Bounds on the ends of connections.

    Attributes:
        after_reset: how many packets follow a conversation's first RST at most, but for one conversation in fifty.
        after_finish: the same for its first FIN.
        reopens: how many SYNs began another connection on a five-tuple within its conversation.
    """

    after_reset: int
    after_finish: int
    reopens: int

    @classmethod
    def fit(cls, table: ConversationTable) -> Self:
        """Measure a chunk's conversations."""
        is_tcp = table.tcp_header_length > 0
        is_fresh_syn = is_tcp & ((table.control & (SYN | ACK)) == SYN) & (table.tcp_event == TcpEvent.FRESH)
        is_fresh_syn[table.packet_offset[:-1]] = False
        return cls(
            after_reset=_packets_after(table, is_tcp & (table.control & RST > 0)),
            after_finish=_packets_after(table, is_tcp & (table.control & FIN > 0)),
            reopens=int(is_fresh_syn.sum()),
        )

    def as_json(self) -> dict[str, int]:
        """The three numbers by name."""
        return asdict(self)


def _packets_after(table: ConversationTable, marked: NDArray[np.bool_]) -> int:
    """Packets after a conversation's first marked one: the 98th percentile, 0 where none is marked."""
    rows = np.flatnonzero(marked)
    owner, first = np.unique(np.searchsorted(table.packet_offset, rows, side="right") - 1, return_index=True)
    left = table.packet_offset[owner + 1] - 1 - rows[first]
    return int(np.ceil(np.quantile(left, 0.98))) if len(left) else 0
