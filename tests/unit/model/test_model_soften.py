"""Logits to tokens in compiled code, against numpy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from nsstream.model.soften import chance, exponentiate, pick, squash

logits = st.lists(st.floats(-500, 500, width=32), min_size=1, max_size=70)
weights = st.lists(st.one_of(st.just(0.0), st.floats(2**-20, 2**20, width=32)), min_size=1, max_size=70)


def work(x):
    return np.array(x, np.float32), np.zeros(len(x), np.int32)


@given(logits)
@settings(max_examples=300, deadline=None)
def test_exponentials_are_numpys(values):
    x, power = work(values)
    away = x - x.max()  # in float32, as the loop has it
    wanted = np.exp(away.astype(np.float64))
    exponentiate(x, len(x), power)
    near = away > -20  # beyond, float32 cannot tell the exponent's last places
    np.testing.assert_allclose(x[near], wanted[near], rtol=2e-6)
    np.testing.assert_allclose(x[away > -1], wanted[away > -1], rtol=1e-6)
    np.testing.assert_allclose(x, wanted, rtol=1e-5, atol=2**-125)
    assert x.max() == 1


def test_what_is_forbidden_weighs_nothing():
    x, power = work([-1e9, 3.0, -1e9, 2.0])
    exponentiate(x, 4, power)
    assert x[[0, 2]].tolist() == [0, 0]


@given(logits)
@settings(max_examples=300, deadline=None)
def test_the_logistic_function_is_numpys(values):
    x, power = work(values)
    with np.errstate(over="ignore"):
        wanted = 1 / (1 + np.exp(-x.astype(np.float64)))
    squash(x, len(x), power)
    near = wanted > 1e-9
    np.testing.assert_allclose(x[near], wanted[near], rtol=2e-6)
    np.testing.assert_allclose(x, wanted, atol=1e-6)


@pytest.mark.parametrize("function", [exponentiate, squash])
def test_only_the_first_n_are_replaced(function):
    x, power = work([0.5, 1.5, 7.0])
    function(x, 2, power)
    assert x[2] == 7
    assert x[0] != 0.5


@given(weights, st.floats(0, 1, exclude_max=True))
@settings(max_examples=300, deadline=None)
def test_a_weight_of_nothing_is_never_picked(values, at):
    x, _ = work(values)
    chosen = pick(x, len(x), at)
    if x.any():
        assert x[chosen] > 0
        assert (x[:chosen].sum(dtype=np.float64) - at * x.sum(dtype=np.float64)) <= 1e-4 * x.sum(dtype=np.float64)
    else:
        assert chosen == -1


def test_the_largest_chance_there_is_picks_what_weighs_something():
    x, _ = work([1.0, 1.0, 2**-126, 0.0])
    assert pick(x, 4, 1 - 2**-53) == 1


def test_picks_follow_the_weights():
    x, _ = work([1, 0, 5, 2, 0, 0.5, 8, 0.01, 0])
    generator = np.array([9], np.uint64)
    picks = np.bincount([pick(x, len(x), chance(generator, 0)) for _ in range(20_000)], minlength=len(x))
    has = x > 0
    assert not picks[~has].any()
    assert stats.chisquare(picks[has], x[has].astype(float) / x.sum(dtype=float) * picks.sum()).pvalue > 1e-3


def test_chances_are_even_and_those_of_rows_have_nothing_to_do_with_each_other():
    generators = np.array([0, 1, 2**64 - 1], np.uint64)
    numbers = np.array([[chance(generators, row) for row in range(3)] for _ in range(20_000)])
    assert (numbers >= 0).all()
    assert (numbers < 1).all()
    for column in numbers.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-3
        assert abs(np.corrcoef(column[:-1], column[1:])[0, 1]) < 0.03
    assert (np.abs(np.corrcoef(numbers.T) - np.eye(3)) < 0.03).all()


def test_chances_are_splitmix64s():
    """The first outputs for the seed 1234567, as its authors' reference code has them."""
    generator = np.array([1234567], np.uint64)
    wanted = (6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431)
    assert [chance(generator, 0) for _ in wanted] == [(number >> 11) * 2.0**-53 for number in wanted]
