"""A public flow seed's codec made ready for private flow records, of which it is told the interval alone.

Nothing here is fitted. Services that everybody knows get free slots, and every bin may be shown, but of what comes back
in a record only those up to the seed's largest: nothing of that is counted. All hosts are made up:
half of the slots are for clients, half for servers, three quarters of each for IPv4; a server stands for the slot that
a hash of its mapped address names, so that popular ones can be counted. Exact values, marks, paths and interfaces are
the seed's: a record with others is encoded as the nearest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from nsstream.encode.bins import Bins
from nsstream.encode.flow_codec import FlowCodec, count_columns, host_values, record_gaps, service_values
from nsstream.encode.flow_conversations import FlowConversations
from nsstream.encode.flow_encoding import FlowTokens, running_tokens
from nsstream.encode.flow_hosts import LAG_EDGES, host_tokens
from nsstream.encode.flow_schema import (
    ATTRIBUTES,
    BLOCK_PORTS,
    FIELDS,
    HOST_SLOTS,
    LABELS,
    MOMENTS,
    PEERS,
    PORT_BLOCKS,
    PORT_SLOTS,
    RARE_PORT,
    RECORD_GAP_GRID,
    RECORDS_GRID,
    START_FEATURES,
)
from nsstream.encode.flow_urns import FlowUrns
from nsstream.encode.flow_values import Counts, flag_values, mark_values, path_values
from nsstream.encode.port_families import FAMILIES
from nsstream.encode.public_services import PUBLIC_SERVICES
from nsstream.encode.vocabulary import Vocabulary
from nsstream.trace.fields import ICMP, ICMPV6, TCP, UDP

SERVERS: Final = HOST_SLOTS // 2  # the first slot of a server; of a client 0
ROLE_SLOTS: Final = HOST_SLOTS - SERVERS
V4_SLOTS: Final = 3 * ROLE_SLOTS // 4  # of a role's slots, those of IPv4 hosts; they come first
NETWORKS: Final = 256  # of each IP version, from which other hosts are made up
MOST_PACKETS: Final = 10**8  # of a record
MOST_OCTETS: Final = 10**11

_MAPPED: Final = [*[0] * 10, 255, 255]
_ICMP_MESSAGES: Final = (
    *(
        (ICMP, 4, kind << 8 | code)
        for kind, code in ((0, 0), (3, 0), (3, 1), (3, 3), (3, 10), (3, 13), (8, 0), (11, 0))
    ),
    *((ICMPV6, 6, kind << 8) for kind in (1, 3, 128, 129, 133, 134, 135, 136)),
    (ICMP, 4, RARE_PORT),  # any other, as of exporters that tell something else there
    (ICMPV6, 6, RARE_PORT),
)
_OTHER_PROTOCOLS: Final = (
    (41, 4, 0),
    (47, 4, 0),
    (50, 4, 0),
    (50, 6, 0),
    (88, 4, 0),
    (89, 4, 0),
    (103, 4, 0),
    (112, 4, 0),
)
FLOW_SERVICES: Final = tuple(
    dict.fromkeys(
        (
            *((protocol, version, port) for protocol, version, _, port in PUBLIC_SERVICES if protocol in (TCP, UDP)),
            *((p, version, port) for f in FAMILIES for p, port in f.services() if port for version in (4, 6)),
            *_ICMP_MESSAGES,
            *_OTHER_PROTOCOLS,
        )
    )
)  # as `flow_codec.service_values` has them


def public_flow_codec(
    seed: FlowCodec, start_ns: int, end_ns: int, mapped: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
) -> FlowCodec:
    """The seed's codec for flow records of this interval, of which nothing else is known.

    `mapped` puts made-up addresses (n, 16) where the twin's are to be.
    """
    length_ns = end_ns - start_ns
    networks = _made_up_networks(mapped)
    return replace(
        seed,
        start_ns=start_ns,
        end_ns=end_ns,
        last_ns=end_ns - 1,
        edges=np.append(start_ns + np.arange(MOMENTS) * length_ns // MOMENTS, end_ns - 1),
        cells=np.ones(MOMENTS, np.int64),
        conversation_count=MOMENTS,
        record_count=MOMENTS,
        label_names=(),
        loads=np.zeros((0, 3), np.int64),
        labels=np.bincount([0], minlength=LABELS) * MOMENTS,
        host=_made_up_hosts(mapped),
        host_as=np.zeros(HOST_SLOTS, np.int64),
        service=_with_public_services(seed.service),
        port=_shown(seed.port),
        flags=_shown(seed.flags),
        mark=_shown(seed.mark),
        path=_shown(seed.path),
        ingress=_shown(seed.ingress),
        egress=_shown(seed.egress),
        port_blocks=np.ones(PORT_BLOCKS, np.int64),
        gap=_open(seed.gap, length_ns),
        records=_open(seed.records, None),
        packets=_counts(seed.packets, MOST_PACKETS),
        reverse_packets=_counts(seed.reverse_packets, seed.reverse_packets.most),
        octets=_counts(seed.octets, MOST_OCTETS, per_packet=True),
        reverse_octets=_counts(seed.reverse_octets, seed.reverse_octets.most, per_packet=True),
        duration=_counts(seed.duration, length_ns),
        networks=networks,
        rare_as=np.zeros(len(networks), np.int64),
        tail_ns=0,
        urns=FlowUrns.empty(),
    )


def encode_flows_privately(
    flows: FlowConversations, codec: FlowCodec, unit: Literal["host", "flow"], real: FlowConversations | None = None
) -> FlowTokens:
    """Encode conversations, addresses mapped, with a codec that knows none of them: each as if its unit were alone.

    Of a host, a server that it asked lately is told as that; of flows nothing is known of others. Starts are not told.
    `real` are the same with the addresses that they had, by which hosts are told apart: the map may give two of them
    one. None: they are not mapped.
    """
    table, first, n = flows.records, flows.first, len(flows)
    services = service_values(flows)
    port = services[:, 2].copy()
    is_rare = codec.service.tokens(services) < 0
    services[is_rare, 2] = RARE_PORT
    service = codec.service.nearest(services, exact=2)
    client_port = codec.port.tokens(flows.client_port[:, None])
    columns = dict.fromkeys(ATTRIBUTES, np.zeros(n, np.int64)) | {
        "service": service,
        "service_port_high": np.where(is_rare, 1 + (port >> 8), 0),
        "service_port_low": np.where(is_rare, 1 + (port & 0xFF), 0),
        "service_first": flows.from_service[first].astype(np.int64),
        "server": _server_tokens(flows, flows if real is None else real, service, unit),
        "client_port": np.where(client_port >= 0, client_port, PORT_SLOTS + flows.client_port // BLOCK_PORTS),
        "record_count": RECORDS_GRID.tokens(flows.record_count),
    }
    counts, index, gap = count_columns(table), flows.index, record_gaps(flows)
    from_first = flows.from_service == np.repeat(flows.from_service[first], flows.record_count)
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
    left_ns = codec.last_ns - (np.maximum(table.flow_start_ns, codec.start_ns) - gap)
    return FlowTokens(
        attributes=np.stack([columns[name] for name in ATTRIBUTES], axis=1),
        start_features=np.zeros((n, START_FEATURES), np.float32),
        offset=flows.offset,
        fields=np.stack([fields[name] for name in FIELDS], axis=1),
        running=running_tokens(index, np.repeat(flows.record_count, flows.record_count), left_ns),
    )


def bucket_of(hosts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which of a role's slots hosts (n, 17), mapped, stand for: (n,)."""
    halves = np.ascontiguousarray(hosts[:, 1:], np.uint8).view(np.uint64).reshape(-1, 2)
    number = _mixed(halves[:, 0] ^ _mixed(halves[:, 1]))
    is_v4 = hosts[:, 0] == 4
    room = np.where(is_v4, V4_SLOTS, ROLE_SLOTS - V4_SLOTS).astype(np.uint64)
    return np.where(is_v4, 0, V4_SLOTS) + (number % room).astype(np.int64)


