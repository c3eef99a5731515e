"""The generator: two autoregressive networks with a categorical head for everything they say.

`AttributeNetwork` reads conversations in order of their start and says the next one, attribute by attribute;
`PacketNetwork` takes one conversation's attributes and says its packets: kind, size and gap, one after the other, fed
back. Neither knows what a token means.

Dimension letters: n conversations or windows, w conversations of a window, t packets, a attributes, d width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from nsstream.model.noise import Dropout, uniform

FORBIDDEN = -1e9  # logit of a token that must not be said


@dataclass(frozen=True)
class Layout:
    """How many values everything has; all that the networks know of the traffic."""

    attributes: tuple[int, ...]
    narrow: int  # the attribute that depends on few others
    narrow_knows: tuple[int, ...]  # which
    start_features: int
    moments: int  # parts of a chunk that are calibrated apart
    kinds: int
    sizes: int
    gaps: int
    countdowns: int
    positions: int
    times_left: int


def sum_of_embeddings(tables: nn.ModuleList, tokens: Tensor) -> Tensor:
    """Look up each of the tokens (..., a) in its own table and add up: (..., d)."""
    total: Tensor = tables[0](tokens[..., 0])
    for i in range(1, len(tables)):
        total = total + tables[i](tokens[..., i])
    return total


def _embedding(size: int, width: int) -> nn.Embedding:
    table = nn.Embedding(size, width)
    nn.init.normal_(table.weight, std=0.3)
    return table


class AttributeNetwork(nn.Module):
    """p(attributes of a conversation | those before it), as a product over the attributes in order.

    What it remembers is made unreliable while it learns (whole conversations of the history are forgotten, attributes
    go unheard), because a chunk holds too few conversations to learn their order by heart and still say new ones. The
    attribute `narrow` is told only those in `narrow_knows`: an ephemeral port has nothing to do with the hour.

    `correction`, one table (moments, size_i) an attribute, is added to the logits when drawing; see `calibrate`.
    """

    def __init__(
        self,
        layout: Layout,
        width: int = 80,
        dropout: float = 0.3,
        forget: float = 0.3,
        mishear: float = 0.15,
    ) -> None:
        super().__init__()
        self.layout = layout
        self.width = width
        self.forget, self.mishear = forget, mishear
        self.said = nn.ModuleList(_embedding(size, width) for size in layout.attributes)
        self.narrow_said = nn.ModuleList(_embedding(layout.attributes[i], width) for i in layout.narrow_knows)
        self.history = nn.GRU(width, width, batch_first=True)
        self.start = nn.Linear(layout.start_features, width)
        self.drop = Dropout(dropout)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in layout.attributes)
        self.head = nn.ModuleList(nn.Linear(width, size) for size in layout.attributes)
        self.correction = nn.ParameterList(
            nn.Parameter(torch.zeros(layout.moments, size), requires_grad=False) for size in layout.attributes
        )

    def summarise(self, attributes: Tensor) -> Tensor:
        """One vector a conversation: attributes (..., a) -> (..., d)."""
        return sum_of_embeddings(self.said, attributes)

    def logits(self, i: int, known: Tensor, attributes: Tensor) -> Tensor:
        """Logits of attribute i (..., size_i).

        Args:
            i: which attribute.
            known: (..., d) the history and all attributes before this one.
            attributes: (..., a) the tokens before this one; later columns are not read.
        """
        out: Tensor = self.head[i](self.drop(self.read(i, known, attributes)))
        return out

    def read(self, i: int, known: Tensor, attributes: Tensor) -> Tensor:
        """What the head of attribute i reads (..., d); arguments as of `logits`."""
        if i == self.layout.narrow:
            told = torch.stack([attributes[..., j] for j in self.layout.narrow_knows], dim=-1)
            known = sum_of_embeddings(self.narrow_said, told)
        out: Tensor = torch.relu(self.hidden[i](known)) + known
        return out

    def loss(self, attributes: Tensor, start_features: Tensor, allowed: list[Tensor]) -> Tensor:
        """Negative log-likelihood of each conversation, in nats.

        Shapes: attributes (n, w, a) tokens, start_features (n, w, f); allowed one mask (size_i,) an attribute; result
        (n, w).
        """
        total = torch.zeros(attributes.shape[:2], device=attributes.device)
        for nll in self.losses(attributes, start_features, allowed):
            total = total + nll
        return total

    def losses(self, attributes: Tensor, start_features: Tensor, allowed: list[Tensor]) -> Iterator[Tensor]:
        """As `loss`, of each attribute by itself given those before it: a of (n, w)."""
        said = [self._heard(table(attributes[..., i])) for i, table in enumerate(self.said)]  # a of (n, w, d)
        before = torch.stack(said).sum(0)[:, :-1]
        if self.training:
            before = before * (uniform(before.shape[:2], before.device) >= self.forget)[..., None]
        before = torch.cat([torch.zeros_like(said[0][:, :1]), before], dim=1)
        known, _ = self.history(self.drop(before))
        known = self.drop(known) + self.start(start_features)
        for i, heard in enumerate(said):
            logits = self.logits(i, known, attributes).masked_fill(~allowed[i], FORBIDDEN)
            token = attributes[..., i]
            nll = nn.functional.cross_entropy(logits.flatten(0, 1), token.flatten(), reduction="none")
            yield nll.view_as(token)
            known = known + heard

    def _heard(self, said: Tensor) -> Tensor:
        if not self.training:
            return said
        return said * (uniform(said.shape[:-1], said.device) >= self.mishear)[..., None] / (1 - self.mishear)


class PacketNetwork(nn.Module):
    """p(packets of a conversation | its attributes), packet by packet: kind, then size, then gap.

    `correction`, one table (positions, size) each for kind, size and gap, is added to the logits when drawing; see
    `calibrate`.
    """

    def __init__(self, layout: Layout, width: int = 160, dropout: float = 0.2) -> None:
        super().__init__()
        self.layout = layout
        self.width = width
        self.attribute = nn.ModuleList(_embedding(size, 48) for size in layout.attributes)
        self.conversation = nn.Sequential(nn.Linear(48, 96), nn.ReLU(), Dropout(dropout), nn.Linear(96, 64))
        self.kind = nn.Embedding(layout.kinds + 1, 32)  # the last says: no packet before
        self.size = nn.Embedding(layout.sizes + 1, 32)
        self.gap = nn.Embedding(layout.gaps, 16)
        self.countdown = nn.Embedding(layout.countdowns, 16)
        self.position = nn.Embedding(layout.positions, 8)
        self.time_left = nn.Embedding(layout.times_left, 8)
        self.recur = nn.GRU(32 + 32 + 16 + 16 + 8 + 8 + 64, width, batch_first=True)
        self.drop = Dropout(dropout)
        self.kind_head = nn.Linear(width, layout.kinds)
        self.to_size = nn.Linear(width + 32, width)
        self.size_head = nn.Linear(width, layout.sizes)
        self.to_gap = nn.Linear(width + 64, width)
        self.gap_head = nn.Linear(width, layout.gaps)
        sizes = (layout.kinds, layout.sizes, layout.gaps)
        self.correction = nn.ParameterList(
            nn.Parameter(torch.zeros(layout.positions, size), requires_grad=False) for size in sizes
        )

    def describe(self, attributes: Tensor) -> Tensor:
        """One vector a conversation: attributes (n, a) -> (n, 64)."""
        out: Tensor = self.conversation(sum_of_embeddings(self.attribute, attributes))
        return out

    def inputs(self, described: Tensor, previous: Tensor, running: Tensor) -> Tensor:
        """What the recurrence reads: described (n, 64), previous and running tokens (n, t, 3) -> (n, t, in)."""
        parts = [
            self.kind(previous[..., 0]),
            self.size(previous[..., 1]),
            self.gap(previous[..., 2]),
            self.countdown(running[..., 0]),
            self.position(running[..., 1]),
            self.time_left(running[..., 2]),
            described[:, None].expand(-1, previous.shape[1], -1),
        ]
        return torch.cat(parts, dim=-1)

    def states(self, batch: PacketTokens) -> Tensor:
        """The recurrence's state as each packet is said, from which its kind is drawn: (n, t, d)."""
        previous = torch.stack([batch.kind, batch.size, batch.gap], dim=-1)
        previous = torch.cat([batch.before[:, None], previous[:, :-1]], dim=1)
        h: Tensor = self.recur(self.inputs(self.describe(batch.attributes), previous, batch.running))[0]
        return h

    def size_logits(self, h: Tensor, kind: Tensor) -> Tensor:
        """Logits of the size (..., sizes) given the state (..., d) and the packet's kind (...)."""
        out: Tensor = self.size_head(self.read_size(h, kind))
        return out

    def read_size(self, h: Tensor, kind: Tensor) -> Tensor:
        """What the head of sizes reads (..., d)."""
        return torch.relu(self.to_size(torch.cat([h, self.kind(kind)], dim=-1)))

    def gap_logits(self, h: Tensor, kind: Tensor, size: Tensor) -> Tensor:
        """Logits of the gap (..., gaps) given the state, the packet's kind and its size."""
        out: Tensor = self.gap_head(self.read_gap(h, kind, size))
        return out

    def read_gap(self, h: Tensor, kind: Tensor, size: Tensor) -> Tensor:
        """What the head of gaps reads (..., d)."""
        return torch.relu(self.to_gap(torch.cat([h, self.kind(kind), self.size(size)], dim=-1)))

    def loss(self, batch: PacketTokens, allowed: Tensor) -> Tensor:
        """Negative log-likelihood of each packet in nats (n, t), 0 where it does not count; allowed (n, kinds)."""
        h = self.drop(self.states(batch))  # (n, t, d)
        at = batch.counts  # only real packets reach the heads: (k,)
        h, kind, size, gap = h[at], batch.kind[at], batch.size[at], batch.gap[at]
        owner = at.nonzero()[:, 0]
        kind_logits = self.kind_head(h).masked_fill(~allowed[owner], FORBIDDEN)
        nll = nn.functional.cross_entropy(kind_logits, kind, reduction="none")
        sized, timed = batch.needs_size[at].nonzero()[:, 0], batch.needs_gap[at].nonzero()[:, 0]
        size_nll = nn.functional.cross_entropy(self.size_logits(h[sized], kind[sized]), size[sized], reduction="none")
        gap_logits = self.gap_logits(h[timed], kind[timed], size[timed])
        gap_nll = nn.functional.cross_entropy(gap_logits, gap[timed], reduction="none")
        nll = nll.index_add(0, sized, size_nll).index_add(0, timed, gap_nll)
        return torch.zeros_like(batch.kind, dtype=nll.dtype).masked_scatter(at, nll)


@dataclass(frozen=True)
class PacketTokens:
    """A padded batch of n conversations, or windows of them, of up to t packets.

    Attributes:
        attributes: (n, a).
        kind, size, gap: (n, t) tokens.
        before: (n, 3) kind, size and gap of the packet before the window; `no_packet` where there is none.
        running: (n, t, 3) countdown, position and time-left tokens.
        counts: (n, t) bool, a real packet which is to be learned.
        needs_size, needs_gap: (n, t) bool, whether the packet's size and gap are to be learned.
    """

    attributes: Tensor
    kind: Tensor
    size: Tensor
    gap: Tensor
    before: Tensor
    running: Tensor
    counts: Tensor
    needs_size: Tensor
    needs_gap: Tensor

    def to(self, device: torch.device) -> PacketTokens:
        """The same batch there."""
        return PacketTokens(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def no_packet(layout: Layout) -> tuple[int, int, int]:
    """The tokens that stand for *no packet before this one*: kind, size, gap."""
    return layout.kinds, layout.sizes, 0
