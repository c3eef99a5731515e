"""Which packets belong to one conversation: five-tuples with folded direction, numbered as they appear; and sorted so.

A conversation is protocol, both ends (address and port), and whether its packets are later fragments, which have no
ports. The higher end is the one whose octets stand above the other's, address first. Its key is `KEY_WORDS` words: two
of the low end's address and two of the high end's, octets as in memory, then the ports and what is left (`tail_parts`).

The table of ids is open-addressed and never more than half full. Loops that look up and loops that grow it are apart:
an array that is bound anew inside a numba loop costs two atomic operations a turn.
"""

from __future__ import annotations

import sys
from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.trace.keyed_hash import KEY_WORDS, keyed_hash

_IS_LITTLE_ENDIAN: Final = sys.byteorder == "little"
_BLOCK: Final = 1024  # rows whose keys and hashes are made before they are looked up
_TAG_SHIFT: Final = np.uint64(33)
_ID_MASK: Final = 0xFFFFFFFF


@njit(cache=True, nogil=True)
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
) -> tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """Number the conversations in order of first appearance among `rows`.

    Returns:
        for each of `rows` its conversation's id, and 1 where its source is the higher end; for each id the place among
        `rows` where it first appears, and its key (k, KEY_WORDS).
    """
    n = len(rows)
    ids, is_high = np.empty(n, np.int64), np.empty(n, np.uint8)
    first, keys, hashes, slots = _table(2 * _BLOCK)
    block_keys, block_hashes = np.empty((_BLOCK, KEY_WORDS), np.int64), np.empty(_BLOCK, np.uint64)
    known = 0
    for start in range(0, n, _BLOCK):
        end = min(n, start + _BLOCK)
        if known + _BLOCK > len(first):
            first, keys, hashes, slots = _grown(first, keys, hashes, known)
        _fold(
            rows[start:end], source, destination, source_port, destination_port, protocol, fragment_offset, k0, k1,
            block_keys, block_hashes, is_high[start:end],
        )  # fmt: skip
        known = _look_up(block_keys[: end - start], block_hashes, start, first, keys, hashes, slots, known, ids)
    return ids, is_high, first[:known].copy(), keys[:known].copy()


@njit(cache=True, nogil=True)
def recall(keys: NDArray[np.int64], known_keys: NDArray[np.int64], k0: np.uint64, k1: np.uint64) -> NDArray[np.int64]:
    """For each key its row among `known_keys`, which are distinct; -1 where it is none of them."""
    room = 1024
    while room < len(known_keys):
        room *= 2
    first, _, _, slots = _table(room)
    ids = np.empty(len(known_keys), np.int64)
    _look_up(known_keys, hashes_of(known_keys, k0, k1), 0, first, known_keys, np.empty(room, np.uint64), slots, 0, ids)
    found = np.empty(len(keys), np.int64)
    hashes, mask = hashes_of(keys, k0, k1), np.uint64(len(slots) - 1)
    for i in range(len(keys)):
        _, found[i] = _find(keys[i], hashes[i], known_keys, slots, mask)
    return found


@njit(cache=True, nogil=True)
def hashes_of(keys: NDArray[np.int64], k0: np.uint64, k1: np.uint64) -> NDArray[np.uint64]:
    """The hash of each key (k, KEY_WORDS) under (k0, k1): (k,)."""
    hashes = np.empty(len(keys), np.uint64)
    for i in range(len(keys)):
        hashes[i] = keyed_hash(k0, k1, keys[i, 0], keys[i, 1], keys[i, 2], keys[i, 3], keys[i, 4])
    return hashes


def tail_parts(
    tail: NDArray[np.int64],
) -> tuple[NDArray[np.uint16], NDArray[np.uint16], NDArray[np.uint8], NDArray[np.uint8]]:
    """Of keys' last words: the low end's port, the high end's, protocol, and 1 where packets are later fragments."""
    low, high = (tail >> 32).astype(np.uint16), (tail >> 16 & 0xFFFF).astype(np.uint16)
    return low, high, (tail >> 1 & 0xFF).astype(np.uint8), (tail & 1).astype(np.uint8)


