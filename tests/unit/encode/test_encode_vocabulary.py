"""Vocabulary: bounded, stable from parent to child, and honest about what it does not hold."""

import json

import numpy as np
import pytest

from nsstream.encode.vocabulary import Vocabulary


def column(*values):
    return np.array(values, np.int64)[:, None]


def test_the_most_frequent_get_the_slots():
    vocabulary = Vocabulary.fit(column(7, 5, 5, 9, 9, 9), capacity=2)
    assert vocabulary.slots == ((9,), (5,))
    assert vocabulary.counts == (3, 2)


def test_ties_go_to_the_smaller_value():
    assert Vocabulary.fit(column(3, 1, 2), capacity=2).slots == ((1,), (2,))


def test_what_is_too_rare_gets_none():
    vocabulary = Vocabulary.fit(column(1, 2, 2), capacity=4, least=2)
    assert vocabulary.slots == ((2,), None, None, None)
    assert vocabulary.is_active().tolist() == [True, False, False, False]
    assert vocabulary.tokens(column(1, 2, 3)).tolist() == [-1, 0, -1]


def test_of_nothing_all_slots_are_free():
    vocabulary = Vocabulary.fit(np.zeros((0, 2), np.int64), capacity=3)
    assert (vocabulary.slots, vocabulary.counts, len(vocabulary)) == ((None,) * 3, (0,) * 3, 3)
    assert vocabulary.tokens(np.zeros((0, 2), np.int64)).tolist() == []


def test_a_child_keeps_its_parents_slots_and_fills_free_ones_first():
    parent = Vocabulary.fit(column(1, 1, 1, 2, 2), capacity=3)
    child = Vocabulary.fit(column(2, 2, 3), capacity=3, parent=parent)
    assert child.slots == ((1,), (2,), (3,))
    assert child.counts == (0, 2, 1)
    assert child.tokens(column(1, 2, 3)).tolist() == [-1, 1, 2]  # 1 is inactive: it is not drawn, nor learned


def test_a_newcomer_takes_an_inactive_slot_and_never_an_active_one():
    parent = Vocabulary.fit(column(1, 1, 1, 2, 2, 3), capacity=3)
    child = Vocabulary.fit(column(1, 3, 4), capacity=3, parent=parent)
    assert child.slots == ((1,), (4,), (3,))


def test_a_value_that_comes_back_finds_its_slot():
    first = Vocabulary.fit(column(1, 1, 2), capacity=3)
    second = Vocabulary.fit(column(2), capacity=3, parent=first)
    third = Vocabulary.fit(column(1, 2), capacity=3, parent=second)
    assert third.slots == first.slots


def test_a_parent_of_another_capacity_is_refused():
    with pytest.raises(ValueError, match="same capacity is needed: 4, got 3"):
        Vocabulary.fit(column(1), capacity=4, parent=Vocabulary.fit(column(1), capacity=3))


@pytest.mark.parametrize(
    ("value", "slot"),
    [
        ((6, 80), 0),  # its own
        ((6, 90), 0),  # nearest of the same first column
        ((6, 430), 1),
        ((17, 81), 2),  # the first column before the rest
        ((99, 79), 0),  # none of the same: least difference
        ((6, 261), 0),  # halfway: the more frequent
    ],
)
def test_nearest_is_equal_first_then_close_then_frequent(value, slot):
    rows = np.array([(6, 80)] * 3 + [(6, 442)] * 2 + [(17, 53)], np.int64)
    assert Vocabulary.fit(rows, capacity=5).nearest(np.array([value]), exact=1).tolist() == [slot]


def test_nearest_is_never_an_inactive_value():
    parent = Vocabulary.fit(column(1, 100), capacity=2)
    child = Vocabulary.fit(column(100), capacity=2, parent=parent)
    assert child.nearest(column(1), exact=0).tolist() == [1]


def test_nearest_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no value is active"):
        Vocabulary.fit(np.zeros((0, 1), np.int64), capacity=2).nearest(column(1), exact=0)


def test_json_brings_back_the_same_vocabulary_inactive_slots_too():
    parent = Vocabulary.fit(np.array([(1, -2), (1, -2), (3, 4)]), capacity=4)
    child = Vocabulary.fit(np.array([(3, 4)]), capacity=4, parent=parent)
    for vocabulary in (parent, child):
        assert Vocabulary.from_json(json.loads(json.dumps(vocabulary.as_json()))) == vocabulary
