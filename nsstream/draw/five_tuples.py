"""Which five-tuples were used: known by 64 bits of hash, the last of them remembered, in memory of a fixed size.

Two of a million five-tuples share a hash with a probability of 3e-8; one of them then moves without need.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.encode.decoding import Endpoints
from nsstream.trace.keyed_hash import keyed_hash
from nsstream.trace.recent_set import RecentSet, add, has

MOST_REMEMBERED: Final = 1 << 19  # at least so many, and at most twice as many
_KEY: Final = np.uint64(0x6E73), np.uint64(0x73747265)  # the same hashes in every run: the same seed, the same twin

Hashes = NDArray[np.uint64]
Rows = NDArray[np.int64]


class UsedFiveTuples:
    """Those that were used last; `recent` has their hashes."""

    def __init__(self) -> None:
        self.recent = RecentSet.with_capacity(MOST_REMEMBERED)

    def __contains__(self, value: int) -> bool:
        return bool(has(self.recent, np.uint64(value)))

    def add(self, value: int) -> None:
        """Remember one."""
        add(self.recent, np.uint64(value))

    def add_until(self, hashes: Hashes, may_move: NDArray[np.bool_], first: int) -> int:
        """Remember those from `first` on, up to the first that is used already and may move: its row, or n."""
        return int(_add_until(self.recent, hashes, may_move, first))

    def clear(self) -> None:
        """Forget all."""
        self.recent.clear()


def hashes_of(ends: Endpoints) -> Hashes:
    """The hash of each of n five-tuples, (n,)."""
    return _hashes(
        _words(ends.initiator_address),
        _words(ends.responder_address),
        ends.protocol_identifier.astype(np.int64),
        ends.initiator_port.astype(np.int64),
        ends.responder_port.astype(np.int64),
    )


def hashes_instead(ends: Endpoints, i: int, hosts: Rows, ports: Rows, services: Rows) -> Hashes:
    """Hashes (k,) of five-tuples in place of row i's.

    Args:
        ends: of n conversations.
        i: whose initiator and protocol they have.
        hosts: (k,) rows whose responder is asked.
        ports: (k,) of the initiator.
        services: (k,) rows whose responder's port is asked.
    """
    return _hashes(
        _words(np.tile(ends.initiator_address[i], (len(ports), 1))),
        _words(ends.responder_address[hosts]),
        np.full(len(ports), ends.protocol_identifier[i], np.int64),
        ports,
        ends.responder_port[services].astype(np.int64),
    )


def _words(addresses: NDArray[np.uint8]) -> NDArray[np.int64]:
    return np.ascontiguousarray(addresses).view(np.int64).reshape(-1, 2)


@njit(cache=True, nogil=True)
def _hashes(
    initiator: NDArray[np.int64],
    responder: NDArray[np.int64],
    protocol: NDArray[np.int64],
    port: NDArray[np.int64],
    to_port: NDArray[np.int64],
) -> Hashes:
    out = np.empty(len(protocol), np.uint64)
    for i in range(len(protocol)):
        ends = protocol[i] << 32 | port[i] << 16 | to_port[i]
        out[i] = keyed_hash(_KEY[0], _KEY[1], initiator[i, 0], initiator[i, 1], responder[i, 0], responder[i, 1], ends)
    return out


@njit(cache=True, nogil=True)
def _add_until(recent: RecentSet, hashes: Hashes, may_move: NDArray[np.bool_], first: int) -> int:
    for i in range(first, len(hashes)):
        if may_move[i] and has(recent, hashes[i]):
            return i
        add(recent, hashes[i])
    return len(hashes)
