"""Which windows are read: all kinds of lengths, within limits, and which held-out ones judge."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsstream.train.batches import LEAD, WINDOW, Windows
from nsstream.train.reading import CLASSES, MOST_READS, Reading, class_of, held_out, judged


def of_lengths(*lengths: int) -> Windows:
    length = np.array(lengths, np.int64)
    begin = np.cumsum(length) - length
    return Windows(np.arange(len(length)), begin, begin, begin + length)


SCAN = of_lengths(*[2] * 2000, *[14] * 5, *[WINDOW] * 20)


@given(
    lengths=st.lists(st.integers(1, WINDOW), min_size=1, max_size=60),
    count=st.integers(1, 80),
    packets=st.integers(1, 3000),
    seed=st.integers(0, 99),
)
def test_windows_are_chosen_without_repeats_and_within_the_limit(lengths, count, packets, seed):
    windows = of_lengths(*lengths)
    reading = Reading(windows, np.random.default_rng(seed))
    for _ in range(40):
        chosen = reading.choose(count, packets, 1.0)
        assert 1 <= len(chosen) <= min(count, len(windows))
        assert len(set(chosen.tolist())) == len(chosen)
        length = (windows.end - windows.read_from)[chosen]
        assert len(chosen) == 1 or len(chosen) * length.max() <= packets


def test_few_long_windows_among_thousands_of_short_ones_are_read():
    reading = Reading(SCAN, np.random.default_rng(1))
    reads = np.zeros(len(SCAN), np.int64)
    for _ in range(600):
        reads[reading.choose(12, 2048, 1.0)] += 1
    short, few, long = reads[:2000].mean(), reads[2000:2005].mean(), reads[2005:].mean()
    assert 1 < short < 5
    assert few > 2 * short
    assert long > 10 * short  # a third of all packets


def test_a_class_of_few_windows_is_not_read_for_ever():
    reading = Reading(of_lengths(*[2] * 5000, 14), np.random.default_rng(1))
    reads = sum(5000 in reading.choose(12, 2048, 1.0).tolist() for _ in range(3000))
    assert reads <= MOST_READS + 3000 * (12 / 5000 + 14 / 10_000) * 3


def test_the_neighbours_of_a_window_change():
    reading = Reading(of_lengths(*[2] * 100), np.random.default_rng(1))
    together = {frozenset(reading.choose(4, 2048, 1.0).tolist()) for _ in range(500)}
    assert len(together) > 400


@pytest.mark.parametrize(("length", "least"), [(1, 1), (2, 2), (4, 3), (16, 12), (24, 17), (48, 25), (WINDOW, 49)])
def test_a_window_is_of_a_class_by_the_packets_that_are_learned(length, least):
    window = Windows(np.array([0]), np.array([0]), np.array([LEAD]), np.array([LEAD + length]))
    assert CLASSES[class_of(window)[0]] == least


def test_held_out_windows_of_every_class_judge_and_count_by_the_root_of_its_packets():
    held = of_lengths(*[2] * 300, 14, *[WINDOW] * 3)
    found = judged(held, SCAN)
    assert [len(rows) for rows, _ in found] == [24, 1, 3]
    assert found[0][0].tolist()[-1] == 299  # of all of the chunk, not of its beginning
    shares = np.array([share for _, share in found])
    assert shares.sum() == pytest.approx(1)
    said = np.array([300 / 364, 1 / 65, 3 / 67])  # by how many conversations judge
    assert shares / shares[0] == pytest.approx(np.sqrt([1, 70 / 4000, 1920 / 4000]) * said / said[0])


def test_one_conversation_in_eight_of_each_class_is_held_out_and_of_few_none():
    lengths = np.r_[np.full(80, 2), np.full(7, 14), np.full(17, 300)]
    held = held_out(lengths, np.random.default_rng(1))
    assert np.unique(lengths[held], return_counts=True)[1].tolist() == [10, 2]
    assert sorted(lengths[held]) == sorted(lengths[held_out(lengths, np.random.default_rng(2))])
    assert held.tolist() != held_out(lengths, np.random.default_rng(2)).tolist()
    assert held.tolist() == sorted(set(held.tolist()))


def test_where_all_classes_are_small_some_are_held_out_all_the_same():
    assert len(held_out(np.array([1, 2, 3, 5, 8, 12, 17, 25]), np.random.default_rng(1))) == 1


def test_a_class_that_was_held_out_whole_judges_all_the_same():
    ((rows, share),) = judged(of_lengths(14), of_lengths(2, 2))
    assert (rows.tolist(), share) == ([0], 1.0)


def test_few_windows_are_read_as_often_as_many_would_be_for_their_class():
    reading = Reading(of_lengths(*[2] * 5000, *[20] * 3, *[40] * 3), np.random.default_rng(1))
    reads = np.zeros(5006, np.int64)
    for _ in range(300):
        reads[reading.choose(12, 2048, 1.0)] += 1
    assert (reads[5000:] >= MOST_READS).all()
