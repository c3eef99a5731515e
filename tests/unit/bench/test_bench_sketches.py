"""Sketches: exact where there is room, off where there is none, each as its paper says."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "bench"))

from bars.sketches import SKETCHES, count_min, error_of
from sketches import between

COUNTS = np.random.default_rng(1).zipf(1.5, 400).clip(max=20_000).astype(np.int64)


@pytest.mark.parametrize("name", ["count-min", "count sketch", "UnivMon"])
def test_with_room_for_all_nearly_nothing_is_off(name):
    assert error_of(SKETCHES[name], COUNTS, 2_000_000, 5, np.random.default_rng(2)) < 1e-3


@pytest.mark.parametrize("name", SKETCHES)
def test_with_less_room_more_is_off(name):
    rng = np.random.default_rng(3)
    off = [error_of(SKETCHES[name], COUNTS, memory, 40, rng) for memory in (40_000, 400, 100)]
    assert off[0] < off[1] < off[2]


def test_count_min_says_never_too_few():
    assert (count_min(COUNTS, 300, np.random.default_rng(4)) >= COUNTS).all()


def test_nitro_sketch_samples_and_is_right_on_the_average():
    rng = np.random.default_rng(5)
    said = np.mean([SKETCHES["NitroSketch"](np.array([1000]), 500, rng)[0] for _ in range(400)])
    assert said == pytest.approx(1000, rel=0.02)


def test_who_has_no_heavy_hitter_is_not_compared_and_who_lost_all_is_missed():
    nan = float("nan")
    assert between(0.2, 0.3) == pytest.approx(0.5)
    assert between(0.0, 0.0) == 0.0
    assert math.isnan(between(nan, 0.3))
    assert math.isnan(between(nan, nan))
    assert between(0.2, nan) == between(0.0, 0.1) == math.inf


def test_of_no_packets_nothing_is_said():
    assert math.isnan(error_of(count_min, np.zeros(0, np.int64), 100, 2, np.random.default_rng(6)))
