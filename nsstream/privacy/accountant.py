"""Accountant: the (epsilon, delta) that a sequence of mechanisms keeps, and the noise that keeps to one.

Two units of the same kind are added or taken away by nobody: the promise is about one unit, of add-or-remove
adjacency. Mechanisms may be chosen by what the ones before gave. `epsilon` is the smaller of two bounds that both
hold: by Rényi divergences (`renyi`), and by the distribution of the privacy loss (`loss_distribution`), which is
tighter and slower.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

from nsstream.errors import InputError
from nsstream.privacy.loss_distribution import LEAST_DELTA, has_distribution, loss_epsilon
from nsstream.privacy.mechanisms import Mechanism, PureEpsilon, SampledGaussian, merged
from nsstream.privacy.renyi import ORDERS, Curve, curve

MOST_EPSILON: Final = 100.0  # that is worth a tighter bound
MOST_DISTINCT: Final = 40  # mechanisms whose losses are convolved; of more, the bound by divergences is as good
MOST_NOISE: Final = 1e6  # noise multiplier that `noise_multiplier_for` looks at
_CLOSE: Final = 1e-4  # to which a noise multiplier is found, relative


def epsilon(mechanisms: Iterable[Mechanism], delta: float) -> float:
    """The smallest epsilon we can prove for all of these together at `delta`; 0 for none, inf where there is none."""
    return _smaller(tuple(mechanisms), delta)


def _smaller(done: tuple[Mechanism, ...], delta: float) -> float:
    done = merged(Counter(done))
    bound = renyi_epsilon(done, delta)
    if not 0 < bound <= MOST_EPSILON or delta < LEAST_DELTA:
        return bound
    known = [each for each in done if has_distribution(each)]
    if len(set(known)) > MOST_DISTINCT:
        return bound
    rest = curve(each for each in done if not has_distribution(each))
    return min(bound, loss_epsilon(known, rest, delta, bound))


def renyi_epsilon(mechanisms: Iterable[Mechanism], delta: float) -> float:
    """The epsilon by Rényi divergences; at most the sum where all are pure."""
    done = tuple(mechanisms)
    pure = math.fsum(each.epsilon * each.times for each in done if isinstance(each, PureEpsilon))
    is_pure = all(isinstance(each, PureEpsilon) for each in done)
    return min(epsilon_of_curve(curve(done), delta), pure if is_pure else math.inf)


def epsilon_of_curve(total: Curve, delta: float) -> float:
    """The epsilon at `delta` of what has this curve of Rényi divergences.

    Source: Canonne, Kamath, Steinke 2020 ("The discrete Gaussian for differential privacy"), proposition 12 (in
    substance Balle et al. 2020, theorem 21): epsilon = curve + log1p(-1/order) - log(delta order) / (order - 1), at the
    best order.
    """
    check_delta(delta)
    if not total.any():
        return 0.0
    orders = np.asarray(ORDERS)
    every = total + np.log1p(-1 / orders) - (math.log(delta) + np.log(orders)) / (orders - 1)
    best = float(every.min())
    return max(best, 0.0) if math.isfinite(best) else math.inf


def noise_multiplier_for(
    epsilon: float, delta: float, sample_rate: float, steps: int, others: Sequence[Mechanism] = ()
) -> float:
    """The least noise multiplier (to 1e-4) with which so many steps of DP-SGD, and `others`, keep to an epsilon.

    Raises InputError where no noise does: where `others` spend it all.
    """
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise InputError(f"epsilon must be > 0, got {epsilon!r}")

    def keeps(noise: float) -> bool:
        return _smaller((*others, SampledGaussian(noise, sample_rate, steps)), delta) <= epsilon

    least, most = 0.0, 1.0
    while not keeps(most):
        least, most = most, most * 2
        if most > MOST_NOISE:
            spent = _smaller(tuple(others), delta)
            raise InputError(f"no noise keeps {steps:,} steps to epsilon {epsilon:g}: the rest alone spends {spent:g}")
    while most - least > _CLOSE * most:
        middle = (least + most) / 2
        least, most = (least, middle) if keeps(middle) else (middle, most)
    return most


def check_delta(delta: float) -> None:
    """Raise InputError where delta is no chance between 0 and 1."""
    if not 0 < delta < 1:
        raise InputError(f"delta must be between 0 and 1, got {delta!r}")
