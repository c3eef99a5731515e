"""The accountant against closed forms, against the paper's sum, and against opacus' where it is installed."""

import math

import numpy as np
import pytest

from nsstream.errors import InputError
from nsstream.privacy import DiscreteGaussian, Gaussian, PureEpsilon, SampledGaussian, epsilon, noise_multiplier_for
from nsstream.privacy.accountant import renyi_epsilon
from nsstream.privacy.renyi import ORDERS, curve, curve_of, log_moment

SETTINGS = [
    (noise, rate, steps)
    for noise, rate, steps in (
        (0.5, 0.001, 100), (0.5, 0.01, 1000), (0.6, 0.02, 50), (0.7, 0.001, 10_000), (0.7, 0.1, 10),
        (0.8, 0.004, 5000), (0.8, 0.3, 5), (1.0, 0.01, 1000), (1.0, 0.05, 200), (1.0, 1.0, 1),
        (1.1, 256 / 60_000, 14_062), (1.3, 0.02, 3000), (1.5, 0.002, 50_000), (2.0, 0.1, 500), (2.0, 1.0, 20),
        (3.0, 0.2, 300), (4.0, 0.05, 10_000), (5.0, 0.5, 100), (8.0, 0.01, 100_000), (20.0, 0.9, 400),
    )
]  # fmt: skip


@pytest.mark.parametrize(
    ("order", "noise", "rate"),
    [(2, 1.0, 0.01), (5, 0.7, 0.1), (17, 2.0, 0.003), (30, 1.0, 0.5), (3, 0.3, 0.02), (8, 40.0, 0.01), (64, 4.0, 0.9)],
)
def test_the_moment_is_the_papers_sum_at_whole_orders(order: int, noise: float, rate: float) -> None:
    terms = (
        math.comb(order, k) * (1 - rate) ** (order - k) * rate**k * math.exp((k * k - k) / (2 * noise**2))
        for k in range(order + 1)
    )  # Mironov, Talwar, Zhang 2019, section 3.3
    assert log_moment(order, noise, rate) == pytest.approx(math.log(math.fsum(terms)), rel=1e-9)


@pytest.mark.parametrize(("noise", "rate"), [(1.0, 1e-6), (20.0, 1e-4), (0.5, 1e-3), (0.1, 0.4)])
def test_a_curve_rises_and_stays_below_that_without_sampling(noise: float, rate: float) -> None:
    sampled, whole = curve_of(SampledGaussian(noise, rate, 1)), curve_of(Gaussian(noise))
    assert np.all(np.diff(sampled) >= 0)
    assert np.all(sampled > 0)
    assert np.all(sampled < whole)


def test_a_tiny_rate_keeps_its_digits() -> None:
    rate, noise = 1e-6, 10.0
    at = ORDERS.index(2.0)  # where the moment is 1 + q^2 (e^(1/sigma^2) - 1)
    exact = math.log1p(rate**2 * math.expm1(1 / noise**2))
    assert curve_of(SampledGaussian(noise, rate, 1))[at] == pytest.approx(exact, rel=1e-6)


def test_below_the_least_noise_the_bound_is_that_without_sampling() -> None:
    assert np.allclose(curve_of(SampledGaussian(0.05, 0.01, 3)), curve_of(Gaussian(0.05, 3)))


def test_curves_of_a_sequence_add() -> None:
    one, two = SampledGaussian(1.0, 0.01, 100), PureEpsilon(0.2)
    assert np.allclose(curve([one, two, one]), curve([SampledGaussian(1.0, 0.01, 200), two]))
    assert np.array_equal(curve_of(DiscreteGaussian(3.0, 2)), curve_of(Gaussian(3.0, 2)))


def test_a_pure_mechanism_never_costs_more_than_its_epsilons_together() -> None:
    for times in (1, 3, 40):
        assert 0 < renyi_epsilon([PureEpsilon(0.1, times)], 1e-5) <= 0.1 * times * (1 + 1e-12)
    assert renyi_epsilon([PureEpsilon(0.1, 1000)], 1e-5) < 20  # where composition is better than the sum
    assert renyi_epsilon([PureEpsilon(1e-7, 5)], 1e-5) == pytest.approx(5e-7)


def test_nothing_done_costs_nothing() -> None:
    assert epsilon([], 1e-5) == 0
    assert epsilon([SampledGaussian(1.0, 0.0, 100), SampledGaussian(1.0, 0.1, 0)], 1e-5) == 0


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, float("nan")])
def test_a_delta_that_is_no_chance_is_refused(delta: float) -> None:
    with pytest.raises(InputError, match="delta"):
        epsilon([Gaussian(1.0)], delta)


def test_the_noise_for_an_epsilon_is_the_least_that_keeps_to_it() -> None:
    others = [DiscreteGaussian(20.0, 2)]
    noise = noise_multiplier_for(2.0, 1e-5, 0.02, 3000, others)
    assert epsilon([*others, SampledGaussian(noise, 0.02, 3000)], 1e-5) <= 2.0
    assert epsilon([*others, SampledGaussian(noise * 0.999, 0.02, 3000)], 1e-5) > 2.0
    assert noise > noise_multiplier_for(2.0, 1e-5, 0.02, 3000)


def test_an_epsilon_that_others_spent_has_no_noise() -> None:
    with pytest.raises(InputError, match="the rest alone spends"):
        noise_multiplier_for(0.5, 1e-5, 0.02, 3000, [Gaussian(1.0)])


@pytest.mark.parametrize(("noise", "rate", "steps"), SETTINGS)
def test_it_agrees_with_opacus(noise: float, rate: float, steps: int) -> None:
    rdp = pytest.importorskip("opacus.accountants.analysis.rdp")
    orders = list(ORDERS)
    theirs, _ = rdp.get_privacy_spent(
        orders=orders, rdp=rdp.compute_rdp(q=rate, noise_multiplier=noise, steps=steps, orders=orders), delta=1e-5
    )
    assert renyi_epsilon([SampledGaussian(noise, rate, steps)], 1e-5) == pytest.approx(theirs, rel=0.01)
