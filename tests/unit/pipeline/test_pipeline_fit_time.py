"""How much of a budget is a fit's: all but what the trainings before took beside theirs."""

import pytest

from nsstream.pipeline.fit_time import FitTime
from nsstream.pipeline.training import START_S


def test_before_the_first_training_a_usual_start_is_set_aside():
    assert FitTime().of(40.0) == 40.0 - START_S


def test_what_trainings_take_beside_their_fits_is_set_aside_of_the_next_ones():
    time = FitTime()
    for took_s in (46.0, 47.0, 90.0):  # one of them was held up
        time.note(36.0, took_s)
    assert time.of(40.0) == 40.0 - 11.0


def test_the_newest_trainings_count():
    time = FitTime()
    for beside_s in (15.0, 15.0, 15.0, 6.0, 6.0, 6.0):
        time.note(30.0, 30.0 + beside_s)
    assert time.of(40.0) == 40.0 - 6.0


def test_a_fit_that_ended_early_tells_nothing():
    time = FitTime()
    time.note(36.0, 20.0)
    assert time.of(40.0) == 40.0 - START_S


def test_what_waited_is_learned_for_less_time():
    time = FitTime()
    assert time.of(40.0, 10.0) == 30.0 - START_S
    assert time.of(40.0, 1000.0) == 20.0


@pytest.mark.parametrize(("budget_s", "fit_s"), [(40.0, 20.0), (3.0, 1.5), (0.5, 1.0)])
def test_half_of_a_budget_is_the_fits_whatever_the_rest_takes(budget_s: float, fit_s: float):
    time = FitTime()
    time.note(10.0, 110.0)
    assert time.of(budget_s) == fit_s
