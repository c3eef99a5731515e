"""Bins: a non-negative number as a token on a logarithmic scale, and back with its fine structure.

The grid is fixed and public: one bin each for the integers from 0 to `exact`, then `per_decade` bins a decade from
`first` to `largest`. What is fitted is the shape inside each bin: its quantiles, from which a value is drawn by linear
interpolation, so that a value which recurs (a timer, a window) keeps its exact place.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

QUANTILES = 17


@dataclass(frozen=True)
class Grid:
    """Edges of the bins.

    Attributes:
        exact: integers 0..exact have a bin each; what lies between `exact` and `first` falls into the last of them.
        first: where the logarithmic bins begin.
        per_decade: bins a decade from there.
        largest: values beyond it fall into the last bin.
    """

    exact: int
    first: int
    per_decade: int
    largest: int

    @cached_property
    def edges(self) -> NDArray[np.float64]:
        """Lower edges: bin i holds edges[i] <= value < edges[i + 1]; the last is open."""
        steps = int(np.ceil(np.log10(self.largest / self.first) * self.per_decade))
        tail = self.first * 10 ** (np.arange(steps + 1) / self.per_decade)
        return np.concatenate([np.arange(self.exact + 1, dtype=np.float64), tail])

    def __len__(self) -> int:
        return len(self.edges)

    def tokens(self, values: NDArray[np.integer]) -> NDArray[np.int64]:
        """Bin of each value (n,); negative values count as zero."""
        tokens: NDArray[np.int64] = np.searchsorted(self.edges, values, side="right").astype(np.int64) - 1
        return np.maximum(tokens, 0)


@dataclass(frozen=True)
class Bins:
    """A grid and the shape of one chunk's values inside its bins.

    Attributes:
        grid: the edges.
        quantiles: (bins, QUANTILES) values at evenly spaced ranks; NaN-free: an empty bin spans its edges.
        counts: how many values each bin held; 0 makes it inactive.
    """

    grid: Grid
    quantiles: NDArray[np.float64]
    counts: NDArray[np.int64]

    @classmethod
    def fit(cls, grid: Grid, values: NDArray[np.integer]) -> Self:
        """Measure the values (n,) inside the bins of the grid."""
        upper = np.append(grid.edges[1:], max(grid.largest, grid.edges[-1]))
        ranks = np.linspace(0, 1, QUANTILES)
        quantiles = grid.edges[:, None] + (upper - grid.edges)[:, None] * ranks * (1 - 1e-9)
        quantiles[: grid.exact + 1] = grid.edges[: grid.exact + 1, None]
        tokens = grid.tokens(values)
        order = np.argsort(tokens, kind="stable")
        counts = np.bincount(tokens, minlength=len(grid))
        ends = np.cumsum(counts)
        for b in np.flatnonzero(counts):
            inside = np.maximum(values[order[ends[b] - counts[b] : ends[b]]], 0)
            quantiles[b] = np.quantile(inside, ranks)
        return cls(grid, quantiles, counts)

    def is_active(self) -> NDArray[np.bool_]:
        """Which bins held a value: (bins,)."""
        return self.counts > 0

    def draw(
        self, tokens: NDArray[np.int64], rng: np.random.Generator, least: NDArray[np.int64] | None = None
    ) -> NDArray[np.int64]:
        """A value (n,) from inside the bin of each token (n,); at least `least` (n,), where the bin has that."""
        at = rng.random(len(tokens))
        if least is not None:
            below = self._rank_of(tokens, least)
            at = below + (1 - below) * at
        at *= QUANTILES - 1
        low = np.minimum(at.astype(np.int64), QUANTILES - 2)
        left, right = self.quantiles[tokens, low], self.quantiles[tokens, low + 1]
        values = np.asarray(np.rint(left + (right - left) * (at - low)), np.int64)
        return values if least is None else np.maximum(values, least)

    def _rank_of(self, tokens: NDArray[np.int64], values: NDArray[np.int64]) -> NDArray[np.float64]:
        """The share (n,) of each token's bin that lies below a value (n,)."""
        inside = self.quantiles[tokens]
        low = np.clip((inside <= values[:, None]).sum(axis=1) - 1, 0, QUANTILES - 2)
        rows = np.arange(len(tokens))
        left, right = inside[rows, low], inside[rows, low + 1]
        part = np.clip((values - left) / np.maximum(right - left, 1), 0, 1)
        return np.asarray((low + part) / (QUANTILES - 1), np.float64)

    def sample(self, count: int) -> NDArray[np.int64]:
        """`count` values with the fitted distribution, in rising order, evenly spread over its ranks."""
        ranks = (np.arange(count) + 0.5) / count * self.counts.sum()
        ends = np.cumsum(self.counts)
        bin_ = np.searchsorted(ends, ranks, side="right").clip(max=len(ends) - 1)
        at = (ranks - (ends - self.counts)[bin_]) / self.counts[bin_] * (QUANTILES - 1)
        low = np.clip(at.astype(np.int64), 0, QUANTILES - 2)
        left, right = self.quantiles[bin_, low], self.quantiles[bin_, low + 1]
        return np.asarray(np.rint(left + (right - left) * (at - low)), np.int64)

    def as_json(self) -> dict[str, list[list[float]]]:
        """The bins that hold something: [bin, count, quantiles...]."""
        rows = [[int(b), int(self.counts[b]), *self.quantiles[b].tolist()] for b in np.flatnonzero(self.counts)]
        return {"bins": rows}

    @classmethod
    def from_json(cls, grid: Grid, data: dict[str, list[list[float]]]) -> Self:
        """The inverse of `as_json` on the same grid."""
        bins = cls.fit(grid, np.zeros(0, np.int64))
        counts = bins.counts.copy()
        for bin_, count, *quantiles in data["bins"]:
            counts[int(bin_)] = int(count)
            bins.quantiles[int(bin_)] = quantiles
        return cls(grid, bins.quantiles, counts)
