"""Series: conversations to the numbers that DoppelGANger learns, and numbers back to conversations.

Shapes: n conversations, m packets, A = `ATTRIBUTE_WIDTH` numbers of metadata, t packets of a series, F =
`FEATURE_WIDTH` numbers a packet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from nsstream.encode.codec import kind_values, stack_of
from nsstream.encode.decoding import Endpoints
from nsstream.encode.sentences import has_ports, is_stack_word, ports_of, sentences_of, stacks_of
from nsstream.encode.series_codec import KIND_RANKS, SeriesCodec, log_gaps
from nsstream.encode.word_vectors import DIMENSIONS
from nsstream.trace.conversations import ConversationTable

Numbers = NDArray[np.float32]
_BITS: Final = 128
BITS: Final = 2 * _BITS + 2  # both addresses, and the flow tags: 0 or 1
VECTORS: Final = 3 * DIMENSIONS  # both ports and the stack: -1 to 1
PLACES: Final = 5  # TTL and class of service of both sides, start: 0 to 1
METADATA_WIDTH: Final = BITS + VECTORS + PLACES
EXTREMES: Final = 4  # middle and half range of gap and of size: 0 to 1
ATTRIBUTE_WIDTH: Final = METADATA_WIDTH + EXTREMES
FEATURE_WIDTH: Final = KIND_RANKS + 2 + 2  # kind, gap and size, (goes on, ends here)


@dataclass(frozen=True)
class Series:
    """A chunk, ragged.

    Attributes:
        attributes: (n, A).
        packet_offset: (n + 1,).
        rank: (m,) kind of each packet.
        place: (m, 2) gap and size between the extremes of their series.
    """

    attributes: Numbers
    packet_offset: NDArray[np.int64]
    rank: NDArray[np.int64]
    place: Numbers

    def __len__(self) -> int:
        return len(self.attributes)

    def features(self, rows: NDArray[np.int64], length: int) -> Numbers:
        """The first `length` packets of these conversations (k,), zeros behind their end: (k, length, F)."""
        begin, count = self.packet_offset[rows], np.diff(self.packet_offset)[rows]
        index = np.arange(length)
        is_there = index < count[:, None]
        at = np.where(is_there, begin[:, None] + index, 0)
        out = np.zeros((len(rows), length, FEATURE_WIDTH), np.float32)
        np.put_along_axis(out, self.rank[at][..., None], 1.0, axis=2)
        out[..., KIND_RANKS : KIND_RANKS + 2] = self.place[at]
        is_last = index == np.minimum(count, length)[:, None] - 1
        out[..., -2], out[..., -1] = ~is_last, is_last
        out[~is_there] = 0
        return out


def encode_series(table: ConversationTable, codec: SeriesCodec) -> Series:
    """The numbers of a chunk's conversations, with the codec that was fitted on them."""
    sentences = sentences_of(table)
    first_ns = table.observation_time_ns[table.packet_offset[:-1]]
    span_ns = max(codec.last_ns - codec.first_ns, 1)
    gap, size = codec.gap.to_unit(log_gaps(table)), codec.size.to_unit(table.ip_total_length.astype(np.float64))
    is_first = np.zeros(len(gap), bool)
    is_first[table.packet_offset[:-1]] = True
    gap_place, gap_extremes = _normalise(gap, table.packet_offset, ~is_first)
    size_place, size_extremes = _normalise(size, table.packet_offset, np.ones(len(size), bool))
    tags = [table.continues_from_before[:, None] > 0, table.is_open_at_end[:, None] > 0]
    columns = [
        np.unpackbits(table.initiator_address, axis=1),
        np.unpackbits(table.responder_address, axis=1),
        *tags,
        *(codec.words.encode(sentences[:, i]) for i in range(3)),
        np.stack([table.initiator_ttl, table.responder_ttl], axis=1) / 255,
        np.stack([table.initiator_class_of_service, table.responder_class_of_service], axis=1) / 255,
        (first_ns - codec.first_ns)[:, None] / span_ns,
        gap_extremes,
        size_extremes,
    ]
    return Series(
        attributes=np.concatenate(columns, axis=1).astype(np.float32),
        packet_offset=table.packet_offset,
        rank=_ranks(table, codec),
        place=np.stack([gap_place, size_place], axis=1).astype(np.float32),
    )


