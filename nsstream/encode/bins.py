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
from numba import njit
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

    def draw(self, tokens: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """A value (n,) from inside the bin of each token (n,)."""
        return _values_at(self.quantiles, tokens, rng.random(len(tokens)))

    def draw_evenly(self, tokens: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """As `draw`, but the values of one bin are spread evenly over its ranks: their sum is hardly left to chance."""
        order = np.lexsort((rng.random(len(tokens)), tokens))
        of_bin = np.bincount(tokens, minlength=len(self.grid))
        rank = np.empty(len(tokens), np.int64)
        rank[order] = np.arange(len(tokens)) - np.repeat(np.cumsum(of_bin) - of_bin, of_bin)
        return _values_at(self.quantiles, tokens, (rank + rng.random(len(tokens))) / np.maximum(of_bin[tokens], 1))

    def sample(self, count: int) -> NDArray[np.int64]:
        """`count` values with the fitted distribution, in rising order, evenly spread over its ranks."""
        ranks = (np.arange(count) + 0.5) / count * self.counts.sum()
        ends = np.cumsum(self.counts)
        bin_ = np.searchsorted(ends, ranks, side="right").clip(max=len(ends) - 1)
        at = (ranks - (ends - self.counts)[bin_]) / self.counts[bin_]
        return _values_at(self.quantiles, bin_, at)

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


@njit(cache=True, nogil=True)
def value_at(quantiles: NDArray[np.float64], at: float) -> float:
    """The value, a whole number, at the rank `at` in [0, 1] of one bin's quantiles (QUANTILES,)."""
    at *= QUANTILES - 1
    low = min(max(int(at), 0), QUANTILES - 2)
    return float(np.rint(quantiles[low] + (quantiles[low + 1] - quantiles[low]) * (at - low)))


@njit(cache=True, nogil=True)
def rank_of(quantiles: NDArray[np.float64], value: float) -> float:
    """The share of one bin (QUANTILES,) that lies below a value: in [0, 1]."""
    low = -1
    for q in range(QUANTILES):
        low += quantiles[q] <= value
    low = min(max(low, 0), QUANTILES - 2)
    part = (value - quantiles[low]) / max(quantiles[low + 1] - quantiles[low], 1.0)
    return float((low + min(max(part, 0.0), 1.0)) / (QUANTILES - 1))


@njit(cache=True, nogil=True)
def _values_at(quantiles: NDArray[np.float64], tokens: NDArray[np.int64], at: NDArray[np.float64]) -> NDArray[np.int64]:
    """`value_at` of each token's bin (n,) of all (bins, QUANTILES)."""
    out = np.empty(len(tokens), np.int64)
    for i in range(len(tokens)):
        out[i] = int(value_at(quantiles[tokens[i]], at[i]))
    return out
