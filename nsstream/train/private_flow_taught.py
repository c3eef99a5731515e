"""Which pairs a private flow model is taught by the noisy vector: what goes with the class of a conversation's service.

Of conversations which side begins and how many records there are; of records whether there is an answer, and by their
kind packets, then octets and duration, each given what the network said before it in the very row.
"""

from __future__ import annotations

from typing import Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nsstream.encode.flow_codec import FlowCodec
from nsstream.encode.flow_encoding import FlowTokens, place_by_size, place_of, running_tokens
from nsstream.encode.flow_schema import (
    ATTRIBUTE_INDEX,
    ATTRIBUTES,
    BY_SIZE,
    FIELDS,
    FRESH,
    LAG,
    LAGS,
    PEERS,
    RARE_PORT,
    START_FEATURES,
)
from nsstream.encode.public_flow_codec import ROLE_SLOTS, SERVERS
from nsstream.encode.service_classes import SERVICE_CLASSES, service_classes
from nsstream.model.flow_networks import ConversationNetwork, RecordNetwork
from nsstream.model.flow_sample import DrawnRecords
from nsstream.train.private_flow_counts import CLIENT_GROUPS, KINDS, SPANS, field_cells
from nsstream.train.private_flow_heads import record_states
from nsstream.train.private_flow_pairs import Pairs, teach
from nsstream.train.private_flow_told import FlowCounts, rare_servers
from nsstream.train.private_settle import hidden

_SPANS: Final = int(SPANS[-1]) + 1
_SERVER_STEPS: Final = 160  # who asks whom is far from what the seed says


def teach_ways(network: ConversationNetwork, codec: FlowCodec, counts: FlowCounts, drawn: NDArray[np.int64]) -> None:
    """Teach, by drawn attributes (n, a), which side begins and how many records there are."""
    classes = _classes(drawn, codec)
    ways = counts.blocks["ways"].reshape(SERVICE_CLASSES, 2, 2, -1)
    known, tokens = network.start.bias.expand(len(drawn), -1), torch.from_numpy(drawn)
    for i, name in enumerate(ATTRIBUTES):
        if name == "server":
            _teach_servers(network, counts, drawn, network.heads.read(i, known, tokens))
        if name in ("service_first", "record_count"):
            noisy = ways.sum(axis=(2, 3) if name == "service_first" else (1, 2))
            shown = network.heads.shown(i)
            teach(
                Pairs(
                    layer=cast(nn.Linear, network.heads.head[i]),
                    shown=shown,
                    reads=network.heads.read(i, known, tokens),
                    extra=network.heads.correction[i][:1, shown].expand(len(drawn), -1),
                    said=drawn[:, i],
                    group=classes,
                    cell=np.arange(ATTRIBUTES[name]),
                    noisy=noisy,
                    std=counts.std * float(np.sqrt(ways[0].size / noisy.shape[1])),
                )
            )
        known = known + network.heads.hear(i, tokens[:, i])


def _teach_servers(network: ConversationNetwork, counts: FlowCounts, drawn: NDArray[np.int64], reads: Tensor) -> None:
    """Teach who asks popular servers: each group of clients that has a popular one, and all others together."""
    i = ATTRIBUTE_INDEX["server"]
    often = np.flatnonzero(counts.servers > 0)
    if not len(often):
        return
    groups = np.unique(np.flatnonzero(counts.clients > 0) % CLIENT_GROUPS)
    noisy = counts.blocks["peers"].reshape(CLIENT_GROUPS, -1)
    rest = np.setdiff1d(np.arange(CLIENT_GROUPS), groups)
    rows = np.concatenate([noisy[groups], noisy[rest].sum(axis=0, keepdims=True)])
    std = counts.std * np.sqrt(np.append(np.ones(len(groups)), max(len(rest), 1)))
    usual = np.median(rows, axis=1, keepdims=True)
    told = np.where(rows[:, often] > (hidden(1.0, rows[:, often].size) * std)[:, None], rows[:, often] - usual, 0.0)
    of_popular = np.bincount(np.flatnonzero(counts.clients > 0) % CLIENT_GROUPS, counts.clients[counts.clients > 0])
    others = max(float(counts.blocks["conversations"][0] - counts.clients.sum()), 0.0) / CLIENT_GROUPS
    of_group = np.append(of_popular[groups] + others, others * len(rest))  # known better than the sum of a noisy row
    rare = rare_servers(counts)
    of_rare = np.maximum(of_group - told.sum(axis=1), 0.0)[:, None] * rare / max(sum(rare), 1.0)
    table = np.concatenate([np.zeros((len(rows), 1)), of_rare, told], axis=1)
    cell = np.zeros(ATTRIBUTES["server"], np.int64)
    cell[PEERS + FRESH], cell[PEERS + LAG : PEERS + LAG + LAGS] = 1, 2
    cell[PEERS + SERVERS + often] = 3 + np.arange(len(often))
    client = drawn[:, ATTRIBUTE_INDEX["client"]]
    bucket = np.minimum(client, ROLE_SLOTS - 1)
    is_popular = (client < ROLE_SLOTS) & (counts.clients[bucket] > 0)
    shown = network.heads.shown(i)
    teach(
        Pairs(
            layer=cast(nn.Linear, network.heads.head[i]),
            shown=shown,
            reads=reads,
            extra=network.heads.correction[i][:1, shown].expand(len(drawn), -1),
            said=drawn[:, i],
            group=np.where(is_popular, np.searchsorted(groups, bucket % CLIENT_GROUPS), len(groups)),
            cell=cell,
            noisy=table,
            std=counts.std,
        ),
        steps=_SERVER_STEPS,
    )


