"""A public flow seed's networks made ready to be learned privately: what tells of other units' conversations is silent.

Every change is of weights, by public values alone. What conversations were before says nothing (the recurrence over
them gives zeros), nor does when one starts, nor who its hosts are: made-up hosts mean the same, all of them. What heads
say by features of tokens (`Heads.lean`) becomes part of their weights, so that each is one linear layer. Tokens that
the seed never said get weights from those nearest to them, and are less likely.
"""

from __future__ import annotations

from typing import Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nsstream.encode.flow_codec import BINS, COUNTS, FlowCodec
from nsstream.encode.flow_encoding import allowed_attributes, allowed_fields
from nsstream.encode.flow_schema import (
    ATTRIBUTE_INDEX,
    FIELD_INDEX,
    FIELDS,
    FRESH,
    NARROW_KNOWS,
    PEERS,
)
from nsstream.model.flow_checkpoint import FlowModel, new_flow_networks, show_chunk
from nsstream.model.flow_networks import ConversationNetwork, Heads, RecordNetwork
from nsstream.train.calibrate import reset_corrections

UNSEEN: Final = 3.0  # nats that a token which the seed never said is less likely by than the one nearest to it,
FURTHER: Final = 0.3  # and for each bin between them,
NEARER: Final = 0.1  # of what is counted: there counts say how far one may go
APART: Final = 0.5  # how far from each other services that the seed never said start, of how far its own are
_COUNTED: Final = ("packets", "octets", "duration")
_BINNED: Final = ("gap", "packets", "reverse_packets", "octets", "reverse_octets", "duration")


@torch.no_grad()
def networks_of(parent: FlowModel, codec: FlowCodec) -> nn.ModuleDict:
    """Networks (in evaluation mode) of a seed, for the public codec of a private chunk."""
    networks = new_flow_networks()
    halves = nn.ModuleDict({"conversations": parent.conversations, "records": parent.records})
    networks.load_state_dict(halves.state_dict())
    reset_corrections(networks)
    conversations = cast(ConversationNetwork, networks["conversations"])
    records = cast(RecordNetwork, networks["records"])
    had = allowed_attributes(parent.codec), allowed_fields(parent.codec)
    show_chunk(networks, codec)
    for heads in (conversations.heads, records.heads):
        _fold(heads)
    _start_services(conversations, records, parent.codec, codec)
    _start_ports(conversations, records, had[0]["client_port"])
    _start_hosts(conversations, records, had[0])
    _start_bins(records.heads, had[1])
    for weight in conversations.history.parameters():
        weight.zero_()
    usual = conversations.start.weight[:, 2:].mean(dim=1)
    conversations.start.weight.zero_()
    conversations.start.bias.add_(usual)
    gap = ATTRIBUTE_INDEX["start_gap"]
    _average(conversations.heads.said[gap], had[0]["start_gap"])
    conversations.heads.feel[gap].zero_()
    _average(records.attribute[gap], had[0]["start_gap"])
    show_chunk(networks, codec)
    return networks.eval()


def _fold(heads: Heads) -> None:
    """Make what is said by features a part of the head's weights."""
    for i, head in enumerate(heads.head):
        features = heads.features(i)
        layer, lean = cast(nn.Linear, head), cast(nn.Linear, heads.lean[i])
        if features is not None:
            layer.weight.add_(features @ lean.weight)
            layer.bias.add_(features @ lean.bias)
        lean.weight.zero_()
        lean.bias.zero_()


