"""Five-tuples: which conversation uses which stream, and the streams' state from one table to the next.

Promises: conversations of one five-tuple share a stream, whoever opened them, and use it in order of time; a TCP
conversation that overlaps another one of its five-tuple moves to the next free initiator port. State is kept for the
five-tuples used last, TCP and ICMP, at most `limit`; the rest begins afresh.

A five-tuple is known by 64 bits of a hash; two of a million collide with a probability of 3e-8.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.assemble.chance import mix
from nsstream.assemble.records import STREAM, Repair
from nsstream.trace.fields import ICMP, ICMPV6, TCP

_FIRST_DYNAMIC_PORT: Final = 49_152
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class StreamMemory:
    """The state of the streams used last: of `limit` at most, and at least of half as many that were kept.

    Its memory is taken at once, and stays what it is. Streams lie in two halves; when one is full the other one, whose
    streams were all used before, is emptied for those to come.
    """

    def __init__(self, limit: int = 131_072) -> None:
        if limit < 2:
            raise ValueError(f"limit must be at least 2, got {limit}")
        self._room = limit // 2
        self._now, self._before = _Half.of(self._room), _Half.of(self._room)

    def __len__(self) -> int:
        both = np.isin(self._before.keys[: self._before.counts[0]], self._now.keys[: self._now.counts[0]])
        return int(self._now.counts[0] + self._before.counts[0] - both.sum())

    def recall(self, keys: NDArray[np.uint64]) -> NDArray[np.void]:
        """The state of each of these (unique) streams: a copy, with ``is_known == 0`` where there is none."""
        rows = np.zeros(len(keys), STREAM)
        for half in (self._before, self._now):
            at = _find_all(half, keys)
            rows[at >= 0] = half.rows[at[at >= 0]]
        return rows

    def keep(self, keys: NDArray[np.uint64], rows: NDArray[np.void]) -> None:
        """Remember these (unique) streams in place of what was known of them."""
        if len(keys) > self._room:
            newest = np.argsort(rows["last_time_ns"], kind="stable")[-self._room :]
            keys, rows = keys[newest], rows[newest]
        at = _place_all(self._now, keys)
        if len(at) < len(keys):
            self._now, self._before = self._before, self._now
            _empty(self._now)
            at = _place_all(self._now, keys)
        self._now.rows[at] = rows


class _Half(NamedTuple):
    """As many streams as there are rows, found by open addressing."""

    slots: NDArray[np.int32]  # (a power of 2,): rows, -1 for none
    keys: NDArray[np.uint64]  # (room,)
    rows: NDArray[np.void]  # (room,)
    counts: NDArray[np.int64]  # (1,), of rows that are taken

    @classmethod
    def of(cls, room: int) -> _Half:
        rows = np.empty(room, STREAM)
        rows.view(np.uint8)[:] = 0  # written, so that its pages are there
        return cls(
            np.full(2 << room.bit_length(), -1, np.int32), np.full(room, 0, np.uint64), rows, np.zeros(1, np.int64)
        )


def _empty(half: _Half) -> None:
    half.slots[:] = -1
    half.counts[0] = 0


@njit(cache=True, nogil=True)
def _slot_of(slots: NDArray[np.int32], known: NDArray[np.uint64], key: np.uint64) -> int:
    """The slot that leads to a key's row, or the free one where it belongs."""
    mask = np.uint64(len(slots) - 1)
    slot = key & mask
    while slots[slot] >= 0 and known[slots[slot]] != key:
        slot = (slot + np.uint64(1)) & mask
    return int(np.int64(slot))


def _find_all(half: _Half, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The row of each key, -1 where it has none."""
    return _rows_of(half.slots, half.keys, keys)


@njit(cache=True, nogil=True)
def _rows_of(slots: NDArray[np.int32], known: NDArray[np.uint64], keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    out = np.empty(len(keys), np.int64)
    for i in range(len(keys)):
        out[i] = slots[_slot_of(slots, known, keys[i])]
    return out


def _place_all(half: _Half, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """A row for each key, its own where it has one; of the first keys alone where there is no room for all."""
    return _place(half.slots, half.keys, half.counts, keys)


@njit(cache=True, nogil=True)
def _place(
    slots: NDArray[np.int32], known: NDArray[np.uint64], count: NDArray[np.int64], keys: NDArray[np.uint64]
) -> NDArray[np.int64]:
    out = np.empty(len(keys), np.int64)
    for i in range(len(keys)):
        slot = _slot_of(slots, known, keys[i])
        if slots[slot] < 0:
            if count[0] == len(known):
                return out[:i]
            known[count[0]] = keys[i]
            slots[slot] = count[0]
            count[0] += 1
        out[i] = slots[slot]
    return out


def is_remembered(protocol: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Whether state of this protocol outlives a table."""
    return np.isin(protocol, (TCP, ICMP, ICMPV6))


@njit(cache=True, nogil=True)
def stream_keys(conversations: Any, keys: NDArray[np.uint64]) -> None:
    """Write the key of each `CONVERSATION` row, and which way round it uses its stream.

    Args:
        conversations: (n,) rows; `is_swapped` is written.
        keys: (n,), written.
    """
    for n in range(len(conversations)):
        keys[n] = _key(conversations[n])


@njit(cache=True, nogil=True)
def _key(conversation: Any) -> np.uint64:
    ends = np.zeros(2, np.uint64)
    for direction in range(2):
        value = np.uint64(conversation.port[direction])
        for start in (0, 8):
            word = np.uint64(0)
            for i in range(8):
                word = (word << np.uint64(8)) | np.uint64(conversation.address[direction, start + i])
            value = mix(value ^ word)
        ends[direction] = value
    conversation.is_swapped = 1 if ends[0] > ends[1] else 0
    low, high = min(ends[0], ends[1]), max(ends[0], ends[1])
    tail = np.uint64(conversation.protocol) | (np.uint64(conversation.is_fragment) << np.uint64(8))
    return mix(mix(low ^ tail) * _GOLDEN ^ high)


@njit(cache=True, nogil=True)
def move_ports(
    conversations: Any,
    keys: NDArray[np.uint64],
    order: NDArray[np.int64],
    start_ns: NDArray[np.int64],
    end_ns: NDArray[np.int64],
    tally: NDArray[np.int64],
) -> int:
    """Move TCP conversations that begin before the one before them on their five-tuple has ended.

    Args:
        conversations: (n,) `CONVERSATION` rows; ports are changed.
        keys: (n,) from `stream_keys`; changed with them.
        order: (n,) by key, then start.
        start_ns: (n,) first packet.
        end_ns: (n,) last packet.
        tally: counts by `Repair`.

    Returns:
        how many were moved: the caller sorts anew if any.
    """
    moved = 0
    busy_until = np.int64(0)
    for k in range(len(order)):
        n = order[k]
        conversation = conversations[n]
        if k == 0 or keys[n] != keys[order[k - 1]] or conversation.protocol != TCP or start_ns[n] > busy_until:
            busy_until = end_ns[n]
        else:
            side = 0 if conversation.port[0] >= conversation.port[1] else 1  # the side that is not the service's
            port = np.int64(conversation.port[side])
            conversation.port[side] = port + 1 if 1024 <= port < 65_535 else _FIRST_DYNAMIC_PORT
            moved += 1
    if moved:
        tally[Repair.PORT_MOVED] += moved
        stream_keys(conversations, keys)
    return moved
