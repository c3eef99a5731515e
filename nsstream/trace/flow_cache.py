"""The memory of a flow meter: open flows in a bounded table that is looked up by key and read in order of age.

A flow is a row of `slots`. Three lists run through the rows, each in the order in which its flows will be due: `IDLE`
by last packet (its head is the least recently used), `ACTIVE` by birth, `CLOSING` by end of connection. All is done in
constant time; there are more buckets as there are more flows, so that few flows stay in the processor's cache.

Promises: memory is what `FlowCache.with_room_for` was told, and no page of it is touched before a flow needs it; what
happens depends on the packets alone, never on the hash.
"""

from __future__ import annotations

from typing import Final, NamedTuple, Self

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.trace import keyed_rows
from nsstream.trace.keyed_hash import random_key
from nsstream.trace.keyed_rows import NONE

# Columns of a slot. The key is columns 0 to 4: addresses of two words each, and `ENDS`.
ENDS: Final = (
    4  # source port << 48 | destination port << 32 | protocol << 24 | class of service << 16 | version << 12 | vlan
)
START, END = 5, 6  # of the packets' own times
TOUCHED, BORN, CLOSED = 7, 8, 9  # of the meter's clock; CLOSED is NOT_CLOSED while the flow goes on
PACKETS, OCTETS, REVERSE_PACKETS, REVERSE_OCTETS = 10, 11, 12, 13
BITS: Final = 14  # TCP control bits | reverse ones << 16 | class of service << 32 | IS_HIGH
IS_HIGH: Final = 1 << 40  # biflow: forward is from the key's high end
ICMP_TYPE_CODE: Final = 15
SLOT_WORDS: Final = 16  # two cache lines
NOT_CLOSED: Final = -1

# Lists; of `links`, list k has columns 2k (before) and 2k + 1 (behind).
IDLE, ACTIVE, CLOSING = 0, 1, 2
_HASH: Final = 6

# Of `state`.
CLOCK, IS_STARTED, OPEN, CLOCK_STEPS_BACK, NEXT_DUE, _USED, _FREE, _BUCKETS = range(8)
NEVER: Final = np.iinfo(np.int64).max
_FEWEST_BUCKETS: Final = 1024


class FlowCache(NamedTuple):
    """Arrays that the loops share; written in place."""

    slots: NDArray[np.int64]  # (max_flows, SLOT_WORDS)
    links: NDArray[np.int32]  # (max_flows, 8): the lists' links, the hash of the key; half a cache line
    heads: NDArray[np.int32]  # (a power of 2,), of which `state` says how many are used
    behind: NDArray[np.int32]  # (max_flows,): of an open flow in its bucket, of a free slot the next free one
    ends: NDArray[np.int32]  # (3, 2): first and last row of each list
    state: NDArray[np.int64]
    hash_key: tuple[np.uint64, np.uint64]

    @classmethod
    def with_room_for(cls, max_flows: int) -> Self:
        """An empty cache with a key of its own."""
        state = np.zeros(8, np.int64)
        state[NEXT_DUE], state[_FREE], state[_BUCKETS] = NEVER, NONE, _FEWEST_BUCKETS
        heads = np.empty(max(_FEWEST_BUCKETS, 1 << max_flows.bit_length()), np.int32)
        heads[:_FEWEST_BUCKETS] = NONE
        return cls(
            np.empty((max_flows, SLOT_WORDS), np.int64),
            np.empty((max_flows, 8), np.int32),
            heads,
            np.empty(max_flows, np.int32),
            np.full((3, 2), NONE, np.int32),
            state,
            random_key(),
        )


@njit(cache=True, forceinline=True)
def append(cache: FlowCache, which: int, slot: int) -> None:
    """Put a flow at the end of a list."""
    links, ends = cache.links, cache.ends
    last = ends[which, 1]
    links[slot, 2 * which] = last
    links[slot, 2 * which + 1] = NONE
    if last == NONE:
        ends[which, 0] = slot
    else:
        links[last, 2 * which + 1] = slot
    ends[which, 1] = slot


@njit(cache=True, forceinline=True)
def unlink(cache: FlowCache, which: int, slot: int) -> None:
    """Take a flow out of a list."""
    links, ends = cache.links, cache.ends
    before, behind = links[slot, 2 * which], links[slot, 2 * which + 1]
    if before == NONE:
        ends[which, 0] = behind
    else:
        links[before, 2 * which + 1] = behind
    if behind == NONE:
        ends[which, 1] = before
    else:
        links[behind, 2 * which] = before


@njit(cache=True, forceinline=True)
def hash_of(cache: FlowCache, words: NDArray[np.int64]) -> int:
    """The hash of the key in ``words[:5]``."""
    return keyed_rows.hash_of(cache.hash_key, words)


@njit(cache=True, forceinline=True)
def find(cache: FlowCache, key_hash: int, words: NDArray[np.int64]) -> int:
    """The slot of the key in ``words[:5]``, -1 if no such flow is open."""
    return keyed_rows.find(cache.slots, cache.heads, cache.behind, _bucket(cache, key_hash), words)


@njit(cache=True, forceinline=True)
def open_slot(cache: FlowCache, key_hash: int, words: NDArray[np.int64]) -> int:
    """A slot for a new flow of this key, in its bucket and in the lists of `IDLE` and `ACTIVE`; there must be room."""
    state = cache.state
    if state[_FREE] != NONE:
        slot = int(state[_FREE])
        state[_FREE] = cache.behind[slot]
    else:
        slot = int(state[_USED])
        state[_USED] += 1
    keyed_rows.put(cache.slots, cache.heads, cache.behind, _bucket(cache, key_hash), slot, words)
    cache.links[slot, _HASH] = key_hash
    cache.slots[slot, CLOSED] = NOT_CLOSED
    cache.slots[slot, BORN] = state[CLOCK]
    append(cache, IDLE, slot)
    append(cache, ACTIVE, slot)
    state[OPEN] += 1
    if state[OPEN] > state[_BUCKETS]:
        _double_buckets(cache)
    return slot


@njit(cache=True, forceinline=True)
def end_flow(cache: FlowCache, slot: int, reason: int, record: NDArray[np.int64]) -> None:
    """Write a flow to ``record`` (its words, then the reason) and free its slot."""
    slots, state = cache.slots, cache.state
    for k in range(SLOT_WORDS):
        record[k] = slots[slot, k]
    record[SLOT_WORDS] = reason
    keyed_rows.take_out(cache.heads, cache.behind, _bucket(cache, cache.links[slot, _HASH]), slot)
    unlink(cache, IDLE, slot)
    unlink(cache, ACTIVE, slot)
    if slots[slot, CLOSED] != NOT_CLOSED:
        unlink(cache, CLOSING, slot)
    cache.behind[slot] = state[_FREE]
    state[_FREE] = slot
    state[OPEN] -= 1


@njit(cache=True, nogil=True)
def _double_buckets(cache: FlowCache) -> None:
    count = 2 * cache.state[_BUCKETS]
    cache.state[_BUCKETS] = count
    cache.heads[:count] = NONE
    slot = cache.ends[ACTIVE, 0]
    while slot != NONE:
        bucket = _bucket(cache, cache.links[slot, _HASH])
        keyed_rows.put(cache.slots, cache.heads, cache.behind, bucket, slot, cache.slots[slot])
        slot = cache.links[slot, 2 * ACTIVE + 1]


@njit(cache=True, forceinline=True)
def _bucket(cache: FlowCache, key_hash: int) -> int:
    return int(key_hash) & (int(cache.state[_BUCKETS]) - 1)
