"""Endings: how a chunk's TCP connections end and begin again, and how often they repeat themselves.

These numbers bound what may be drawn, so that a network's small errors do not add up to what nobody saw.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nsstream.trace.completeness import COMPLETENESS, completeness_of, completeness_of_packets
from nsstream.trace.conversations import ConversationTable, TcpEvent
from nsstream.trace.fields import ACK, FIN, RST, SYN, TCP


@dataclass(frozen=True)
class Endings:
    """Bounds on the ends of connections.

    Attributes:
        after_reset: how many packets follow a conversation's first RST at most, but for one conversation in fifty.
        after_finish: the same for its first FIN.
        reopens: how many SYNs began another connection on a five-tuple within its conversation.
        events: how many segments were each `TcpEvent`.
        completeness: how many TCP conversations showed each value of `trace.completeness`; empty: nobody counted.
    """

    after_reset: int
    after_finish: int
    reopens: int
    events: tuple[int, ...]
    completeness: tuple[int, ...] = ()

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
            completeness=_completeness(table, is_tcp),
        )

    def as_json(self) -> dict[str, Any]:
        """The numbers by name."""
        return {**asdict(self), "events": list(self.events), "completeness": list(self.completeness)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The inverse of `as_json`."""
        completeness = tuple(data.get("completeness", ()))
        if completeness and len(completeness) != COMPLETENESS:
            raise ValueError(f"completeness must have {COMPLETENESS} counts, got {len(completeness)}")
        return cls(**{**data, "events": tuple(data["events"]), "completeness": completeness})


def _completeness(table: ConversationTable, is_tcp: NDArray[np.bool_]) -> tuple[int, ...]:
    """How many TCP conversations show each value of `trace.completeness`."""
    headers = table.ip_header_length.astype(np.int64) + table.tcp_header_length
    has_data = table.ip_total_length.astype(np.int64) > headers
    of_packets = np.where(is_tcp, completeness_of_packets(table.control.astype(np.int64), is_tcp & has_data), 0)
    shown = completeness_of(table.packet_offset, of_packets)
    of_tcp = (table.protocol_identifier == TCP) & (table.is_fragment == 0)
    return tuple(np.bincount(shown[of_tcp], minlength=COMPLETENESS).tolist())


def _packets_after(table: ConversationTable, marked: NDArray[np.bool_]) -> int:
    """Packets after a conversation's first marked one: the 98th percentile, 0 where none is marked."""
    rows = np.flatnonzero(marked)
    owner, first = np.unique(np.searchsorted(table.packet_offset, rows, side="right") - 1, return_index=True)
    left = table.packet_offset[owner + 1] - 1 - rows[first]
    return int(np.ceil(np.quantile(left, 0.98))) if len(left) else 0
