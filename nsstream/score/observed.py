"""Observed: a trace made ready for measuring: in time order, with the flow and conversation of every packet.

A flow is a directed five-tuple, a conversation the same five-tuple in both directions; both over the whole trace, so
that a tool that meters without timeouts would see the same ones. Identities (addresses, five-tuples) are 64-bit mixes
of their octets: equal octets give equal identities in every trace, and a chance collision among a million is about one
in 10^7.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nsstream.trace import PacketBatch

_GOLDEN: Final = np.uint64(
    0x9E3779B97F4A7C15
)  # splitmix64 (Steele, Lea, Flood 2014): increment and the two multipliers
_FIRST: Final = np.uint64(0xBF58476D1CE4E5B9)
_SECOND: Final = np.uint64(0x94D049BB133111EB)


@dataclass(frozen=True, slots=True)
class Observed:
    """m packets in k flows; rows of `packets` and of every (m,) array are in time order."""

    packets: PacketBatch
    time_s: NDArray[np.float64]  # (m,) since the start that `observe` was given
    source: NDArray[np.uint64]  # (m,) identity of the source address
    destination: NDArray[np.uint64]  # (m,)
    flow: NDArray[np.int64]  # (m,) 0 .. k - 1
    by_flow: NDArray[np.int64]  # (m,) rows sorted by flow, then time
    flow_offset: NDArray[np.int64]  # (k + 1,) flow i is by_flow[flow_offset[i]:flow_offset[i + 1]]
    flow_identity: NDArray[np.uint64]  # (k,)
    reverse_identity: NDArray[np.uint64]  # (k,) the identity that the flow's replies would have

    @property
    def flow_first(self) -> NDArray[np.int64]:
        """Row of each flow's first packet: (k,)."""
        return self.by_flow[self.flow_offset[:-1]]

    @property
    def flow_last(self) -> NDArray[np.int64]:
        """Row of each flow's last packet: (k,)."""
        return self.by_flow[self.flow_offset[1:] - 1]

    @property
    def flow_packet_count(self) -> NDArray[np.int64]:
        """Packets of each flow: (k,)."""
        return np.diff(self.flow_offset)

    @property
    def is_same_flow(self) -> NDArray[np.bool_]:
        """Whether each row of `by_flow` but the first goes on with the flow of the row before it: (m - 1,)."""
        flow = self.flow[self.by_flow]
        same: NDArray[np.bool_] = flow[1:] == flow[:-1]
        return same


def observe(packets: PacketBatch, start_ns: int | None = None) -> Observed:
    """Sort packets by time and find their flows; times count from `start_ns`, or from the first packet.

    Raises ValueError if there is no packet: nothing can be measured on nothing.
    """
    if not len(packets):
        raise ValueError("a trace to be measured must hold at least one packet")
    packets = packets.take(np.argsort(packets.observation_time_ns, kind="stable"))
    start = int(packets.observation_time_ns[0]) if start_ns is None else start_ns
    source, destination = address_identity(packets.source_address), address_identity(packets.destination_address)
    ports = packets.source_transport_port, packets.destination_transport_port
    protocol = packets.protocol_identifier
    identity = mix(source, destination, *ports, protocol)
    _, first, flow = np.unique(identity, return_index=True, return_inverse=True)
    by_flow = np.argsort(flow, kind="stable")
    return Observed(
        packets=packets,
        time_s=(packets.observation_time_ns - start) / 1e9,
        source=source,
        destination=destination,
        flow=flow,
        by_flow=by_flow,
        flow_offset=np.concatenate([[0], np.cumsum(np.bincount(flow))]),
        flow_identity=identity[first],
        reverse_identity=mix(destination, source, *ports[::-1], protocol)[first],
    )


def halves(trace: Observed, rng: np.random.Generator) -> tuple[Observed, Observed]:
    """Two random halves of a trace, each conversation whole in one of them; times keep the trace's own start.

    Raises ValueError if the trace has fewer than two conversations.
    """
    conversations, conversation = np.unique(
        np.minimum(trace.flow_identity, trace.reverse_identity), return_inverse=True
    )
    if len(conversations) < 2:
        raise ValueError(f"a trace to be halved must hold at least two conversations, got {len(conversations)}")
    is_left = np.zeros(len(conversations), np.bool_)
    is_left[rng.permutation(len(conversations))[: len(conversations) // 2]] = True
    rows = is_left[conversation][trace.flow]
    start_ns = int(trace.packets.observation_time_ns[0])
    return observe(trace.packets.take(rows), start_ns), observe(trace.packets.take(~rows), start_ns)


def address_identity(address: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """The identity of each 16-octet address: (m, 16) to (m,)."""
    words = np.ascontiguousarray(address).view(np.uint64)  # (m, 2)
    return mix(words[:, 0], words[:, 1])


def mix(*columns: NDArray[Any]) -> NDArray[np.uint64]:
    """One 64-bit identity a row, from any number of integer columns of one length; their order matters."""
    state = np.zeros(len(columns[0]), np.uint64)
    for column in columns:
        state = state * _FIRST + column.astype(np.uint64) + _GOLDEN
        state = (state ^ (state >> np.uint64(30))) * _FIRST
        state = (state ^ (state >> np.uint64(27))) * _SECOND
        state = state ^ (state >> np.uint64(31))
    return state
