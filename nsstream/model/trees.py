"""Trees: a sum of regression trees as arrays, which a checkpoint can hold and compiled code can walk."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final, Self

import numpy as np
from numba import njit
from numpy.typing import NDArray

FIRMEST: Final = 12.0  # no logit counts for more
_WHOLE: Final = ("roots", "feature", "left", "right")


@dataclass(frozen=True)
class Trees:
    """One number a row: `start`, and the value of one leaf of each tree.

    Attributes:
        start: (1,).
        roots: (t,) first node of each tree.
        feature: (nodes,) -1 for a leaf.
        threshold: (nodes,) a row goes left where its feature is at most that (where it is no number, right).
        left, right: (nodes,) nodes, later than their parent.
        value: (nodes,) of leaves.
    """

    start: NDArray[np.float64]
    roots: NDArray[np.int64]
    feature: NDArray[np.int64]
    threshold: NDArray[np.float64]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    value: NDArray[np.float64]

    @classmethod
    def none(cls) -> Self:
        """No tree: 0 for every row."""
        whole, real = np.zeros(0, np.int64), np.zeros(0)
        return cls(np.zeros(1), whole, whole, real, whole, whole, real)

    def plus(self, other: Self) -> Self:
        """The trees whose number is the sum of both numbers."""
        before = len(self.feature)
        return type(self)(
            start=self.start + other.start,
            roots=np.concatenate([self.roots, other.roots + before]),
            feature=np.concatenate([self.feature, other.feature]),
            threshold=np.concatenate([self.threshold, other.threshold]),
            left=np.concatenate([self.left, np.where(other.feature >= 0, other.left + before, 0)]),
            right=np.concatenate([self.right, np.where(other.feature >= 0, other.right + before, 0)]),
            value=np.concatenate([self.value, other.value]),
        )

    def __call__(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """The numbers (n,) of rows (n, features)."""
        out = np.full(len(rows), self.start[0])
        _walk(self.roots, self.feature, self.threshold, self.left, self.right, self.value, rows, out)
        return out

    def as_arrays(self) -> dict[str, NDArray[np.int64] | NDArray[np.float64]]:
        """Everything by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def check(self, features: int) -> None:
        """Raise ValueError unless walking ends and stays inside, for rows of so many features."""
        arrays = self.as_arrays()
        kinds = {name: np.dtype(np.int64 if name in _WHOLE else np.float64) for name in arrays}
        if any(a.dtype != kinds[name] or a.ndim != 1 for name, a in arrays.items()):
            raise ValueError("the critic's trees are not rows of whole and real numbers")
        if len({len(a) for name, a in arrays.items() if name not in ("start", "roots")}) != 1 or len(self.start) != 1:
            raise ValueError("the critic's trees are not whole")
        if not all(np.isfinite(a).all() for a in (self.start, self.threshold, self.value)):
            raise ValueError("the critic's trees hold what is no number")
        nodes = np.arange(len(self.feature))
        inner = self.feature >= 0
        children, parents = np.stack([self.left[inner], self.right[inner]]), nodes[inner]
        is_inside = (children > parents).all() and (children < len(nodes)).all()  # later ones alone: no way leads back
        if not (is_inside and (self.feature < features).all()):
            raise ValueError("the critic's trees are not trees")
        if not ((self.roots >= 0) & (self.roots < len(nodes))).all():
            raise ValueError("the critic's trees have no roots")


def choose_by_lot(logits: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """One of k candidates for each row of logits (n, k), as likely as its density ratio: (n,)."""
    return np.asarray(np.argmax(logits + rng.gumbel(size=logits.shape), axis=1), np.int64)


@njit(cache=True, nogil=True)
def _walk(
    roots: NDArray[np.int64],
    feature: NDArray[np.int64],
    threshold: NDArray[np.float64],
    left: NDArray[np.int64],
    right: NDArray[np.int64],
    value: NDArray[np.float64],
    rows: NDArray[np.float32],
    out: NDArray[np.float64],
) -> None:
    for i in range(len(rows)):
        for root in roots:
            node = root
            while feature[node] >= 0:
                node = left[node] if rows[i, feature[node]] <= threshold[node] else right[node]
            out[i] += value[node]