@njit(cache=True, nogil=True)
def arrange(
    rows: NDArray[np.int64],
    ids: NDArray[np.int64],
    is_high: NDArray[np.uint8],
    initiator_is_high: NDArray[np.uint8],
    offset: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """Sort by conversation, otherwise as they come.

    Returns:
        rows (n,) and their direction; for each conversation its first and its middle row (the later one of two) in
        either direction, (k, 2) each, -1 for none.
    """
    order, direction = np.empty(len(rows), np.int64), np.empty(len(rows), np.uint8)
    first, middle = np.full((len(offset) - 1, 2), -1, np.int64), np.full((len(offset) - 1, 2), -1, np.int64)
    sent = np.zeros((len(offset) - 1, 2), np.int64)
    filled = offset[:-1].copy()
    for i in range(len(rows)):
        c = ids[i]
        d = is_high[i] ^ initiator_is_high[c]
        order[filled[c]], direction[filled[c]] = rows[i], d
        filled[c] += 1
        if sent[c, d] == 0:
            first[c, d] = rows[i]
        sent[c, d] += 1
    for c in range(len(middle)):
        sent[c, 0] //= 2
        sent[c, 1] //= 2
        for at in range(offset[c], offset[c + 1]):
            d = direction[at]
            if sent[c, d] == 0:
                middle[c, d] = order[at]
            sent[c, d] -= 1
    return order, direction, first, middle


@njit(cache=True, nogil=True)
def _fold(
    rows: NDArray[np.int64],
    source: NDArray[np.int64],
    destination: NDArray[np.int64],
    source_port: NDArray[np.uint16],
    destination_port: NDArray[np.uint16],
    protocol: NDArray[np.uint8],
    fragment_offset: NDArray[np.uint16],
    k0: np.uint64,
    k1: np.uint64,
    keys: NDArray[np.int64],
    hashes: NDArray[np.uint64],
    is_high: NDArray[np.uint8],
) -> None:
    """Keys and hashes of rows, without a branch: which end is higher is a coin toss to the processor."""
    for i in range(len(rows)):
        row = rows[i]
        a0, a1, b0, b1 = source[row, 0], source[row, 1], destination[row, 0], destination[row, 1]
        a_port, b_port = np.int64(source_port[row]), np.int64(destination_port[row])
        above = (_big_endian(a0) > _big_endian(b0)) | (
            (a0 == b0) & ((_big_endian(a1) > _big_endian(b1)) | ((a1 == b1) & (a_port > b_port)))
        )
        swap = -np.int64(above)
        d0, d1, d_port = (a0 ^ b0) & swap, (a1 ^ b1) & swap, (a_port ^ b_port) & swap
        a0, a1, b0, b1 = a0 ^ d0, a1 ^ d1, b0 ^ d0, b1 ^ d1
        tail = ((a_port ^ d_port) << 32) | ((b_port ^ d_port) << 16)
        tail |= (np.int64(protocol[row]) << 1) | np.int64(fragment_offset[row] > 0)
        keys[i, 0], keys[i, 1], keys[i, 2], keys[i, 3], keys[i, 4] = a0, a1, b0, b1, tail
        hashes[i] = keyed_hash(k0, k1, a0, a1, b0, b1, int(tail))
        is_high[i] = above


@njit(cache=True, inline="always")
def _big_endian(word: int) -> np.uint64:
    """Eight octets of memory as the number whose most significant octet is the first."""
    w = np.uint64(word)
    if _IS_LITTLE_ENDIAN:
        m8, m16 = np.uint64(0x00FF00FF00FF00FF), np.uint64(0x0000FFFF0000FFFF)
        w = ((w & m8) << np.uint64(8)) | ((w >> np.uint64(8)) & m8)
        w = ((w & m16) << np.uint64(16)) | ((w >> np.uint64(16)) & m16)
        w = (w << np.uint64(32)) | (w >> np.uint64(32))
    return w


@njit(cache=True, nogil=True)
def _table(
    room: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint64], NDArray[np.int64]]:
    """Room for so many ids: first appearance, key and hash of each, and twice as many slots (tag << 32 | id, or -1)."""
    keys, slots = np.empty((room, KEY_WORDS), np.int64), np.full(2 * room, -1, np.int64)
    return np.empty(room, np.int64), keys, np.empty(room, np.uint64), slots


@njit(cache=True, nogil=True)
def _grown(
    first: NDArray[np.int64], keys: NDArray[np.int64], hashes: NDArray[np.uint64], known: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint64], NDArray[np.int64]]:
    """A table of twice the room with the same ids."""
    new_first, new_keys, new_hashes, slots = _table(2 * len(first))
    new_first[:known], new_keys[:known], new_hashes[:known] = first[:known], keys[:known], hashes[:known]
    mask = np.uint64(len(slots) - 1)
    for c in range(known):
        at = hashes[c] & mask
        while slots[at] >= 0:
            at = (at + np.uint64(1)) & mask
        slots[at] = (np.int64(hashes[c] >> _TAG_SHIFT) << 32) | c
    return new_first, new_keys, new_hashes, slots


@njit(cache=True, nogil=True)
def _look_up(
    wanted: NDArray[np.int64],
    wanted_hashes: NDArray[np.uint64],
    start: int,
    first: NDArray[np.int64],
    keys: NDArray[np.int64],
    hashes: NDArray[np.uint64],
    slots: NDArray[np.int64],
    known: int,
    ids: NDArray[np.int64],
) -> int:
    """Ids of keys into ``ids[start:]``, of those that are new the next; how many are known then. There must be room."""
    mask = np.uint64(len(slots) - 1)
    for i in range(len(wanted)):
        h = wanted_hashes[i]
        at, c = _find(wanted[i], h, keys, slots, mask)
        if c < 0:
            c = known
            slots[at], first[c], hashes[c] = (np.int64(h >> _TAG_SHIFT) << 32) | c, start + i, h
            for w in range(KEY_WORDS):
                keys[c, w] = wanted[i, w]
            known += 1
        ids[start + i] = c
    return known


@njit(cache=True, inline="always")
def _find(
    key: NDArray[np.int64], h: np.uint64, keys: NDArray[np.int64], slots: NDArray[np.int64], mask: np.uint64
) -> tuple[np.uint64, int]:
    """The slot where a key is or would be, and its id, -1 where it has none."""
    at, tag = h & mask, np.int64(h >> _TAG_SHIFT)
    while True:
        slot = slots[at]
        if slot < 0:
            return at, -1
        if slot >> 32 == tag:
            c = slot & _ID_MASK
            differs = (keys[c, 0] ^ key[0]) | (keys[c, 1] ^ key[1]) | (keys[c, 2] ^ key[2]) | (keys[c, 3] ^ key[3])
            if differs | (keys[c, 4] ^ key[4]) == 0:
                return at, c
        at = (at + np.uint64(1)) & mask
