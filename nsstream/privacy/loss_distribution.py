"""Loss distribution: a tighter epsilon, from the distribution of the privacy loss itself.

The privacy loss of an output is the log of how much likelier it is with the unit than without. The loss of a sequence
of mechanisms is a sum of independent losses, so its distribution is a convolution, done by FFT (Koskela, Jälkö, Honkela
2020; Gopi, Lee, Wutschitz 2021). Every step here errs to the side of a larger epsilon:

1. *Grid.* The mass between two neighbours of a grid is divided among them so that both distributions, that with the
   unit and that without, keep their mass: this "connects the dots" of the privacy curve from above (Doroshenko et al.
   2022). What is above the grid counts as infinite loss, what is below it as the grid's least.
2. *Sum.* What the FFT's circle wraps from below lands above; what it wraps from above is bounded by Chernoff's bound
   and added to delta, and so is the rounding of the FFT.
3. *Direction.* Adding a unit and taking it away are two distributions for each mechanism; a neighbour differs in one
   way from the first mechanism to the last, so each way is summed on its own, and the worse one counts (Zhu, Dong, Wang
   2022).
4. *The rest.* Mechanisms of which only Rényi divergences are known (the discrete Gaussian over many counts) come in at
   the end: delta(epsilon) of both is the mean of the rest's delta(epsilon - loss) over the losses.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.special import ndtr, ndtri

from nsstream.privacy.mechanisms import Gaussian, Mechanism, PureEpsilon, SampledGaussian
from nsstream.privacy.renyi import ORDERS, SMALLEST_NOISE, Curve

LEAST_DELTA: Final = 1e-9  # below it the rounding of the FFT would count
MOST_POINTS: Final = 1 << 21  # of a grid

_BIAS: Final = 5e-4  # of epsilon, that the grid may add, and that its step may be
_TAIL: Final = 1e-4  # of delta, that each of the two cuts may cost
_ROUNDING: Final = 1e-12  # of the FFT, added to delta
_ROUNDING_OF_A_STEP: Final = 1e-15  # of its power, as many as there are steps
_RATES: Final = np.geomspace(0.02, 5000, 60)  # of Chernoff's bound

Floats = NDArray[np.float64]


def _spaced(ratio: float) -> tuple[int, ...]:
    """Places in `ORDERS` at which what is above 1 has grown by a ratio."""
    found = [0]
    for at, order in enumerate(ORDERS):
        if order - 1 >= ratio * (ORDERS[found[-1]] - 1):
            found.append(at)
    return tuple(found)


_SOME: Final = _spaced(1.1)  # by which a rest is bounded: any bound it, more of them closer


@dataclass(frozen=True, slots=True)
class _Loss:
    """A loss on a grid: masses (n,) of the losses ``(first + i) step``, and the chance that it is infinite."""

    first: int
    masses: Floats
    infinite: float = 0.0


def has_distribution(mechanism: Mechanism) -> bool:
    """Whether the loss of a mechanism has a distribution that we know."""
    if isinstance(mechanism, SampledGaussian):
        return mechanism.noise_multiplier >= SMALLEST_NOISE or mechanism.sample_rate in (0, 1)
    return isinstance(mechanism, Gaussian | PureEpsilon)


def loss_epsilon(mechanisms: Sequence[Mechanism], rest: Curve, delta: float, roughly: float) -> float:
    """An epsilon at `delta` of mechanisms whose losses have distributions, and a rest that has not.

    Args:
        mechanisms: `has_distribution` is true of each; their order does not matter.
        rest: Rényi divergences of all others, (orders,); zeros where there are none.
        delta: from `LEAST_DELTA` on.
        roughly: an upper bound of epsilon, finite and > 0, from which the grid's step follows.

    Returns:
        the epsilon, rounded up to the grid; inf where the grid would be too large.
    """
    counts = _collected(mechanisms)
    steps = max(sum(counts.values()), 1)
    # Dividing a cell of width h adds at most h^2 / 4 of variance a step, and so h^2 / 8 of mean.
    grid = min(math.sqrt(8 * _BIAS * roughly / steps), _BIAS * roughly)
    return max(_one_way(counts, rest, delta, grid, is_added) for is_added in (False, True))


def _collected(mechanisms: Iterable[Mechanism]) -> Counter[Mechanism]:
    """Mechanisms that are done once each, with how often; Gaussians without sampling become one."""
    counts: Counter[Mechanism] = Counter()
    whole = 0.0  # sum of 1 / noise^2
    for each in mechanisms:
        match each:
            case SampledGaussian(noise, 1, times) | Gaussian(noise, times):
                whole += times / noise**2
            case SampledGaussian(noise, rate, steps) if rate and steps:
                counts[SampledGaussian(noise, rate, 1)] += steps
            case PureEpsilon(epsilon, times) if times:
                counts[PureEpsilon(epsilon)] += times
    if whole:
        counts[Gaussian(1 / math.sqrt(whole))] += 1
    return counts


def _one_way(counts: Counter[Mechanism], rest: Curve, delta: float, grid: float, is_added: bool) -> float:
    cut = _TAIL * delta
    losses = []
    for each, times in counts.items():
        loss = _loss(each, grid, cut / sum(counts.values()), is_added)
        if loss is None:
            return math.inf
        losses.append((loss, times))
    total = _sum(losses, grid, cut) if losses else _Loss(0, np.ones(1))
    if total is None:
        return math.inf
    lost = total.infinite + cut + _ROUNDING + _ROUNDING_OF_A_STEP * sum(counts.values())
    return _epsilon(total, rest, grid, delta - lost)


def _sum(losses: Sequence[tuple[_Loss, int]], grid: float, cut: float) -> _Loss | None:
    """The sum of independent losses, each so many times; None where the circle would be too large."""
    low = math.floor(-_reach(losses, grid, cut, -1) / grid) - 1
    high = math.ceil(_reach(losses, grid, cut, 1) / grid) + 1
    size = fft.next_fast_len(high - low + 1, real=True)
    if size > MOST_POINTS:
        return None
    product = np.ones(size // 2 + 1, np.complex128)
    for loss, times in losses:
        circle = np.zeros(size)
        np.add.at(circle, (loss.first + np.arange(len(loss.masses))) % size, loss.masses)
        product *= fft.rfft(circle) ** times
    masses = np.roll(np.maximum(fft.irfft(product, size), 0), -low)
    finite = math.fsum(times * math.log1p(-loss.infinite) for loss, times in losses)
    return _Loss(low, masses, -math.expm1(finite))


def _reach(losses: Sequence[tuple[_Loss, int]], grid: float, cut: float, sign: int) -> float:
    """A bound that the sum, times `sign`, exceeds with a chance of at most `cut` (Chernoff's, at the best rate)."""
    log_moments = np.zeros(len(_RATES))
    for loss, times in losses:
        values = sign * grid * (loss.first + np.arange(len(loss.masses)))
        most = values.max()
        for at, rate in enumerate(_RATES):
            log_moments[at] += times * (rate * most + math.log(np.dot(loss.masses, np.exp(rate * (values - most)))))
    return float(np.min((log_moments - math.log(cut)) / _RATES))


def _epsilon(total: _Loss, rest: Curve, grid: float, delta: float) -> float:
    """The least epsilon >= 0 on the grid with E[delta of the rest at (epsilon - loss)] at most `delta`."""
    if delta <= 0:
        return math.inf
    count = len(total.masses)
    last = max(total.first + count - 1, 0)  # of the total's losses; epsilon may be larger, by the rest's
    beyond = 0
    if rest.any():  # from there on the rest alone is below delta, whatever the loss
        beyond = math.ceil(min(float(rest[at]) - math.log(delta) / (ORDERS[at] - 1) for at in _SOME) / grid)
    most = last + beyond
    if most > 2 * MOST_POINTS:
        return math.inf
    offsets = np.arange(-last, most - total.first + 1)  # epsilon - loss, in steps
    tail = _delta_of_rest(rest, (offsets * grid).astype(np.float64))

    def exceeds(epsilon: int) -> bool:
        start = epsilon - (total.first + count - 1) + last  # the largest loss has the least offset
        return float(np.dot(total.masses[::-1], tail[start : start + count])) > delta

    if not exceeds(0):
        return 0.0
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if exceeds(middle) else (low, middle)
    return high * grid


def _delta_of_rest(rest: Curve, epsilons: Floats) -> Floats:
    """Delta at any epsilon, also below 0, of what has these Rényi divergences (Canonne, Kamath, Steinke, prop. 12)."""
    if not rest.any():
        return np.asarray(-np.expm1(np.minimum(epsilons, 0)))  # of nothing at all
    least = np.zeros(len(epsilons))
    for at in _SOME:
        order = ORDERS[at]
        log_delta = (order - 1) * (float(rest[at]) - epsilons + math.log1p(-1 / order)) - math.log(order)
        np.minimum(least, log_delta, out=least)
    return np.exp(least)


def _loss(mechanism: Mechanism, grid: float, cut: float, is_added: bool) -> _Loss | None:
    """The loss of one step; infinite with a chance of about `cut` at most; None where it would be too large."""
    match mechanism:
        case PureEpsilon(epsilon):
            return _two_points(epsilon, grid)
        case Gaussian(noise):
            return _normal(noise, 1.0, grid, cut, is_added)
        case SampledGaussian(noise, rate):
            return _normal(noise, rate, grid, cut, is_added)
    raise ValueError(f"the loss of {mechanism!r} has no distribution that we know")


def _two_points(epsilon: float, grid: float) -> _Loss | None:
    """Of randomised response, which dominates whatever is epsilon-DP."""
    first, last = math.floor(-epsilon / grid), math.floor(epsilon / grid) + 1
    if last - first > MOST_POINTS:
        return None
    masses = np.zeros(last - first + 1)
    likely = 1 / (1 + math.exp(-epsilon))
    for loss, mass in ((epsilon, likely), (-epsilon, 1 - likely)):
        cell = math.floor(loss / grid)
        to_right = mass * min(math.expm1(cell * grid - loss) / math.expm1(-grid), 1)
        masses[cell - first] += mass - to_right
        masses[cell - first + 1] += to_right
    return _Loss(first, masses)


def _normal(noise: float, rate: float, grid: float, cut: float, is_added: bool) -> _Loss | None:
    """Of one noisy sum over a Poisson sample.

    With the unit, the output is of a mixture, 1 - rate of N(0, noise^2) and rate of N(1, noise^2); without it, it is of
    N(0, noise^2). The log of their ratio rises with the output. Taken away, the unit is in what the loss is averaged
    over; added, it is in the other.
    """
    least, most = noise * ndtri(cut), 1 - noise * ndtri(cut)  # outputs beyond which there is `cut` at most
    bounds = [_log_ratio(least, noise, rate), _log_ratio(most, noise, rate)]
    low, high = (-bounds[1], -bounds[0]) if is_added else (bounds[0], bounds[1])
    first, last = math.floor(low / grid), math.ceil(high / grid)
    if last - first > MOST_POINTS:
        return None
    losses = (grid * np.arange(first, last + 1)).astype(np.float64)
    edges = _output(-losses if is_added else losses, noise, rate)
    if is_added:
        edges = edges[::-1]
    without = _between(edges / noise)
    mixed = (1 - rate) * without + rate * _between((edges - 1) / noise)
    mine, other = (without[::-1], mixed[::-1]) if is_added else (mixed, without)  # from below the grid to above it
    inner, inner_other = mine[1:-1], other[1:-1]
    to_right = np.clip((inner - np.exp(losses[:-1]) * inner_other) / -math.expm1(-grid), 0, inner)
    masses = np.zeros(len(losses))
    masses[:-1] += inner - to_right
    masses[1:] += to_right
    masses[0] += mine[0]
    return _Loss(first, masses, float(mine[-1]))


def _log_ratio(output: float, noise: float, rate: float) -> float:
    exponent = (2 * output - 1) / (2 * noise**2)
    if rate == 1:
        return exponent
    return float(np.logaddexp(math.log1p(-rate), math.log(rate) + exponent))


def _output(log_ratios: Floats, noise: float, rate: float) -> Floats:
    """The output with such a log ratio; -inf where there is none, since the ratio is never that small."""
    if rate == 1:
        return noise**2 * log_ratios + 0.5
    with np.errstate(divide="ignore"):
        return noise**2 * np.log1p(np.maximum(np.expm1(log_ratios) / rate, -1)) + 0.5


def _between(edges: Floats) -> Floats:
    """Standard normal masses below the first of rising edges (n,), between neighbours, and above the last: (n + 1,)."""
    bounds = np.concatenate([[-np.inf], edges, [np.inf]])
    low, high = bounds[:-1], bounds[1:]
    # On the side where the tail is small, so that a far cell keeps its digits.
    masses: Floats = np.where(low > 0, ndtr(-low) - ndtr(-high), ndtr(high) - ndtr(low))
    return masses