def _start_services(
    conversations: ConversationNetwork, records: RecordNetwork, seed: FlowCodec, codec: FlowCodec
) -> None:
    """Services that the seed did not have start near the mean of its own of their protocol, or of all.

    Near it, not at it: or else no head could tell one of them from the other.
    """
    i = ATTRIBUTE_INDEX["service"]
    narrow = cast(nn.Embedding, conversations.heads.narrow_said[NARROW_KNOWS.index("service")]).weight
    head = cast(nn.Linear, conversations.heads.head[i])
    meanings = [
        cast(nn.Embedding, conversations.heads.said[i]).weight, cast(nn.Embedding, records.attribute[i]).weight, narrow,
    ]  # fmt: skip
    tables = [*meanings, head.weight, head.bias]
    apart = torch.Generator().manual_seed(19)
    protocol = codec.service.table()[:, 0]
    used = seed.service.is_active()
    fresh = codec.service.is_active() & ~used
    for number in np.unique(protocol[fresh]):
        like = used & (protocol == number)
        like = like if like.any() else used
        rows = torch.from_numpy(fresh & (protocol == number))
        for table in tables:
            table[rows] = table[torch.from_numpy(like)].mean(dim=0)
    for table in meanings:
        spread = APART * table[torch.from_numpy(used)].std(dim=0, correction=0)
        table[torch.from_numpy(fresh)] += spread * torch.randn(int(fresh.sum()), len(spread), generator=apart)
    head.bias[torch.from_numpy(fresh)] -= UNSEEN


def _start_ports(conversations: ConversationNetwork, records: RecordNetwork, had: NDArray[np.bool_]) -> None:
    """Ports of clients that the seed did not have say and mean what those of the seed do on the average."""
    i = ATTRIBUTE_INDEX["client_port"]
    layer, heads = cast(nn.Linear, conversations.heads.head[i]), conversations.heads
    fresh = heads.shown(i).numpy()
    fresh = fresh[~had[fresh]]
    if had.any() and len(fresh):
        meanings = [cast(nn.Embedding, heads.said[i]).weight, cast(nn.Embedding, records.attribute[i]).weight]
        for table in (*meanings, layer.weight, layer.bias):
            table[torch.from_numpy(fresh)] = table[torch.from_numpy(had)].mean(dim=0)


def _start_hosts(conversations: ConversationNetwork, records: RecordNetwork, had: dict[str, NDArray[np.bool_]]) -> None:
    """Slots of hosts say and mean what those of the seed do on the average."""
    heads = conversations.heads
    for name, begin in (("client", 0), ("server", PEERS)):
        i = ATTRIBUTE_INDEX[name]
        slots = np.zeros(len(had[name]), bool)
        slots[begin : begin + FRESH] = True
        layer = cast(nn.Linear, heads.head[i])
        tables = [cast(nn.Embedding, heads.said[i]).weight, cast(nn.Embedding, records.attribute[i]).weight]
        tables += [layer.weight, layer.bias]
        if name in NARROW_KNOWS:
            tables.append(cast(nn.Embedding, heads.narrow_said[NARROW_KNOWS.index(name)]).weight)
        used = slots & had[name]
        used = used if used.any() else slots
        for table in tables:
            table[torch.from_numpy(slots)] = table[torch.from_numpy(used)].mean(dim=0)


def _start_bins(heads: Heads, had: dict[str, NDArray[np.bool_]]) -> None:
    """Bins that the seed never showed start from the nearest that it did."""
    for name in _BINNED:
        i = FIELD_INDEX[name]
        layer, seen = cast(nn.Linear, heads.head[i]), had[name]
        may = heads.shown(i).numpy()
        first = FIELDS[name] - _bins_of(name)
        known = np.flatnonzero(seen[first:]) + first
        unseen = may[(may >= first) & ~seen[may]]
        if not len(known) or not len(unseen):
            continue
        away = np.abs(unseen[:, None] - known)
        nearest, steps = known[away.argmin(axis=1)], away.min(axis=1)
        layer.weight[torch.from_numpy(unseen)] = layer.weight[torch.from_numpy(nearest)]
        less = torch.from_numpy((UNSEEN + (NEARER if name in _COUNTED else FURTHER) * steps).astype(np.float32))
        layer.bias[torch.from_numpy(unseen)] = layer.bias[torch.from_numpy(nearest)] - less


def _bins_of(name: str) -> int:
    return len(BINS[name] if name in BINS else COUNTS[name][0])


def _average(table: nn.Module, had: NDArray[np.bool_]) -> None:
    weight = cast(nn.Embedding, table).weight
    weight[:] = weight[torch.from_numpy(had)].mean(dim=0) if had.any() else 0.0
