"""Packets of different conversations keep the distance that the chunk's kept."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsstream.draw.keep_apart import keep_apart
from nsstream.encode.pace import FEWEST, QUANTILES, SHARE, Pace

LAST_NS = 10**12
EVERY_20_US = Pace((20_000,) * QUANTILES)


def rng():
    return np.random.default_rng(1)


def test_what_comes_too_soon_waits_its_turn_until_a_pause_takes_the_delay_up():
    time_ns = np.array([0, 5, 5, 70_000, 1_000_000])
    assert keep_apart(time_ns, EVERY_20_US, rng(), LAST_NS).tolist() == [0, 20_000, 40_000, 70_000, 1_000_000]


def test_times_stay_where_they_stood_in_any_order():
    assert keep_apart(np.array([70_000, 5, 0]), EVERY_20_US, rng(), LAST_NS).tolist() == [70_000, 20_000, 0]


def test_nothing_is_put_off_beyond_the_chunk():
    time_ns = np.array([10, 11, 12])
    assert keep_apart(time_ns, EVERY_20_US, rng(), 15_000).tolist() == [10, 15_000, 15_000]


@given(st.lists(st.integers(0, 10**6), max_size=80), st.integers(1, 50_000), st.integers(0, 2 * 10**6))
def test_order_is_kept_and_nothing_comes_earlier(times, between, last_ns):
    time_ns = np.array(times, np.int64)
    kept = keep_apart(time_ns, Pace((between,) * QUANTILES), rng(), last_ns)
    order = np.argsort(time_ns, kind="stable")
    assert (kept >= time_ns).all()
    assert (np.diff(kept[order]) >= 0).all()
    assert (kept <= max([last_ns, *times])).all()


def test_a_chunk_whose_pace_nobody_measured_is_left_as_it_is():
    assert keep_apart(np.array([3, 1, 2]), Pace(), rng(), LAST_NS).tolist() == [3, 1, 2]


def test_pauses_of_traffic_put_together_by_chance_become_those_that_were_measured():
    measured = np.cumsum(20_000 + rng().exponential(1e6, 20_000).astype(np.int64))
    by_chance = np.sort(rng().integers(0, measured[-1], 20_000))
    kept = keep_apart(by_chance, Pace.fit(measured), rng(), int(measured[-1]))
    least = [np.quantile(np.diff(times), 0.01) for times in (measured, by_chance, kept)]
    assert least[1] < 0.6 * least[0]
    assert least[2] == pytest.approx(least[0], rel=0.15)


def test_the_least_twentieth_is_measured_and_comes_through_json():
    pace = Pace.fit(np.arange(1000) ** 2)
    assert pace.quantiles_ns[0] == 1
    assert pace.quantiles_ns[-1] == pytest.approx(2 * 1000 * SHARE, abs=2)
    assert Pace.from_json(pace.as_json()) == pace
    assert Pace.from_json(Pace().as_json()) == Pace()


def test_too_few_packets_tell_no_pace():
    assert Pace.fit(np.arange(FEWEST - 1)) == Pace()


@pytest.mark.parametrize("data", [[1], list(range(QUANTILES, 0, -1)), [-1] * QUANTILES, "x", [[0] * QUANTILES]])
def test_what_is_no_pace_is_refused(data):
    with pytest.raises((TypeError, ValueError)):
        Pace.from_json(data)
