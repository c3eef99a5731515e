"""A chunk's flow records to tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.encode.flow_codec import (
    FlowCodec,
    count_columns,
    host_values,
    label_codes,
    record_gaps,
    service_values,
)
from nsstream.encode.flow_conversations import FlowConversations
from nsstream.encode.flow_hosts import LAG_EDGES, host_tokens
from nsstream.encode.flow_schema import (
    ATTRIBUTE_INDEX,
    ATTRIBUTES,
    BLOCK_PORTS,
    COUNTDOWNS,
    FIELD_INDEX,
    FIELDS,
    HOST_SLOTS,
    HOSTS,
    MOMENTS,
    PEERS,
    PORT_SLOTS,
    POSITIONS,
    RARE_PORT,
    RECORD_GAP_GRID,
    RECORDS_GRID,
    START_FEATURES,
    START_GAP_GRID,
    TIMES_LEFT,
)
from nsstream.encode.flow_urns import OCTAVES, FlowUrns, Givens
from nsstream.encode.flow_values import Counts, flag_values, mark_values, path_values
from nsstream.encode.vocabulary import distinct_rows
from nsstream.trace.fields import TCP, UDP


@dataclass(frozen=True)
class FlowTokens:
    """Tokens of a chunk: n conversations in order of start, m records.

    Attributes:
        attributes: (n, a), columns as in `flow_schema.ATTRIBUTES`.
        start_features: (n, START_FEATURES) float32, known before a conversation is.
        offset: (n + 1,) ragged rows of the record columns.
        fields: (m, f), columns as in `flow_schema.FIELDS`.
        running: (m, 3) position, countdown and time left, known before a record is.
    """

    attributes: NDArray[np.int64]
    start_features: NDArray[np.float32]
    offset: NDArray[np.int64]
    fields: NDArray[np.int64]
    running: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.attributes)


def encode_flows(flows: FlowConversations, codec: FlowCodec) -> FlowTokens:
    """Encode a chunk's conversations with the codec that was fitted on them."""
    n, table = len(flows), flows.records
    columns = _attributes(flows, codec)
    count, index = flows.record_count, flows.index
    counts = count_columns(table)
    gap = record_gaps(flows)
    from_first = flows.from_service == np.repeat(flows.from_service[flows.first], count)
    fields = {
        "is_reverse": (~from_first).astype(np.int64),
        "gap": np.where(index > 0, RECORD_GAP_GRID.tokens(gap), 0),
        "mark": codec.mark.nearest(mark_values(table), exact=1),
        "path": codec.path.nearest(path_values(table), exact=16),
        "ingress": codec.ingress.nearest(table.ingress_interface[:, None].astype(np.int64), exact=0),
        "egress": codec.egress.nearest(table.egress_interface[:, None].astype(np.int64), exact=0),
        "flags": codec.flags.nearest(flag_values(table), exact=0),
        "packets": codec.packets.tokens(counts["packets"]),
        "reverse_packets": codec.reverse_packets.tokens(counts["reverse_packets"]),
        "octets": codec.octets.tokens(counts["octets"], counts["packets"]),
        "reverse_octets": codec.reverse_octets.tokens(counts["reverse_octets"], counts["reverse_packets"]),
        "duration": codec.duration.tokens(counts["duration"]),
    }
    return FlowTokens(
        attributes=np.stack([columns[name] for name in ATTRIBUTES], axis=1),
        start_features=start_features(np.arange(n), codec),
        offset=flows.offset,
        fields=np.stack([fields[name] for name in FIELDS], axis=1),
        running=running_tokens(index, np.repeat(count, count), codec.last_ns - (table.flow_start_ns - gap)),
    )


def count_urns(tokens: FlowTokens, flows: FlowConversations, codec: FlowCodec) -> FlowUrns:
    """What the tokens of a chunk's conversations say together how often."""
    owner = np.repeat(np.arange(len(tokens)), np.diff(tokens.offset))
    is_reverse = tokens.fields[:, FIELD_INDEX["is_reverse"]] == 1
    return FlowUrns.fit(
        {name: tokens.attributes[:, i] for name, i in ATTRIBUTE_INDEX.items()},
        {name: tokens.fields[:, i] for name, i in FIELD_INDEX.items()},
        moment=moment_of(np.arange(len(tokens)), codec.conversation_count),
        cell=codec.cell_at(flows.records.flow_start_ns - record_gaps(flows)),
        givens=Givens(codec.layer_of_service),
        owner=owner,
        is_from_service=(tokens.attributes[owner, ATTRIBUTE_INDEX["service_first"]] == 1) ^ is_reverse,
        octave=octave_of(tokens.fields, codec),
    )


