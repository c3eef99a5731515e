"""One-run auditing: from who was guessed right among canaries to a lower bound of epsilon.

Each of m canaries is included by a fair coin of its own before the one training run. The auditor then guesses, of r
of them, whether it was included, and abstains on the rest. Steinke, Nasr and Jagielski ("Privacy Auditing with One (1)
Training Run", NeurIPS 2023, arXiv 2305.08846, theorem 3.1; as a p-value: corollary 5.4): if the run is (epsilon, delta)
differentially private for one canary, the number of right guesses is v or more with a probability of at most

    f(v) + 2 m delta max over i in 1..v of (f(v - i) - f(v)) / i,    f(v) = P[Binomial(r, 1 / (1 + exp(-epsilon))) >= v]

A right guess is worth what it says only where the coins were fair and independent, and where the guesses were settled
without them: exactly half of the canaries included, or a number of guesses tuned by the outcome, would break it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

GUESSED: Final = (1.0, 0.5, 0.2, 0.1)  # shares of the canaries that are guessed; each pays its part of the doubt
MOST_EPSILON: Final = 64.0


@dataclass(frozen=True, slots=True)
class Audit:
    """What one run gives away: epsilon is more than `epsilon`, at `confidence`."""

    epsilon: float
    confidence: float
    delta: float
    canary_count: int
    guess_count: int  # of the number of guesses that gave the bound
    right_count: int

    def as_dict(self) -> dict[str, object]:
        """A plain mapping for JSON."""
        return {
            "epsilon_at_least": self.epsilon,
            "confidence": self.confidence,
            "delta": self.delta,
            "canaries": self.canary_count,
            "guesses": self.guess_count,
            "right": self.right_count,
        }


def p_value(canary_count: int, guess_count: int, right_count: int, epsilon: float, delta: float) -> float:
    """The most likely that an (epsilon, delta)-private run can make so many right guesses (the formula above).

    Raises ValueError unless 0 <= right <= guesses <= canaries, epsilon >= 0 and 0 <= delta <= 1.
    """
    m, r, v = canary_count, guess_count, right_count
    if not 0 <= v <= r <= m:
        raise ValueError(f"0 <= right <= guesses <= canaries is needed, got {v}, {r}, {m}")
    if not (epsilon >= 0 and 0 <= delta <= 1):
        raise ValueError(f"epsilon >= 0 and delta in [0, 1] are needed, got {epsilon}, {delta}")
    from scipy.stats import binom

    right_chance = 1 / (1 + math.exp(-epsilon))
    bound = float(binom.sf(v - 1, r, right_chance))
    if delta and v:
        beneath = np.cumsum(binom.pmf(np.arange(v - 1, -1, -1), r, right_chance))  # f(v - i) - f(v), i = 1..v
        bound += 2 * m * delta * float((beneath / np.arange(1, v + 1)).max())
    return min(bound, 1.0)


def least_epsilon(canary_count: int, guess_count: int, right_count: int, delta: float, doubt: float) -> float:
    """The epsilon below which so many right guesses have a chance of less than `doubt`; 0 where none is refuted."""
    if p_value(canary_count, guess_count, right_count, 0.0, delta) >= doubt:
        return 0.0
    low, high = 0.0, MOST_EPSILON
    for _ in range(60):
        middle = (low + high) / 2
        is_refuted = p_value(canary_count, guess_count, right_count, middle, delta) < doubt
        low, high = (middle, high) if is_refuted else (low, middle)
    return low


def audit(
    scores: NDArray[np.float64],
    included: NDArray[np.bool_],
    delta: float = 0.0,
    confidence: float = 0.95,
    guessed: tuple[float, ...] = GUESSED,
) -> Audit:
    """A lower bound of epsilon from the canaries' scores (m,), higher meaning included, and who was included (m,).

    The highest scores are guessed included and the lowest excluded, as many of each; the share that is guessed is tried
    for each in `guessed`, settled beforehand, with the doubt shared out among them (Bonferroni), and the best bound
    stands. Ties go by place, which knows nothing of the coins. Raises ValueError for fewer than two canaries, lengths
    that differ, and scores that are not numbers.
    """
    m = len(scores)
    if m < 2 or scores.shape != included.shape:
        raise ValueError(f"scores and coins of two canaries at least are needed, got {scores.shape}, {included.shape}")
    if np.isnan(scores).any():
        raise ValueError(f"{int(np.isnan(scores).sum())} of {m} scores are not numbers")
    order = np.argsort(scores, kind="stable")
    doubt = (1 - confidence) / len(guessed)
    best = Audit(0.0, confidence, delta, m, 0, 0)
    for share in guessed:
        half = max(1, int(m * share / 2))
        right = int(included[order[-half:]].sum() + (~included[order[:half]]).sum())
        bound = least_epsilon(m, 2 * half, right, delta, doubt)
        if bound > best.epsilon or not best.guess_count:
            best = Audit(bound, confidence, delta, m, 2 * half, right)
    return best
