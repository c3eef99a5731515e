"""Canaries: made-up conversations planted in a capture before a model learns it, to see what comes out of it.

A canary is a host that nobody else has (198.18.0.0/15, which RFC 2544 keeps for benchmarks) with one or several UDP
conversations of random ports, sizes, gaps and directions: nothing but memory can bring one back. With one conversation
it stands for a flow, with as many as a host may contribute for a host. Which are planted is settled by a fair coin
each, as one-run auditing wants it (`audit`); the others are held out, and say how a canary scores that nobody saw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.score.observed import Observed, address_identity, observe
from nsstream.score.privacy.copies import shapes
from nsstream.score.privacy.hosts import unicast
from nsstream.trace import PacketBatch
from nsstream.trace.fields import UDP

PACKETS: Final = (8, 17)  # of a conversation: from, to (not included); long enough never to come by chance
SIZES: Final = (29, 1501)  # octets of the IP datagram
PORTS: Final = (1024, 65536)
GAPS_S: Final = (1e-3, 1.0)
MOST_SPAN_S: Final = PACKETS[1] * GAPS_S[1]
COMPARED: Final = 16  # packets of a flow, where one is looked for in a twin
_NETWORK: Final = 198 << 24 | 18 << 16
_ROOM: Final = 252  # hosts of a /24 whose last octet has no role: 2 to 253
_HOSTS: Final = 512 * _ROOM


@dataclass(frozen=True, slots=True)
class Canaries:
    """k canaries and who of them is planted."""

    packets: tuple[PacketBatch, ...]
    included: NDArray[np.bool_]  # (k,)

    def planted_in(self, packets: PacketBatch) -> PacketBatch:
        """A capture with the included ones in it, in time order."""
        chosen = [batch for batch, is_in in zip(self.packets, self.included, strict=True) if is_in]
        return _by_time(PacketBatch.concatenate([packets, *chosen]))

    def all_in(self, packets: PacketBatch) -> PacketBatch:
        """A capture with all of them in it, in time order: what is scored, never learned."""
        return _by_time(PacketBatch.concatenate([packets, *self.packets]))


def make_canaries(count: int, conversations: int, span_ns: tuple[int, int], rng: np.random.Generator) -> Canaries:
    """So many canaries of so many conversations each, within a span of time, and a coin for each.

    Raises ValueError for fewer than one of either, more canaries than addresses, or a span shorter than `MOST_SPAN_S`.
    """
    if count < 1 or conversations < 1 or 2 * count > _HOSTS:
        raise ValueError(f"1 to {_HOSTS // 2} canaries of 1 conversation or more are needed: {count}, {conversations}")
    latest_ns = span_ns[1] - int(MOST_SPAN_S * 1e9)
    if latest_ns <= span_ns[0]:
        raise ValueError(f"canaries need a span of more than {MOST_SPAN_S:g} s")
    places = rng.permutation(_HOSTS)[: 2 * count].reshape(count, 2)
    hosts = _NETWORK + places // _ROOM * 256 + 2 + places % _ROOM
    made = []
    for one, other in hosts.tolist():
        own = [_conversation(one, other, (span_ns[0], latest_ns), rng) for _ in range(conversations)]
        made.append(_by_time(PacketBatch.concatenate(own)))
    return Canaries(tuple(made), rng.random(count) < 0.5)


def exposure(score: float, others: NDArray[np.float64]) -> float:
    """Exposure in bits (Carlini et al. 2019, section 4.2), by rank among canaries that nobody saw.

    log2 of how many there are, this one included, over its rank from the most likely down: at most log2(n + 1), and
    about 1.44 in the mean where nothing was remembered. Ties put the one that was planted last.
    """
    rank = 1 + int((others >= score).sum())
    return float(np.log2((len(others) + 1) / rank))


def reproduced(canaries: Sequence[PacketBatch], twin: Observed) -> NDArray[np.bool_]:
    """Of which canaries a twin has a flow size by size: (k,)."""
    known = shapes(twin).identity
    return np.array([bool(np.isin(shapes(observe(batch)).identity, known).any()) for batch in canaries])


def named(
    canaries: Sequence[PacketBatch], twin: Observed, mapping: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
) -> NDArray[np.bool_]:
    """Of which canaries a twin has an address, as the address map made it: (k,)."""
    known = address_identity(unicast(twin.packets))
    return np.array([bool(np.isin(address_identity(mapping(unicast(batch))), known).any()) for batch in canaries])


def nearness(canaries: Sequence[PacketBatch], twin: Observed) -> NDArray[np.float64]:
    """How near a twin comes to each canary: minus the least distance from a flow of it to one of the twin: (k,).

    Distances are Euclidean over the logarithms of the first sizes and gaps, and of the number of packets.
    """
    known = _outlines(twin)
    out = np.empty(len(canaries))
    for i, batch in enumerate(canaries):
        rows = _outlines(observe(batch))
        out[i] = -np.sqrt(min(((known - row) ** 2).sum(axis=1).min() for row in rows))
    return out


def _outlines(trace: Observed) -> NDArray[np.float64]:
    """Flows as rows (k, 2 * COMPARED + 1); behind a flow's last packet all is 0."""
    start, count = trace.flow_offset[:-1], trace.flow_packet_count
    inside = np.arange(COMPARED) < count[:, None]
    at = np.minimum(start[:, None] + np.arange(COMPARED), len(trace.time_s) - 1)
    size = np.log(np.maximum(trace.packets.ip_total_length[trace.by_flow][at], 1).astype(np.float64))
    gap = np.log10(np.maximum(np.diff(trace.time_s[trace.by_flow], prepend=0.0), 0.0) + 1e-6)[at] + 6
    gap[:, 0] = 0.0
    return np.column_stack([np.where(inside, size, 0.0), np.where(inside, gap, 0.0), np.log(count)])


def _conversation(one: int, other: int, span_ns: tuple[int, int], rng: np.random.Generator) -> PacketBatch:
    n = int(rng.integers(*PACKETS))
    columns = {name: column.copy() for name, column in PacketBatch.empty(n).columns().items()}
    gaps_s = np.exp(rng.uniform(math.log(GAPS_S[0]), math.log(GAPS_S[1]), n))
    gaps_s[0] = 0.0
    start_ns = int(rng.integers(*span_ns))
    columns["observation_time_ns"] = start_ns + (np.cumsum(gaps_s) * 1e9).astype(np.int64)
    is_back = rng.random(n) < 0.5
    is_back[0] = False
    ports = rng.integers(*PORTS, 2)
    for name, first, second in (("source", 0, 1), ("destination", 1, 0)):
        ends = np.array([one, other], np.uint32)[np.where(is_back, second, first)]
        address = columns[f"{name}_address"]
        address[:, 10:12] = 255
        address[:, 12:] = ends.astype(">u4").view(np.uint8).reshape(-1, 4)
        columns[f"{name}_transport_port"] = ports[np.where(is_back, second, first)].astype(np.uint16)
    columns["ip_version"][:] = 4
    columns["protocol_identifier"][:] = UDP
    columns["ip_total_length"] = rng.integers(*SIZES, n).astype(np.uint32)
    columns["ip_header_length"][:] = 20
    columns["ip_ttl"][:] = 64
    return PacketBatch.from_columns(columns)


def _by_time(packets: PacketBatch) -> PacketBatch:
    return packets.take(np.argsort(packets.observation_time_ns, kind="stable"))
