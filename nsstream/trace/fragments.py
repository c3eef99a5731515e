"""Ports for later fragments: what the first fragment of a datagram said, remembered for a while, in bounded memory.

A datagram is known by its addresses, protocol, identification and VLAN (RFC 791 section 3.2, RFC 8200 section 4.5).
The oldest entry makes room for the newest; an entry holds for `LIFETIME_NS`, the time that RFC 8200 gives to
reassembly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.trace.keyed_hash import KEY_WORDS, keyed_hash

LIFETIME_NS: Final = 60_000_000_000
ROOM: Final = 4096

_PORTS, _SEEN = 5, 6  # columns behind the five words of the key
_NONE: Final = -1


@dataclass(frozen=True, slots=True)
class FragmentTable:
    """A ring of entries, chained by bucket; written in place."""

    entries: NDArray[np.int64]  # (ROOM, 7)
    behind: NDArray[np.int32]  # (ROOM,): next entry of the same bucket
    heads: NDArray[np.int32]  # (2 * ROOM,)
    written: NDArray[np.int64]  # (1,): entries ever written

    @classmethod
    def empty(cls) -> Self:
        """A table that knows no datagram."""
        return cls(
            np.empty((ROOM, 7), np.int64),
            np.empty(ROOM, np.int32),
            np.full(2 * ROOM, _NONE, np.int32),
            np.zeros(1, np.int64),
        )


@njit(cache=True)
def forget_all(heads: NDArray[np.int32], written: NDArray[np.int64]) -> None:
    """Forget every datagram."""
    heads[:] = _NONE
    written[0] = 0


@njit(cache=True)
def remember(
    entries: NDArray[np.int64],
    behind: NDArray[np.int32],
    heads: NDArray[np.int32],
    written: NDArray[np.int64],
    k0: np.uint64,
    k1: np.uint64,
    words: NDArray[np.int64],
    ports: int,
    now_ns: int,
) -> None:
    """Remember the ports of the datagram whose key is in ``words[:5]``."""
    bucket = _bucket(heads, k0, k1, words)
    at = _find(entries, behind, heads, bucket, words)
    if at == _NONE:
        at = written[0] % ROOM
        if written[0] >= ROOM:
            old = _bucket(heads, k0, k1, entries[at])
            if heads[old] == at:
                heads[old] = behind[at]
            else:
                before = heads[old]
                while behind[before] != at:
                    before = behind[before]
                behind[before] = behind[at]
        written[0] += 1
        for k in range(KEY_WORDS):
            entries[at, k] = words[k]
        behind[at] = heads[bucket]
        heads[bucket] = at
    entries[at, _PORTS] = ports
    entries[at, _SEEN] = now_ns


@njit(cache=True)
def recall(
    entries: NDArray[np.int64],
    behind: NDArray[np.int32],
    heads: NDArray[np.int32],
    k0: np.uint64,
    k1: np.uint64,
    words: NDArray[np.int64],
    now_ns: int,
) -> int:
    """The ports of the datagram whose key is in ``words[:5]``, 0 where its first fragment is not known."""
    at = _find(entries, behind, heads, _bucket(heads, k0, k1, words), words)
    if at == _NONE or now_ns - entries[at, _SEEN] >= LIFETIME_NS:
        return 0
    return int(entries[at, _PORTS])


@njit(cache=True)
def _bucket(heads: NDArray[np.int32], k0: np.uint64, k1: np.uint64, words: NDArray[np.int64]) -> int:
    h = keyed_hash(k0, k1, words[0], words[1], words[2], words[3], words[4])
    return int(np.int64(h & np.uint64(len(heads) - 1)))


@njit(cache=True)
def _find(
    entries: NDArray[np.int64],
    behind: NDArray[np.int32],
    heads: NDArray[np.int32],
    bucket: int,
    words: NDArray[np.int64],
) -> int:
    at = heads[bucket]
    while at != _NONE:
        is_same = True
        for k in range(KEY_WORDS):
            is_same = is_same and entries[at, k] == words[k]
        if is_same:
            return int(at)
        at = behind[at]
    return _NONE
