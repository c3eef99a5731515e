"""RecentSet: against a slow truth, and of a fixed size."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsstream.trace.recent_set import RecentSet, add, has, new_table


class SlowSet:
    """The same in Python: two sets, the older of which is forgotten once the newer is full."""

    def __init__(self, capacity):
        self.capacity = capacity
        self.now, self.before = set(), set()

    def add(self, value):
        if value not in self.now and len(self.now) >= self.capacity:
            self.now, self.before = set(), self.now
        self.now.add(value)


@settings(deadline=None)
@given(st.lists(st.integers(1, 40), max_size=200), st.sampled_from([1, 2, 8]))
def test_it_remembers_what_a_slow_one_does(values, capacity):
    recent, slow = RecentSet.with_capacity(capacity), SlowSet(capacity)
    for value in values:
        add(recent, np.uint64(value))
        slow.add(value)
        found = {other for other in range(1, 41) if has(recent, np.uint64(other))}
        assert found == slow.now | slow.before


def test_the_last_of_many_are_remembered_in_the_same_memory():
    recent = RecentSet.with_capacity(64)
    size = sum(array.nbytes for array in recent)
    values = np.random.default_rng(1).integers(1, 1 << 63, 10_000).astype(np.uint64)
    for value in values:
        add(recent, value)
    assert sum(array.nbytes for array in recent) == size
    assert all(has(recent, value) for value in values[-64:])
    assert sum(has(recent, value) for value in values) <= 128


def test_no_value_is_taken_for_a_free_slot():
    recent = RecentSet.with_capacity(4)
    assert not has(recent, np.uint64(0))
    add(recent, np.uint64(0))
    assert has(recent, np.uint64(0))
    recent.clear()
    assert not has(recent, np.uint64(0))


@pytest.mark.parametrize("slots", [0, 3, -4])
def test_a_table_has_a_power_of_two_of_slots(slots):
    with pytest.raises(ValueError, match="power of 2"):
        new_table(slots)
