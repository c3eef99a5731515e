"""Shapes of gaps: what a kind shows inside its bins, and what it never shows."""

import numpy as np
import pytest

from nsstream.encode.bins import QUANTILES
from nsstream.encode.gap_shapes import FEWEST, SEEN_OFTEN, GapShapes
from nsstream.encode.schema import PACKET_GAP_GRID

RNG = np.random.default_rng(4)
POLL_NS, ANSWER_NS = 2_000_000_000, 600_000


@pytest.fixture(scope="module")
def measured():
    """Kind 3 polls by its own clock, kind 7 answers after the packet before, kind 9 was seen but thrice."""
    kind = np.repeat([3, 7, 9], [400, 300, 3])
    clock = kind == 3
    gap_ns = np.where(clock, POLL_NS + RNG.integers(0, 2000, 703), ANSWER_NS + RNG.integers(0, 20_000, 703))
    return kind, clock, PACKET_GAP_GRID.tokens(gap_ns), gap_ns


@pytest.fixture(scope="module")
def shapes(measured):
    return GapShapes.fit(*measured)


def test_cells_count_every_gap_once(measured, shapes):
    assert shapes.cells[:, 3].sum() == len(measured[0])
    assert len(np.unique(shapes.cells[:, :3], axis=0)) == len(shapes.cells)


def test_a_timer_keeps_its_exact_place_in_its_bin(measured, shapes):
    row = np.flatnonzero((shapes.cells[:, 0] == 3) & (shapes.shape >= 0))[0]
    inside = shapes.quantiles[shapes.shape[row]]
    polls = measured[3][measured[0] == 3]
    assert len(inside) == QUANTILES
    assert (inside[0], inside[-1]) == (polls.min(), polls.max())
    assert (np.diff(inside) >= 0).all()


def test_few_gaps_have_no_shape_of_their_own(shapes):
    few = shapes.cells[:, 3] < FEWEST
    assert few.any()
    assert (shapes.shape[few] == -1).all()
    assert (shapes.shape[~few] >= 0).all()


def test_what_was_seen_often_shows_only_what_lies_near_what_it_showed(measured, shapes):
    kinds, gaps = np.array([3, 7, 9]), np.arange(len(PACKET_GAP_GRID))
    may = shapes.may_show(kinds, gaps)
    poll, answers = PACKET_GAP_GRID.tokens(np.array([POLL_NS]))[0], np.unique(measured[2][measured[0] == 7])
    assert len(measured[0]) > SEEN_OFTEN
    np.testing.assert_array_equal(np.flatnonzero(may[0, 1]), [poll - 1, poll, poll + 1])
    np.testing.assert_array_equal(np.flatnonzero(may[1, 0]), np.arange(answers[0] - 1, answers[-1] + 2))
    assert may[2].all()  # too seldom seen to forbid anything
    assert may[0, 0].all()  # never by that clock


def test_tables_are_of_the_kinds_and_gaps_that_are_asked_for(shapes):
    gaps = np.unique(shapes.cells[:, 2])
    table = shapes.shape_table(np.array([5, 7]), gaps)
    assert table.shape == (2, 2, len(gaps))
    assert (table[0] == -1).all()
    assert set(table[1][table[1] >= 0]) == set(shapes.shape[(shapes.cells[:, 0] == 7) & (shapes.shape >= 0)])
    assert (table[1] >= 0).any()


def test_no_gaps_at_all_forbid_nothing():
    none = np.zeros(0, np.int64)
    shapes = GapShapes.fit(none, none.astype(bool), none, none)
    assert shapes.may_show(np.array([1]), np.array([2, 3])).all()
    assert (shapes.shape_table(np.array([1]), np.array([2, 3])) == -1).all()


def test_json_gives_the_same_shapes_back(shapes):
    again = GapShapes.from_json(shapes.as_json())
    for name in ("cells", "shape", "quantiles"):
        np.testing.assert_array_equal(getattr(again, name), getattr(shapes, name))


def test_shapes_that_do_not_fit_are_refused(shapes):
    data = shapes.as_json()
    with pytest.raises(ValueError, match="do not fit"):
        GapShapes.from_json({**data, "quantiles": []})
    with pytest.raises(ValueError, match="do not fit"):
        GapShapes.from_json({**data, "shape": [-2] * len(data["shape"])})
    with pytest.raises(ValueError, match="do not fit"):
        GapShapes.from_json({**data, "cells": [[kind, 2, gap, count] for kind, _, gap, count in data["cells"]]})
    with pytest.raises(ValueError, match="not numbers"):
        GapShapes.from_json({**data, "quantiles": [[float("nan")] * QUANTILES for _ in data["quantiles"]]})
    with pytest.raises(LookupError):
        GapShapes.from_json({"cells": []})
