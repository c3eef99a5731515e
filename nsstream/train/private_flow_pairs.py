"""What goes with what, taught to the heads of a private flow model by noisy counts of pairs: post-processing, and free.

A head's layer is moved until, over drawn rows of a group (a class of services, a kind and span of records), it says
cells about as often as is wanted of that group. What tokens within a cell are like, groups that noise hides, and cells
that were neither drawn nor are seen (other counts may show them), stay the network's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nsstream.train.private_settle import hidden, settle

STEPS: Final = 40
PACE: Final = 0.02  # of Adam
MOST_ROWS: Final = 4096  # that are read of those drawn
_LEAST: Final = 1e-6


@dataclass(frozen=True)
class Pairs:
    """What one head is to say, by groups of drawn rows.

    Attributes:
        layer: the head; changed in place.
        shown: (v,) its tokens that may be said.
        reads: (n, d) what it reads.
        extra: (n, v) what is added to its logits.
        said: (n,) the token that was drawn.
        group: (n,) of each row, below `len(noisy)`.
        cell: of every token of the head.
        noisy: (g, c) counts of cells by group, of deviation `std`.
    """

    layer: nn.Linear
    shown: Tensor
    reads: Tensor
    extra: Tensor
    said: NDArray[np.int64]
    group: NDArray[np.int64]
    cell: NDArray[np.int64]
    noisy: NDArray[np.float64]
    std: float


def wanted_of(pairs: Pairs) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Groups (k,) that are seen and were drawn, what is wanted of each, as shares (k, c), and how much each weighs."""
    groups, cells = pairs.noisy.shape
    came = np.bincount(pairs.group * cells + pairs.cell[pairs.said], minlength=groups * cells).reshape(groups, cells)
    kept, shares, weight = [], [], []
    for group in np.flatnonzero(came.sum(axis=1) > 0):
        told = pairs.noisy[group]
        total = float(told.sum())
        if total > hidden(pairs.std * np.sqrt(cells), groups):
            told = settle(told, came[group].astype(np.float64), pairs.std, total, pairs.noisy.size)
            kept.append(group)
            shares.append(told / told.sum())
            weight.append(total)
    return (
        np.array(kept, np.int64),
        np.array(shares, np.float64).reshape(-1, cells),
        np.array(weight, np.float64) / max(sum(weight), 1.0),
    )


def teach(pairs: Pairs, steps: int = STEPS) -> None:
    """Move the layer; nothing where no group can be seen."""
    kept, shares, weight = wanted_of(pairs)
    if not len(kept):
        return
    place = np.full(len(pairs.noisy), -1)
    place[kept] = np.arange(len(kept))
    rows = torch.from_numpy(np.flatnonzero(place[pairs.group] >= 0))
    rows = rows[:: -(-len(rows) // MOST_ROWS)]
    group = torch.from_numpy(place[pairs.group])[rows]
    reads, extra = pairs.reads[rows], pairs.extra[rows]
    wanted, share = torch.from_numpy(shares).float(), torch.from_numpy(weight).float()
    of_token = nn.functional.one_hot(torch.from_numpy(pairs.cell)[pairs.shown], shares.shape[1]).float()
    size = torch.bincount(group, minlength=len(kept)).clamp(min=1).float()[:, None]
    with torch.enable_grad():
        weights = pairs.layer.weight[pairs.shown].detach().clone().requires_grad_()
        bias = pairs.layer.bias[pairs.shown].detach().clone().requires_grad_()
        optimiser = torch.optim.Adam([weights, bias], lr=PACE)
        for _ in range(steps):
            said = (nn.functional.linear(reads, weights, bias) + extra).softmax(-1) @ of_token
            mean = torch.zeros(len(kept), shares.shape[1]).index_add(0, group, said) / size
            told = (mean * (wanted > 0)).sum(dim=1, keepdim=True).clamp(min=_LEAST)
            loss = -(share[:, None] * wanted * (mean.clamp(min=_LEAST) / told).log()).sum()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    with torch.no_grad():
        pairs.layer.weight[pairs.shown] = weights.detach()
        pairs.layer.bias[pairs.shown] = bias.detach()
