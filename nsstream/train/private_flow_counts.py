"""What is counted of private flow records: one vector of whole numbers, each unit's part of it bounded, noised once.

    conversations | by moment | clients | by service | by server | by client port | by length | packets | octets | time
    | exact client ports | ports that are spelt out | their protocols | clients by how many they start | servers by how
    many they get | who asks a server a second time | servers by groups of clients | large records by octave | by class
    of service: ways | packets | octets | time

Each block adds one a conversation, but for hosts by how many conversations they have, where one more moves a client and
a server from one entry to another, and for servers by who asks them a second time, whoever did first or another, which
one more or less may change. Packets, octets and time are of one record of it, in a place that says what they go with;
and once more by the class of the service (`service_classes`). A unit has at most so many conversations, so its part of
a block is at most that long (l2), or sqrt(2) times as long where one moves or changes. Of hosts as units, the clients
have one entry a unit, as large as a full unit's conversations: how many conversations it has, all that it has. So many
clients are as busy as that is known far better than anything else.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from nsstream.encode.flow_codec import FlowCodec, host_values, service_values
from nsstream.encode.flow_conversations import FlowConversations
from nsstream.encode.flow_encoding import FlowTokens, place_by_size, place_of
from nsstream.encode.flow_schema import (
    ATTRIBUTE_INDEX,
    ATTRIBUTES,
    BLOCK_PORTS,
    FIELD_INDEX,
    LAG,
    LAGS,
    MOMENTS,
    PEERS,
    PLACES,
    PORT_BLOCKS,
    PORT_SLOTS,
    RARE_PORT,
    SIZE_CLASSES,
)
from nsstream.encode.flow_values import Counts
from nsstream.encode.public_flow_codec import ROLE_SLOTS, bucket_of
from nsstream.encode.service_classes import SERVICE_CLASSES, service_classes
from nsstream.encode.vocabulary import distinct_rows
from nsstream.trace.fields import ICMP, ICMPV6, SCTP, TCP, UDP
from nsstream.train.private_units import Units

PORTS: Final = 1024  # client ports that are counted together
RECORD_PLACES: Final = 9  # of `place_of`
PACKET_CELLS: Final = 48
LAYERS: Final = 3  # of `place_of`
LARGE: Final = 10  # cells of packets from this on, from 16 packets on, are two an octave
LARGE_OCTAVES: Final = (PACKET_CELLS - LARGE) // 2
OCTET_CELLS: Final = 80
TIME_CELLS: Final = 44
WAYS: Final = 2  # a record goes as the first one did, or back
SPELT_PROTOCOLS: Final = (TCP, UDP, ICMP, ICMPV6)  # and any other, of services whose port is spelt out
SPELT_BUCKETS: Final = 509  # that their ports fall into
SPANS: Final = np.array([0, 1, 1, 2, 2, 2, 3, 3, 3])  # of each class of packets, what is told of a kind
CLIENT_GROUPS: Final = 32  # of buckets of clients, by which servers are counted
KINDS: Final = 2 * SERVICE_CLASSES  # of records: the class of service, and which side sent it
BUSY: Final = np.unique(np.concatenate([np.arange(1, 5), np.rint(4 * 2 ** (np.arange(1, 37) / 2))])).astype(np.int64)
SIZES: Final[dict[str, int]] = {
    "conversations": 1,
    "moments": MOMENTS,
    "clients": ROLE_SLOTS,
    "service": ATTRIBUTES["service"],
    "server": ATTRIBUTES["server"],
    "client_port": PORT_SLOTS + 65_536 // PORTS,
    "record_count": ATTRIBUTES["record_count"],
    "packets": RECORD_PLACES * WAYS * PACKET_CELLS,
    "octets": PLACES * OCTET_CELLS,
    "duration": PLACES * TIME_CELLS,
    "client_ports": 65_536,
    "spelt_ports": 65_536,
    "spelt_protocols": (len(SPELT_PROTOCOLS) + 1) * SPELT_BUCKETS,
    "busy_clients": len(BUSY),
    "busy_servers": len(BUSY),
    "second": 2,
    "peers": CLIENT_GROUPS * ROLE_SLOTS,
    "large": LAYERS * LARGE_OCTAVES,
    "ways": SERVICE_CLASSES * 4 * ATTRIBUTES["record_count"],
    "kind_packets": KINDS * PACKET_CELLS,
    "kind_octets": KINDS * (SPANS[-1] + 1) * OCTET_CELLS,
    "kind_duration": KINDS * (SPANS[-1] + 1) * TIME_CELLS,
}
assert len(SPANS) == SIZE_CLASSES
_GRAIN: Final = 256  # sensitivities are whole multiples of its inverse: exact fractions stay small

Noisy = Callable[[NDArray[np.int64], float, float], NDArray[np.int64]]  # counts, noise multiplier, sensitivity


def sensitivity(unit: Literal["host", "flow"], most: int) -> float:
    """The most that one unit with so many conversations changes the vector, in l2; rounded up a little."""
    clients = {"host": (0, 1), "flow": (1, 2)}[unit]  # by bucket; by how many they start
    others = len(SIZES) - 4
    squares = others + sum(clients) + 2 + 2  # servers by how many they get, and by who asks them again
    return most * math.ceil(math.sqrt(squares) * _GRAIN) / _GRAIN


def count_flows(
    flows: FlowConversations,
    tokens: FlowTokens,
    units: Units,
    all_of_each: NDArray[np.int64],
    codec: FlowCodec,
    unit: Literal["host", "flow"],
    most: int,
) -> NDArray[np.int64]:
    """The vector of the units' conversations, without noise; one unit more adds `sensitivity` at most.

    `all_of_each` (u,) are the conversations of each unit, with those that are not kept.
    """
    start_ns = flows.records.flow_start_ns[flows.first]
    part = (start_ns - codec.start_ns) / (codec.end_ns - codec.start_ns)
    one = _one_record(flows)
    fields = tokens.fields[one]
    protocol = flows.records.protocol_identifier[flows.first].astype(np.int64)
    index = one - flows.first
    by_size = place_by_size(fields, protocol, codec)
    places = place_of(index, protocol) * WAYS + fields[:, FIELD_INDEX["is_reverse"]]
    cells = field_cells(codec)
    packet_cell = cells["packets"][fields[:, FIELD_INDEX["packets"]]]
    octave = place_of(np.zeros_like(index), protocol) * LARGE_OCTAVES + (packet_cell - LARGE) // 2
    said = {
        "conversations": np.zeros(len(flows), np.int64),
        "moments": np.clip((part * MOMENTS).astype(np.int64), 0, MOMENTS - 1),
        "clients": bucket_of(host_values(flows, 0)),
        "service": tokens.attributes[:, ATTRIBUTE_INDEX["service"]],
        "server": tokens.attributes[:, ATTRIBUTE_INDEX["server"]],
        "client_port": attribute_cells(codec)["client_port"][tokens.attributes[:, ATTRIBUTE_INDEX["client_port"]]],
        "record_count": tokens.attributes[:, ATTRIBUTE_INDEX["record_count"]],
        "packets": places * PACKET_CELLS + packet_cell,
        "octets": by_size * OCTET_CELLS + cells["octets"][fields[:, FIELD_INDEX["octets"]]],
        "duration": by_size * TIME_CELLS + cells["duration"][fields[:, FIELD_INDEX["duration"]]],
    }
    is_spelt = codec.service.table()[said["service"], 2] == RARE_PORT
    classes = service_classes(service_values(flows))
    kinds = 2 * classes + flows.from_service[one]
    spans = kinds * (SPANS[-1] + 1) + SPANS[by_size // 3]
    is_answered = (
        np.logical_or.reduceat(
            flows.from_service != np.repeat(flows.from_service[flows.first], flows.record_count), flows.first
        )
        if len(flows)
        else np.zeros(0, bool)
    )
    ways = 4 * classes + 2 * flows.from_service[flows.first] + is_answered
    said |= {
        "client_ports": flows.client_port[np.isin(protocol, (TCP, UDP, SCTP))],
        "spelt_ports": flows.service_port[is_spelt],
        "spelt_protocols": (_protocols(protocol) * SPELT_BUCKETS + flows.service_port % SPELT_BUCKETS)[is_spelt],
        "peers": bucket_of(host_values(flows, 0)) % CLIENT_GROUPS * ROLE_SLOTS + bucket_of(host_values(flows, 1)),
        "ways": ways * ATTRIBUTES["record_count"] + said["record_count"],
        "large": octave[packet_cell >= LARGE],
        "kind_packets": kinds * PACKET_CELLS + packet_cell,
        "kind_octets": spans * OCTET_CELLS + cells["octets"][fields[:, FIELD_INDEX["octets"]]],
        "kind_duration": spans * TIME_CELLS + cells["duration"][fields[:, FIELD_INDEX["duration"]]],
    }
    counted = {name: np.bincount(values, minlength=SIZES[name]) for name, values in said.items()}
    counted["busy_servers"] = _by_busyness(_times(host_values(flows, 1)))
    counted["second"] = _seconds(host_values(flows, 0), host_values(flows, 1))
    if unit == "host":
        counted["clients"] = np.zeros(SIZES["clients"], np.int64)
        counted["busy_clients"] = most * _by_busyness(all_of_each)
    else:
        counted["busy_clients"] = _by_busyness(_times(host_values(flows, 0)))
    return np.concatenate([counted[name] for name in SIZES]).astype(np.int64)


def _protocols(protocol: NDArray[np.int64]) -> NDArray[np.int64]:
    """The place (n,) of each protocol in `SPELT_PROTOCOLS`, or the one behind the last."""
    place = np.full(256, len(SPELT_PROTOCOLS))
    place[list(SPELT_PROTOCOLS)] = np.arange(len(SPELT_PROTOCOLS))
    return place[protocol]


def _by_busyness(conversations: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.bincount(np.searchsorted(BUSY, conversations, side="right") - 1, minlength=len(BUSY))


def _seconds(clients: NDArray[np.int64], servers: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many servers are asked a second time by another than the first time, and by the same (2,)."""
    which = distinct_rows(servers)[1]
    order = np.argsort(which, kind="stable")
    is_second = np.diff(which[order], prepend=-1) == 0
    is_second[1:] &= ~is_second[:-1]
    second = np.flatnonzero(is_second)
    is_same = (clients[order[second]] == clients[order[second - 1]]).all(axis=1)
    return np.bincount(is_same, minlength=2)


