"""What is counted of private flow records: one vector of whole numbers, each unit's part of it bounded, noised once.

    conversations | by moment | clients | by service | by server | by client port | by length | packets | octets | time

Each block but `clients` adds one a conversation; of the last three, which are of one record of it, in a place that says
what they go with. A unit has at most so many conversations, so its part of a block is at most that long (l2), and of
all blocks sqrt(blocks) times that. `clients` has, of hosts, one entry a unit, as large as a full unit's conversations:
how many conversations it has, all that it has. So many clients are as busy as that is known far better than anything
else. Of flows it has the buckets that their clients fall into.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from nsstream.encode.flow_codec import FlowCodec, host_values
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
)
from nsstream.encode.flow_values import Counts
from nsstream.encode.public_flow_codec import ROLE_SLOTS, bucket_of
from nsstream.train.private_units import Units

PORTS: Final = 1024  # client ports that are counted together
RECORD_PLACES: Final = 9  # of `place_of`
PACKET_CELLS: Final = 48
OCTET_CELLS: Final = 80
TIME_CELLS: Final = 44
WAYS: Final = 2  # a record goes as the first one did, or back
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
}
BUSY: Final = np.unique(np.concatenate([np.arange(1, 5), np.rint(4 * 2 ** (np.arange(1, 37) / 2))])).astype(np.int64)
_DOUBT: Final = 100  # chunks, in fewer than one of which noise alone makes a cell that is believed
_FEWEST: Final = 16  # conversations that a chunk is taken to have at least
_MOST: Final = 1 << 21

Noisy = Callable[[NDArray[np.int64], float, float], NDArray[np.int64]]  # counts, noise multiplier, sensitivity


@dataclass(frozen=True)
class FlowCounts:
    """The noisy vector by block, and the noise's standard deviation; nothing else is known of the records.

    Attributes:
        blocks: as of `SIZES`, floats.
        std: of each number.
        units: how many there are about.
        total: conversations, all that units have.
        busy: (k,) conversations of clients that are counted by themselves, the busiest first; empty for flows.
    """

    blocks: dict[str, NDArray[np.float64]]
    std: float
    units: float
    total: int
    busy: NDArray[np.int64]


def sensitivity(most: int) -> float:
    """The most that one unit with so many conversations changes the vector, in l2."""
    return most * math.sqrt(len(SIZES))


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
    said = {
        "conversations": np.zeros(len(flows), np.int64),
        "moments": np.clip((part * MOMENTS).astype(np.int64), 0, MOMENTS - 1),
        "clients": bucket_of(host_values(flows, 0)),
        "service": tokens.attributes[:, ATTRIBUTE_INDEX["service"]],
        "server": tokens.attributes[:, ATTRIBUTE_INDEX["server"]],
        "client_port": attribute_cells(codec)["client_port"][tokens.attributes[:, ATTRIBUTE_INDEX["client_port"]]],
        "record_count": tokens.attributes[:, ATTRIBUTE_INDEX["record_count"]],
        "packets": places * PACKET_CELLS + cells["packets"][fields[:, FIELD_INDEX["packets"]]],
        "octets": by_size * OCTET_CELLS + cells["octets"][fields[:, FIELD_INDEX["octets"]]],
        "duration": by_size * TIME_CELLS + cells["duration"][fields[:, FIELD_INDEX["duration"]]],
    }
    counted = {name: np.bincount(said[name], minlength=size) for name, size in SIZES.items()}
    if unit == "host":
        cell = np.searchsorted(BUSY, all_of_each, side="right") - 1
        counted["clients"] = most * np.bincount(cell, minlength=SIZES["clients"])
    return np.concatenate([counted[name] for name in SIZES]).astype(np.int64)


def read_counts(
    noisy: NDArray[np.int64], noise_multiplier: float, unit: Literal["host", "flow"], most: int
) -> FlowCounts:
    """What the noisy vector says."""
    std = noise_multiplier * sensitivity(most)
    parts = np.split(noisy.astype(np.float64), np.cumsum(list(SIZES.values()))[:-1])
    blocks = dict(zip(SIZES, parts, strict=True))
    kept = float(blocks["conversations"][0])
    busy, units = np.zeros(0, np.int64), kept
    if unit == "host":
        clients = blocks["clients"][: len(BUSY)] / most
        units = float(clients.sum())
        sizes = np.sqrt(BUSY * np.append(BUSY[1:] - 1, 2 * BUSY[-1]).astype(np.float64))
        believed = np.rint(np.where(clients > hidden(std / most, len(BUSY)), clients, 0.0)).astype(np.int64)
        busy = np.repeat(np.rint(sizes).astype(np.int64), believed)[::-1]
    total = int(np.clip(round(max(kept, float(busy.sum()))), _FEWEST, _MOST))
    return FlowCounts(blocks, std, float(np.clip(units, 1.0, _MOST)), total, busy[:_MOST])


def settle(noisy: NDArray[np.float64], expected: NDArray[np.float64], std: float, total: float) -> NDArray[np.float64]:
    """Counts (c,) of a sum `total` by what is noisy and what is expected in these shares, as they deserve.

    A cell is expected to be as it was, give or take as much; one that was not expected is believed beyond all that
    noise alone is likely to make.
    """
    expected = expected * (total / max(float(expected.sum()), 1e-9))
    trust = expected**2 / (expected**2 + std**2)
    fresh = np.where(noisy > hidden(std, len(noisy)), noisy, 0.0)
    told = np.where(expected > 0, np.maximum(expected + trust * (noisy - expected), fresh), fresh)
    told = np.maximum(told, 0.0)
    return np.asarray(told * (total / told.sum()) if told.sum() > 0 else expected, np.float64)


def hidden(std: float, cells: int) -> float:
    """How large a count of so many cells noise alone is unlikely to make."""
    return std * math.sqrt(2 * math.log(_DOUBT * cells))


def attribute_cells(codec: FlowCodec) -> dict[str, NDArray[np.int64]]:
    """The cell of each token of an attribute that is counted, but for service and client."""
    named = codec.port.table()[:, 0]
    ports = np.where(named < 1024, np.arange(PORT_SLOTS), PORT_SLOTS + np.maximum(named, 0) // PORTS)
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
    atoms = np.maximum(counts.atoms.table()[:, 0], 0)
    return np.asarray(np.concatenate([atoms, counts.bins.quantiles.mean(axis=1)]) * counts.quantum, np.float64)


def _one_record(flows: FlowConversations) -> NDArray[np.int64]:
    """One record of each conversation (n,), any, by what the conversation itself has."""
    first = flows.first
    mixed = flows.records.flow_start_ns[first] // 1_000_000 + 7919 * flows.client_port
    return np.asarray(first + mixed % flows.record_count, np.int64)
