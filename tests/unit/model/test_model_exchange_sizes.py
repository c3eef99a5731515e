"""Exchanged sizes: what each party has comes near to what it had, and nothing leaves its kind."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsstream.model.exchange_sizes import REACH, exchange_sizes

LEAST = 3


def counted(parties, size, people, sizes):
    out = np.zeros((people, sizes), np.int64)
    np.add.at(out, (parties, size[:, None]), 1)
    return out


@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
def test_it_is_a_permutation_within_kinds_that_never_makes_large_sizes_worse(seed, n):
    rng = np.random.default_rng(seed)
    parties = np.stack([rng.integers(0, 4, n), rng.integers(4, 8, n)], axis=1)
    had, size = rng.integers(0, 8, n), rng.integers(0, 8, n)
    kind = rng.integers(0, 3, n)
    wanted = counted(parties, had, 8, 8)
    come_from = exchange_sizes(parties, size, kind, wanted, LEAST, rng)
    np.testing.assert_array_equal(np.sort(come_from), np.arange(n))
    np.testing.assert_array_equal(kind[come_from], kind)
    off = [abs(counted(parties, s, 8, 8) - wanted)[:, -1].sum() for s in (size, size[come_from])]
    assert off[1] <= off[0]  # of the largest: smaller ones make room for it


def test_whose_sizes_were_mixed_gets_them_back():
    rng = np.random.default_rng(1)
    parties = np.stack([np.arange(600) % 7, 7 + np.arange(600) % 11], axis=1)
    had = parties[:, 0]  # who is the seventh has all that is largest
    mixed = rng.permutation(had)
    come_from = exchange_sizes(parties, mixed, np.zeros(600, np.int64), counted(parties, had, 18, 7), LEAST, rng)
    off = [
        abs(counted(parties, s, 18, 7) - counted(parties, had, 18, 7))[:, LEAST:].sum()
        for s in (mixed, mixed[come_from])
    ]
    assert off[1] < off[0] / 5


@pytest.mark.parametrize("size", [[2, 2, 1], [5, 0, 0]])
def test_who_has_what_it_had_keeps_it(size):
    size, parties = np.array(size), np.array([[0], [1], [2]])
    come_from = exchange_sizes(
        parties, size, np.zeros(3, np.int64), counted(parties, size, 3, 6), LEAST, np.random.default_rng(1)
    )
    assert come_from.tolist() == [0, 1, 2]


def test_nothing_of_nothing():
    none = np.zeros(0, np.int64)
    assert (
        len(
            exchange_sizes(
                np.zeros((0, 2), np.int64), none, none, np.zeros((4, 4), np.int64), 1, np.random.default_rng(1)
            )
        )
        == 0
    )


@pytest.mark.parametrize(("away", "changes"), [(REACH, True), (REACH + 1, False)])
def test_nobody_looks_further_than_the_reach(away, changes):
    size = np.zeros(away + 1, np.int64)
    size[0] = LEAST
    parties = np.ones((away + 1, 1), np.int64)
    parties[0], parties[away] = 0, 2
    wanted = np.zeros((3, LEAST + 1), np.int64)
    wanted[2, LEAST] = 1
    come_from = exchange_sizes(parties, size, np.zeros(away + 1, np.int64), wanted, LEAST, np.random.default_rng(1))
    assert (come_from[away] == 0) == changes