def teach_records(
    network: RecordNetwork,
    codec: FlowCodec,
    counts: FlowCounts,
    attributes: NDArray[np.int64],
    drawn: DrawnRecords,
    rng: np.random.Generator,
) -> None:
    """Teach, by drawn records of conversations with these attributes (n, a), what their fields are."""
    length = np.diff(drawn.offset)
    owner = np.repeat(np.arange(len(length)), length)
    index = np.arange(len(owner)) - drawn.offset[owner]
    one = drawn.offset[:-1] + (rng.random(len(length)) * length).astype(np.int64)
    second = np.flatnonzero(index == 1)
    chosen = np.union1d(one, second)
    running = running_tokens(index, length[owner], codec.last_ns - drawn.start_ns)
    features = np.zeros((len(length), START_FEATURES), np.float32)
    tokens = FlowTokens(attributes, features, drawn.offset, drawn.fields, running)
    known = record_states(network, tokens, chosen)
    said, owner, index = drawn.fields[chosen], owner[chosen], index[chosen]
    fields = torch.from_numpy(said)
    protocol = codec.service.table()[attributes[owner, ATTRIBUTE_INDEX["service"]], 0]
    places = place_of(index, protocol), place_by_size(said, protocol, codec)
    classes = _classes(attributes, codec)[owner]
    from_service = (attributes[owner, ATTRIBUTE_INDEX["service_first"]] == 1) ^ (said[:, 0] == 1)
    kinds = 2 * classes + from_service
    spans = kinds * _SPANS + SPANS[places[1] // 3]
    cells = field_cells(codec) | {"is_reverse": np.arange(2)}
    ways = counts.blocks["ways"].reshape(SERVICE_CLASSES, 2, 2, -1)
    answers = ways[..., 1:].sum(axis=(1, 3))
    asked = {
        "is_reverse": (np.isin(chosen, second), classes, answers, counts.std * float(np.sqrt(ways[0, :, 0, 1:].size))),
        "packets": (np.isin(chosen, one), kinds, counts.blocks["kind_packets"].reshape(KINDS, -1), counts.std),
        "octets": (np.isin(chosen, one), spans, counts.blocks["kind_octets"].reshape(KINDS * _SPANS, -1), counts.std),
        "duration": (
            np.isin(chosen, one), spans, counts.blocks["kind_duration"].reshape(KINDS * _SPANS, -1), counts.std,
        ),
    }  # fmt: skip
    for i, name in enumerate(FIELDS):
        if name in asked:
            is_in, group, noisy, std = asked[name]
            rows, shown = torch.from_numpy(np.flatnonzero(is_in)), network.heads.shown(i)
            place = torch.from_numpy(places[name in BY_SIZE][is_in])
            teach(
                Pairs(
                    layer=cast(nn.Linear, network.heads.head[i]),
                    shown=shown,
                    reads=network.heads.read(i, known[rows], fields[rows]),
                    extra=network.heads.correction[i][:, shown][place],
                    said=said[is_in, i],
                    group=group[is_in],
                    cell=cells[name],
                    noisy=noisy,
                    std=std,
                )
            )
        known = known + network.heads.hear(i, fields[:, i])


def _classes(attributes: NDArray[np.int64], codec: FlowCodec) -> NDArray[np.int64]:
    services = codec.service.table()[attributes[:, ATTRIBUTE_INDEX["service"]]]
    high, low = (attributes[:, ATTRIBUTE_INDEX[f"service_port_{octet}"]] - 1 for octet in ("high", "low"))
    spelt = np.maximum(high, 0) << 8 | np.maximum(low, 0)
    services[:, 2] = np.where(services[:, 2] == RARE_PORT, spelt, services[:, 2])
    return service_classes(services)
