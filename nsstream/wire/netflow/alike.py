"""Alike: which messages and sets of a batch are of the same exporter, domain and template.

An exporter sends the same again and again; what holds for one of a kind is looked up once a batch, not once a set.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

MOST_KINDS: Final = 64  # beyond, a search for each row would cost more than it spares


Kinds = tuple[NDArray[np.int64], NDArray[np.int64]]


def kinds_of(rows: NDArray[np.uint64], is_left_out: NDArray[np.bool_]) -> Kinds | None:
    """Number equal rows alike, in the order of their first one.

    Args:
        rows: (n, k).
        is_left_out: (n,) rows that are of no kind, -1.

    Returns:
        the kind of each row (n,), and the last row of each kind; None where there are more than `MOST_KINDS`.
    """
    kind = np.empty(len(rows), np.int64)
    last = np.empty(MOST_KINDS, np.int64)
    count = _number(rows, is_left_out, kind, last)
    return None if count < 0 else (kind, last[:count])


@njit(cache=True)
def _number(
    rows: NDArray[np.uint64], is_left_out: NDArray[np.bool_], kind: NDArray[np.int64], last: NDArray[np.int64]
) -> int:
    count = 0
    here = 0
    for i in range(len(rows)):
        if is_left_out[i]:
            kind[i] = -1
            continue
        if count == 0 or not _is_same(rows[last[here]], rows[i]):
            here = 0
            while here < count and not _is_same(rows[last[here]], rows[i]):
                here += 1
            if here == MOST_KINDS:
                return -1
            count = max(count, here + 1)
        kind[i] = here
        last[here] = i
    return count


@njit(cache=True, inline="always")
def _is_same(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> bool:
    is_same = True
    for k in range(len(a)):
        is_same &= a[k] == b[k]
    return is_same
