"""Trees: walked as they say, and refused where a walk could leave them or never end."""

import dataclasses

import numpy as np
import pytest

from nsstream.model.trees import Trees, choose_by_lot


def by_hand():
    """Two trees over two features: three leaves in the first, and nothing but a leaf in the second."""
    return Trees(
        start=np.array([0.5]),
        roots=np.array([0, 5]),
        feature=np.array([0, 1, -1, -1, -1, -1]),
        threshold=np.array([2.0, -1.5, 0, 0, 0, 0]),
        left=np.array([1, 3, 0, 0, 0, 0]),
        right=np.array([2, 4, 0, 0, 0, 0]),
        value=np.array([0, 0, 10.0, 20.0, 30.0, 100.0]),
    )


def test_a_row_goes_left_where_its_feature_is_at_most_the_threshold():
    rows = np.array([[3, 0], [2, -1.5], [2, -1.4], [np.nextafter(np.float32(2), np.float32(3)), -9]], np.float32)
    by_hand().check(2)
    np.testing.assert_array_equal(by_hand()(rows), [110.5, 120.5, 130.5, 110.5])


def test_what_is_no_number_goes_right():
    rows = np.array([[np.nan, 0], [0, np.nan]], np.float32)
    np.testing.assert_array_equal(by_hand()(rows), [110.5, 130.5])


def test_without_trees_every_row_is_0():
    none = Trees.none()
    none.check(0)
    np.testing.assert_array_equal(none(np.ones((3, 4), np.float32)), np.zeros(3))
    assert len(none(np.ones((0, 4), np.float32))) == 0


def test_as_arrays_has_all_there_is():
    again = Trees(**by_hand().as_arrays())
    again.check(2)
    rows = np.random.default_rng(1).normal(0, 3, (50, 2)).astype(np.float32)
    np.testing.assert_array_equal(again(rows), by_hand()(rows))


@pytest.mark.parametrize(
    ("name", "at", "value"),
    [
        ("left", 1, 0),  # back to the root
        ("right", 1, 1),  # to itself
        ("left", 0, -1),
        ("right", 0, 6),
        ("right", 0, 1 << 62),
        ("feature", 0, 2),
        ("feature", 0, 1 << 62),
        ("roots", 0, -1),
        ("roots", 1, 6),
        ("value", 3, np.nan),
        ("value", 2, np.inf),
        ("threshold", 0, np.nan),
        ("start", 0, np.nan),
    ],
)
def test_a_wild_number_is_refused(name, at, value):
    trees = by_hand()
    getattr(trees, name)[at] = value
    with pytest.raises(ValueError, match="the critic's trees"):
        trees.check(2)


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(Trees) if f.name != "roots"])
@pytest.mark.parametrize("change", [lambda a: a[:-1], lambda a: np.concatenate([a, a[-1:]])])
def test_another_length_is_refused(name, change):
    trees = dataclasses.replace(by_hand(), **{name: change(getattr(by_hand(), name))})
    with pytest.raises(ValueError, match="the critic's trees are not whole"):
        trees.check(2)


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(Trees)])
@pytest.mark.parametrize("change", [lambda a: a[:, None], lambda a: a[0], lambda a: a.astype(np.float32)])
def test_another_shape_or_type_is_refused(name, change):
    trees = dataclasses.replace(by_hand(), **{name: np.asarray(change(getattr(by_hand(), name)))})
    with pytest.raises(ValueError, match="not rows of whole and real numbers"):
        trees.check(2)


def test_fewer_features_than_a_tree_asks_for_are_refused():
    with pytest.raises(ValueError, match="the critic's trees are not trees"):
        by_hand().check(1)


def test_trees_that_are_added_give_the_sum():
    rows = np.random.default_rng(1).normal(size=(50, 2)).astype(np.float32) * 3
    both = by_hand().plus(by_hand()).plus(Trees.none())
    both.check(2)
    np.testing.assert_allclose(both(rows), 2 * by_hand()(rows))
    np.testing.assert_allclose(Trees.none().plus(by_hand())(rows), by_hand()(rows))


def test_the_lot_falls_as_the_ratios_say():
    logits = np.log(np.tile([1.0, 3.0, 1e-9], (4000, 1)))
    chosen = choose_by_lot(logits, np.random.default_rng(1))
    share = np.bincount(chosen, minlength=3) / len(chosen)
    np.testing.assert_allclose(share, [0.25, 0.75, 0], atol=0.03)
