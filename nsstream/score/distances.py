"""Distances between two samples: of categories (Jensen-Shannon) and of numbers (earth mover's). Pure numpy, no state.

Promises: a sample is at distance 0 from itself and from any reordering of itself; Jensen-Shannon and the plain earth
mover's distance are symmetric; Jensen-Shannon lies in [0, ln 2]. An empty sample has no distance: the result is None.
Definitions are those of NetShare (Yin et al., SIGCOMM 2022, section 6), so that figures can be set beside its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def jensen_shannon(real: NDArray[Any], synthetic: NDArray[Any]) -> float | None:
    """Squared Jensen-Shannon distance (natural logarithm) of two samples of integer categories, each 1-D."""
    if not len(real) or not len(synthetic):
        return None
    _, code = np.unique(np.concatenate([real, synthetic]), return_inverse=True)
    size = int(code.max()) + 1
    return _divergence(np.bincount(code[: len(real)], minlength=size), np.bincount(code[len(real) :], minlength=size))


def rank_jensen_shannon(real: NDArray[Any], synthetic: NDArray[Any]) -> float | None:
    """The same between popularity curves: counts sorted from the most frequent down, the identity of values dropped."""
    if not len(real) or not len(synthetic):
        return None
    curves = [np.sort(np.unique(x, return_counts=True)[1])[::-1] for x in (real, synthetic)]
    size = max(len(c) for c in curves)
    return _divergence(*(np.pad(c, (0, size - len(c))) for c in curves))


def earth_mover(real: NDArray[Any], synthetic: NDArray[Any]) -> float | None:
    """Area between the two empirical distribution functions, in the unit of the values (Wasserstein-1)."""
    if not len(real) or not len(synthetic):
        return None
    a, b = np.sort(np.asarray(real, np.float64)), np.sort(np.asarray(synthetic, np.float64))
    values = np.sort(np.concatenate([a, b]))
    width = np.diff(values)
    share_a = np.searchsorted(a, values[:-1], side="right") / len(a)
    share_b = np.searchsorted(b, values[:-1], side="right") / len(b)
    return float(np.sum(np.abs(share_a - share_b) * width))


def standard_earth_mover(real: NDArray[Any], synthetic: NDArray[Any]) -> float | None:
    """Earth mover's distance in standard deviations of the real sample (in plain units where that deviation is 0)."""
    plain = earth_mover(real, synthetic)
    return None if plain is None else plain / (float(np.std(np.asarray(real, np.float64))) or 1.0)


def correlation(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Pearson's coefficient; 0 where fewer than eleven pairs or a constant side leave it undefined."""
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if len(a) <= 10 or not a.std() or not b.std():
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def _divergence(left: NDArray[np.int64], right: NDArray[np.int64]) -> float:
    """Jensen-Shannon divergence of two histograms over the same bins."""
    p, q = left / left.sum(), right / right.sum()
    middle = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):  # 0 log 0 is 0
        terms = np.where(p > 0, p * np.log(p / middle), 0.0) + np.where(q > 0, q * np.log(q / middle), 0.0)
    return max(float(terms.sum()) / 2, 0.0)  # rounding can leave a last-bit negative
