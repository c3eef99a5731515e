"""One-run auditing against mechanisms whose epsilon is known, and intervals against their coverage."""

import numpy as np
import pytest

from nsstream.score.privacy.audit import audit, least_epsilon, p_value
from nsstream.score.privacy.intervals import Rate, auc_of


def test_the_paper_s_own_example() -> None:
    assert least_epsilon(1000, 100, 75, 1e-4, 0.05) == pytest.approx(0.673, abs=5e-4)  # Steinke et al. 2023, appendix D


def test_without_delta_it_is_the_tail_of_a_binomial() -> None:
    assert p_value(10, 10, 10, 0.0, 0.0) == pytest.approx(2.0**-10)
    assert p_value(10, 4, 0, 1.0, 1e-5) == 1
    right = np.exp(1.0) / (1 + np.exp(1.0))
    assert p_value(20, 5, 5, 1.0, 0.0) == pytest.approx(right**5)


def test_delta_costs() -> None:
    values = [least_epsilon(1000, 500, 450, delta, 0.05) for delta in (0.0, 1e-6, 1e-5, 1e-4)]
    assert values == sorted(values, reverse=True)
    assert values[0] > values[-1]


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 2.0, 4.0])
def test_the_bound_is_below_the_true_epsilon_and_within_reach(epsilon: float) -> None:
    rng = np.random.default_rng(int(epsilon * 10))
    bounds = []
    for _ in range(60):
        included = rng.random(1000) < 0.5
        told = rng.random(1000) < 1 / (1 + np.exp(-epsilon))  # randomised response (Warner 1965), which is epsilon-DP
        bounds.append(audit(np.where(told, included, ~included) + rng.random(1000) * 0.1, included).epsilon)
    assert np.mean(np.array(bounds) > epsilon) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 60)
    assert np.median(bounds) > 0.6 * epsilon


def test_noise_of_laplace_is_bounded_too() -> None:
    rng = np.random.default_rng(3)
    bounds = []
    for _ in range(60):
        included = rng.random(1000) < 0.5
        bounds.append(audit(included + rng.laplace(0, 0.5, 1000), included).epsilon)  # epsilon 2
    assert np.mean(np.array(bounds) > 2.0) <= 0.11
    assert np.median(bounds) > 1.2


def test_who_remembers_all_is_refuted_and_who_knows_nothing_is_not() -> None:
    rng = np.random.default_rng(4)
    included = rng.random(400) < 0.5
    assert audit(included.astype(float), included).epsilon > 3.5
    ignorant = [audit(rng.random(400), rng.random(400) < 0.5).epsilon for _ in range(60)]
    assert np.mean(np.array(ignorant) > 0) <= 0.11


def test_what_is_no_audit_is_refused() -> None:
    with pytest.raises(ValueError, match="two canaries"):
        audit(np.zeros(1), np.zeros(1, bool))
    with pytest.raises(ValueError, match="not numbers"):
        audit(np.array([np.nan, 0.0]), np.zeros(2, bool))
    with pytest.raises(ValueError, match="right <= guesses"):
        p_value(10, 5, 6, 1.0, 0.0)


def test_a_rate_covers_its_truth_and_nothing_is_none() -> None:
    rng = np.random.default_rng(0)
    found = [Rate(int(rng.binomial(50, 0.1)), 50).interval for _ in range(300)]
    assert np.mean([low <= 0.1 <= high for low, high in found]) >= 0.95
    assert Rate(0, 0).share is None
    assert Rate(0, 0).interval == (0, 1)
    assert not Rate(0, 0).is_above(Rate(0, 10))
    assert Rate(20, 100).is_above(Rate(1, 100))


def test_an_area_covers_its_truth() -> None:
    rng = np.random.default_rng(0)
    truth = 0.638163  # of two normal distributions half a deviation apart: Phi(0.5 / sqrt 2)
    found = [auc_of(rng.normal(0.5, 1, 200), rng.normal(0, 1, 150)) for _ in range(300)]
    assert 0.92 <= np.mean([one.low <= truth <= one.high for one in found]) <= 0.99
    apart = auc_of(np.ones(30), np.zeros(60))
    assert (apart.value, apart.low, apart.high) == (1, 0.9, 1)
    assert auc_of(np.zeros(10), np.zeros(10)).value == 0.5
    with pytest.raises(ValueError, match="both sides"):
        auc_of(np.zeros(0), np.zeros(1))
