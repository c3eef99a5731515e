"""Trees: a sum of regression trees as arrays, which a checkpoint can hold and compiled code can walk."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numba import njit
from numpy.typing import NDArray


@dataclass(frozen=True)
class Trees:
    """One number a row: `start`, and the value of one leaf of each tree.

    Attributes:
        start: (1,).
        roots: (t,) first node of each tree.
        feature: (nodes,) -1 for a leaf.
        threshold: (nodes,) a row goes left where its feature is at most that.
        left, right: (nodes,) nodes.
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
        nodes = np.arange(len(self.feature))
        inner = self.feature >= 0
        children = np.concatenate([self.left[inner], self.right[inner]])
        later = np.concatenate([nodes[inner], nodes[inner]]) < children
        sizes = {len(getattr(self, name)) for name in ("feature", "threshold", "left", "right", "value")}
        is_whole = len(sizes) == 1 and len(self.start) == 1
        if not (is_whole and later.all() and (children < len(nodes)).all() and (self.feature < features).all()):
            raise ValueError("the critic's trees are not trees")
        if not ((self.roots >= 0) & (self.roots < len(nodes))).all():
            raise ValueError("the critic's trees have no roots")


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
