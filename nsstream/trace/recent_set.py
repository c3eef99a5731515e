"""RecentSet: 64-bit values that were seen of late, in memory of a fixed size, for numba loops.

Promises: the last `capacity` to twice as many values that were added are in it, and no other; its memory is taken at
once, and is the same however many come. A value is expected to be a hash, of which 0 and 1 are the same.

Theory: two tables with open addressing. Once one is half full it becomes the one before, and what was before is
forgotten.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

NONE: Final = np.uint64(0)
_ONE = np.uint64(1)

Table = NDArray[np.uint64]


class RecentSet(NamedTuple):
    """The tables, of as many slots each; `counts` has how many values are in `now`."""

    now: Table
    before: Table
    counts: NDArray[np.int64]  # (1,)

    @classmethod
    def with_capacity(cls, capacity: int) -> RecentSet:
        """An empty one; `capacity` is a power of 2."""
        return cls(new_table(2 * capacity), new_table(2 * capacity), np.zeros(1, np.int64))

    def clear(self) -> None:
        """Forget everything."""
        self.now[:] = NONE
        self.before[:] = NONE
        self.counts[0] = 0


def new_table(slots: int) -> Table:
    """An empty table; `slots` is a power of 2."""
    if slots < 1 or slots & (slots - 1):
        raise ValueError(f"slots must be a power of 2, got {slots}")
    # Not np.zeros, whose pages come to be as they are written: what it takes it takes at once.
    return np.full(slots, NONE, np.uint64)


@njit(cache=True, nogil=True)
def find(table: Table, value: np.uint64) -> int:
    """The slot that holds a value, or the free one where it belongs; one slot at least must be free."""
    mask = np.uint64(len(table) - 1)
    slot = value & mask
    while table[slot] != NONE and table[slot] != value:
        slot = (slot + _ONE) & mask
    return int(np.int64(slot))


@njit(cache=True, nogil=True)
def has(recent: RecentSet, value: np.uint64) -> bool:
    """Whether a value is remembered."""
    value = value if value != NONE else _ONE
    return bool(recent.now[find(recent.now, value)] == value or recent.before[find(recent.before, value)] == value)


@njit(cache=True, nogil=True)
def add(recent: RecentSet, value: np.uint64) -> None:
    """Remember a value; one that is there already is as if it had come just now."""
    value = value if value != NONE else _ONE
    if recent.now[find(recent.now, value)] == value:
        return
    if 2 * recent.counts[0] >= len(recent.now):
        recent.before[:] = recent.now
        recent.now[:] = NONE
        recent.counts[0] = 0
    recent.now[find(recent.now, value)] = value
    recent.counts[0] += 1
