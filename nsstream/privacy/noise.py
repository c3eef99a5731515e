"""Noise: discrete normal and Laplace noise for counts, and a private choice, exactly as their proofs have them.

Noise of floating-point numbers tells more than its proof allows (Mironov 2012, "On significance of the least
significant bits"). Here no number is rounded: parameters are fractions, all chance comes as whole numbers from the
system's generator, and the samplers are algorithms 1 to 3 of Canonne, Kamath, Steinke 2020 ("The discrete Gaussian for
differential privacy"). How long a draw takes depends on what is drawn: who can time single draws learns of the noise.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from nsstream.errors import InputError

MOST_DEVIATION: Final = 1 << 40  # standard deviation or scale of noise
MOST_COUNT: Final = 1 << 62
_READ: Final = 4096  # octets that are asked for at once

Octets = Callable[[int], bytes]
Number = int | float | Fraction


class Chance(Protocol):
    """Where chance comes from."""

    def below(self, bound: int) -> int:
        """A whole number from 0 to bound - 1, each as likely as the others."""
        ...


class SecureChance:
    """Chance from octets of a generator for cryptography; by default the system's. One thread uses it at a time."""

    def __init__(self, octets: Octets = os.urandom) -> None:
        self._octets, self._buffer, self._at = octets, b"", 0

    def below(self, bound: int) -> int:
        """A whole number from 0 to bound - 1; numbers that are too large are drawn anew."""
        bits = (bound - 1).bit_length()
        size = (bits + 7) // 8
        spare = 8 * size - bits
        while True:
            end = self._at + size
            if end > len(self._buffer):
                self._buffer, self._at, end = self._octets(max(_READ, size)), 0, size
            number = int.from_bytes(self._buffer[self._at : end], "big") >> spare
            self._at = end
            if number < bound:
                return number


def noisy_counts(
    counts: NDArray[np.integer] | Sequence[int],
    noise_multiplier: Number,
    sensitivity: Number,
    chance: Chance | None = None,
) -> NDArray[np.int64]:
    """Counts with discrete normal noise of standard deviation noise_multiplier * sensitivity on each.

    It costs a `DiscreteGaussian(noise_multiplier)`. What follows from the result, as that no count is below 0, is free.

    Args:
        counts: of any shape; which counts there are must not depend on the data.
        noise_multiplier: of the mechanism.
        sensitivity: the largest l2 distance between the counts with a unit and without; rounded up, if it is rounded.
        chance: the system's, if None.
    """
    deviation = _fraction("noise_multiplier", noise_multiplier) * _fraction("sensitivity", sensitivity)
    _check_deviation(deviation)
    source = chance or SecureChance()
    return _add(counts, lambda: discrete_gaussian(deviation**2, source))


def laplace_counts(
    counts: NDArray[np.integer] | Sequence[int],
    epsilon: Number,
    sensitivity: Number,
    chance: Chance | None = None,
) -> NDArray[np.int64]:
    """Counts with discrete Laplace noise of scale sensitivity / epsilon; `sensitivity` is of the l1 distance.

    It costs a `PureEpsilon(epsilon)`.
    """
    scale = _fraction("sensitivity", sensitivity) / _fraction("epsilon", epsilon)
    _check_deviation(scale)
    source = chance or SecureChance()
    return _add(counts, lambda: discrete_laplace(scale, source))


def choose(scores: Sequence[Number], epsilon: Number, sensitivity: Number, chance: Chance | None = None) -> int:
    """The place of a score that is likely among the largest: permute-and-flip (McKenna, Sheldon 2020).

    It costs a `PureEpsilon(epsilon)`, where one unit changes any score by at most `sensitivity`.
    """
    exact = [_finite("score", score) for score in scores]
    if not exact:
        raise InputError("there is nothing to choose from")
    rate = _fraction("epsilon", epsilon) / (2 * _fraction("sensitivity", sensitivity))
    source, most, left = chance or SecureChance(), max(exact), list(range(len(exact)))
    while True:
        at = left.pop(source.below(len(left)))
        if bernoulli_exp(rate * (most - exact[at]), source):
            return at


def bernoulli_exp(gamma: Fraction, chance: Chance) -> bool:
    """True with chance e^-gamma, for gamma >= 0 (algorithm 1)."""
    return _bernoulli_exp(gamma.numerator, gamma.denominator, chance)


def _bernoulli_exp(numerator: int, denominator: int, chance: Chance) -> bool:
    while numerator > denominator:
        if not _bernoulli_exp_below_1(1, 1, chance):
            return False
        numerator -= denominator
    return _bernoulli_exp_below_1(numerator, denominator, chance)


def _bernoulli_exp_below_1(numerator: int, denominator: int, chance: Chance) -> bool:
    k = 1
    while chance.below(denominator * k) < numerator:
        k += 1
    return k % 2 == 1


def discrete_laplace(scale: Fraction, chance: Chance) -> int:
    """A whole number x with chance proportional to e^(-|x| / scale), scale > 0 (algorithm 2)."""
    return _discrete_laplace(scale.numerator, scale.denominator, chance)


def _discrete_laplace(t: int, s: int, chance: Chance) -> int:
    while True:
        u = chance.below(t)
        if not _bernoulli_exp_below_1(u, t, chance):
            continue
        v = 0
        while _bernoulli_exp_below_1(1, 1, chance):
            v += 1
        size, is_negative = (u + t * v) // s, chance.below(2) == 1
        if not (is_negative and size == 0):
            return -size if is_negative else size


def discrete_gaussian(variance: Fraction, chance: Chance) -> int:
    """A whole number x with chance proportional to e^(-x^2 / (2 variance)), variance > 0 (algorithm 3)."""
    n, d = variance.numerator, variance.denominator
    t = math.isqrt(n // d) + 1
    while True:
        drawn = _discrete_laplace(t, 1, chance)
        # (|x| - variance / t)^2 / (2 variance); that it is in lowest terms would take longer to see to than it saves
        if _bernoulli_exp((abs(drawn) * d * t - n) ** 2, 2 * n * d * t * t, chance):
            return drawn


def _add(counts: NDArray[np.integer] | Sequence[int], draw: Callable[[], int]) -> NDArray[np.int64]:
    exact = np.asarray(counts)
    if exact.size and (exact.dtype.kind not in "iu" or int(exact.max()) > MOST_COUNT or int(exact.min()) < -MOST_COUNT):
        raise InputError(f"counts must be whole numbers of at most 2^62, got {exact.dtype}")
    noisy = [count + draw() for count in exact.reshape(-1).tolist()]
    return np.array(noisy, np.int64).reshape(exact.shape)


def _finite(name: str, value: Number) -> Fraction:
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{name} must be finite, got {value!r}")
    return Fraction(value)


def _fraction(name: str, value: Number) -> Fraction:
    exact = _finite(name, value)
    if exact <= 0:
        raise InputError(f"{name} must be > 0, got {value!r}")
    return exact


def _check_deviation(deviation: Fraction) -> None:
    if deviation > MOST_DEVIATION:
        raise InputError(f"noise of deviation {float(deviation):g} would be all there is; at most 2^40 is drawn")
