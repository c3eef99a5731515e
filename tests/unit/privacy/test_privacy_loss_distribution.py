"""The tighter bound against closed forms, against an exact sum, and against what others compute."""

import itertools
import math

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution
from opacus.accountants import PRVAccountant
from scipy.optimize import brentq
from scipy.stats import binom, norm

from nsstream.privacy import DiscreteGaussian, Gaussian, PureEpsilon, SampledGaussian, epsilon
from nsstream.privacy.accountant import renyi_epsilon
from nsstream.privacy.loss_distribution import loss_epsilon
from nsstream.privacy.renyi import ORDERS, curve

_NONE = np.zeros(len(ORDERS))
SETTINGS = [
    (0.5, 0.001, 100), (0.5, 0.01, 1000), (0.6, 0.02, 50), (0.7, 0.001, 10_000), (0.7, 0.1, 10),
    (0.8, 0.004, 5000), (0.8, 0.3, 5), (1.0, 0.01, 1000), (1.0, 0.05, 200), (1.0, 0.9, 1),
    (1.1, 256 / 60_000, 14_062), (1.3, 0.02, 3000), (1.5, 0.002, 50_000), (2.0, 0.1, 500), (2.0, 0.7, 20),
    (3.0, 0.2, 300), (4.0, 0.05, 10_000), (5.0, 0.5, 100), (8.0, 0.01, 100_000), (20.0, 0.9, 400),
]  # fmt: skip


def _of_a_normal(noise: float, delta: float) -> float:
    """Balle and Wang 2018, theorem 8."""
    return brentq(
        lambda eps: norm.cdf(0.5 / noise - eps * noise) - math.exp(eps) * norm.cdf(-0.5 / noise - eps * noise) - delta,
        0,
        500,
    )


@pytest.mark.parametrize("noise", [0.5, 1.0, 3.0, 10.0])
@pytest.mark.parametrize("times", [1, 100])
def test_it_is_the_closed_form_of_a_normal_from_above(noise: float, times: int) -> None:
    exact = _of_a_normal(noise, 1e-5)
    found = epsilon([Gaussian(noise * math.sqrt(times), times)], 1e-5)
    assert exact <= found <= exact * 1.002


@pytest.mark.parametrize(("pure", "times"), [(0.1, 1), (0.1, 30), (0.5, 40), (1.0, 5)])
def test_it_is_the_exact_sum_of_randomised_responses_from_above(pure: float, times: int) -> None:
    yes = np.arange(times + 1)  # Kairouz, Oh, Viswanath 2015: the loss is (2 yes - times) pure
    chances, losses = binom.pmf(yes, times, 1 / (1 + math.exp(-pure))), (2 * yes - times) * pure

    def delta(eps: float) -> float:
        return float(np.dot(chances, np.maximum(-np.expm1(eps - losses), 0)))

    exact = brentq(lambda eps: delta(eps) - 1e-5, 0, pure * times + 1)
    assert exact * (1 - 1e-9) <= loss_epsilon([PureEpsilon(pure, times)], _NONE, 1e-5, pure * times) <= exact * 1.002


@pytest.mark.parametrize(("noise", "rate", "steps"), SETTINGS)
@pytest.mark.parametrize("delta", [1e-5, 1e-8])
def test_it_is_below_the_bound_by_renyi_divergences_but_not_by_much(
    noise: float, rate: float, steps: int, delta: float
) -> None:
    done = [SampledGaussian(noise, rate, steps)]
    assert renyi_epsilon(done, delta) * 0.5 < epsilon(done, delta) < renyi_epsilon(done, delta)


def test_a_sequence_costs_the_same_however_it_is_told() -> None:
    parts = [SampledGaussian(1.0, 0.01, 400), Gaussian(4.0, 2), SampledGaussian(1.0, 0.01, 600), PureEpsilon(0.05)]
    whole = [PureEpsilon(0.05), Gaussian(4.0 / math.sqrt(2)), SampledGaussian(1.0, 0.01, 1000)]
    assert epsilon(parts, 1e-5) == pytest.approx(epsilon(whole, 1e-5), rel=2e-3)


def test_what_has_no_distribution_comes_in_by_its_divergences() -> None:
    """A rest that is a normal is known both ways: the mixed bound is between them."""
    for noise, rest in itertools.product((1.0, 4.0), (2.0, 10.0)):
        sampled = SampledGaussian(noise, 0.02, 500)
        mixed = epsilon([sampled, DiscreteGaussian(rest)], 1e-5)
        assert epsilon([sampled, Gaussian(rest)], 1e-5) <= mixed <= renyi_epsilon([sampled, Gaussian(rest)], 1e-5)
    only = [DiscreteGaussian(3.0)]
    assert loss_epsilon([], curve(only), 1e-5, 2.0) == pytest.approx(renyi_epsilon(only, 1e-5), rel=2e-3)


def test_more_of_anything_never_costs_less() -> None:
    base = [SampledGaussian(1.2, 0.02, 500), DiscreteGaussian(20.0)]
    for more in (SampledGaussian(1.2, 0.02, 50), PureEpsilon(0.1), Gaussian(5.0), DiscreteGaussian(10.0)):
        assert epsilon([*base, more], 1e-5) > epsilon(base, 1e-5)


@pytest.mark.parametrize(("noise", "rate", "steps"), SETTINGS)
def test_it_agrees_with_googles_accountant(noise: float, rate: float, steps: int) -> None:
    grid = 1e-3 if steps < 3000 else 1e-4
    one = privacy_loss_distribution.from_gaussian_mechanism(
        noise, sampling_prob=rate, value_discretization_interval=grid
    )
    found = one.self_compose(steps).get_epsilon_for_delta(1e-5)
    assert epsilon([SampledGaussian(noise, rate, steps)], 1e-5) == pytest.approx(found, rel=0.01)


@pytest.mark.filterwarnings("ignore:Optimal order is the largest alpha")  # opacus, of its own first guess
@pytest.mark.parametrize(("noise", "rate", "steps"), SETTINGS)
def test_it_agrees_with_opacus_prv_accountant(noise: float, rate: float, steps: int) -> None:
    found = epsilon([SampledGaussian(noise, rate, steps)], 1e-5)
    accountant = PRVAccountant()
    accountant.history = [(noise, rate, steps)]
    assert found == pytest.approx(accountant.get_epsilon(1e-5, eps_error=0.003 * found), rel=0.01)
