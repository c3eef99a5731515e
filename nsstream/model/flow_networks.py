"""The generator of flow tables: two autoregressive networks with a categorical head for everything they say.

`ConversationNetwork` reads conversations in order of their start and says the next one; `RecordNetwork` takes one
conversation and says its records, one after the other, fed back. Both say their tokens with `Heads`, each given those
before it. Heads compute only tokens that a chunk shows, though weights are there for all that the schema has.

Dimension letters: n conversations, w of a run, t records, a tokens said at a time, d width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from nsstream.encode.flow_features import FEATURES
from nsstream.encode.flow_schema import (
    ATTRIBUTE_INDEX,
    ATTRIBUTES,
    FIELDS,
    MOMENTS,
    NARROW,
    NARROW_KNOWS,
    PLACES,
    RUNNING,
    START_FEATURES,
)


def _embedding(size: int, width: int) -> nn.Embedding:
    table = nn.Embedding(size, width)
    nn.init.normal_(table.weight, std=0.3)
    return table


class Heads(nn.Module):
    """Tokens said one after the other, each by its own head over what is known and the tokens before it.

    Args:
        sizes: how many values each has.
        places: in how many places corrections are counted apart.
        narrow: a token that is told of few others only, and which.
    """

    def __init__(
        self, sizes: Sequence[int], width: int, places: int, dropout: float, narrow: tuple[int, tuple[int, ...]] | None
    ) -> None:
        super().__init__()
        self.sizes, self.narrow = tuple(sizes), narrow
        self.said = nn.ModuleList(_embedding(size, width) for size in sizes)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in sizes)
        self.head = nn.ModuleList(nn.Linear(width, size) for size in sizes)
        self.narrow_said = nn.ModuleList(_embedding(sizes[i], width) for i in (narrow[1] if narrow else ()))
        self.drop = nn.Dropout(dropout)
        self.correction = nn.ParameterList(
            nn.Parameter(torch.zeros(places, size), requires_grad=False) for size in sizes
        )
        self.feel = nn.ParameterList(nn.Parameter(torch.randn(FEATURES, width) * 0.1) for _ in sizes)
        self.lean = nn.ModuleList(nn.Linear(width, FEATURES) for _ in sizes)
        self._shown: list[Tensor] = []
        self._column: list[Tensor] = []
        self._features: list[Tensor | None] = [None] * len(sizes)

    def show(self, masks: Sequence[Tensor], features: Sequence[Tensor | None]) -> None:
        """Say no other tokens than those of these masks, one (size_i,) each, from now on.

        `features`, (size_i, FEATURES) or None each, are what tokens have in common.
        """
        self._shown = [mask.nonzero()[:, 0] for mask in masks]
        self._column = [mask.long().cumsum(0) - 1 for mask in masks]
        self._features = list(features)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What is shown goes where the weights go (`nn.Module.to`)."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._shown, self._column = [fn(shown) for shown in self._shown], [fn(column) for column in self._column]
        self._features = [None if features is None else fn(features) for features in self._features]
        return self

    def hear(self, i: int, token: Tensor) -> Tensor:
        """Token i (...) as a vector (..., d)."""
        heard: Tensor = self.said[i](token)
        features = self._features[i]
        return heard if features is None else heard + features[token] @ self.feel[i]

    def shown(self, i: int) -> Tensor:
        """The tokens (k,) that token i may be."""
        return self._shown[i]

    def features(self, i: int) -> Tensor | None:
        """What tokens i have in common (size_i, FEATURES), None where they have nothing."""
        return self._features[i]

    def read(self, i: int, known: Tensor, tokens: Tensor) -> Tensor:
        """What head i reads (..., d), given what is known (..., d) and the tokens (..., a) before it."""
        if self.narrow and i == self.narrow[0]:
            known = sum(
                (table(tokens[..., j]) for table, j in zip(self.narrow_said, self.narrow[1], strict=True)),
                start=torch.zeros_like(known),
            )
        read: Tensor = self.drop(torch.relu(self.hidden[i](known)) + known)
        return read

    def logits(self, i: int, known: Tensor, tokens: Tensor) -> Tensor:
        """Logits (..., k) of the k shown tokens i, given what is known (..., d) and the tokens (..., a) before it."""
        hidden = self.read(i, known, tokens)
        head, shown = self.head[i], self._shown[i]
        logits = nn.functional.linear(hidden, head.weight[shown], head.bias[shown])  # type: ignore[index]
        features = self._features[i]
        return logits if features is None else logits + self.lean[i](hidden) @ features[shown].T

    def embed(self, tokens: Tensor) -> Tensor:
        """Tokens (..., a) in one vector: (..., d)."""
        total = self.hear(0, tokens[..., 0])
        for i in range(1, len(self.sizes)):
            total = total + self.hear(i, tokens[..., i])
        return total

    def nll(self, known: Tensor, tokens: Tensor, mishear: float = 0.0, counts: Tensor | None = None) -> Tensor:
        """Negative log-likelihood (k,) of tokens (k, a) given known (k, d).

        Each token goes unheard by those behind it with a chance of `mishear`. `counts` (k, a) leaves tokens out.
        """
        total = torch.zeros(len(known), device=known.device)
        for i in range(len(self.sizes)):
            if len(self._shown[i]) > 1:
                rows = slice(None) if counts is None else counts[:, i].nonzero()[:, 0]
                logits = self.logits(i, known[rows], tokens[rows])
                wanted = self._column[i][tokens[rows, i]]
                nll = nn.functional.cross_entropy(logits, wanted, reduction="none")
                total = total + nll if counts is None else total.index_add(0, rows, nll)  # type: ignore[arg-type]
            heard = self.hear(i, tokens[:, i])
            if self.training and mishear:
                heard = heard * (torch.rand(len(heard), device=heard.device) >= mishear)[:, None] / (1 - mishear)
            known = known + heard
        return total

    def weights(self, i: int, known: Tensor, tokens: Tensor, place: Tensor, may: Tensor | None) -> Tensor:
        """How likely each shown token i is: (k, shown).

        `place` (k,) chooses the correction, `may` (k, shown) or (shown,) what the law allows.
        """
        logits = self.logits(i, known, tokens) + self.correction[i][:, self._shown[i]][place]
        if may is not None:
            may = torch.where(may.any(-1, keepdim=True), may, True)
            logits = logits.masked_fill(~may, -1e9)
        likely: Tensor = logits.softmax(-1)
        return likely

    def say(
        self,
        i: int,
        known: Tensor,
        tokens: Tensor,
        place: Tensor,
        generator: torch.Generator,
        may: Tensor | None,
        choose: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Draw token i (k,), as `weights` says, or as `choose` does: a column of each row of them."""
        shown = self._shown[i]
        if len(shown) == 1:
            return shown.expand(len(known))
        weights = self.weights(i, known, tokens, place, may)
        if choose is not None:
            return shown[choose(weights)]
        noise = torch.empty_like(weights).exponential_(generator=generator)
        return shown[(weights / noise.clamp(min=1e-20)).argmax(-1)]


