"""Intervals of 95 %: of a share (Clopper and Pearson 1934) and of an area under a ROC curve (DeLong et al. 1988).

Both take the flows as independent of each other. Those of one host are not, so the true intervals are somewhat wider.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

CONFIDENCE: Final = 0.95
_Z: Final = 1.959963984540054  # of the normal distribution, for that confidence


@dataclass(frozen=True, slots=True)
class Rate:
    """So many of so many, and what the share may be."""

    count: int
    of: int

    @property
    def share(self) -> float | None:
        """In [0, 1]; None of nothing."""
        return self.count / self.of if self.of else None

    @property
    def interval(self) -> tuple[float, float]:
        """Clopper and Pearson's, which holds its confidence for every true share; (0, 1) of nothing."""
        from scipy.stats import beta

        tail, k, n = (1 - CONFIDENCE) / 2, self.count, self.of
        low = float(beta.ppf(tail, k, n - k + 1)) if k else 0.0
        high = float(beta.ppf(1 - tail, k + 1, n - k)) if k < n else 1.0
        return low, high

    def is_above(self, base: Rate) -> bool:
        """Whether this share is larger than the other beyond doubt: the intervals do not touch."""
        return self.of > 0 and base.of > 0 and self.interval[0] > base.interval[1]

    def as_dict(self) -> dict[str, object]:
        """A plain mapping for JSON."""
        return {"count": self.count, "of": self.of, "share": self.share, "interval": list(self.interval)}


@dataclass(frozen=True, slots=True)
class Auc:
    """An area under a ROC curve: 0.5 says that members and others look alike, 1.0 that they are told at a glance."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, object]:
        """A plain mapping for JSON."""
        return {"auc": self.value, "interval": [self.low, self.high]}


def auc_of(members: NDArray[np.float64], others: NDArray[np.float64]) -> Auc:
    """The chance that a member's score (m,) is above another's (n,), ties counted half, and DeLong's interval.

    Where one of the two is wholly above the other DeLong's variance is 0; then the interval is widened by the rule of
    three. Raises ValueError if either is empty.
    """
    if not len(members) or not len(others):
        raise ValueError(f"scores of both sides are needed, got {len(members)} and {len(others)}")
    above = _placement(members, others)  # (m,) share of the others that each member is above
    below = 1 - _placement(others, members)  # (n,)
    value = float(above.mean())
    spread = above.var() / max(len(members) - 1, 1) + below.var() / max(len(others) - 1, 1)
    half = _Z * float(np.sqrt(spread)) if spread > 0 else 3 / min(len(members), len(others))
    return Auc(value, max(0.0, value - half), min(1.0, value + half))


def _placement(scores: NDArray[np.float64], among: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of `among` that each score is above, ties half."""
    ordered = np.sort(among)
    under = np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right")
    out: NDArray[np.float64] = under / (2 * len(among))
    return out
