"""A chunk's conversations to tokens."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nsstream.encode.clocks import gaps_of
from nsstream.encode.codec import (
    Codec,
    host_values,
    kind_values,
    marking_values,
    service_values,
    slice_of,
    slice_starts,
    stack_of,
    start_gaps,
    ttl_values,
)
from nsstream.encode.schema import (
    ATTRIBUTE_INDEX,
    ATTRIBUTES,
    BLOCK_PORTS,
    LENGTH_GRID,
    PACKET_GAP_GRID,
    PORT_SLOTS,
    RARE_IPV4,
    RARE_IPV6,
    RARE_PORT,
    SIZE_GRID,
    SIZE_SLOTS,
    START_GAP_GRID,
)
from nsstream.encode.tokens import ChunkTokens, countdown_token, position_token, start_features, time_left_token
from nsstream.trace.conversations import ConversationTable


def sort_by_start(table: ConversationTable) -> ConversationTable:
    """The same conversations in order of their first packet."""
    return table.take(np.argsort(table.observation_time_ns[table.packet_offset[:-1]], kind="stable"))


def encode(table: ConversationTable, codec: Codec) -> ChunkTokens:
    """Encode a chunk's conversations (sorted by start, addresses mapped) with the codec that was fitted on them."""
    first = table.observation_time_ns[table.packet_offset[:-1]]
    return _encode(table, codec, start_gaps(first, codec.first_ns, codec.last_ns), _start_features(first, codec))


def encode_alone(table: ConversationTable, codec: Codec) -> ChunkTokens:
    """Encode each conversation as if it were the only one: what it becomes depends on the codec and itself.

    For private learning. Each is the first of its slice, of as many as the codec's profile says; `start_gap`, which
    would tell of the one before, is 0 throughout and not to be learned.
    """
    first = table.observation_time_ns[table.packet_offset[:-1]]
    where, n = slice_of(first, codec.first_ns, codec.last_ns), len(table)
    left = np.maximum(codec.profile[where], 1).astype(np.float64)
    features = start_features(where, left, np.full(n, codec.slice_ns), np.ones(n, bool), int(codec.slice_ns))
    return _encode(table, codec, np.zeros(n, np.int64), features)


def _encode(
    table: ConversationTable, codec: Codec, gaps: NDArray[np.int64], features: NDArray[np.float32]
) -> ChunkTokens:
    first = table.observation_time_ns[table.packet_offset[:-1]]
    columns = _attributes(table, codec, gaps)
    attributes = np.stack([columns[name] for name in ATTRIBUTES], axis=1)
    kinds = kind_values(table)
    kind = codec.kind.nearest(kinds, exact=2)
    total = table.packet_count
    index = np.arange(len(kinds)) - np.repeat(table.packet_offset[:-1], total)
    since_any, since_own = gaps_of(table)
    gap_ns = np.where(codec.own_clock[kind] & (since_own >= 0), since_own, since_any)
    return ChunkTokens(
        attributes=attributes,
        start_features=features,
        start_ns=first,
        stack=stack_of(table.protocol_identifier, table.ip_version, table.is_fragment),
        packet_offset=table.packet_offset,
        kind=kind,
        size=size_tokens(table.ip_total_length, codec),
        gap=PACKET_GAP_GRID.tokens(gap_ns),
        needs_size=kinds[:, 5] > 0,
        countdown=countdown_token(np.repeat(total, total) - index),
        position=position_token(index),
        time_left=time_left_token(codec.last_ns + 1 - (table.observation_time_ns - since_any)),
    )


def size_tokens(octets: NDArray[np.integer], codec: Codec) -> NDArray[np.int64]:
    """Token of each datagram size (m,): a frequent size's slot, or the bin of another."""
    tokens = codec.size.tokens(octets[:, None].astype(np.int64))
    return np.where(tokens >= 0, tokens, SIZE_SLOTS + SIZE_GRID.tokens(octets))


def _attributes(table: ConversationTable, codec: Codec, gaps: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    services = service_values(table)
    port = services[:, 3].copy()
    is_rare = codec.service.tokens(services) < 0
    services[is_rare, 3] = RARE_PORT
    rare_host = np.where(table.ip_version == 6, RARE_IPV6, RARE_IPV4)
    hosts = [codec.host.tokens(host_values(table, role)) for role in (0, 1)]
    initiator_port = codec.port.tokens(table.initiator_port[:, None].astype(np.int64))
    columns = {
        "continues_from_before": table.continues_from_before.astype(np.int64),
        "start_gap": START_GAP_GRID.tokens(gaps),
        "initiator_host": np.where(hosts[0] >= 0, hosts[0], rare_host),
        "service": codec.service.nearest(services, exact=3),
        "responder_port_high": np.where(is_rare, 1 + (port >> 8), 0),
        "responder_port_low": np.where(is_rare, 1 + (port & 0xFF), 0),
        "responder_host": np.where(hosts[1] >= 0, hosts[1], rare_host),
        "initiator_port": np.where(
            initiator_port >= 0, initiator_port, PORT_SLOTS + table.initiator_port // BLOCK_PORTS
        ),
        "ttl": codec.ttl.nearest(ttl_values(table), exact=0),
        "marking": codec.marking.nearest(marking_values(table), exact=1),
        "packet_count": LENGTH_GRID.tokens(table.packet_count),
    }
    return columns


def _start_features(first: NDArray[np.int64], codec: Codec) -> NDArray[np.float32]:
    where = slice_of(first, codec.first_ns, codec.last_ns)
    edges = slice_starts(codec.first_ns, codec.last_ns)
    rank = np.arange(len(first)) - np.searchsorted(where, where, side="left")
    left = codec.profile[where] - rank
    since = np.where(rank > 0, np.roll(first, 1), edges[where])
    slice_left = (edges[where + 1] - since).astype(np.float64)
    return start_features(where, left.astype(np.float64), slice_left, rank == 0, int(codec.slice_ns))


def allowed_kinds(codec: Codec) -> NDArray[np.bool_]:
    """Which kinds each stack may show: (6, KINDS), inactive slots never."""
    table = codec.kind.table()
    allowed: NDArray[np.bool_] = codec.kind.is_active() & (table[:, 0] == np.arange(6)[:, None])
    return allowed


def hosts_by_family(codec: Codec) -> NDArray[np.bool_]:
    """Which host tokens name a host of IPv4 (row 0) and of IPv6 (row 1): (2, HOST_SLOTS + 2)."""
    version = np.concatenate([codec.host.table()[:, 0], [4, 6]])
    return np.stack([version == 4, version == 6])


def services_by_family(codec: Codec) -> NDArray[np.bool_]:
    """Which services run over IPv4 (row 0) and over IPv6 (row 1): (2, SERVICE_SLOTS)."""
    version = codec.service.table()[:, 1]
    return np.stack([version == 4, version == 6])


def allowed_attributes(codec: Codec) -> list[NDArray[np.bool_]]:
    """Which tokens of each attribute the codec knows how to decode: one mask an attribute."""
    masks = {name: np.ones(size, bool) for name, size in ATTRIBUTES.items()}
    for name in ("initiator_host", "responder_host"):
        masks[name][: len(codec.host)] = codec.host.is_active()
    masks["service"] = codec.service.is_active()
    masks["initiator_port"] = np.concatenate([codec.port.is_active(), codec.port_blocks > 0])
    masks["ttl"], masks["marking"] = codec.ttl.is_active(), codec.marking.is_active()
    masks["packet_count"] = codec.length.is_active()
    masks["start_gap"] = codec.start_gap.is_active()
    return [masks[name] for name in ATTRIBUTE_INDEX]
