"""GapShapes: what gaps each packet kind shows, and how they lie inside their bins.

A bin of gaps is 8 % wide, a poll's timer is a millionth, and another kind's gap in the same bin lies elsewhere. So the
bins that a kind fills have quantiles of their own, and a kind that was seen often shows no gap that is far from all
that it showed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from nsstream.encode.bins import QUANTILES

FEWEST: Final = 12  # gaps of a kind in a bin that have a shape of their own
MOST: Final = 2048  # shapes; the fullest
SEEN_OFTEN: Final = 100  # gaps of a kind by a clock, from which on what was never seen is not drawn
REACH: Final = 1  # bins beside those that were seen are drawn too


@dataclass(frozen=True)
class GapShapes:
    """Cells of kind token, clock (0: since the packet before, 1: since the own side's last) and gap token.

    Attributes:
        cells: (c, 4) kind, clock, gap and how many; rising by the first three.
        quantiles: (q, QUANTILES) nanoseconds of those with at least `FEWEST`; shape: (c,) their row, or -1.
    """

    cells: NDArray[np.int64]
    shape: NDArray[np.int64]
    quantiles: NDArray[np.float64]

    @classmethod
    def fit(
        cls, kind: NDArray[np.int64], clock: NDArray[np.bool_], gap: NDArray[np.int64], gap_ns: NDArray[np.int64]
    ) -> Self:
        """Measure m gaps, each argument (m,)."""
        rows = np.stack([kind, clock.astype(np.int64), gap], axis=1)
        order = np.lexsort((gap_ns, gap, clock, kind))
        distinct, first, counts = np.unique(rows[order], axis=0, return_index=True, return_counts=True)
        fullest = np.sort(counts)[::-1][:MOST]
        least = max(FEWEST, int(fullest[-1]) if len(fullest) == MOST else 0)
        shaped = np.flatnonzero(counts >= least)
        shape = np.full(len(counts), -1, np.int64)
        shape[shaped] = np.arange(len(shaped))
        values, ranks = gap_ns[order], np.linspace(0, 1, QUANTILES)
        quantiles = [np.quantile(values[first[c] : first[c] + counts[c]], ranks) for c in shaped]
        return cls(
            np.concatenate([distinct, counts[:, None]], axis=1).reshape(-1, 4),
            shape,
            np.array(quantiles, np.float64).reshape(-1, QUANTILES),
        )

    def shape_table(self, kinds: NDArray[np.int64], gaps: NDArray[np.int64]) -> NDArray[np.int64]:
        """The row of the quantiles of each of these kinds, by clock and gap: (k, 2, g), -1 where there is none."""
        return self._spread(kinds, gaps, self.shape, -1)

    def may_show(self, kinds: NDArray[np.int64], gaps: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which gaps each of these kinds may show, by clock: (k, 2, g)."""
        count = self._spread(kinds, gaps, self.cells[:, 3], 0)
        seen = count > 0
        reached = seen.copy()
        for by in range(1, REACH + 1):
            reached[..., by:] |= seen[..., :-by] & (gaps[by:] - gaps[:-by] <= REACH)
            reached[..., :-by] |= seen[..., by:] & (gaps[by:] - gaps[:-by] <= REACH)
        return np.asarray(reached | (count.sum(axis=-1, keepdims=True) < SEEN_OFTEN), np.bool_)

    def as_json(self) -> dict[str, Any]:
        """Everything, as JSON."""
        return {name: getattr(self, name).tolist() for name in ("cells", "shape", "quantiles")}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The inverse of `as_json`; raises LookupError, TypeError or ValueError on anything else."""
        out = cls(
            np.array(data["cells"], np.int64).reshape(-1, 4),
            np.array(data["shape"], np.int64),
            np.array(data["quantiles"], np.float64).reshape(-1, QUANTILES),
        )
        is_row = (out.shape >= -1) & (out.shape < len(out.quantiles))
        if len(out.shape) != len(out.cells) or not is_row.all() or not np.isin(out.cells[:, 1], (0, 1)).all():
            raise ValueError("the shapes of gaps do not fit their cells")
        if not np.isfinite(out.quantiles).all():
            raise ValueError("the shapes of gaps are not numbers")
        return out

    def _spread(
        self, kinds: NDArray[np.int64], gaps: NDArray[np.int64], values: NDArray[np.int64], empty: int
    ) -> NDArray[np.int64]:
        out = np.full((len(kinds), 2, len(gaps)), empty, np.int64)
        k, g = np.searchsorted(kinds, self.cells[:, 0]), np.searchsorted(gaps, self.cells[:, 2])
        k, g = np.minimum(k, len(kinds) - 1), np.minimum(g, len(gaps) - 1)
        is_there = (kinds[k] == self.cells[:, 0]) & (gaps[g] == self.cells[:, 2])
        out[k[is_there], self.cells[is_there, 1], g[is_there]] = values[is_there]
        return out
