"""The samplers: exact, by walking through all that chance can do; and by drawing, against the distributions."""

import math
import random
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import chisquare

from nsstream.errors import InputError
from nsstream.privacy.noise import (
    SecureChance,
    bernoulli_exp,
    choose,
    discrete_gaussian,
    discrete_laplace,
    laplace_counts,
    noisy_counts,
)

_SEEDED = 20_260_101


def _seeded() -> SecureChance:
    return SecureChance(random.Random(_SEEDED).randbytes)


class _UnknownError(Exception):
    """Chance was asked for what the walk has not chosen yet."""


class _Script:
    """Chance that says what the walk wrote, and what it was asked."""

    def __init__(self, choices: tuple[int, ...]) -> None:
        self.choices, self.weight, self.at, self.bound = choices, Fraction(1), 0, 0

    def below(self, bound: int) -> int:
        if self.at == len(self.choices):
            self.bound = bound
            raise _UnknownError
        self.weight /= bound
        self.at += 1
        return self.choices[self.at - 1]


def _walk(draw: Callable[[_Script], int], least: Fraction) -> tuple[dict[int, Fraction], Fraction]:
    """Exact chances of results, and of what is less likely than `least` and was not walked."""
    chances: Counter[int] = Counter()
    cut, open_ = Fraction(0), [()]
    while open_:
        script = _Script(open_.pop())
        try:
            result = draw(script)
        except _UnknownError:
            if script.weight < least:
                cut += script.weight
            else:
                open_ += [(*script.choices, choice) for choice in range(script.bound)]
        else:
            chances[result] += script.weight
    return chances, cut


@pytest.mark.parametrize("gamma", [Fraction(0), Fraction(1, 3), Fraction(1), Fraction(3, 2)])
def test_a_coin_of_e_to_minus_gamma_is_exact(gamma: Fraction) -> None:
    chances, cut = _walk(lambda chance: int(bernoulli_exp(gamma, chance)), Fraction(1, 2000))
    assert cut < 0.02
    assert chances[1] <= math.exp(-gamma) * (1 + 1e-12)
    assert chances[1] + cut >= math.exp(-gamma) * (1 - 1e-12)


def test_discrete_laplace_is_exact() -> None:
    chances, cut = _walk(lambda chance: discrete_laplace(Fraction(1, 2), chance), Fraction(1, 40_000))
    whole = 1 / math.tanh(1.0)  # sum of e^(-2 |x|)
    for x in range(-2, 3):
        assert chances[x] <= math.exp(-2 * abs(x)) / whole <= chances[x] + cut
    assert chances[1] == chances[-1]
    assert cut < 0.12


def test_discrete_gaussian_is_exact() -> None:
    variance = Fraction(1, 2)
    chances, cut = _walk(lambda chance: discrete_gaussian(variance, chance), Fraction(1, 20_000))
    whole = sum(math.exp(-(x**2)) for x in range(-20, 21))
    for x in range(-2, 3):
        assert chances[x] <= math.exp(-(x**2)) / whole <= chances[x] + cut
    assert chances[1] == chances[-1]
    assert cut < 0.35


@pytest.mark.parametrize("noise", [0.7, 3.3, 25.0])
def test_noisy_counts_have_discrete_normal_noise(noise: float) -> None:
    counts = np.arange(6000).reshape(60, 100)
    drawn = noisy_counts(counts, noise / 2, 2, _seeded()) - counts
    assert drawn.shape == counts.shape
    _check_drawn(drawn, lambda x: math.exp(-(x**2) / (2 * noise**2)), round(3 * noise))


@pytest.mark.parametrize("epsilon", [0.05, 0.4, 2.0])
def test_laplace_counts_have_discrete_laplace_noise(epsilon: float) -> None:
    drawn = laplace_counts(np.zeros(6000, np.int32), epsilon, 1, _seeded())
    _check_drawn(drawn, lambda x: math.exp(-abs(x) * epsilon), math.ceil(3 / epsilon))


def _check_drawn(drawn: np.ndarray, weight: Callable[[int], float], far: int) -> None:
    """Chi-square over cells of at least 20 expected draws, tails in one each."""
    support = np.arange(-40 * far, 40 * far + 1)
    chances = np.array([weight(int(x)) for x in support])
    chances /= chances.sum()
    edges, held = [], 0.0
    for x, chance in zip(support, chances, strict=True):
        held += chance * drawn.size
        if held >= 20:
            edges.append(x + 0.5)
            held = 0.0
    cells = np.concatenate([[-np.inf], edges[:-1], [np.inf]])
    expected = [chances[(support > low) & (support < high)].sum() for low, high in pairwise(cells)]
    seen = np.histogram(drawn, cells)[0]
    assert chisquare(seen, np.array(expected) / sum(expected) * seen.sum()).pvalue > 1e-3


def test_chance_is_the_systems_and_never_the_same() -> None:
    zeros = np.zeros(200, np.int64)
    assert not np.array_equal(noisy_counts(zeros, 5.0, 1), noisy_counts(zeros, 5.0, 1))


def test_whole_numbers_below_a_bound_are_equally_likely() -> None:
    chance = _seeded()
    for bound in (1, 2, 3, 7, 256, 257):
        drawn = np.bincount([chance.below(bound) for _ in range(30 * bound)], minlength=bound)
        assert len(drawn) == bound
        assert bound == 1 or chisquare(drawn).pvalue > 1e-3
    assert 0 <= chance.below(1 << 40_000) < 1 << 40_000  # more than is read at once


def test_the_choice_follows_its_scores() -> None:
    chance, scores, epsilon = _seeded(), [0.0, 5, Fraction(9, 2), -50.0], 2.0
    drawn = np.bincount([choose(scores, epsilon, 1, chance) for _ in range(3000)], minlength=4)
    assert drawn[3] == 0
    # of the two that count, the better is taken, or the other with a coin of e^-0.5 where that is asked first
    assert drawn[2] / 3000 == pytest.approx(math.exp(-0.5) / 2, abs=0.04)
    assert choose([3.0], 0.1, 1, chance) == 0


@pytest.mark.parametrize(
    ("noise", "sensitivity"), [(0.0, 1), (-1.0, 1), (1.0, 0), (float("nan"), 1), (float("inf"), 1), (1e9, 1e9)]
)
def test_noise_that_is_none_is_refused(noise: float, sensitivity: float) -> None:
    with pytest.raises(InputError):
        noisy_counts([1, 2], noise, sensitivity)


def test_counts_that_are_not_whole_are_refused() -> None:
    with pytest.raises(InputError, match="whole"):
        noisy_counts(np.array([0.5]), 1.0, 1)
    with pytest.raises(InputError, match="whole"):
        noisy_counts(np.array([1 << 63], np.uint64), 1.0, 1)
    assert noisy_counts([], 1.0, 1).shape == (0,)
