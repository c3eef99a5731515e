"""Counts by what is noisy and what is expected: post-processing, and free.

A count is drawn towards what is expected, the further the more noise there is beside it; and all of them together are
as many as are known to be, which what is least known gives way to.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

_DOUBT: Final = 100  # chunks, in fewer than one of which noise alone makes a cell that is believed
_HALVINGS: Final = 60


def hidden(std: float, cells: int) -> float:
    """How large a count of so many cells noise alone is unlikely to make."""
    return std * math.sqrt(2 * math.log(_DOUBT * max(cells, 1)))


def settle(
    noisy: NDArray[np.float64], expected: NDArray[np.float64], std: float, total: float, cells: int | None = None
) -> NDArray[np.float64]:
    """Counts (c,) of a sum `total` by what is noisy and what is expected in these shares, as they deserve.

    A cell is expected to be as it was, give or take as much; one that was not expected is believed beyond all that
    noise alone is likely to make in so many `cells`, of which these are a part. What is too much in all is taken from
    cells by how uncertain each is (the mean of normal numbers whose sum is known), and what is missing given to them.
    """
    expected = expected * (total / max(float(expected.sum()), 1e-9))
    trust = expected**2 / (expected**2 + std**2)
    fresh = np.where(noisy > hidden(std, cells or len(noisy)), noisy, 0.0)
    told = np.where(expected > 0, np.maximum(expected + trust * (noisy - expected), fresh), fresh)
    told = np.maximum(told, 0.0)
    if told.sum() <= 0:
        return np.asarray(expected, np.float64)
    return _with_sum(told, np.where(fresh > 0, 1.0, trust) * std**2, total)


def _with_sum(told: NDArray[np.float64], variance: NDArray[np.float64], total: float) -> NDArray[np.float64]:
    """Counts (c,) that are not negative and add up to `total`."""
    surplus = float(told.sum()) - total
    if surplus < 0 < variance.sum():
        return told - variance * (surplus / float(variance.sum()))
    low, high = 0.0, float(np.max(told[variance > 0] / variance[variance > 0], initial=0.0))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        is_too_much = np.maximum(told - middle * variance, 0.0).sum() > total
        low, high = (middle, high) if is_too_much else (low, middle)
    told = np.maximum(told - high * variance, 0.0)
    return told * (total / max(float(told.sum()), 1e-9))
