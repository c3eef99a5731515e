"""Bins: where their edges are, and what they keep exactly."""

import numpy as np
import pytest

from nsstream.encode.bins import QUANTILES, Bins, Grid, rank_of, value_at
from nsstream.encode.schema import LENGTH_GRID, PACKET_GAP_GRID, SIZE_GRID

GRIDS = [PACKET_GAP_GRID, LENGTH_GRID, SIZE_GRID, Grid(exact=3, first=4, per_decade=5, largest=1000)]


@pytest.mark.parametrize("grid", GRIDS)
def test_edges_rise_and_integers_to_exact_have_a_bin_each(grid):
    assert (np.diff(grid.edges) > 0).all()
    small = np.arange(grid.exact + 1)
    assert grid.tokens(small).tolist() == small.tolist()
    assert len(grid) == len(grid.edges)


@pytest.mark.parametrize("grid", GRIDS)
def test_what_is_out_of_range_falls_into_the_first_bin_or_the_last(grid):
    assert grid.tokens(np.array([-5, 10 * grid.largest])).tolist() == [0, len(grid) - 1]


def test_a_value_that_recurs_keeps_its_exact_place():
    rng = np.random.default_rng(1)
    values = np.array([30_000_000] * 50)
    bins = Bins.fit(PACKET_GAP_GRID, values)
    assert set(bins.draw(PACKET_GAP_GRID.tokens(values), rng).tolist()) == {30_000_000}


def test_an_atom_among_others_is_drawn_about_as_often_as_it_was():
    rng = np.random.default_rng(1)
    values = np.concatenate([np.full(700, 1400), np.arange(1300, 1600)])
    values = values[SIZE_GRID.tokens(values) == SIZE_GRID.tokens(np.array([1400]))[0]]
    drawn = Bins.fit(SIZE_GRID, values).draw(SIZE_GRID.tokens(values), rng)
    assert abs((drawn == 1400).mean() - (values == 1400).mean()) < 2 / (QUANTILES - 1)


def test_an_empty_bin_is_inactive_and_spans_its_edges():
    bins = Bins.fit(SIZE_GRID, np.array([100]))
    assert np.flatnonzero(bins.is_active()).tolist() == SIZE_GRID.tokens(np.array([100])).tolist()
    assert np.isfinite(bins.quantiles).all()
    assert (np.diff(bins.quantiles, axis=1) >= 0).all()
    assert (bins.quantiles[:, 0] >= SIZE_GRID.edges).all()


def test_a_value_is_drawn_beyond_what_has_passed_already():
    values = np.array([1_000_000] * 10 + [1_050_000] * 10)
    bins = Bins.fit(PACKET_GAP_GRID, values)
    inside = bins.quantiles[PACKET_GAP_GRID.tokens(values[:1])[0]]
    below = rank_of(inside, 1_020_000.0)
    drawn = np.array([value_at(inside, below + (1 - below) * at) for at in np.linspace(0, 1, 200)])
    assert drawn.min() >= 1_020_000
    assert (drawn == 1_050_000).mean() > 0.8
    assert rank_of(inside, 2_000_000.0) == 1  # beyond the bin
    assert rank_of(inside, 3.0) == 0


def test_a_rank_is_that_of_its_value():
    inside = np.linspace(100, 1700, QUANTILES)
    for at in np.linspace(0, 1, 41):
        assert rank_of(inside, value_at(inside, at)) == pytest.approx(at, abs=0.5 / 1600)


def test_values_that_are_drawn_evenly_sum_to_what_was_measured():
    grid = Grid(exact=8, first=9, per_decade=8, largest=10_000)
    values = np.random.default_rng(1).integers(1, 4000, 3000)
    bins = Bins.fit(grid, values)
    tokens = grid.tokens(values)
    found = bins.draw_evenly(tokens, np.random.default_rng(2))
    np.testing.assert_array_equal(grid.tokens(found), tokens)
    assert found.sum() == pytest.approx(values.sum(), rel=0.002)
    one = np.full(16, tokens[0])
    shares = np.sort(bins.draw_evenly(one, np.random.default_rng(3)))
    assert (np.diff(np.searchsorted(bins.quantiles[tokens[0]], shares)) <= 2).all()