def count_loads(tokens: FlowTokens, codec: FlowCodec) -> NDArray[np.int64]:
    """How many large records each party has: rows (k, 3) of `parties_of`, octave and how many."""
    parties = parties_of(np.repeat(tokens.attributes, np.diff(tokens.offset), axis=0), tokens.fields)
    octave = octave_of(tokens.fields, codec)
    rows = np.stack([parties, np.broadcast_to(octave[:, None], parties.shape)], axis=2)[octave >= LEAST_OCTAVE]
    distinct, _, times = distinct_rows(rows.reshape(-1, 2))
    return np.concatenate([distinct, times[:, None]], axis=1)


def parties_of(attributes: NDArray[np.int64], fields: NDArray[np.int64]) -> NDArray[np.int64]:
    """The client's and the server's number (m, 2) below `PARTIES` in records (m, f) of conversations (m, a).

    It tells who it is, where it has a slot and is named by it, and whether it sends the record.
    """
    client, server = (attributes[:, ATTRIBUTE_INDEX[name]] for name in ("client", "server"))
    who = np.stack([client, np.where(server < PEERS, HOST_SLOTS, server - PEERS)], axis=1)
    is_reverse = fields[:, FIELD_INDEX["is_reverse"]] == 1
    from_service = (attributes[:, ATTRIBUTE_INDEX["service_first"]] == 1) ^ is_reverse
    ways = np.stack([~from_service, 2 + from_service], axis=1)
    return np.asarray(ways * (HOST_SLOTS + 1) + np.minimum(who, HOST_SLOTS), np.int64)


def share_again(flows: FlowConversations, codec: FlowCodec) -> float:
    """Of rare servers that come back, and not as a late peer, the share that was with the same client before.

    A half where there is none.
    """
    again = _hosts(flows, codec, _services(flows, codec)[0])[2]
    return float((again == 1).sum() + 0.5) / float((again >= 0).sum() + 1)