def _mixed(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Words (n,) with each bit of them in every bit: the finaliser of SplitMix64 (Steele, Lea, Flood 2014)."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(words ^ (words >> np.uint64(31)), np.uint64)


def _server_tokens(
    flows: FlowConversations, real: FlowConversations, service: NDArray[np.int64], unit: Literal["host", "flow"]
) -> NDArray[np.int64]:
    named = PEERS + SERVERS + bucket_of(host_values(flows, 1))
    if unit == "flow" or not len(flows):
        return named
    hosts = np.concatenate([host_values(real, 0), host_values(real, 1)])
    distinct, which = np.unique(hosts, axis=0, return_inverse=True)
    which = which.reshape(-1)
    nobody = np.full(len(distinct), -1, np.int64)
    family = (hosts[: len(flows), 0] == 6).astype(np.int64)
    clients, servers, any_way = which[: len(flows)], which[len(flows) :], np.zeros_like(service)
    _, peers, _ = host_tokens(clients, servers, service, any_way, family, nobody, LAG_EDGES)
    return np.where(peers < PEERS, peers, named)


def _made_up_hosts(mapped: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]) -> Vocabulary:
    rng = np.random.default_rng(17)
    slots: list[tuple[int, ...] | None] = [None] * HOST_SLOTS
    for version, begin, room in ((4, 0, V4_SLOTS), (6, V4_SLOTS, ROLE_SLOTS - V4_SLOTS)):
        made = mapped(_unicast(rng, version, 8 * room)).astype(np.int64)
        _, first = np.unique(made, axis=0, return_index=True)
        made = made[np.sort(first)][: 2 * room]
        places = [role + begin + k for role in (0, SERVERS) for k in range(room)]
        for place, address in zip(places, made, strict=False):
            slots[place] = (version, *address.tolist())
    return Vocabulary(tuple(slots), tuple(int(slot is not None) for slot in slots))