@dataclass(frozen=True)
class DecodedSeries:
    """Conversations from numbers: n of m packets in all.

    Attributes:
        ends: who talks to whom.
        packet_offset: (n + 1,).
        kind: (m,) tokens of `SeriesCodec.kind`.
        octets: (m,) datagram sizes.
        time_ns: (m,).
    """

    ends: Endpoints
    packet_offset: NDArray[np.int64]
    kind: NDArray[np.int64]
    octets: NDArray[np.int64]
    time_ns: NDArray[np.int64]

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """All conversations of at least one part, in order."""
        ends = {f.name: np.concatenate([getattr(part.ends, f.name) for part in parts]) for f in fields(Endpoints)}
        counts = np.concatenate([np.diff(part.packet_offset) for part in parts])
        packets = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _PACKET_COLUMNS}
        return cls(Endpoints(**ends), np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), **packets)


_PACKET_COLUMNS: Final = ("kind", "octets", "time_ns")


def decode_series(
    attributes: Numbers, features: Numbers, codec: SeriesCodec, rng: np.random.Generator
) -> DecodedSeries:
    """Conversations from generated attributes (n, A) and features (n, t, F).

    A series has its first packet always, and goes on while its packets say so. Packets behind the chunk's end are left
    out, as NetShare does, but for the first.
    """
    ends = _endpoints(attributes, codec, rng)
    start = np.clip(attributes[:, METADATA_WIDTH - 1].astype(np.float64), 0, 1)
    start_ns = codec.first_ns + np.rint(start * (codec.last_ns - codec.first_ns)).astype(np.int64)
    gap_middle, gap_half, size_middle, size_half = attributes[:, METADATA_WIDTH:].T.astype(np.float64)
    gap = _between(features[..., KIND_RANKS], gap_middle, gap_half)
    gap_ns = np.rint(np.expm1(codec.gap.from_unit(gap)) * 1e3).astype(np.int64)
    gap_ns[:, 0] = 0
    time_ns = start_ns[:, None] + np.cumsum(np.maximum(gap_ns, 0), axis=1)
    goes_on = features[..., -2] > features[..., -1]
    is_there = np.logical_and.accumulate(np.pad(goes_on[:, :-1], ((0, 0), (1, 0)), constant_values=True), axis=1)
    rounding_ns = (codec.last_ns - codec.first_ns) >> 20  # of the start as a float of 24 bits
    is_there &= time_ns <= codec.last_ns + rounding_ns
    is_there[:, 0] = True
    active = codec.kind.is_active().reshape(-1, KIND_RANKS)[ends.stack]  # (n, ranks)
    rank = np.where(active[:, None], features[..., :KIND_RANKS], -1).argmax(axis=2)
    kind = (ends.stack[:, None] * KIND_RANKS + rank)[is_there]
    octets = np.rint(codec.size.from_unit(_between(features[..., KIND_RANKS + 1], size_middle, size_half)))
    said = codec.kind.table()[kind]
    headers = said[:, 3] + said[:, 4]
    return DecodedSeries(
        ends=ends,
        packet_offset=np.concatenate([[0], np.cumsum(is_there.sum(axis=1))]).astype(np.int64),
        kind=kind,
        octets=np.where(
            said[:, 5] == 0, headers, np.maximum(octets[is_there].astype(np.int64), headers + (said[:, 0] % 3 == 1))
        ),
        time_ns=np.minimum(time_ns[is_there], codec.last_ns),
    )


