"""What is learned privately of flow records: low-rank changes of heads, on what the frozen public networks read.

As of packets (`private_heads`), whose head, loss and clipped gradients these are. The seed's networks read each record
once, those before it in its conversation too; a unit's gradient is then a product of small matrices, without a loop
over time. The client is not learned (its popularity is counted, `private_flow_counts`), nor are starts and labels.
"""

from __future__ import annotations

from typing import Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nsstream.encode.flow_codec import FlowCodec
from nsstream.encode.flow_encoding import FlowTokens
from nsstream.encode.flow_schema import ATTRIBUTE_INDEX, ATTRIBUTES, FIELD_INDEX, FIELDS, PEERS, RARE_PORT
from nsstream.encode.public_flow_codec import SERVERS
from nsstream.model.flow_networks import ConversationNetwork, Heads, RecordNetwork
from nsstream.train.flow_batches import cut_record_windows, record_batch
from nsstream.train.private_chance import Chance
from nsstream.train.private_heads import Lesson, PrivateHead
from nsstream.train.private_units import Units

NOT_LEARNED: Final = ("label", "start_gap", "client")
WINDOWS: Final = 2  # of a conversation that are read
_AT_ONCE: Final = 64  # windows
_SPELT: Final = ("service_port_high", "service_port_low")
_SERVERS: Final = PEERS + SERVERS


def private_flow_heads(networks: nn.ModuleDict, rank: int) -> nn.ModuleDict:
    """The heads that are learned, by name; those of attributes and of fields have no name in common."""
    heads: dict[str, nn.Module] = {}
    for network, names in ((networks["conversations"], ATTRIBUTES), (networks["records"], FIELDS)):
        said = cast(Heads, network.heads)
        for i, name in enumerate(names):
            may = said.shown(i).numpy()
            if name == "server":
                may = may[(may < PEERS) | (may >= _SERVERS) & (may < PEERS + 2 * SERVERS)]
            if name not in NOT_LEARNED and len(may) > 1:
                heads[name] = PrivateHead(cast(nn.Linear, said.head[i]), may, rank)
    return nn.ModuleDict(heads)


@torch.no_grad()
def flow_lessons_of(
    networks: nn.ModuleDict,
    heads: nn.ModuleDict,
    tokens: FlowTokens,
    units: Units,
    codec: FlowCodec,
    most_records: int,
    chance: Chance,
) -> dict[str, Lesson]:
    """What each head is to say of the units' conversations `tokens`; of records at most so many a unit, by lot.

    A unit's losses add up to its conversations' count for each attribute, and for its records all together.
    """
    conversations = cast(ConversationNetwork, networks["conversations"])
    records = cast(RecordNetwork, networks["records"])
    out = _of_attributes(conversations, heads, tokens, units, codec)
    chosen = _choose_records(tokens, units, most_records, chance)
    conversation = np.searchsorted(tokens.offset, chosen, side="right") - 1
    owner = units.owner[conversation]
    order = np.argsort(owner, kind="stable")
    chosen, owner, conversation = chosen[order], owner[order], conversation[order]
    known = record_states(records, tokens, chosen)
    fields = torch.from_numpy(tokens.fields[chosen])
    share = units.conversation_count[owner] / np.maximum(np.bincount(owner, minlength=len(units)), 1)[owner]
    is_later = chosen > tokens.offset[conversation]
    for name, i in FIELD_INDEX.items():
        if name in heads:
            weight = share * is_later if name in ("is_reverse", "gap") else share
            reads = records.heads.read(i, known, fields)
            out[name] = _lesson(heads, name, reads, tokens.fields[chosen, i], weight, _offsets(owner, len(units)))
        known = known + records.heads.hear(i, fields[:, i])
    return out


def _of_attributes(
    network: ConversationNetwork, heads: nn.ModuleDict, tokens: FlowTokens, units: Units, codec: FlowCodec
) -> dict[str, Lesson]:
    order = np.argsort(units.owner, kind="stable")
    offset = _offsets(units.owner, len(units))
    given = torch.from_numpy(tokens.attributes[order])
    known = network.start(torch.from_numpy(tokens.start_features[order]))
    is_spelt = codec.service.table()[tokens.attributes[order, ATTRIBUTE_INDEX["service"]], 2] == RARE_PORT
    out: dict[str, Lesson] = {}
    for i, name in enumerate(ATTRIBUTES):
        if name in heads:
            weight = is_spelt if name in _SPELT else np.ones(len(order))
            reads = network.heads.read(i, known, given)
            out[name] = _lesson(heads, name, reads, tokens.attributes[order, i], weight, offset)
        known = known + network.heads.hear(i, given[:, i])
    return out


def _lesson(
    heads: nn.ModuleDict,
    name: str,
    reads: Tensor,
    said: NDArray[np.int64],
    weight: NDArray[np.floating] | NDArray[np.bool_],
    offset: NDArray[np.int64],
) -> Lesson:
    tokens = cast(PrivateHead, heads[name]).tokens.numpy()
    at = np.minimum(np.searchsorted(tokens, said), len(tokens) - 1)
    is_known = tokens[at] == said  # what may not be said is not learned
    return Lesson(
        reads=reads,
        said=torch.from_numpy(at),
        weight=torch.from_numpy(np.where(is_known, weight, 0.0).astype(np.float32)),
        offset=offset,
        row=torch.zeros(len(said), dtype=torch.int64),
        extra=torch.zeros(1, len(tokens)),
    )


def _offsets(owner: NDArray[np.int64], units: int) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=units))]).astype(np.int64)


def _choose_records(tokens: FlowTokens, units: Units, most: int, chance: Chance) -> NDArray[np.int64]:
    """At most so many records of each unit, of the first windows of each conversation: rising."""
    windows = _read_windows(tokens)
    read = np.concatenate([np.zeros(0, np.int64), *(np.arange(first, stop) for _, first, stop in windows)])
    owner = np.repeat(units.owner[windows[:, 0]], windows[:, 2] - windows[:, 1])
    order = np.argsort(owner, kind="stable")
    offset = _offsets(owner, len(units))
    kept = [np.zeros(0, np.int64)]
    for u, key in enumerate(units.keys):
        of_unit = read[order[offset[u] : offset[u + 1]]]
        kept.append(of_unit[chance.choose(b"records", key, len(of_unit), most)])
    return np.sort(np.concatenate(kept))


def _read_windows(tokens: FlowTokens) -> NDArray[np.int64]:
    windows = cut_record_windows(tokens, np.arange(len(tokens)))
    place = np.arange(len(windows)) - np.searchsorted(windows[:, 0], windows[:, 0])
    return windows[place < WINDOWS]


def record_states(network: RecordNetwork, tokens: FlowTokens, records: NDArray[np.int64]) -> Tensor:
    """What is known before each of these records (m,) is said: (m, d)."""
    out = torch.zeros(len(records), network.width)
    place = np.full(len(tokens.fields), -1, np.int64)
    place[records] = np.arange(len(records))
    windows = _read_windows(tokens)
    windows = windows[np.argsort(windows[:, 2] - windows[:, 1], kind="stable")]
    for begin in range(0, len(windows), _AT_ONCE):
        chosen = windows[begin : begin + _AT_ONCE]
        states = network.states(*record_batch(tokens, chosen))
        where = place[np.concatenate([np.arange(first, stop) for _, first, stop in chosen])]
        out[torch.from_numpy(where[where >= 0])] = states[torch.from_numpy(where >= 0)]
    return out
