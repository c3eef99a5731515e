"""Flow records of a chunk, drawn: conversations in runs side by side, then the records of all of them at once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from nsstream.encode.flow_codec import FlowCodec
from nsstream.encode.flow_encoding import (
    family_of_services,
    hosts_by_family,
    moment_of,
    place_by_size,
    place_of,
    running_tokens,
    start_features,
)
from nsstream.encode.flow_schema import ATTRIBUTE_INDEX, ATTRIBUTES, BY_SIZE, FIELD_INDEX, FIELDS, PEERS, RARE_PORT
from nsstream.model.flow_networks import ConversationNetwork, RecordNetwork
from nsstream.model.flow_urns import DrawingUrns, Seen
from nsstream.model.settle_ends import settle_ends
from nsstream.model.settle_loads import settle_loads
from nsstream.model.settle_sizes import settle_sizes
from nsstream.trace.fields import TCP

RUN: Final = 128  # conversations drawn one after the other
MOST_RUNS: Final = 1024  # side by side
ROWS: Final = 4096  # conversations whose records are drawn at a time
_SERVICE: Final = ATTRIBUTE_INDEX["service"]
_CLIENT: Final = ATTRIBUTE_INDEX["client"]
_SERVER: Final = ATTRIBUTE_INDEX["server"]
_LABEL: Final = ATTRIBUTE_INDEX["label"]
_SPELT: Final = tuple(ATTRIBUTE_INDEX[name] for name in ("service_port_high", "service_port_low"))


@dataclass(frozen=True)
class Wanted:
    """Which conversations to draw.

    Attributes:
        rows: (n,) places in the chunk's order of starts, rising.
        labels, services: masks of the tokens that may be said; None: all.
    """

    rows: NDArray[np.int64]
    labels: NDArray[np.bool_] | None = None
    services: NDArray[np.bool_] | None = None


def full_urns(conversations: ConversationNetwork, records: RecordNetwork, codec: FlowCodec) -> DrawingUrns:
    """The urns of a drawing of the whole chunk."""
    shown = {name: conversations.heads.shown(i).numpy() for name, i in ATTRIBUTE_INDEX.items()}
    return DrawingUrns(codec, shown | {name: records.heads.shown(i).numpy() for name, i in FIELD_INDEX.items()})


@torch.no_grad()
def draw_conversations(
    network: ConversationNetwork,
    codec: FlowCodec,
    wanted: Wanted,
    generator: torch.Generator,
    urns: DrawingUrns | None = None,
    run: int = RUN,
) -> NDArray[np.int64]:
    """Attributes (n, a) of the wanted conversations, in order of start, about so many one after the other.

    Of all of a chunk's, from urns where those are given.
    """
    heads, n = network.heads, len(wanted.rows)
    runs = int(np.clip(n // run, 1, MOST_RUNS))
    length = -(-n // runs)
    at = np.arange(runs)[:, None] * length + np.arange(length)
    rows = wanted.rows[np.minimum(at, n - 1)]
    features = torch.from_numpy(start_features(rows.ravel(), codec)).view(runs, length, -1)
    moment = torch.from_numpy(moment_of(rows, codec.conversation_count))
    law = _AttributeLaw(network, codec, wanted)
    out = torch.zeros(runs, length, len(ATTRIBUTES), dtype=torch.int64)
    state, summary = torch.zeros(1, runs, network.width), torch.zeros(runs, 1, network.width)
    for step in range(length):
        known, state = network.history(summary, state)
        known = known[:, 0] + network.start(features[:, step])
        tokens, summary = out[:, step], torch.zeros(runs, network.width)
        for i, name in enumerate(ATTRIBUTES):
            choose = None
            if urns is not None:
                choose = partial(urns.draw_attribute, name, tokens, rows[:, step], generator)
            tokens[:, i] = heads.say(i, known, tokens, moment[:, step], generator, law.may(i, tokens), choose)
            said = heads.hear(i, tokens[:, i])
            known, summary = known + said, summary + said
        summary = summary[:, None]
    return out.view(-1, len(ATTRIBUTES))[:n].numpy()


class _AttributeLaw:
    """Which of the shown tokens an attribute may have: what is wanted, and hosts of the service's IP version.

    A port is spelt out where the service's is rare, and nowhere else.
    """

    def __init__(self, network: ConversationNetwork, codec: FlowCodec, wanted: Wanted) -> None:
        shown = network.heads.shown
        hosts = hosts_by_family(codec)
        self._family = torch.from_numpy(family_of_services(codec))
        self._clients = torch.from_numpy(hosts)[:, shown(_CLIENT)]
        peers = np.ones((2, PEERS), bool)
        self._servers = torch.from_numpy(np.concatenate([peers, hosts], axis=1))[:, shown(_SERVER)]
        self._is_rare = torch.from_numpy(codec.service.table()[:, -1] == RARE_PORT)
        self._spells = {i: shown(i) > 0 for i in _SPELT}
        self._given: dict[int, torch.Tensor] = {}
        for i, mask in ((_LABEL, wanted.labels), (_SERVICE, wanted.services)):
            if mask is not None:
                self._given[i] = torch.from_numpy(mask)[shown(i)]

    def may(self, i: int, tokens: torch.Tensor) -> torch.Tensor | None:
        """Mask (n, shown) or (shown,) of attribute i after the tokens (n, a) before it."""
        if i == _CLIENT:
            return self._clients[self._family[tokens[:, _SERVICE]]]
        if i == _SERVER:
            return self._servers[self._family[tokens[:, _SERVICE]]]
        if i in self._spells:
            return self._spells[i] == self._is_rare[tokens[:, _SERVICE], None]
        return self._given.get(i)


@dataclass(frozen=True)
class DrawnRecords:
    """Records of n conversations.

    Attributes:
        offset: (n + 1,) ragged rows.
        fields: (m, f) tokens.
        start_ns: (m,).
    """

    offset: NDArray[np.int64]
    fields: NDArray[np.int64]
    start_ns: NDArray[np.int64]


@torch.no_grad()
def draw_records(
    network: RecordNetwork,
    codec: FlowCodec,
    attributes: NDArray[np.int64],
    start_ns: NDArray[np.int64],
    counts: NDArray[np.int64],
    rng: np.random.Generator,
    generator: torch.Generator,
    urns: DrawingUrns | None = None,
) -> DrawnRecords:
    """Draw the records of conversations with these attributes (n, a), starts (n,) and numbers of records (n,).

    Where urns are given, these are all conversations of a chunk.
    """
    offset = np.concatenate([[0], np.cumsum(counts)])
    fields = np.zeros((int(offset[-1]), len(FIELDS)), np.int64)
    starts = np.zeros(len(fields), np.int64)
    order = np.lexsort((rng.random(len(counts)), -counts))  # no hour takes first what the urns hold
    law = _RecordLaw(network, codec)
    for begin in range(0, len(order), ROWS):
        rows = order[begin : begin + ROWS]
        described = network.describe(torch.from_numpy(attributes[rows]))
        protocol = codec.service.table()[attributes[rows, _SERVICE], 0]
        state = torch.zeros(1, len(rows), network.width)
        before = network.nothing.expand(len(rows), -1)
        now, total = start_ns[rows].copy(), counts[rows]
        for index in range(int(total.max(initial=0))):
            k = int((total > index).sum())  # sorted by count: the first k go on
            position = np.full(k, index)
            running = running_tokens(position, total[:k], codec.last_ns - now[:k])
            read = network.inputs(described[:k], before[:k, None], torch.from_numpy(running)[:, None])
            h, state = network.recur(read, state[:, :k].contiguous())
            seen = None if urns is None else Seen(attributes[rows[:k]], now[:k], urns, generator)
            tokens, before = _say(network, h[:, 0] + read[:, 0], law, index, protocol[:k], generator, seen)
            if index:
                gap = codec.gap.draw(tokens[:, FIELD_INDEX["gap"]].numpy(), rng)
                left = np.maximum(codec.last_ns - codec.tail_ns - now[:k], 0)
                even = (left * rng.random(k) * 2 / (total[:k] - index + 1)).astype(np.int64)
                now[:k] += np.where(gap <= left, gap, np.minimum(even, left)) // codec.tick_ns * codec.tick_ns
            fields[offset[rows[:k]] + index] = tokens.numpy()
            starts[offset[rows[:k]] + index] = now[:k]
    if urns is not None:
        before_ns = np.append(start_ns[:1], starts[:-1])
        before_ns[offset[:-1]] = start_ns
        of_records = np.repeat(attributes, counts, axis=0)
        settle_sizes(fields, of_records, before_ns, codec, urns, rng)
        kind = urns.rows_of_kind("packets", fields, of_records)
        settle_ends(fields, kind, starts, np.repeat(counts == 1, counts), codec)
        if len(codec.loads):
            settle_loads(fields, of_records, kind, codec, rng)
    return DrawnRecords(offset, fields, starts)


def _say(
    network: RecordNetwork,
    known: torch.Tensor,
    law: _RecordLaw,
    index: int,
    protocol: NDArray[np.int64],
    generator: torch.Generator,
    seen: Seen | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One record a conversation: tokens (n, f) and their embedding (n, d)."""
    heads = network.heads
    tokens = torch.zeros(len(known), len(FIELDS), dtype=torch.int64)
    total = torch.zeros_like(known)
    place = torch.from_numpy(place_of(np.full(len(known), index), protocol))
    for i, name in enumerate(FIELDS):
        if name == BY_SIZE[0]:
            place = torch.from_numpy(place_by_size(tokens.numpy(), protocol, law.codec))
        if index or name not in ("is_reverse", "gap"):
            choose = None if seen is None else partial(seen.choose, name, tokens)
            tokens[:, i] = heads.say(i, known, tokens, place, generator, law.may(name, tokens, protocol), choose)
        said = heads.hear(i, tokens[:, i])
        known, total = known + said, total + said
    return tokens, total


class _RecordLaw:
    """Which of the shown tokens a field may have: TCP flags for TCP alone, and a packet at least in one direction."""

    def __init__(self, network: RecordNetwork, codec: FlowCodec) -> None:
        self.codec = codec
        flags = codec.flags.table()
        shown = network.heads.shown(FIELD_INDEX["flags"])
        self._no_flags = torch.from_numpy((flags == 0).all(axis=1))[shown]
        self._is_zero = torch.from_numpy(codec.packets.is_zero())
        reverse = torch.from_numpy(codec.reverse_packets.is_zero())
        self._some = ~reverse[network.heads.shown(FIELD_INDEX["reverse_packets"])]

    def may(self, name: str, tokens: torch.Tensor, protocol: NDArray[np.int64]) -> torch.Tensor | None:
        """Mask (n, shown) of a field after the tokens (n, f) before it; None: all may be."""
        if name == "flags":
            return torch.from_numpy(protocol == TCP)[:, None] | self._no_flags
        if name == "reverse_packets":
            has_some = ~self._is_zero[tokens[:, FIELD_INDEX["packets"]]]
            return has_some[:, None] | self._some
        return None