def _made_up_networks(mapped: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]) -> NDArray[np.int64]:
    rng = np.random.default_rng(18)
    out = []
    for version, host_octets in ((4, 2), (6, 8)):
        networks = mapped(_unicast(rng, version, NETWORKS)).astype(np.int64)
        networks[:, 16 - host_octets :] = 0
        out.append(np.concatenate([np.full((NETWORKS, 1), version), networks], axis=1))
    return np.concatenate(out)


def _unicast(rng: np.random.Generator, version: int, count: int) -> NDArray[np.uint8]:
    addresses = rng.integers(0, 256, (count, 16))
    if version == 4:
        addresses[:, :12] = _MAPPED
        addresses[:, 12] = rng.integers(128, 192, count)
        addresses[:, 15] = rng.integers(2, 254, count)
    else:
        addresses[:, :2] = 0x20, 0x01
    return addresses.astype(np.uint8)


def _with_public_services(known: Vocabulary) -> Vocabulary:
    held = {value for value in known.slots if value is not None}
    fresh = [value for value in FLOW_SERVICES if value not in held]
    slots = list(known.slots)
    for at, value in zip([i for i, v in enumerate(slots) if v is None], fresh, strict=False):
        slots[at] = value
    return _shown(Vocabulary(tuple(slots), known.counts))


def _shown(vocabulary: Vocabulary) -> Vocabulary:
    """The same with every value shown."""
    counts = (0 if v is None else max(n, 1) for v, n in zip(vocabulary.slots, vocabulary.counts, strict=True))
    return replace(vocabulary, counts=tuple(counts))


def _open(bins: Bins, most: float | None) -> Bins:
    """The same bins, each shown that holds something below `most`, and what was."""
    may = np.ones(len(bins.counts), bool) if most is None else (bins.grid.edges < most) | (bins.counts > 0)
    return replace(bins, counts=np.where(may, np.maximum(bins.counts, 1), 0))


def _counts(counts: Counts, most: int, *, per_packet: bool = False) -> Counts:
    bins = _open(counts.bins, None if per_packet and most else most / counts.quantum)
    return replace(counts, rates=_shown(counts.rates), atoms=_shown(counts.atoms), bins=bins, most=most)
