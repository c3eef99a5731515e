"""Ports for later fragments: what the first fragment of a datagram said, remembered for a while, in bounded memory.

A datagram is known by its addresses, protocol, identification and VLAN (RFC 791 section 3.2, RFC 8200 section 4.5).
The oldest entry makes room for the newest; an entry holds for `LIFETIME_NS`, the time that RFC 8200 gives to
reassembly.
"""

from __future__ import annotations

from typing import Final, NamedTuple, Self

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.trace.keyed_hash import random_key
from nsstream.trace.keyed_rows import NONE, find, hash_of, put, take_out

LIFETIME_NS: Final = 60_000_000_000
ROOM: Final = 4096

_PORTS, _SEEN = 5, 6  # columns behind the five words of the key
_BUCKETS: Final = 2 * ROOM


class FragmentTable(NamedTuple):
    """A ring of entries, chained by bucket; written in place."""

    entries: NDArray[np.int64]  # (ROOM, 7)
    heads: NDArray[np.int32]  # (_BUCKETS,)
    behind: NDArray[np.int32]  # (ROOM,)
    written: NDArray[np.int64]  # (1,): entries ever written
    hash_key: tuple[np.uint64, np.uint64]

    @classmethod
    def empty(cls) -> Self:
        """A table that knows no datagram."""
        return cls(
            np.empty((ROOM, 7), np.int64),
            np.full(_BUCKETS, NONE, np.int32),
            np.empty(ROOM, np.int32),
            np.zeros(1, np.int64),
            random_key(),
        )


@njit(cache=True, nogil=True)
def forget_all(table: FragmentTable) -> None:
    """Forget every datagram."""
    table.heads[:] = NONE
    table.written[0] = 0


@njit(cache=True, nogil=True)
def remember(table: FragmentTable, words: NDArray[np.int64], ports: int, now_ns: int) -> None:
    """Remember the ports of the datagram whose key is in ``words[:5]``."""
    entries, heads, behind = table.entries, table.heads, table.behind
    bucket = hash_of(table.hash_key, words) % _BUCKETS
    at = find(entries, heads, behind, bucket, words)
    if at == NONE:
        at = table.written[0] % ROOM
        if table.written[0] >= ROOM:
            take_out(heads, behind, hash_of(table.hash_key, entries[at]) % _BUCKETS, at)
        table.written[0] += 1
        put(entries, heads, behind, bucket, at, words)
    entries[at, _PORTS] = ports
    entries[at, _SEEN] = now_ns


@njit(cache=True, nogil=True)
def recall(table: FragmentTable, words: NDArray[np.int64], now_ns: int) -> int:
    """The ports of the datagram whose key is in ``words[:5]``, 0 where its first fragment is not known."""
    at = find(table.entries, table.heads, table.behind, hash_of(table.hash_key, words) % _BUCKETS, words)
    if at == NONE or now_ns - table.entries[at, _SEEN] >= LIFETIME_NS:
        return 0
    return int(table.entries[at, _PORTS])
