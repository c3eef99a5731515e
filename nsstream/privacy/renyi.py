"""Rényi divergences of the mechanisms: what composition adds up.

A mechanism's curve is the largest Rényi divergence, at each of `ORDERS`, between its outputs with a unit and without,
in nats. Curves of mechanisms that see the same data, each as the ones before made it, add (Mironov 2017, proposition
1). The sampled Gaussian's is that of Mironov, Talwar, Zhang 2019 ("Rényi differential privacy of the sampled Gaussian
mechanism"): of the two directions the one with the mixture first is the larger (theorem 5), and there
(order - 1) curve = log E[(mixture / normal)^order] under the normal (section 3.3). For orders that are not whole the
paper gives two infinite series; here the expectation itself is summed by the trapezoidal rule, which converges
exponentially: the integrand is analytic in a strip of half-width pi sigma^2 and falls as a normal density does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from nsstream.privacy.mechanisms import DiscreteGaussian, Gaussian, Mechanism, PureEpsilon, SampledGaussian

ORDERS: Final[tuple[float, ...]] = (
    *(1 + at / 20 for at in range(1, 40)),
    *(3 + at / 10 for at in range(80)),
    *map(float, range(11, 65)),
    *(72.0, 80.0, 96.0, 112.0, 128.0, 160.0, 192.0, 256.0, 384.0, 512.0, 768.0, 1024.0, 2048.0),
)
"""At which curves are known: dense where DP-SGD is converted at, sparse where only very noisy releases are."""

SMALLEST_NOISE: Final = 0.1  # below it the sum would need too many points; the bound is that of no sampling at all
_TAILS: Final = 12.0  # standard deviations that the sum goes beyond both modes; what is left out is below e^-72
_DIRECT: Final = 600.0  # largest exponent that is summed as it is

Curve = NDArray[np.float64]  # (orders,), read-only


def curve(mechanisms: Iterable[Mechanism]) -> Curve:
    """The curve of all of these one after the other, (orders,)."""
    total = np.zeros(len(ORDERS))
    for mechanism in mechanisms:
        total += curve_of(mechanism)
    return total


def curve_of(mechanism: Mechanism) -> Curve:
    """The curve of one mechanism, (orders,)."""
    match mechanism:
        case SampledGaussian(noise_multiplier, sample_rate, steps):
            return steps * _sampled_gaussian(noise_multiplier, sample_rate)
        case Gaussian(noise_multiplier, times) | DiscreteGaussian(noise_multiplier, times):
            return times * np.asarray(ORDERS) / (2 * noise_multiplier**2)
        case PureEpsilon(epsilon, times):
            return times * _pure(epsilon)


@lru_cache(maxsize=4096)
def _sampled_gaussian(noise_multiplier: float, sample_rate: float) -> Curve:
    orders = np.asarray(ORDERS)
    if sample_rate == 0:
        return np.zeros(len(orders))
    if sample_rate == 1 or noise_multiplier < SMALLEST_NOISE:
        return orders / (2 * noise_multiplier**2)
    logs = [log_moment(order, noise_multiplier, sample_rate) for order in ORDERS]
    # A curve rises with its order; so where rounding has a term below the one before, that one is as good a bound.
    return np.maximum.accumulate(np.maximum(np.array(logs), 0) / (orders - 1))


def log_moment(order: float, sigma: float, rate: float) -> float:
    """Log of E[(1 - q + q e^((2z - 1) / 2 sigma^2))^order] for z ~ N(0, sigma^2), q the sample rate, 0 < q < 1.

    The ratio is 1 + u with E[u] = 0; so the sum is of (1 + u)^order - 1 - order u, which is never below 0 and keeps
    its digits where u is tiny, as it is in DP-SGD.
    """
    step = min(sigma / 8, sigma**2 / 2)
    least, most = -_TAILS * sigma, order + _TAILS * sigma
    z = np.linspace(least, most, math.ceil((most - least) / step) + 1)
    exponent = (2 * z - 1) / (2 * sigma**2)
    weight = math.log(z[1] - z[0]) - z**2 / (2 * sigma**2) - math.log(sigma * math.sqrt(2 * math.pi))
    log_ratio = np.logaddexp(math.log1p(-rate), math.log(rate) + exponent)
    if max(float((order * log_ratio).max()), float(exponent.max())) > _DIRECT:
        return float(logsumexp(order * log_ratio + weight))
    u = rate * np.expm1(exponent)
    excess = np.expm1(order * np.log1p(u)) - order * u
    return math.log1p(float(np.dot(np.exp(weight), np.maximum(excess, 0))))


@lru_cache(maxsize=4096)
def _pure(epsilon: float) -> Curve:
    """Of randomised response, which is the worst that is epsilon-DP; at most epsilon, and order epsilon^2 / 2."""
    orders = np.asarray(ORDERS)
    log_p, log_not_p = -math.log1p(math.exp(-epsilon)), -epsilon - math.log1p(math.exp(-epsilon))
    exact = np.logaddexp(orders * log_p + (1 - orders) * log_not_p, orders * log_not_p + (1 - orders) * log_p) / (
        orders - 1
    )
    bound = orders * epsilon**2 / 2
    # Where epsilon is tiny, rounding is larger than what `exact` tells.
    return bound if epsilon < 1e-4 else np.clip(exact, 0, np.minimum(epsilon, bound))
