"""Packets of conversations whose attributes are drawn; the work is `packet_loop`'s.

The recurrence runs on as long as the longest conversation lasts, so that an elephant is streamed and not cut.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from nsstream.encode.codec import Codec
from nsstream.encode.schema import ATTRIBUTE_INDEX
from nsstream.model.frozen_packets import freeze_conversations, freeze_packets
from nsstream.model.lawful import begin_law, law_budget
from nsstream.model.makeup_urns import makeup_urns
from nsstream.model.networks import PacketNetwork
from nsstream.model.one_thread import one_blas_thread
from nsstream.model.packet_loop import Asked, Columns, empty_slots, run
from nsstream.model.packet_meaning import meaning_of
from nsstream.model.wait_urns import wait_urns


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


def draw_packets(
    network: PacketNetwork,
    codec: Codec,
    attributes: NDArray[np.int64],
    stack: NDArray[np.int64],
    start_ns: NDArray[np.int64],
    counts: NDArray[np.int64],
    rng: np.random.Generator,
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
        rng: seeds the generator of each conversation.
        events: how often each `TcpEvent` but `FRESH` may come in all; None: as often as the network likes.
        most: draw only so many packets of each; the rest of a longer one is left out.
    """
    lengths = counts if most is None else np.minimum(counts, most)
    offset = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    out = Columns(*(np.zeros(int(offset[-1]), np.int64) for _ in Columns._fields))
    continues = attributes[:, ATTRIBUTE_INDEX["continues_from_before"]] > 0
    ttl = codec.ttl.table()[attributes[:, ATTRIBUTE_INDEX["ttl"]]][:, [0, -1]]
    frozen = freeze_packets(network, codec)
    asked = Asked(
        stack=stack,
        start_ns=start_ns,
        counts=counts,
        lengths=lengths,
        offset=offset,
        order=np.argsort(-lengths, kind="stable"),
        described=freeze_conversations(network, attributes),
        law=begin_law(continues, ttl == 0),
        budget=law_budget(codec.endings, events),
        waits=wait_urns(codec, attributes, counts),
        makeup=makeup_urns(codec, attributes, counts),
        generators=rng.integers(0, 1 << 64, len(counts), dtype=np.uint64),
    )
    with one_blas_thread():
        run(frozen, meaning_of(codec, frozen), asked, empty_slots(frozen, len(counts)), out)
    return DrawnPackets(offset, *out)
