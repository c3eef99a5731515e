"""Reading: which conversations are held out, which windows of packets a step learns, and which judge what was learned.

A scan's chunk has tens of thousands of conversations of two packets and a handful of transfers, whose windows a choice
at random, or even one by packets, hardly ever meets. So a step reads one of three: windows at random; windows of
similar length around that of a packet at random; or around a window of a class of lengths, each class as often as any
other, up to `MOST_READS` of each of its windows. A conversation's length is told to the network, not learned by it, so
that what it learns of those of one length does not depend on how often that length is read.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.train.batches import Windows

HELD_OUT_EVERY: Final = 8  # one conversation in so many is held out
CLASSES: Final = (1, 2, 3, 5, 8, 12, 17, 25, 49)  # packets, at least, of a window of each class of lengths
MOST_READS: Final = 30  # of a class, for each of its windows, for the class's sake
JUDGED_A_CLASS: Final = 24  # held-out windows
ENOUGH: Final = 64  # held-out conversations of a class, for half of its say
SORT_EVERY: Final = 32  # choices, for which windows of one length stand in the same order


class Reading:
    """The choice of what is read.

    Args:
        windows: all that may be.
        rng: of all chance.
    """

    def __init__(self, windows: Windows, rng: np.random.Generator) -> None:
        self._windows, self._rng = windows, rng
        self._length = windows.end - windows.read_from
        self._class = class_of(windows)
        self._classes = [np.flatnonzero(self._class == c) for c in range(len(CLASSES))]
        self._reads = np.zeros(len(CLASSES))
        self._most = np.array([MOST_READS * len(rows) for rows in self._classes])
        self._choices = 0
        self._sort()

    def choose(self, count: int, packets: int, progress: float) -> NDArray[np.int64]:
        """About `count` windows, none twice; at most `packets` after padding, if there is more than one.

        progress: how much of all reading is done, 0..1; a class is read no faster than lasts to the end.
        """
        self._choices += 1
        if self._choices % SORT_EVERY == 0:
            self._sort()
        way = int(self._rng.integers(3))
        open_classes = np.flatnonzero(self._reads < self._most * progress)
        is_for_a_class = way == 2 and len(open_classes) > 0
        if way == 0:
            chosen = self._rng.choice(len(self._windows), size=min(count, len(self._windows)), replace=False)
        elif is_for_a_class:
            c = int(self._rng.choice(open_classes))
            chosen = self._around(int(self._rank[self._rng.choice(self._classes[c])]), count)
        else:
            packet = self._rng.integers(self._packets_to[-1])
            chosen = self._around(int(np.searchsorted(self._packets_to, packet, side="right")), count)
        fits = max(1, packets // int(self._length[chosen].max()))
        if len(chosen) > fits:
            chosen = self._rng.choice(chosen, size=fits, replace=False)
        if is_for_a_class:
            self._reads += np.bincount(self._class[chosen], minlength=len(CLASSES))
        return chosen

    def _around(self, centre: int, count: int) -> NDArray[np.int64]:
        low = max(0, min(centre - count // 2, len(self._windows) - count))
        return self._order[low : low + count]

    def _sort(self) -> None:
        """Those of a length stand beside others than before."""
        self._order = np.lexsort((self._rng.random(len(self._windows)), self._length))
        self._rank = np.empty_like(self._order)
        self._rank[self._order] = np.arange(len(self._order))
        self._packets_to = np.cumsum((self._windows.end - self._windows.learn_from)[self._order])


def held_out(lengths: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Which conversations are not learned, of n of so many packets each: one in eight of each class, sorted.

    Of a class of fewer all are learned: the only transfers of a chunk are worth more to its twin than as its judges.
    Where every class is one of those, it is one in eight of all.
    """
    order = rng.permutation(len(lengths))
    of_class = np.searchsorted(CLASSES, lengths[order], side="right") - 1
    rows = [order[of_class == c] for c in range(len(CLASSES))]
    found = np.concatenate([some[: len(some) // HELD_OUT_EVERY] for some in rows])
    return np.sort(found if len(found) else order[: len(order) // HELD_OUT_EVERY])


def class_of(windows: Windows) -> NDArray[np.int64]:
    """The class of lengths of each window: (w,)."""
    return np.searchsorted(CLASSES, windows.end - windows.learn_from, side="right") - 1


def judged(held: Windows, learned: Windows) -> list[tuple[NDArray[np.int64], float]]:
    """Some held-out windows of each class that has any, and how much their loss is to count.

    A class counts by the root of the packets learned in it, since what few packets tell is to be heard beside the many
    that all tell the same; and the less, the fewer conversations of it are held out, which may be like no other.
    """
    of_held, packets = class_of(held), np.bincount(class_of(learned), learned.end - learned.learn_from, len(CLASSES))
    found = []
    for c in range(len(CLASSES)):
        rows = np.flatnonzero(of_held == c)
        if len(rows):
            some = np.linspace(0, len(rows) - 1, min(len(rows), JUDGED_A_CLASS)).astype(np.int64)
            conversations = len(np.unique(held.owner[rows]))
            found.append((rows[some], max(packets[c], 1) ** 0.5 * conversations / (conversations + ENOUGH)))
    total = sum(share for _, share in found)
    return [(rows, share / total) for rows, share in found]