def _normalise(
    values: NDArray[np.float64], offset: NDArray[np.int64], counts: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Each value (m,) as its place between its series' extremes; and their middle and half range (n, 2).

    Only values that count are looked at; a series without any has extremes of 0, and what does not count is 0.
    """
    begin, owner = offset[:-1], np.repeat(np.arange(len(offset) - 1), np.diff(offset))
    least = np.minimum.reduceat(np.where(counts, values, np.inf), begin)
    most = np.maximum.reduceat(np.where(counts, values, -np.inf), begin)
    is_empty = np.isinf(least)
    least, most = np.where(is_empty, 0, least), np.where(is_empty, 0, most)
    span = (most - least)[owner]
    place = np.where(counts & (span > 0), (values - least[owner]) / np.where(span > 0, span, 1), 0)
    return place, np.stack([(most + least) / 2, (most - least) / 2], axis=1)


def _between(place: Numbers, middle: NDArray[np.float64], half: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse of `_normalise`: places (n, t) between the extremes (n,), held to 0..1."""
    return np.clip((middle - half)[:, None] + place.astype(np.float64) * 2 * half[:, None], 0, 1)


def _ranks(table: ConversationTable, codec: SeriesCodec) -> NDArray[np.int64]:
    """Each packet's kind (m,), or the nearest that has a rank."""
    distinct, where = np.unique(kind_values(table), axis=0, return_inverse=True)
    rank = np.zeros(len(distinct), np.int64)
    for stack, kinds in enumerate(codec.kinds):
        rows = distinct[:, 0] == stack
        if rows.any():
            rank[rows] = kinds.nearest(distinct[rows], exact=2)
    return rank[where.reshape(-1)]


def _endpoints(attributes: Numbers, codec: SeriesCodec, rng: np.random.Generator) -> Endpoints:
    is_stack = is_stack_word(codec.words.words)
    vectors = [attributes[:, BITS + i * DIMENSIONS : BITS + (i + 1) * DIMENSIONS] for i in range(3)]
    protocol, version, is_fragment = stacks_of(codec.words.nearest(vectors[2], is_stack))
    ports, is_free = zip(*(ports_of(codec.words.nearest(v, ~is_stack), rng) for v in vectors[:2]), strict=True)
    with_ports = has_ports(protocol, is_fragment)
    bits = attributes[:, : 2 * _BITS] > 0.5
    octets = np.rint(np.clip(attributes[:, BITS + VECTORS : BITS + VECTORS + 4], 0, 1) * 255).astype(np.uint8)
    return Endpoints(
        initiator_address=_addresses(bits[:, :_BITS], version, codec),
        responder_address=_addresses(bits[:, _BITS:], version, codec),
        ip_version=version.astype(np.uint8),
        protocol_identifier=protocol.astype(np.uint8),
        initiator_port=np.where(with_ports, ports[0], 0).astype(np.uint16),
        responder_port=np.where(with_ports, ports[1], 0).astype(np.uint16),
        initiator_ttl=octets[:, 0],
        responder_ttl=octets[:, 1],
        responder_syn_ttl=octets[:, 1],
        initiator_class_of_service=octets[:, 2],
        responder_class_of_service=octets[:, 3],
        vlan_id=np.full(len(attributes), codec.vlan_id, np.uint16),
        is_fragment=is_fragment.astype(np.uint8),
        continues_from_before=(attributes[:, 2 * _BITS] > 0.5).astype(np.uint8),
        stack=stack_of(protocol, version, is_fragment),
        has_free_port=is_free[0] & with_ports,
    )


def _addresses(bits: NDArray[np.bool_], version: NDArray[np.int64], codec: SeriesCodec) -> NDArray[np.uint8]:
    """Addresses (n, 16) of bits (n, 128): multicast and what the chunk knows as it is, all else in its network."""
    raw = np.packbits(bits, axis=1)
    mapped = np.zeros(12, np.uint8)
    mapped[10:] = 0xFF
    is_4 = version == 4
    raw[is_4, :12] = mapped
    known = {address.tobytes() for address in codec.kept_address}
    stays = np.array([address.tobytes() in known for address in raw], bool)
    stays |= np.where(is_4, raw[:, 12] >> 4 == 0xE, raw[:, 0] == 0xFF)
    out = np.unpackbits(raw, axis=1)
    for family, (prefix, length) in zip((is_4, ~is_4), codec.network, strict=True):
        rows = np.flatnonzero(family & ~stays)
        out[rows, :length] = np.unpackbits(np.frombuffer(prefix, np.uint8))[:length]
    return np.packbits(out, axis=1)
