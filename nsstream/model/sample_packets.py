"""Packets of conversations whose attributes are drawn: all conversations side by side, packet after packet.

The recurrence runs on as long as the longest conversation lasts, on ever fewer rows, so that an elephant is streamed
and not cut. What the protocols forbid is never said: `lawful.KindLaw` masks the kinds.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray

from nsstream.encode.codec import Codec
from nsstream.encode.encoding import allowed_kinds, size_tokens
from nsstream.encode.schema import ATTRIBUTE_INDEX, SIZE_SLOTS
from nsstream.encode.tokens import countdown_token, position_token, time_left_token
from nsstream.model.lawful import KindLaw
from nsstream.model.networks import FORBIDDEN, PacketNetwork, no_packet


@dataclass(frozen=True)
class DrawnPackets:
    """Packets of n conversations, ragged: rows packet_offset[i]:packet_offset[i + 1] are conversation i's.

    Attributes:
        packet_offset: (n + 1,).
        kind, size, gap: (m,) tokens.
        octets: (m,) datagram sizes.
        time_ns: (m,).
    """

    packet_offset: NDArray[np.int64]
    kind: NDArray[np.int64]
    size: NDArray[np.int64]
    gap: NDArray[np.int64]
    octets: NDArray[np.int64]
    time_ns: NDArray[np.int64]

    def take(self, rows: NDArray[np.int64]) -> DrawnPackets:
        """The conversations at these indices, in this order."""
        offset, packets = self._packets_of(rows)
        columns = {f.name: getattr(self, f.name)[packets] for f in fields(self)[1:]}
        return DrawnPackets(offset, **columns)

    def put(self, rows: NDArray[np.int64], other: DrawnPackets) -> DrawnPackets:
        """These packets, with those of the conversations at `rows` replaced by another's of the same lengths."""
        _, packets = self._packets_of(rows)
        columns = {f.name: getattr(self, f.name).copy() for f in fields(self)[1:]}
        for name, column in columns.items():
            column[packets] = getattr(other, name)
        return DrawnPackets(self.packet_offset, **columns)

    def _packets_of(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        counts = np.diff(self.packet_offset)[rows]
        offset = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return offset, np.repeat(self.packet_offset[rows] - offset[:-1], counts) + np.arange(offset[-1])


@torch.no_grad()
def draw_packets(
    network: PacketNetwork,
    codec: Codec,
    attributes: NDArray[np.int64],
    stack: NDArray[np.int64],
    start_ns: NDArray[np.int64],
    counts: NDArray[np.int64],
    rng: np.random.Generator,
    generator: torch.Generator,
    *,
    most: int | None = None,
    events: NDArray[np.int64] | None = None,
) -> DrawnPackets:
    """Draw the packets of n conversations.

    Args:
        network: the generator's second half, in evaluation mode.
        codec: the chunk's.
        attributes: (n, a) tokens.
        stack: (n,) which kinds each may have.
        start_ns: (n,) time of the first packet.
        counts: (n,) packets of each, at least 1.
        rng: for values inside bins.
        generator: for tokens.
        events: how often each `TcpEvent` but `FRESH` may come in all; None: as often as the network likes.
        most: draw only so many packets of each; the rest of a longer one is left out.
    """
    lengths = counts if most is None else np.minimum(counts, most)
    order = np.argsort(-counts, kind="stable")  # longest first: rows that end are always at the end
    offset = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    m = int(offset[-1])
    out = {name: np.empty(m, np.int64) for name in ("kind", "size", "gap", "octets", "time_ns")}
    described = network.describe(torch.from_numpy(attributes[order]))
    kinds = codec.kind.table()
    allowed = allowed_kinds(codec)[stack[order]]
    sizes_allowed = torch.from_numpy(np.concatenate([codec.size.is_active(), codec.octets.is_active()]))
    gap_law = _GapLaw(codec, len(counts))
    size_values = codec.size.table()[:, 0]
    n = len(counts)
    ttl = codec.ttl.table()[attributes[order, ATTRIBUTE_INDEX["ttl"]]]
    continues = attributes[order, ATTRIBUTE_INDEX["continues_from_before"]] > 0
    law = KindLaw(kinds, continues, ttl == 0, codec.endings, events)
    is_filler = torch.from_numpy(law.is_filler)
    now = start_ns[order].copy()
    total, first = counts[order], offset[:-1][order]
    previous = torch.tensor(no_packet(network.layout)).expand(n, 3)
    state = torch.zeros(1, n, network.width)
    for step in range(int(lengths.max(initial=0))):
        n = int(np.searchsorted(-total, -step, side="left"))  # conversations with more than `step` packets
        now, previous, state = now[:n], previous[:n], state[:, :n]
        left_ns = codec.last_ns + 1 - now
        running = np.stack(
            [countdown_token(total[:n] - step), position_token(np.full(n, step)), time_left_token(left_ns)], axis=-1
        )
        x = network.inputs(described[:n], previous[:, None], torch.from_numpy(running)[:, None])
        h, state = network.recur(x, state.contiguous())
        h = h[:, 0]
        place = int(position_token(np.array([step]))[0])
        correction = [table[place] for table in network.correction]
        likely = (
            (network.kind_head(h) + correction[0])
            .masked_fill(~torch.from_numpy(allowed[:n]), FORBIDDEN)
            .log_softmax(-1)
        )
        may = torch.from_numpy(law.allowed(allowed[:n], total[:n] - step - 1))
        likely = likely.masked_fill(~may, FORBIDDEN)  # what is forbidden must not turn into filler instead:
        likely = torch.where(is_filler, likely + likely.logsumexp(-1, keepdim=True), likely)
        kind = _pick(likely, generator)
        size = _pick(
            (network.size_logits(h, kind) + correction[1]).masked_fill(~sizes_allowed, FORBIDDEN), generator
        ).numpy()
        said = kind.numpy()
        octets = np.where(size < SIZE_SLOTS, size_values[np.minimum(size, SIZE_SLOTS - 1)], 0)
        binned = np.flatnonzero(size >= SIZE_SLOTS)
        octets[binned] = codec.octets.draw(size[binned] - SIZE_SLOTS, rng)
        headers = kinds[said, 3] + kinds[said, 4]
        bare = kinds[said, 5] == 0
        octets = np.where(bare, headers, np.maximum(octets, headers + (kinds[said, 0] % 3 == 1)))
        size = np.where(bare, size_tokens(headers, codec), size)
        gap = np.zeros(n, np.int64)
        if step:
            by_own, elapsed_ns = gap_law.clock(said, now)
            logits = network.gap_logits(h, kind, torch.from_numpy(size)) + correction[2]
            may = torch.from_numpy(gap_law.allowed(by_own, elapsed_ns, left_ns))
            gap = _pick(logits.masked_fill(~may, FORBIDDEN), generator).numpy()
            wait_ns = gap_law.draw(gap, by_own, elapsed_ns, rng)
            now = now + np.where(wait_ns < left_ns, wait_ns, (left_ns * rng.random(n)).astype(np.int64))
        gap_law.say(said, now)
        law.say(said)
        at = first[:n] + step
        for name, column in (("kind", said), ("size", size), ("gap", gap), ("octets", octets), ("time_ns", now)):
            out[name][at] = column
        previous = torch.from_numpy(np.stack([said, size, gap], axis=-1))
    return DrawnPackets(packet_offset=offset, **out)


class _GapLaw:
    """By which clock each of n conversations' next packet is timed (`clocks`), and what that leaves possible.

    Later calls may pass the first n' <= n conversations only.
    """

    def __init__(self, codec: Codec, n: int) -> None:
        self._bins = codec.packet_gap, codec.own_gap
        self._active = np.stack([bins.is_active() for bins in self._bins])
        self._edges = codec.packet_gap.grid.edges
        self._upper = np.append(self._edges[1:], np.inf)
        self._longest_ns = self._upper[self._active[1]].max(initial=0)
        self._own_clock = codec.own_clock
        self._side = np.clip(codec.kind.table()[:, 1], 0, 1)
        self._last_ns = np.full((n, 2), -1, np.int64)

    def clock(self, kind: NDArray[np.int64], now_ns: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Whether each packet (n',) is timed by its own side, and how long that clock has run."""
        last_ns = self._last_ns[np.arange(len(kind)), self._side[kind]]
        elapsed_ns = now_ns - last_ns
        by_own = self._own_clock[kind] & (last_ns >= 0) & (elapsed_ns < self._longest_ns)
        return by_own, np.where(by_own, elapsed_ns, 0)

    def allowed(
        self, by_own: NDArray[np.bool_], elapsed_ns: NDArray[np.int64], left_ns: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Which gaps (n', GAPS) the chunk shows, are not over yet, and end before it does, if there are such."""
        may = self._active[by_own.astype(np.int64)] & (self._upper > elapsed_ns[:, None])
        in_time = may & (self._edges < (elapsed_ns + left_ns)[:, None])
        return np.where(in_time.any(axis=1, keepdims=True), in_time, may)

    def draw(
        self,
        gap: NDArray[np.int64],
        by_own: NDArray[np.bool_],
        elapsed_ns: NDArray[np.int64],
        rng: np.random.Generator,
    ) -> NDArray[np.int64]:
        """Nanoseconds (n',) from the packet before to this one."""
        any_bins, own_bins = self._bins
        return np.where(by_own, own_bins.draw(gap, rng, elapsed_ns) - elapsed_ns, any_bins.draw(gap, rng))

    def say(self, kind: NDArray[np.int64], now_ns: NDArray[np.int64]) -> None:
        """Note the packets (n',) that were said."""
        self._last_ns[np.arange(len(kind)), self._side[kind]] = now_ns


def _pick(logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """One token a row by the softmax of its logits (n, k), by the Gumbel trick: (n,)."""
    noise = torch.empty_like(logits).exponential_(generator=generator)
    return (logits - noise.log()).argmax(dim=-1)
