"""The memory of a flow meter: open flows in a bounded table that is looked up by key and read in order of age.

A flow is a row of `slots`. Chains hang from `heads`, one a hash bucket; the hash is keyed, so chains stay short
whatever the traffic. Three lists run through the rows, each in the order in which its flows will be due: `IDLE` by last
packet (its head is the least recently used), `ACTIVE` by birth, `CLOSING` by end of connection. All is done in constant
time.

Promises: memory is what `FlowCache.with_room_for` was told, and no page of it is touched before a flow needs it; what
happens depends on the packets alone, never on the hash.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.trace.keyed_hash import KEY_WORDS, keyed_hash, random_key

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

# Lists; list k has its links in columns 2k (before) and 2k + 1 (behind), the chain of a bucket is in the last.
IDLE, ACTIVE, CLOSING = 0, 1, 2
_NEXT_IN_BUCKET: Final = 6
_NONE: Final = -1

# Of `state`.
CLOCK, IS_STARTED, OPEN, CLOCK_STEPS_BACK, NEXT_DUE, _USED, _FREE = range(7)
NEVER: Final = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class FlowCache:
    """Arrays that the loops share; written in place."""

    slots: NDArray[np.int64]  # (max_flows, SLOT_WORDS)
    links: NDArray[np.int32]  # (max_flows, 8)
    heads: NDArray[np.int32]  # (a power of 2,)
    ends: NDArray[np.int32]  # (3, 2): first and last row of each list
    state: NDArray[np.int64]
    key: tuple[np.uint64, np.uint64]

    @classmethod
    def with_room_for(cls, max_flows: int) -> Self:
        """An empty cache with a key of its own."""
        state = np.zeros(7, np.int64)
        state[NEXT_DUE], state[_FREE] = NEVER, _NONE
        return cls(
            np.empty((max_flows, SLOT_WORDS), np.int64),
            np.empty((max_flows, 8), np.int32),
            np.full(1 << max_flows.bit_length(), _NONE, np.int32),
            np.full((3, 2), _NONE, np.int32),
            state,
            random_key(),
        )


@njit(cache=True)
def append(links: NDArray[np.int32], ends: NDArray[np.int32], which: int, slot: int) -> None:
    """Put a flow at the end of a list."""
    last = ends[which, 1]
    links[slot, 2 * which] = last
    links[slot, 2 * which + 1] = _NONE
    if last == _NONE:
        ends[which, 0] = slot
    else:
        links[last, 2 * which + 1] = slot
    ends[which, 1] = slot


@njit(cache=True)
def unlink(links: NDArray[np.int32], ends: NDArray[np.int32], which: int, slot: int) -> None:
    """Take a flow out of a list."""
    before, behind = links[slot, 2 * which], links[slot, 2 * which + 1]
    if before == _NONE:
        ends[which, 0] = behind
    else:
        links[before, 2 * which + 1] = behind
    if behind == _NONE:
        ends[which, 1] = before
    else:
        links[behind, 2 * which] = before


@njit(cache=True)
def bucket_of(heads: NDArray[np.int32], k0: np.uint64, k1: np.uint64, words: NDArray[np.int64]) -> int:
    """The bucket of the key in ``words[:5]``."""
    h = keyed_hash(k0, k1, words[0], words[1], words[2], words[3], words[4])
    return int(np.int64(h & np.uint64(len(heads) - 1)))


@njit(cache=True)
def find(
    slots: NDArray[np.int64], links: NDArray[np.int32], heads: NDArray[np.int32], bucket: int, words: NDArray[np.int64]
) -> int:
    """The slot of the key in ``words[:5]``, -1 if no such flow is open."""
    slot = heads[bucket]
    while slot != _NONE:
        if (
            slots[slot, ENDS] == words[4]
            and slots[slot, 1] == words[1]
            and slots[slot, 3] == words[3]
            and slots[slot, 0] == words[0]
            and slots[slot, 2] == words[2]
        ):
            return int(slot)
        slot = links[slot, _NEXT_IN_BUCKET]
    return _NONE


@njit(cache=True)
def open_slot(
    slots: NDArray[np.int64],
    links: NDArray[np.int32],
    heads: NDArray[np.int32],
    ends: NDArray[np.int32],
    state: NDArray[np.int64],
    bucket: int,
    words: NDArray[np.int64],
) -> int:
    """A slot for a new flow of this key, in its bucket and in the lists of `IDLE` and `ACTIVE`; there must be room."""
    if state[_FREE] != _NONE:
        slot = int(state[_FREE])
        state[_FREE] = links[slot, _NEXT_IN_BUCKET]
    else:
        slot = int(state[_USED])
        state[_USED] += 1
    for k in range(KEY_WORDS):
        slots[slot, k] = words[k]
    slots[slot, CLOSED] = NOT_CLOSED
    slots[slot, BORN] = state[CLOCK]
    links[slot, _NEXT_IN_BUCKET] = heads[bucket]
    heads[bucket] = slot
    append(links, ends, IDLE, slot)
    append(links, ends, ACTIVE, slot)
    state[OPEN] += 1
    return slot


@njit(cache=True)
def end_flow(
    slots: NDArray[np.int64],
    links: NDArray[np.int32],
    heads: NDArray[np.int32],
    ends: NDArray[np.int32],
    state: NDArray[np.int64],
    k0: np.uint64,
    k1: np.uint64,
    slot: int,
    reason: int,
    record: NDArray[np.int64],
) -> None:
    """Write a flow to ``record`` (its words, then the reason) and free its slot."""
    for k in range(SLOT_WORDS):
        record[k] = slots[slot, k]
    record[SLOT_WORDS] = reason
    bucket = bucket_of(heads, k0, k1, slots[slot])
    if heads[bucket] == slot:
        heads[bucket] = links[slot, _NEXT_IN_BUCKET]
    else:
        before = heads[bucket]
        while links[before, _NEXT_IN_BUCKET] != slot:
            before = links[before, _NEXT_IN_BUCKET]
        links[before, _NEXT_IN_BUCKET] = links[slot, _NEXT_IN_BUCKET]
    unlink(links, ends, IDLE, slot)
    unlink(links, ends, ACTIVE, slot)
    if slots[slot, CLOSED] != NOT_CLOSED:
        unlink(links, ends, CLOSING, slot)
    links[slot, _NEXT_IN_BUCKET] = state[_FREE]
    state[_FREE] = slot
    state[OPEN] -= 1
