"""What costs add up to: in windows, in parallel and in sequence; and when a budget runs out."""

import random
from collections import Counter

import pytest

from nsstream.pipeline.privacy_budget import (
    DAY_NS,
    Cost,
    Terms,
    in_window,
    runs_out,
    total,
    total_for_ever,
    total_now,
    uses_of,
    worst_total,
)
from nsstream.privacy import DiscreteGaussian, PureEpsilon, SampledGaussian, epsilon

S = 10**9
HOUR = 3600 * S
DELTA = 1e-5
JOB = (SampledGaussian(2.0, 0.05, 200), DiscreteGaussian(30.0))


def cost(at: int, mechanisms=JOB, *, digest: str | None = None, hours: int = 1, most: int | None = 1) -> Cost:
    return Cost(digest or f"d{at}", at * HOUR, (at + hours) * HOUR, tuple(mechanisms), most)


def terms(unit="host", *, horizon: int = 24, most: int | None = None, for_ever: float | None = None, eps=8.0) -> Terms:
    return Terms(unit, eps, DELTA, horizon * HOUR, most, for_ever, 1.0)


def test_a_host_pays_for_every_chunk_and_a_flow_for_the_chunks_that_it_may_be_in() -> None:
    costs = [cost(at) for at in range(10)]
    assert total_for_ever(costs, terms("host")) == pytest.approx(epsilon(JOB * 10, DELTA), rel=1e-9)
    assert total_for_ever(costs, terms("flow", most=1)) == pytest.approx(epsilon(JOB, DELTA), rel=1e-9)
    assert total_for_ever(costs, terms("flow", most=2)) == pytest.approx(epsilon(JOB * 2, DELTA), rel=1e-9)
    assert total_for_ever(costs, terms("host", most=2)) == pytest.approx(epsilon(JOB * 10, DELTA), rel=1e-9)
    assert total_now(costs, 0, terms("host", most=2)) == pytest.approx(epsilon(JOB * 2, DELTA), rel=1e-9)


def test_attempts_at_one_job_add_up_also_for_a_flow_of_one_chunk() -> None:
    costs = [cost(0), cost(0), cost(1)]
    assert total_for_ever(costs, terms("flow", most=1)) == pytest.approx(epsilon(JOB * 2, DELTA), rel=0.1)
    assert total_for_ever(costs, terms("flow", most=1)) >= epsilon(JOB * 2, DELTA)


@pytest.mark.parametrize(("bounds", "counted"), [([1, 2, 2], 2), ([1, 3, 2], 3), ([2, None, 2, 2], 5)])
def test_units_that_were_let_in_by_other_bounds_count_by_the_loosest(bounds: list[int | None], counted: int) -> None:
    costs = [cost(at, most=bound) for at, bound in enumerate([*bounds, 2])]
    some = total(uses_of(costs), DELTA, counted)
    for unit in ("host", "flow"):
        assert total_now(costs, 0, terms(unit, most=2)) == some
        assert worst_total(costs[:-1], costs[-1], terms(unit, most=2, eps=0.01)) == some
    assert total_for_ever(costs, terms("flow", most=2)) == some
    assert total_now(costs, 0, terms("host")) == pytest.approx(epsilon(JOB * len(costs), DELTA), rel=1e-9)


def test_of_unlike_costs_no_choice_of_so_many_costs_more_than_is_said() -> None:
    chance = random.Random(5)
    kinds = [(SampledGaussian(1.0, 0.01, 300),), (SampledGaussian(4.0, 0.5, 50),), (PureEpsilon(0.3),), JOB]
    costs = [cost(at, chance.choice(kinds)) for at in range(12)]
    said = total(uses_of(costs), DELTA, 3)
    for _ in range(60):
        chosen = chance.sample(costs, 3)
        assert epsilon([each for one in chosen for each in one.mechanisms], DELTA) <= said
    assert said < total(uses_of(costs), DELTA, None)


def test_the_worst_window_is_found_wherever_it_begins() -> None:
    chance, bounds = random.Random(7), terms(horizon=6, eps=0.01)
    for _ in range(6):
        costs = [cost(chance.randrange(30), digest=f"d{at}") for at in range(14)]
        new = cost(chance.randrange(30), digest="new")
        every = [*costs, new]
        windows = [in_window(every, end * HOUR // 4, 6 * HOUR) for end in range(4 * 40)]
        worst = max(total(uses_of(window), DELTA, None) for window in windows if new in window)
        assert worst_total(costs, new, bounds) == pytest.approx(worst, rel=1e-9)


def test_what_a_window_touches_counts_to_its_last_nanosecond() -> None:
    assert in_window([cost(0)], 25 * HOUR - 1, 24 * HOUR) == [cost(0)]
    assert in_window([cost(0)], 25 * HOUR, 24 * HOUR) == []
    assert in_window([cost(0)], 0, 24 * HOUR) == []


def test_an_order_of_arrival_and_a_clock_that_was_set_back_change_nothing() -> None:
    costs = [cost(at) for at in range(30)]
    shuffled = random.Random(1).sample(costs, len(costs))
    assert total_now(shuffled, 0, terms()) == total_now(costs, 30 * HOUR, terms())
    assert total_now(costs, 30 * HOUR, terms()) == pytest.approx(epsilon(JOB * 24, DELTA), rel=1e-9)


def test_a_forecast_is_when_the_budget_is_spent() -> None:
    costs, bounds = [cost(at) for at in range(24)], terms(horizon=240, eps=5.0)
    found = runs_out(costs, 24 * HOUR, bounds, for_ever=False)
    assert found is not None
    at = 24
    while epsilon(JOB * at, DELTA) <= 5.0:
        at += 1
    assert found / HOUR == pytest.approx(at - 24, rel=0.15)
    assert runs_out(costs, 24 * HOUR, terms(horizon=24, eps=20.0), for_ever=False) is None  # as many leave as come
    assert runs_out(costs, 24 * HOUR, bounds, for_ever=True) is None  # no bound
    assert runs_out([], 24 * HOUR, bounds, for_ever=False) is None
    ever = runs_out(costs, 24 * HOUR, terms(for_ever=5.0, horizon=24), for_ever=True)
    assert ever is not None
    assert ever / HOUR == pytest.approx(at - 24, rel=0.15)
    assert runs_out(costs, 24 * HOUR + 3 * DAY_NS, bounds, for_ever=False) is None  # nothing was learned today
    spent = runs_out(costs, 24 * HOUR, terms(horizon=240, eps=0.5), for_ever=False)
    assert spent == 0


def test_uses_tell_unlike_jobs_apart() -> None:
    assert uses_of([cost(0), cost(1), cost(1), cost(2, (PureEpsilon(0.1),))]) == Counter(
        {
            (DiscreteGaussian(30.0), SampledGaussian(2.0, 0.05, 200)): 1,
            (DiscreteGaussian(30.0, 2), SampledGaussian(2.0, 0.05, 400)): 1,
            (PureEpsilon(0.1),): 1,
        }
    )
