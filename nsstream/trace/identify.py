"""Which packets belong to one conversation: five-tuples with folded direction, numbered as they appear; and sorted so.

A conversation is protocol, both ends (address and port), and whether its packets are later fragments, which have no
ports. The higher end is the one whose octets stand above the other's, address first.
"""

from __future__ import annotations

import sys
from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.trace.keyed_hash import KEY_WORDS, keyed_hash

_IS_LITTLE_ENDIAN: Final = sys.byteorder == "little"


@njit(cache=True)
def identify(
    rows: NDArray[np.int64],
    source: NDArray[np.int64],
    destination: NDArray[np.int64],
    source_port: NDArray[np.uint16],
    destination_port: NDArray[np.uint16],
    protocol: NDArray[np.uint8],
    fragment_offset: NDArray[np.uint16],
    k0: np.uint64,
    k1: np.uint64,
) -> tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64]]:
    """Number the conversations in order of first appearance among `rows`.

    Returns:
        for each of `rows` its conversation's id, and 1 where its source is the higher end; for each id its first row.
    """
    n = len(rows)
    ids, is_high = np.empty(n, np.int64), np.empty(n, np.uint8)
    room = 1024  # for ids; the table of slots is twice as large, so half of it is free
    first, keys, hashes = np.empty(room, np.int64), np.empty((room, KEY_WORDS), np.int64), np.empty(room, np.uint64)
    slots = np.full(2 * room, -1, np.int32)
    known = 0
    for i in range(n):
        row = rows[i]
        a0, a1, b0, b1 = source[row, 0], source[row, 1], destination[row, 0], destination[row, 1]
        a_port, b_port = np.int64(source_port[row]), np.int64(destination_port[row])
        high = _is_above(a0, b0) if a0 != b0 else _is_above(a1, b1) if a1 != b1 else a_port > b_port
        if high:
            a0, a1, a_port, b0, b1, b_port = b0, b1, b_port, a0, a1, a_port
        tail = (a_port << 32) | (b_port << 16) | (np.int64(protocol[row]) << 1) | (fragment_offset[row] > 0)
        h = keyed_hash(k0, k1, a0, a1, b0, b1, tail)
        at = h & np.uint64(2 * room - 1)
        while True:
            c = slots[at]
            if c < 0:
                c = np.int32(known)
                slots[at], first[c], hashes[c] = c, row, h
                keys[c, 0], keys[c, 1], keys[c, 2], keys[c, 3], keys[c, 4] = a0, a1, b0, b1, tail
                known += 1
                break
            if hashes[c] == h and (
                keys[c, 4] == tail and keys[c, 1] == a1 and keys[c, 3] == b1 and keys[c, 0] == a0 and keys[c, 2] == b0
            ):
                break
            at = (at + np.uint64(1)) & np.uint64(2 * room - 1)
        ids[i], is_high[i] = c, high
        if known == room:
            first, keys = np.concatenate((first, np.empty_like(first))), np.concatenate((keys, np.empty_like(keys)))
            hashes = np.concatenate((hashes, np.empty_like(hashes)))
            room *= 2
            slots = np.full(2 * room, -1, np.int32)
            for c in range(known):
                at = hashes[c] & np.uint64(2 * room - 1)
                while slots[at] >= 0:
                    at = (at + np.uint64(1)) & np.uint64(2 * room - 1)
                slots[at] = c
    return ids, is_high, first[:known].copy()


@njit(cache=True)
def _is_above(one: int, other: int) -> bool:
    """Whether eight octets of memory stand above eight others, the first octet the most significant."""
    for k in range(8):
        shift = 8 * k if _IS_LITTLE_ENDIAN else 56 - 8 * k
        a, b = (one >> shift) & 0xFF, (other >> shift) & 0xFF
        if a != b:
            return bool(a > b)
    return False


@njit(cache=True)
def arrange(
    rows: NDArray[np.int64],
    ids: NDArray[np.int64],
    is_high: NDArray[np.uint8],
    initiator_is_high: NDArray[np.uint8],
    offset: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64]]:
    """Sort by conversation, otherwise as they come.

    Returns:
        rows (n,) and their direction; for each conversation its first row in either direction (k, 2), -1 for none.
    """
    order, direction = np.empty(len(rows), np.int64), np.empty(len(rows), np.uint8)
    first_of_direction = np.full((len(offset) - 1, 2), -1, np.int64)
    filled = offset[:-1].copy()
    for i in range(len(rows)):
        c = ids[i]
        d = is_high[i] ^ initiator_is_high[c]
        order[filled[c]], direction[filled[c]] = rows[i], d
        filled[c] += 1
        if first_of_direction[c, d] < 0:
            first_of_direction[c, d] = rows[i]
    return order, direction, first_of_direction
