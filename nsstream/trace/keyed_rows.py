"""Rows found by a key of five words: chains by bucket, for the tables of numba loops that hostile traffic fills.

The key is in the first five columns of the rows. `heads` holds the first row of each bucket, `behind` of each row the
next one of its bucket; `NONE` ends a chain. The hash is keyed, so chains stay short whatever the traffic.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.trace.keyed_hash import KEY_WORDS, keyed_hash

NONE: Final = -1

Words = NDArray[np.int64]
Links = NDArray[np.int32]


@njit(cache=True, forceinline=True)
def hash_of(hash_key: tuple[np.uint64, np.uint64], words: Words) -> int:
    """31 bits of hash of the key in ``words[:5]``; of 2**n buckets its own is that of the lowest n bits."""
    h = keyed_hash(hash_key[0], hash_key[1], words[0], words[1], words[2], words[3], words[4])
    return int(np.int64(h & np.uint64(0x7FFFFFFF)))


@njit(cache=True, forceinline=True)
def find(rows: Words, heads: Links, behind: Links, bucket: int, words: Words) -> int:
    """The row of the key in ``words[:5]``, `NONE` if there is none."""
    at = heads[bucket]
    while at != NONE:
        if (
            rows[at, 4] == words[4]
            and rows[at, 1] == words[1]
            and rows[at, 3] == words[3]
            and rows[at, 0] == words[0]
            and rows[at, 2] == words[2]
        ):
            return int(at)
        at = behind[at]
    return NONE


@njit(cache=True, forceinline=True)
def put(rows: Words, heads: Links, behind: Links, bucket: int, at: int, words: Words) -> None:
    """Give a row the key in ``words[:5]``, in front of its bucket's chain."""
    for k in range(KEY_WORDS):
        rows[at, k] = words[k]
    behind[at] = heads[bucket]
    heads[bucket] = at


@njit(cache=True, forceinline=True)
def take_out(heads: Links, behind: Links, bucket: int, at: int) -> None:
    """Take a row out of its bucket's chain."""
    if heads[bucket] == at:
        heads[bucket] = behind[at]
        return
    before = heads[bucket]
    while behind[before] != at:
        before = behind[before]
    behind[before] = behind[at]
