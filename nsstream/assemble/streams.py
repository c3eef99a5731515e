"""Five-tuples: which conversation uses which stream, and the streams' state from one table to the next.

Promises: conversations of one five-tuple share a stream, whoever opened them, and use it in order of time; a TCP
conversation that overlaps another one of its five-tuple moves to the next free initiator port. State is kept for the
`limit` five-tuples used last, TCP and ICMP; the rest begins afresh.

A five-tuple is known by 64 bits of a hash; two of a million collide with a probability of 3e-8.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.assemble.chance import mix
from nsstream.assemble.records import STREAM, Repair
from nsstream.trace.fields import ICMP, ICMPV6, TCP

_FIRST_DYNAMIC_PORT: Final = 49_152
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class StreamMemory:
    """The state of the streams used last."""

    def __init__(self, limit: int = 131_072) -> None:
        if limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        self._limit = limit
        self._keys = np.zeros(0, np.uint64)  # sorted
        self._rows = np.zeros(0, STREAM)

    def __len__(self) -> int:
        return len(self._keys)

    def recall(self, keys: NDArray[np.uint64]) -> NDArray[np.void]:
        """The state of each of these (unique) streams: a copy, with ``is_known == 0`` where there is none."""
        rows = np.zeros(len(keys), STREAM)
        if len(self._keys):
            at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
            found = self._keys[at] == keys
            rows[found] = self._rows[at[found]]
        return rows

    def keep(self, keys: NDArray[np.uint64], rows: NDArray[np.void]) -> None:
        """Remember these streams in place of what was known of them."""
        old = ~np.isin(self._keys, keys)
        all_keys = np.concatenate([self._keys[old], keys])
        all_rows = np.concatenate([self._rows[old], rows])
        if len(all_keys) > self._limit:
            newest = np.argsort(all_rows["last_time_ns"], kind="stable")[-self._limit :]
            all_keys, all_rows = all_keys[newest], all_rows[newest]
        order = np.argsort(all_keys)
        self._keys, self._rows = all_keys[order], all_rows[order]


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