def _services(flows: FlowConversations, codec: FlowCodec) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The service token of each conversation (n,), and whether its port has none of its own."""
    services = service_values(flows)
    is_rare = codec.service.tokens(services) < 0
    services[is_rare, 2] = RARE_PORT
    return codec.service.nearest(services, exact=2), is_rare


def _hosts(
    flows: FlowConversations, codec: FlowCodec, service: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """`host_tokens` of conversations with these services (n,)."""
    hosts = np.concatenate([host_values(flows, 0), host_values(flows, 1)])
    distinct, which = np.unique(hosts, axis=0, return_inverse=True)
    clients, servers = which.reshape(2, -1)
    family = (flows.records.ip_version[flows.first] == 6).astype(np.int64)
    service_first = flows.from_service[flows.first].astype(np.int64)
    return host_tokens(clients, servers, service, service_first, family, codec.host.tokens(distinct), LAG_EDGES)


def _attributes(flows: FlowConversations, codec: FlowCodec) -> dict[str, NDArray[np.int64]]:
    table, first = flows.records, flows.first
    port = service_values(flows)[:, 2]
    service, is_rare = _services(flows, codec)
    client, server, _ = _hosts(flows, codec, service)
    client_port = codec.port.tokens(flows.client_port[:, None])
    start = table.flow_start_ns[first]
    return {
        "label": label_codes(table, codec.label_names)[first],
        "start_gap": START_GAP_GRID.tokens(np.diff(start, prepend=start[:1])),
        "service": service,
        "service_port_high": np.where(is_rare, 1 + (port >> 8), 0),
        "service_port_low": np.where(is_rare, 1 + (port & 0xFF), 0),
        "service_first": flows.from_service[first].astype(np.int64),
        "client": client,
        "server": server,
        "client_port": np.where(client_port >= 0, client_port, PORT_SLOTS + flows.client_port // BLOCK_PORTS),
        "record_count": RECORDS_GRID.tokens(flows.record_count),
    }


def start_features(row: NDArray[np.int64], codec: FlowCodec) -> NDArray[np.float32]:
    """Numbers (k, START_FEATURES) that are known of conversations by their place in the order of starts alone."""
    wide_ns = (np.diff(codec.edges) / np.maximum(codec.cells, 1))[codec.cell_of[row]]
    out = np.zeros((len(row), START_FEATURES), np.float32)
    out[:, 0] = np.log10(np.maximum(wide_ns, 1e3)) / 4 - 1
    out[:, 1] = wide_ns == 0
    out[np.arange(len(row)), 2 + moment_of(row, codec.conversation_count)] = 1
    return out


def moment_of(row: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Coarse part of the chunk (k,) of each conversation's place in the order of starts."""
    return np.asarray(row * MOMENTS // max(count, 1), np.int64)


def running_tokens(index: NDArray[np.int64], count: NDArray[np.int64], left_ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """What is known before a record: its place, how many are left, and the time to the chunk's end: (m, 3)."""
    left = count - index
    position = np.where(index < 4, index, 4 + np.log2(np.maximum(index, 4) / 4).astype(np.int64)).clip(
        max=POSITIONS - 1
    )
    countdown = np.where(left < 6, left, 4 + np.log2(np.maximum(left, 4)).astype(np.int64)).clip(max=COUNTDOWNS - 1)
    decades = np.log10(np.maximum(left_ns, 1e6) / 1e6)
    return np.stack([position, countdown, np.clip(decades * 8, 0, TIMES_LEFT - 1).astype(np.int64)], axis=1)


def place_of(index: NDArray[np.int64], protocol: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the corrections of a record's fields are counted apart: first, second, later; TCP, UDP, other."""
    return 3 * np.minimum(index, 2) + _layer(protocol)


def place_by_size(fields: NDArray[np.int64], protocol: NDArray[np.int64], codec: FlowCodec) -> NDArray[np.int64]:
    """The same of the fields in `BY_SIZE`: by how many packets the tokens (m, f) before them say."""
    return 3 * _largest(fields, codec, _SIZES) + _layer(protocol)


def octave_of(fields: NDArray[np.int64], codec: FlowCodec) -> NDArray[np.int64]:
    """The size (m,) of records whose tokens are these (m, f), of the direction with more packets, by powers of two."""
    return _largest(fields, codec, _OCTAVES)


def _largest(fields: NDArray[np.int64], codec: FlowCodec, bounds: NDArray[np.int64]) -> NDArray[np.int64]:
    """The class (m,) of the larger of both counts of packets, by upper bounds in quanta."""
    sizes = []
    for name in ("packets", "reverse_packets"):
        counts: Counts = getattr(codec, name)
        values = counts.usual()
        sizes.append(np.searchsorted(bounds, values)[fields[:, FIELD_INDEX[name]]])
    return np.asarray(np.maximum(*sizes), np.int64)


LEAST_OCTAVE: Final = 6  # of a large record: 33 packets
_OCTAVES: Final = 2 ** np.arange(OCTAVES - 1)
_SIZES: Final = np.array([1, 2, 4, 8, 16, 64, 256, 1024])


def _layer(protocol: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.where(protocol == TCP, 0, np.where(protocol == UDP, 1, 2))


def allowed_attributes(codec: FlowCodec) -> dict[str, NDArray[np.bool_]]:
    """Which tokens of each attribute the chunk shows, or the codec could decode."""
    masks = {name: np.ones(size, bool) for name, size in ATTRIBUTES.items()}
    masks["label"] = codec.labels > 0
    masks["start_gap"] = codec.start_gap.is_active()
    masks["service"] = codec.service.is_active()
    masks["client"][: len(codec.host)] = codec.host.is_active()
    masks["server"][PEERS : PEERS + len(codec.host)] = codec.host.is_active()
    masks["client_port"] = np.concatenate([codec.port.is_active(), codec.port_blocks > 0])
    masks["record_count"] = codec.records.is_active()
    return masks


def allowed_fields(codec: FlowCodec) -> dict[str, NDArray[np.bool_]]:
    """Which tokens of each field the chunk shows."""
    masks = {"is_reverse": np.ones(2, bool), "gap": codec.gap.is_active()}
    masks["gap"][0] = True  # of the first record
    for name in ("mark", "path", "ingress", "egress", "flags", "packets", "reverse_packets"):
        masks[name] = getattr(codec, name).is_active()
    for name in ("octets", "reverse_octets", "duration"):
        masks[name] = getattr(codec, name).is_active()
    return masks


def hosts_by_family(codec: FlowCodec) -> NDArray[np.bool_]:
    """Which client tokens may stand for a host of IPv4 (row 0) and of IPv6 (row 1): (2, HOSTS)."""
    version = np.concatenate([codec.host.table()[:, 0], np.zeros(HOSTS - len(codec.host))])
    return np.stack([(version == 4) | (version == 0), (version == 6) | (version == 0)])


def family_of_services(codec: FlowCodec) -> NDArray[np.int64]:
    """0 where a service runs over IPv4, 1 over IPv6: (SERVICE_SLOTS,)."""
    return np.asarray(codec.service.table()[:, 1] == 6, np.int64)
