"""What is learned privately: low-rank changes of the networks' last layers, on what their frozen bodies say.

The bodies (embeddings, recurrences, hidden layers) are the public seed's and stay. Of each head, a linear layer W, the
change U P is learned, with P the seed's own r strongest directions (the right singular vectors of W, public), and a
change of the bias. A unit's gradient of U is then a product of two small matrices, the noise has few numbers to fall
on, and the problem is convex. `start_gap`, which tells of the conversation before, and hosts are not learned: private
ones have no slots.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nsstream.encode.codec import Codec
from nsstream.encode.encoding import allowed_attributes, allowed_kinds
from nsstream.encode.schema import ATTRIBUTE_INDEX, ATTRIBUTES, RARE_PORT
from nsstream.encode.tokens import ChunkTokens
from nsstream.model.layout import LAYOUT
from nsstream.model.networks import FORBIDDEN, AttributeNetwork, PacketNetwork
from nsstream.train.batches import WINDOW, cut_windows, packet_batch
from nsstream.train.private_chance import Chance
from nsstream.train.private_units import Units

NOT_LEARNED: Final = ("start_gap", "initiator_host", "responder_host")
WINDOWS: Final = 4  # of a conversation that are read
_AT_ONCE: Final = 32  # windows
_SPELT: Final = ("responder_port_high", "responder_port_low")
_HEARD: Final = tuple(name for name in ATTRIBUTES if name != "start_gap")


@dataclass(frozen=True)
class Lesson:
    """What one head says of the units' conversations: m things, of units rising.

    Attributes:
        reads: (m, d) what the head reads.
        fixed: (m, v) logits that stay, or None where they are the head's own of `reads`.
        said: (m,) the index of what is to be said among the head's v tokens.
        weight: (m,) of its share in its unit's loss; 0: not to be learned.
        offset: (u + 1,) rows of each unit.
        row: (m,) of `extra`; extra: (rows, v) what is added to logits.
    """

    reads: Tensor
    said: Tensor
    weight: Tensor
    offset: NDArray[np.int64]
    row: Tensor
    extra: Tensor


class PrivateHead(nn.Module):
    """One head: the seed's, frozen, and its low-rank change, which is learned.

    Args:
        layer: the head; `keep` alone changes it.
        tokens: those that may be said; rising.
        rank: of the change.
    """

    weight: Tensor
    bias: Tensor
    directions: Tensor

    def __init__(self, layer: nn.Linear, tokens: NDArray[np.int64], rank: int) -> None:
        super().__init__()
        self._layer, self.tokens = [layer], torch.from_numpy(tokens)  # in a list: not a part of this module
        weight, bias = layer.weight.detach()[self.tokens], layer.bias.detach()[self.tokens]
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        directions = torch.linalg.svd(weight.double(), full_matrices=False)[2][: min(rank, *weight.shape)]
        self.register_buffer("directions", directions.float())
        self.change = nn.Linear(len(directions), len(tokens))
        nn.init.zeros_(self.change.weight)
        nn.init.zeros_(self.change.bias)

    def forward(self, reads: Tensor, extra: Tensor) -> Tensor:
        """Logits (..., v) of what reads (..., d), with more added to them."""
        fixed = nn.functional.linear(reads, self.weight, self.bias) + extra
        told = nn.functional.linear(reads, self.directions)
        changed: Tensor = self.change(told.requires_grad_())  # opacus' hooks want inputs that gradients flow to
        return fixed + changed

    @torch.no_grad()
    def keep(self) -> None:
        """Write the layer with the change added."""
        self._layer[0].weight[self.tokens] = self.weight + self.change.weight @ self.directions
        self._layer[0].bias[self.tokens] = self.bias + self.change.bias


def private_heads(networks: nn.ModuleDict, codec: Codec, rank: int) -> nn.ModuleDict:
    """The heads that are learned, by name."""
    attributes, packets = _halves(networks)
    heads: dict[str, nn.Module] = {}
    for i, (name, may) in enumerate(zip(ATTRIBUTES, allowed_attributes(codec), strict=True)):
        layer = attributes.head[i]
        assert isinstance(layer, nn.Linear)
        if name not in NOT_LEARNED and may.sum() > 1:
            heads[name] = PrivateHead(layer, np.flatnonzero(may), rank)
    kinds = codec.kind.is_active()
    sizes = np.concatenate([codec.size.is_active(), codec.octets.is_active()])
    gaps = codec.packet_gap.is_active() | codec.own_gap.is_active()
    for name, layer, may in (
        ("kind", packets.kind_head, kinds), ("size", packets.size_head, sizes), ("gap", packets.gap_head, gaps),
    ):  # fmt: skip
        if may.sum() > 1:
            heads[name] = PrivateHead(layer, np.flatnonzero(may), rank)
    return nn.ModuleDict(heads)


@torch.no_grad()
def lessons_of(
    networks: nn.ModuleDict,
    heads: nn.ModuleDict,
    tokens: ChunkTokens,
    units: Units,
    codec: Codec,
    most_packets: int,
    chance: Chance,
) -> dict[str, Lesson]:
    """What each head is to say of the units' conversations `tokens`; of packets at most so many a unit, by lot.

    A unit's losses add up to its conversations' count for each attribute, and for its packets all together.
    """
    attributes, packets = _halves(networks)
    out: dict[str, Lesson] = {}
    order = np.argsort(units.owner, kind="stable")
    of_conversations = _offsets(units.owner, len(units))
    given = torch.from_numpy(tokens.attributes[order])
    known = attributes.history(torch.zeros(len(order), 1, attributes.width))[0][:, 0]
    known = known + attributes.start(torch.from_numpy(tokens.start_features[order]))
    is_spelt = codec.service.table()[tokens.attributes[order, ATTRIBUTE_INDEX["service"]], 3] == RARE_PORT
    for i, name in enumerate(ATTRIBUTES):
        if name in heads:
            weight = is_spelt if name in _SPELT else np.ones(len(order))
            reads = attributes.read(i, known, given)
            out[name] = _lesson(heads, name, reads, tokens.attributes[order, i], weight, of_conversations)
        if name in _HEARD:
            known = known + attributes.said[i](given[:, i])
    chosen = _choose_packets(tokens, units, most_packets, chance)
    owner = np.repeat(units.owner, np.diff(tokens.packet_offset))[chosen]
    chosen = chosen[np.argsort(owner, kind="stable")]
    owner = np.sort(owner)
    states, conversation = _states(packets, tokens, chosen), _conversation_of(tokens, chosen)
    share = units.conversation_count[owner] / np.maximum(np.bincount(owner, minlength=len(units)), 1)[owner]
    kind, size = torch.from_numpy(tokens.kind[chosen]), torch.from_numpy(tokens.size[chosen])
    reads_of = {
        "kind": lambda: states,
        "size": lambda: packets.read_size(states, kind),
        "gap": lambda: packets.read_gap(states, kind, size),
    }
    needs = {
        "kind": np.ones(len(chosen), bool),
        "size": tokens.needs_size[chosen],
        "gap": chosen > tokens.packet_offset[conversation],
    }
    said = {"kind": tokens.kind, "size": tokens.size, "gap": tokens.gap}
    positions, stacks = LAYOUT.positions, 6
    for at, name in enumerate(("kind", "size", "gap")):
        if name not in heads:
            continue
        named = cast(PrivateHead, heads[name]).tokens
        extra = packets.correction[at][:, named].repeat(stacks, 1)  # (stacks * positions, v)
        if name == "kind":
            may = torch.from_numpy(allowed_kinds(codec))[:, named]
            extra = extra.masked_fill(~may.repeat_interleave(positions, 0), FORBIDDEN)
        row = tokens.stack[conversation] * positions + tokens.position[chosen]
        weight = share * needs[name]
        lesson = _lesson(heads, name, reads_of[name](), said[name][chosen], weight, _offsets(owner, len(units)))
        out[name] = Lesson(lesson.reads, lesson.said, lesson.weight, lesson.offset, torch.from_numpy(row), extra)
    return out


def unit_losses(head: PrivateHead, lesson: Lesson, units: NDArray[np.int64]) -> Tensor:
    """The loss of each of these units by one head, in nats: (b,). The head's gradient of each is that unit's own.

    Negative indices stand for no unit.
    """
    begin, end = lesson.offset[units], lesson.offset[units + 1]
    length = np.where(units < 0, 0, end - begin)
    at = np.arange(max(int(length.max(initial=0)), 1))
    inside = torch.from_numpy(at < length[:, None])
    rows = torch.from_numpy(np.where(at < length[:, None], begin[:, None] + at, 0))
    if not len(lesson.said):
        inside = torch.zeros(len(units), 1, dtype=torch.bool)
        reads = torch.zeros(len(units), 1, lesson.reads.shape[1])
        logits = head(reads, lesson.extra[:1])
        nothing: Tensor = (logits.sum(dim=-1) * inside).sum(dim=1)
        return nothing
    logits = head(lesson.reads[rows], lesson.extra[lesson.row[rows]])
    nll = nn.functional.cross_entropy(logits.flatten(0, 1), lesson.said[rows].flatten(), reduction="none")
    weight = torch.where(inside, lesson.weight[rows], 0.0)
    return (nll.view_as(weight) * weight).sum(dim=1)


def _halves(networks: nn.ModuleDict) -> tuple[AttributeNetwork, PacketNetwork]:
    attributes, packets = networks["attributes"], networks["packets"]
    assert isinstance(attributes, AttributeNetwork)
    assert isinstance(packets, PacketNetwork)
    return attributes, packets


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
    is_known = tokens[at] == said  # what the codec has no token for is not learned
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


def _choose_packets(tokens: ChunkTokens, units: Units, most: int, chance: Chance) -> NDArray[np.int64]:
    """At most so many packets of each unit, of the first of each conversation: rising."""
    counts = np.diff(tokens.packet_offset)
    index = np.arange(int(tokens.packet_offset[-1])) - np.repeat(tokens.packet_offset[:-1], counts)
    read = np.flatnonzero(index < WINDOWS * WINDOW)
    owner = np.repeat(units.owner, counts)[read]
    order = np.argsort(owner, kind="stable")
    offset = _offsets(owner, len(units))
    kept = [np.zeros(0, np.int64)]
    for u, key in enumerate(units.keys):
        of_unit = read[order[offset[u] : offset[u + 1]]]
        kept.append(of_unit[chance.choose(b"packets", key, len(of_unit), most)])
    return np.sort(np.concatenate(kept))


def _conversation_of(tokens: ChunkTokens, packets: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.searchsorted(tokens.packet_offset, packets, side="right") - 1


def _states(network: PacketNetwork, tokens: ChunkTokens, packets: NDArray[np.int64]) -> Tensor:
    """The recurrence's state at each of these packets (m,): (m, d)."""
    out = torch.zeros(len(packets), network.width)
    place = np.full(int(tokens.packet_offset[-1]), -1, np.int64)
    place[packets] = np.arange(len(packets))
    windows = cut_windows(tokens, np.arange(len(tokens)))
    wanted = np.concatenate([[0], np.cumsum(place >= 0)])
    used = np.flatnonzero(wanted[windows.end] > wanted[windows.learn_from])
    used = used[np.argsort((windows.end - windows.read_from)[used], kind="stable")]
    for begin in range(0, len(used), _AT_ONCE):
        chosen = used[begin : begin + _AT_ONCE]
        batch = packet_batch(tokens, windows, chosen, LAYOUT)
        states = network.states(batch)[batch.counts]
        pieces = [np.arange(windows.learn_from[w], windows.end[w]) for w in chosen]
        where = place[np.concatenate(pieces)]
        out[torch.from_numpy(where[where >= 0])] = states[torch.from_numpy(where >= 0)]
    return out
