"""What a flow codec counted, as urns that tokens are drawn from: a draw without replacement keeps the counts.

A token's weight is the network's, times the square of what is left of it in the urn over what would be left if all
tokens had been taken evenly. So nothing changes while the network says what was counted; what it says too often becomes
unlikely, and what it never says is there at the end.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from nsstream.encode.flow_codec import FlowCodec
from nsstream.encode.flow_encoding import moment_of, octave_of
from nsstream.encode.flow_schema import ATTRIBUTE_INDEX, BY_SIZE, FIELD_INDEX
from nsstream.encode.flow_urns import (
    BY_CELL,
    BY_CLASS,
    BY_CLASS_AND_WAY,
    BY_CLIENT,
    BY_KIND,
    BY_KIND_AND_SIZE,
    BY_LABEL,
    BY_MOMENT,
    LATER_BY_CLASS,
    OCTAVES,
    SAID,
    Givens,
    Pairs,
)
from nsstream.model.soften import pick

_Given = dict[str, tuple[NDArray[np.int64], NDArray[np.int64] | None]]
_LEFT_OVER: Final = np.float32(0.02)  # of a token: what is used up is unlikely, not impossible
_DOUBT: Final = np.float32(0.002)  # how likely what was never counted is, of what the network says


class Urn(NamedTuple):
    """One urn.

    Attributes:
        givens: rising, what each row is given.
        wanted, left: (rows, t) how often each token that may be said was counted, and is still to come.
        total, rest: (rows,) their sums.
    """

    givens: NDArray[np.int64]
    wanted: NDArray[np.float32]
    left: NDArray[np.float32]
    total: NDArray[np.float32]
    rest: NDArray[np.float32]


def full_urn(pairs: Pairs, shown: NDArray[np.int64]) -> Urn:
    """An urn of counted pairs; `shown` (t,), rising, are the tokens that may be said."""
    givens, row = np.unique(pairs[:, 0], return_inverse=True)
    column = np.minimum(np.searchsorted(shown, pairs[:, 1]), len(shown) - 1)
    is_shown = shown[column] == pairs[:, 1]
    wanted = np.zeros((len(givens), len(shown)), np.float32)
    wanted[row.reshape(-1)[is_shown], column[is_shown]] = pairs[is_shown, 2]
    total = wanted.sum(axis=1)
    return Urn(givens, wanted, wanted.copy(), total, total.copy())


def rows_of(urn: Urn, own: NDArray[np.int64], general: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """The row of each given (k,), or that of a more general one; -1 where there is none."""
    if not len(urn.givens):
        return np.full(len(own), -1)
    at = np.minimum(np.searchsorted(urn.givens, own), len(urn.givens) - 1)
    found = np.where(urn.givens[at] == own, at, -1)
    return found if general is None else np.where(found >= 0, found, rows_of(urn, general))


class DrawingUrns:
    """The urns of one drawing of a whole chunk.

    Args:
        codec: the chunk's.
        shown: which tokens of each attribute and field may be said, rising.
    """

    def __init__(self, codec: FlowCodec, shown: dict[str, NDArray[np.int64]]) -> None:
        self._codec = codec
        self._givens = Givens(codec.layer_of_service)
        self._shown = shown
        self._urns = {name: full_urn(codec.urns.pairs[name], shown[said]) for name, said in SAID.items()}

    def urn(self, name: str) -> Urn:
        """One of them, by its name in `SAID`."""
        return self._urns[name]

    def shown(self, name: str) -> NDArray[np.int64]:
        """The tokens (t,) of an urn's columns, rising."""
        return self._shown[SAID[name]]

    def rows_of_kind(
        self,
        name: str,
        tokens: NDArray[np.int64],
        attributes: NDArray[np.int64],
        octave: NDArray[np.int64] | None = None,
    ) -> NDArray[np.int64]:
        """The row of records (k,) with these fields (k, f) in an urn by kind, or by kind and octave (k,)."""
        own, general = self._of_kind(tokens, attributes)
        if octave is not None:
            own, general = own * OCTAVES + octave, general * OCTAVES + octave
        return rows_of(self._urns[name], own, general)

    def rows_of_cell(self, before_ns: NDArray[np.int64]) -> NDArray[np.int64]:
        """The row of records (k,) in the urn of packets by cell; `before_ns` as of `draw_field`."""
        return rows_of(self._urns["volumes"], self._codec.cell_at(before_ns))

    def is_left_in_cell(self, row: NDArray[np.int64], column: int) -> NDArray[np.bool_]:
        """Whether these rows (k,) of that urn, -1 for none, have a token left."""
        left = self._urns["volumes"].left
        return (row >= 0) & (left[row, column] >= 1) if len(left) else np.zeros(len(row), bool)

    def draw_attribute(
        self, name: str, tokens: Tensor, row: NDArray[np.int64], generator: torch.Generator, weights: Tensor
    ) -> Tensor:
        """Columns (k,) of weights (k, t), for conversations at these places in the chunk (k,).

        `tokens` (k, a) are the attributes before it.
        """
        given: _Given = dict.fromkeys(BY_MOMENT, (moment_of(row, self._codec.conversation_count), None))
        label, service = (tokens[:, ATTRIBUTE_INDEX[said]].numpy() for said in ("label", "service"))
        given |= dict.fromkeys(BY_LABEL, (label, None))
        given |= dict.fromkeys(BY_CLIENT, (tokens[:, ATTRIBUTE_INDEX["client"]].numpy(), None))
        given |= dict.fromkeys(BY_CLASS, self._givens.of_class(label, service))
        way = tokens[:, ATTRIBUTE_INDEX["service_first"]].numpy() == 1
        given |= dict.fromkeys(BY_CLASS_AND_WAY, self._givens.of_kind(label, service, way))
        return self._draw(name, weights, given, generator)

    def draw_field(
        self,
        name: str,
        tokens: Tensor,
        attributes: NDArray[np.int64],
        before_ns: NDArray[np.int64],
        generator: torch.Generator,
        weights: Tensor,
    ) -> Tensor:
        """Columns (k,) of weights (k, t), for records of conversations with these attributes (k, a).

        `tokens` (k, f) are the fields before it; `before_ns` (k,) is when the record before started, or the
        conversation.
        """
        label, service = (attributes[:, ATTRIBUTE_INDEX[said]] for said in ("label", "service"))
        of_kind = self._of_kind(tokens.numpy(), attributes)
        given: _Given = dict.fromkeys(BY_CELL, (self._codec.cell_at(before_ns), None))
        given |= dict.fromkeys(BY_KIND, of_kind)
        given |= dict.fromkeys(LATER_BY_CLASS, self._givens.of_class(label, service))
        if name in BY_SIZE:
            octave = octave_of(tokens.numpy(), self._codec)
            own, general = (kind * OCTAVES + octave for kind in of_kind)
            given |= dict.fromkeys(BY_KIND_AND_SIZE, (own, general))
        return self._draw(name, weights, given, generator)

    def _of_kind(
        self, tokens: NDArray[np.int64], attributes: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        way = (attributes[:, ATTRIBUTE_INDEX["service_first"]] == 1) ^ (tokens[:, FIELD_INDEX["is_reverse"]] == 1)
        label, service = (attributes[:, ATTRIBUTE_INDEX[said]] for said in ("label", "service"))
        return self._givens.of_kind(label, service, way)

    def _draw(self, name: str, weights: Tensor, given: _Given, generator: torch.Generator) -> Tensor:
        chance = torch.rand(len(weights), generator=generator, dtype=torch.float64).numpy()
        none = full_urn(np.zeros((0, 3), np.int64), np.arange(weights.shape[1]))
        nowhere = np.full(len(weights), -1)
        urns = [(self._urns[urn], rows_of(self._urns[urn], *given[urn])) for urn in given if SAID[urn] == name]
        first, second = [*urns, (none, nowhere), (none, nowhere)][:2]
        return torch.from_numpy(draw_from(weights.numpy(), *first, *second, chance))


class Seen(NamedTuple):
    """What is known of records (k,) that are drawn next."""

    attributes: NDArray[np.int64]
    before_ns: NDArray[np.int64]
    urns: DrawingUrns
    generator: torch.Generator

    def choose(self, name: str, tokens: Tensor, weights: Tensor) -> Tensor:
        """As `DrawingUrns.draw_field`."""
        return self.urns.draw_field(name, tokens, self.attributes, self.before_ns, self.generator, weights)


@njit(cache=True, nogil=True)
def draw_from(
    weights: NDArray[np.float32],
    first: Urn,
    rows_first: NDArray[np.int64],
    second: Urn,
    rows_second: NDArray[np.int64],
    chance: NDArray[np.float64],
) -> NDArray[np.int64]:
    """A column for each row of weights (k, t), one after the other, taken out of both urns; -1 is no row of one."""
    out = np.empty(len(weights), np.int64)
    size = weights.shape[1]
    for i in range(len(weights)):
        weight = weights[i].copy()
        _weigh(weight, first, rows_first[i])
        _weigh(weight, second, rows_second[i])
        at = pick(weight, size, chance[i])
        if at < 0:
            at = int(np.argmax(weights[i]))
        _take(first, rows_first[i], at)
        _take(second, rows_second[i], at)
        out[i] = at
    return out


@njit(cache=True, nogil=True)
def _weigh(weight: NDArray[np.float32], urn: Urn, row: int) -> None:
    """Multiply weights (t,) by what is left of each token over what would be left of it."""
    if row < 0 or urn.rest[row] <= 0:
        return
    share = urn.rest[row] / urn.total[row]
    for j in range(len(weight)):
        if urn.wanted[row, j] > 0:
            ratio = (urn.left[row, j] + _LEFT_OVER) / (share * urn.wanted[row, j] + _LEFT_OVER)
            weight[j] *= ratio * ratio
        else:
            weight[j] *= _DOUBT


@njit(cache=True, nogil=True)
def _take(urn: Urn, row: int, token: int) -> None:
    """Take a token out of a row, if it has one left."""
    if row >= 0 and urn.left[row, token] > 0:
        urn.left[row, token] -= 1
        urn.rest[row] -= 1
