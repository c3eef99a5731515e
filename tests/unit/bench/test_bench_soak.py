"""What a soak says of what it found: the slope of memory, and each thing that must not pass."""

import os
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "bench"))

from bars.soak_figures import sample, sen_interval, theil_sen, trend
from bars.soak_lane import Found
from bars.verdict import has_passed
from replay_soak import judge

RATE = 20_000.0


def found(**changes):
    good = Found("pcap", state="done", exit_status=0, packets_per_s=RATE, agreement={"frames_written": (5, 5)})
    return asdict(good) | changes


def test_the_slope_is_that_of_the_line_whatever_a_few_outliers_are():
    x = np.arange(100.0)
    y = 3.0 + 0.5 * x
    y[::10] += 1000.0
    assert theil_sen(x, y) == pytest.approx(0.5, abs=0.01)


def test_memory_that_rose_once_and_stayed_has_no_slope():
    x = np.arange(1000.0)
    assert theil_sen(x, np.where(x < 200, 400.0, 410.0)) == 0.0


def test_pages_of_libraries_are_told_from_those_of_the_heap():
    before = sample(os.getpid(), 0.0)
    kept = np.ones(64 << 17)  # 64 MiB
    after = sample(os.getpid(), 1.0)
    assert after.resident_mb - before.resident_mb > 0.9 * kept.nbytes / (1 << 20)
    assert after.mapped_mb - before.mapped_mb < 8
    assert 0 < after.mapped_mb < after.resident_mb


def test_of_one_point_there_is_no_slope():
    assert np.isnan(theil_sen([1.0], [2.0]))


def test_a_slopes_interval_holds_it_in_95_of_100_runs():
    rng, x = np.random.default_rng(1), np.arange(50.0)
    held = 0
    for _ in range(400):
        low, high = sen_interval(x, 0.5 * x + rng.normal(0, 3, 50))
        held += low <= 0.5 <= high
    assert 0.92 <= held / 400 <= 0.98


def seconds_of(minutes, growth_mb_an_hour, noise_mb):
    """Memory once a second: a sawtooth of a buffer, clients that come and go, and growth."""
    rng, at = np.random.default_rng(int(growth_mb_an_hour)), np.arange(minutes * 60.0)
    clients = np.repeat(rng.exponential(noise_mb, len(at) // 5 + 1), 5)[: len(at)]
    return at, 500.0 + noise_mb * (at % 7) / 7 + clients + growth_mb_an_hour * at / 3600


@pytest.mark.parametrize("growth", [0.0, 3.0, 20.0])
def test_25_minutes_tell_a_megabyte_an_hour_from_noise_of_two(growth):
    went = trend(*seconds_of(25, growth, 2.0))
    assert went.low <= growth <= went.high
    assert (went.high - went.low) / 2 < 1.0
    assert went.slope == pytest.approx(growth, abs=1.0)


def test_two_minutes_do_not_tell_it_and_say_so():
    went = trend(*seconds_of(2, 0.0, 2.0))
    assert went.high - went.low > 2.0


def test_a_step_is_told_though_it_is_no_slope():
    at = np.arange(1500.0)
    went = trend(at, np.where(at < 1000, 500.0, 504.0) + at % 2)
    assert went.risen_mb == 4.0
    assert trend([1.0], [2.0]).slope != trend([1.0], [2.0]).slope


def test_a_soak_in_which_all_is_well_passes():
    stopped = found(name="model", state="stopped", packets_per_s=900.0)
    falling = found(growth_mb_an_hour=-5.0, growth_between=(-9.0, -1.0))
    assert has_passed(judge([found(), stopped, falling], RATE))


@pytest.mark.parametrize(
    "changes",
    [
        {"state": "failed"},
        {"state": "stopped"},
        {"exit_status": -9},
        {"exit_status": None},
        {"packets_per_s": RATE / 2},
        {"growth_mb_an_hour": 1.5},
        {"growth_mb_an_hour": float("nan")},
        {"growth_between": (-2.0, 2.5)},
        {"growth_between": (float("nan"), float("nan"))},
        {"descriptors": (20, 21)},
        {"threads": (9, 10)},
        {"agreement": {"frames_written": (4, 5)}},
        {"agreement": {}},
        {"violations": ["frames is 2, its parts are 1"]},
        {"statuses_skipped": 1},
        {"polite_clients_unanswered": 1},
        {"slowest_answer_ms": 5000.0},
    ],
)
def test_what_must_not_pass_does_not(changes):
    assert not has_passed(judge([found(), found(**changes)], RATE))