class ConversationNetwork(nn.Module):
    """p(attributes of a conversation | those before it, when it starts).

    What it remembers is made unreliable while it learns: whole conversations of the history are forgotten, tokens go
    unheard. A chunk holds too few conversations to learn their order by heart and still say new ones.
    """

    def __init__(self, width: int = 96, dropout: float = 0.2, forget: float = 0.2, mishear: float = 0.1) -> None:
        super().__init__()
        self.width, self.forget, self.mishear = width, forget, mishear
        narrow = ATTRIBUTE_INDEX[NARROW], tuple(ATTRIBUTE_INDEX[name] for name in NARROW_KNOWS)
        self.heads = Heads(tuple(ATTRIBUTES.values()), width, MOMENTS, dropout, narrow)
        self.history = nn.GRU(width, width, batch_first=True)
        self.start = nn.Linear(START_FEATURES, width)
        self.drop = nn.Dropout(dropout)

    def loss(self, attributes: Tensor, start_features: Tensor) -> Tensor:
        """Negative log-likelihood (n, w) of runs of conversations: attributes (n, w, a), start_features (n, w, f)."""
        before = self.heads.embed(attributes)[:, :-1]
        if self.training:
            before = before * (torch.rand(before.shape[:2], device=before.device) >= self.forget)[..., None]
        before = torch.cat([torch.zeros_like(before[:, :1]), before], dim=1)
        known, _ = self.history(self.drop(before))
        known = self.drop(known) + self.start(start_features)
        nll = self.heads.nll(known.flatten(0, 1), attributes.flatten(0, 1), self.mishear)
        return nll.view(attributes.shape[:2])


