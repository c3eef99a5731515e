"""Endings: how a chunk's TCP connections end and begin again, and how often they repeat themselves.

These numbers bound what may be drawn, so that a network's small errors do not add up to what nobody saw.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Self

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
        events: how many segments were each `TcpEvent`.
    """

    after_reset: int
    after_finish: int
    reopens: int
    events: tuple[int, ...]

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
            events=tuple(np.bincount(table.tcp_event[is_tcp], minlength=len(TcpEvent)).tolist()),
        )

    def as_json(self) -> dict[str, Any]:
        """The numbers by name."""
        return {**asdict(self), "events": list(self.events)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The inverse of `as_json`."""
        return cls(**{**data, "events": tuple(data["events"])})


def _packets_after(table: ConversationTable, marked: NDArray[np.bool_]) -> int:
    """Packets after a conversation's first marked one: the 98th percentile, 0 where none is marked."""
    rows = np.flatnonzero(marked)
    owner, first = np.unique(np.searchsorted(table.packet_offset, rows, side="right") - 1, return_index=True)
    left = table.packet_offset[owner + 1] - 1 - rows[first]
    return int(np.ceil(np.quantile(left, 0.98))) if len(left) else 0
