"""Exchange sizes until everybody has as many large ones as were counted.

How many conversations of a service are so long, or records so large, is counted and drawn so; with whom they are the
network says alone, and hardly knows: of hundreds of conversations one has half of all packets, and with another host
that host has them. So those of one kind change sizes with one another, the largest first: who has one that a party of
it (a host, a distance, a part of the chunk) has too many of changes with the smaller one that mends most, and of those
with the next. How far it looks for one is bounded, so that a table of a million records takes seconds.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

REACH: Final = 1 << 14  # items of its kind before it, and as many behind it, that one may change with


def exchange_sizes(
    parties: NDArray[np.int64],
    size: NDArray[np.int64],
    kind: NDArray[np.int64],
    wanted: NDArray[np.int64],
    least: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """From which of n items each one takes its size: a permutation (n,).

    Args:
        parties: (n, k) numbers of those that take part in each item, all different in one.
        size: (n,) classes of sizes.
        kind: (n,) numbers: only items of the same change with one another.
        wanted: (p, sizes) how many of each size each party had.
        least: the first class of those that are large.
        rng: of all chance.
    """
    lack = wanted.astype(np.int64)
    np.add.at(lack, (parties, size[:, None]), -1)
    order = np.argsort(kind, kind="stable")
    place = np.argsort(order)
    first, end = (np.searchsorted(kind[order], kind, side=side) for side in ("left", "right"))
    first, end = np.maximum(first, place - REACH), np.minimum(end, place + REACH + 1)
    large = rng.permutation(np.flatnonzero(size >= least))
    turns = large[np.argsort(-size[large], kind="stable")]
    come_from = np.arange(len(size))
    _exchange(np.ascontiguousarray(parties, np.int64), size.astype(np.int64), order, first, end, lack, turns, come_from)
    return come_from


@njit(cache=True, nogil=True)
def _exchange(
    parties: NDArray[np.int64],
    size: NDArray[np.int64],
    order: NDArray[np.int64],
    first: NDArray[np.int64],
    end: NDArray[np.int64],
    lack: NDArray[np.int64],
    turns: NDArray[np.int64],
    come_from: NDArray[np.int64],
) -> None:
    """Exchange in place: sizes, what is lacking, and who comes from where."""
    k = parties.shape[1]
    for row in turns:
        large = size[row]
        has_too_many = False
        for j in range(k):
            has_too_many |= lack[parties[row, j], large] < 0
        if not has_too_many:
            continue
        most, best = 0, -1
        for at in range(first[row], end[row]):
            other = order[at]
            if size[other] >= large:
                continue
            gain = 0
            for j in range(k):
                mine, theirs = parties[row, j], parties[other, j]
                if mine != theirs:
                    gain += 1 if lack[mine, large] < 0 else -1
                    gain += 1 if lack[theirs, large] > 0 else -1
            if gain > most or (gain == most and best >= 0 and abs(other - row) < abs(best - row)):
                most, best = gain, other
        if best < 0:
            continue
        small = size[best]
        for j in range(k):
            mine, theirs = parties[row, j], parties[best, j]
            lack[mine, large] += 1
            lack[mine, small] -= 1
            lack[theirs, large] -= 1
            lack[theirs, small] += 1
        size[row], size[best] = small, large
        come_from[row], come_from[best] = come_from[best], come_from[row]
