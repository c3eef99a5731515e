"""Membership: can an outsider who has the twin tell whether a flow was in the capture that it was made from?

Two attacks give each flow a score. *Nearest*: how close the twin comes to it. *Density*: how much more likely the twin
makes it than other real traffic does, after DOMIAS (van Breugel, Sun, Qian, van der Schaar 2023): the logarithm of
p_twin / p_reference, both as sums of Gaussian kernels over what a flow looks like (`features`; addresses, ephemeral
ports and the hour are no part of it).

Members are flows of the capture, others flows of held-out traffic. Where these two differ by themselves (another day,
another busy host), anything tells them apart, so each attack is made a second time with real traffic in the twin's
place: the part of the capture that is not being guessed. That is the *blind* area. What counts against the twin is what
it gives beyond that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.score.features import FEATURE_NAMES, flow_features
from nsstream.score.observed import Observed, halves
from nsstream.score.privacy.copies import sample
from nsstream.score.privacy.intervals import Auc, auc_of

MOST_GUESSED: Final = 2_000  # flows of either side
MOST_KNOWN: Final = 10_000  # flows that a density is made of
FEWEST: Final = 50  # flows of each part; fewer say nothing
FARTHEST: Final = 20.0  # standard deviations; beyond them all is equally far
_ROWS_AT_ONCE: Final = 256
_SAME: Final = 1e-6  # squared distances below it are rounding
_SEEN: Final = [i for i, name in enumerate(FEATURE_NAMES) if name != "start_slot"]


@dataclass(frozen=True, slots=True)
class Membership:
    """How well members are told, by either attack, and how well without the twin."""

    nearest: Auc
    nearest_blind: Auc
    density: Auc
    density_blind: Auc
    member_count: int
    other_count: int

    @property
    def is_told(self) -> bool:
        """Whether either attack gives more than chance, and more than the blind one, beyond doubt."""
        pairs = ((self.nearest, self.nearest_blind), (self.density, self.density_blind))
        return any(found.low > max(0.5, blind.high) for found, blind in pairs)

    def as_dict(self) -> dict[str, object]:
        """A plain mapping for JSON."""
        return {
            "members": self.member_count,
            "others": self.other_count,
            "nearest": self.nearest.as_dict() | {"blind": self.nearest_blind.as_dict()},
            "density": self.density.as_dict() | {"blind": self.density_blind.as_dict()},
        }


def membership(real: Observed, twin: Observed, held_out: Observed, rng: np.random.Generator) -> Membership | None:
    """Attack a twin with held-out traffic of the same network; None where any part has too few flows to tell by."""
    if min(len(part.flow_identity) for part in (real, twin, held_out)) < FEWEST:
        return None
    guessed, known = halves(real, rng)
    others, reference = halves(held_out, rng)
    parts = [_features(part) for part in (guessed, others, known, reference, twin)]
    if min(len(part) for part in parts) < FEWEST:
        return None
    a_member, another = (part[sample(len(part), MOST_GUESSED, rng)] for part in parts[:2])
    a_known, a_reference, a_twin = (part[sample(len(part), MOST_KNOWN, rng)] for part in parts[2:])
    centre, scale = a_reference.mean(axis=0), np.maximum(a_reference.std(axis=0), 1e-3)
    a_member, another, a_known, a_reference, a_twin = (
        np.clip((part - centre) / scale, -FARTHEST, FARTHEST)
        for part in (a_member, another, a_known, a_reference, a_twin)
    )
    width = _usual_distance(a_reference, rng)
    scores = [[_scores(side, model, width) for side in (a_member, another)] for model in (a_twin, a_known, a_reference)]
    (near_twin, near_known), (in_twin, in_known, in_reference) = (
        [[found[0] for found in model] for model in scores[:2]],
        [[found[1] for found in model] for model in scores],
    )
    ratio = [[p - q for p, q in zip(model, in_reference, strict=True)] for model in (in_twin, in_known)]
    return Membership(
        nearest=auc_of(*near_twin),
        nearest_blind=auc_of(*near_known),
        density=auc_of(*ratio[0]),
        density_blind=auc_of(*ratio[1]),
        member_count=len(a_member),
        other_count=len(another),
    )


def _features(trace: Observed) -> NDArray[np.float64]:
    return flow_features(trace, 1.0)[:, _SEEN]


def _usual_distance(rows: NDArray[np.float64], rng: np.random.Generator) -> float:
    """How far a flow is from the nearest that differs, in the median: the width of the kernels."""
    some = rows[sample(len(rows), 500, rng)]
    squared = _squared(some, rows)
    squared[squared < _SAME] = np.inf
    nearest = squared.min(axis=1)
    nearest = nearest[np.isfinite(nearest)]
    return max(float(np.sqrt(np.median(nearest))), 1e-2) if len(nearest) else 1.0


def _scores(
    rows: NDArray[np.float64], known: NDArray[np.float64], width: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of each flow: minus its distance to the nearest known one, and the logarithm of its density among them."""
    nearest, density = np.empty(len(rows)), np.empty(len(rows))
    for at in range(0, len(rows), _ROWS_AT_ONCE):
        some = slice(at, at + _ROWS_AT_ONCE)
        squared = _squared(rows[some], known)
        least = squared.min(axis=1)
        nearest[some] = -np.sqrt(least)
        kernels = np.exp((least[:, None] - squared) / (2 * width**2)).mean(axis=1)
        density[some] = np.log(kernels) - least / (2 * width**2)
    return nearest, density


def _squared(rows: NDArray[np.float64], known: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared Euclidean distances (n, k)."""
    both = (rows**2).sum(axis=1)[:, None] + (known**2).sum(axis=1) - 2 * (rows @ known.T)
    out: NDArray[np.float64] = np.where(both < _SAME, 0.0, both)
    return out