def _times(hosts: NDArray[np.int64]) -> NDArray[np.int64]:
    return distinct_rows(hosts)[2]


def attribute_cells(codec: FlowCodec, found: NDArray[np.int64] | None = None) -> dict[str, NDArray[np.int64]]:
    """The cell of each token of an attribute that is counted, but for service and client."""
    named = codec.port.table()[:, 0]
    ports = np.where(named < 1024, np.arange(PORT_SLOTS), PORT_SLOTS + np.maximum(named, 0) // PORTS)
    if found is not None:
        ports[found] = found
    blocks = PORT_SLOTS + np.arange(PORT_BLOCKS) * BLOCK_PORTS // PORTS
    server = np.arange(ATTRIBUTES["server"])
    server[PEERS + LAG : PEERS + LAG + LAGS] = PEERS + LAG
    return {
        "server": server,
        "client_port": np.concatenate([ports, blocks]),
        "record_count": np.arange(ATTRIBUTES["record_count"]),
    }


def field_cells(codec: FlowCodec) -> dict[str, NDArray[np.int64]]:
    """The cell of each token of a field that is counted."""
    packets, seconds = _values(codec.packets), _values(codec.duration) / 1e9
    octets, rates = codec.octets, np.maximum(codec.octets.rates.table()[:, 0], 0)
    alone = octets.atoms.table()[:, 0] * octets.quantum  # not by packet: cells of their own
    return {
        "packets": np.where(packets <= 8, packets, 8 + 2 * np.log2(np.maximum(packets, 8) / 8))
        .astype(np.int64)
        .clip(0, PACKET_CELLS - 1),
        "octets": np.concatenate(
            [
                _by_octets(rates),
                OCTET_CELLS // 2 + _by_octets(alone),
                _by_octets(octets.bins.quantiles.mean(axis=1) / 1e3),
            ]
        ),
        "duration": np.where(seconds > 0, 1 + 4 * (3 + np.log10(np.maximum(seconds, 1e-3))), 0)
        .astype(np.int64)
        .clip(0, TIME_CELLS - 1),
    }


def _by_octets(values: NDArray[np.floating] | NDArray[np.integer]) -> NDArray[np.int64]:
    return np.asarray(np.clip(8 * np.log10(np.maximum(values, 1)), 0, OCTET_CELLS // 2 - 1), np.int64)


def _values(counts: Counts) -> NDArray[np.float64]:
    return np.maximum(counts.usual(), 0) * counts.quantum


def _one_record(flows: FlowConversations) -> NDArray[np.int64]:
    """One record of each conversation (n,), any, by what the conversation itself has."""
    first = flows.first
    mixed = flows.records.flow_start_ns[first] // 1_000_000 + 7919 * flows.client_port
    return np.asarray(first + mixed % flows.record_count, np.int64)