class RecordNetwork(nn.Module):
    """p(records of a conversation | its attributes), record by record, field by field."""

    def __init__(self, width: int = 128, dropout: float = 0.1, mishear: float = 0.15) -> None:
        super().__init__()
        self.width, self.mishear = width, mishear
        self.attribute = nn.ModuleList(_embedding(size, width) for size in ATTRIBUTES.values())
        self.heads = Heads(tuple(FIELDS.values()), width, PLACES, dropout, None)
        self.running = nn.ModuleList(_embedding(size, width) for size in RUNNING)
        self.nothing = nn.Parameter(torch.zeros(width))
        self.mix = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, width))
        self.recur = nn.GRU(width, width, batch_first=True)
        self.drop = nn.Dropout(dropout)

    def describe(self, attributes: Tensor) -> Tensor:
        """One vector a conversation: attributes (n, a) -> (n, d)."""
        total = torch.zeros(len(attributes), self.width, device=attributes.device)
        for i, table in enumerate(self.attribute):
            said = table(attributes[:, i])
            if self.training:
                said = said * (torch.rand(len(said), device=said.device) >= self.mishear)[:, None]
            total = total + said
        return total + self.mix(total)  # type: ignore[no-any-return]

    def inputs(self, described: Tensor, before: Tensor, running: Tensor) -> Tensor:
        """What the recurrence reads: described (n, d), embedded record before (n, t, d), running (n, t, 3)."""
        total = described[:, None] + before
        for i, table in enumerate(self.running):
            total = total + table(running[..., i])
        return total

    def loss(self, attributes: Tensor, before: Tensor, fields: Tensor, running: Tensor, counts: Tensor) -> Tensor:
        """Negative log-likelihood (k,) of the k records that count; shapes as of `states`."""
        known = self.states(attributes, before, fields, running, counts)
        is_told = torch.ones(len(known), fields.shape[-1], dtype=torch.bool, device=counts.device)
        is_first = (running[..., 0] == 0)[counts]
        is_told[:, :2] = ~is_first[:, None]
        return self.heads.nll(known, fields[counts], counts=is_told)

    def states(self, attributes: Tensor, before: Tensor, fields: Tensor, running: Tensor, counts: Tensor) -> Tensor:
        """What is known (k, d) before each of the k records that count is said.

        Shapes: attributes (n, a); before (n, f) tokens of the record before the window, -1 where there is none; fields
        (n, t, f), running (n, t, 3), counts (n, t).
        """
        said = self.heads.embed(fields[:, :-1])
        first = self.heads.embed(before.clamp(min=0))
        first = torch.where(before[:, :1] >= 0, first, self.nothing)
        said = torch.cat([first[:, None], said], dim=1)
        described = self.describe(attributes)
        read = self.inputs(described, said, running)
        h, _ = self.recur(self.drop(read))
        states: Tensor = (self.drop(h) + read)[counts]
        return states
