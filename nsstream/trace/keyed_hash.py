"""A keyed hash of a five-tuple's words, for the tables of numba loops that hostile traffic fills.

Promises: who does not know the key cannot choose five-tuples that fall into one bucket: SipHash-1-3 (Aumasson and
Bernstein 2012; one round a word, three to finish) over five 64-bit words, which is what a five-tuple with its tags
takes. No length is mixed in: every message is of the same length.
"""

from __future__ import annotations

import os
import struct
from typing import Final

import numpy as np
from numba import njit

KEY_WORDS: Final = 5


def random_key() -> tuple[np.uint64, np.uint64]:
    """A key that nobody outside this process knows."""
    k0, k1 = struct.unpack("<QQ", os.urandom(16))
    return np.uint64(k0), np.uint64(k1)


@njit(cache=True, nogil=True)
def keyed_hash(k0: np.uint64, k1: np.uint64, a: int, b: int, c: int, d: int, e: int) -> np.uint64:
    """64 bits of hash of five int64 words under the key (k0, k1)."""
    v0 = k0 ^ np.uint64(0x736F6D6570736575)
    v1 = k1 ^ np.uint64(0x646F72616E646F6D)
    v2 = k0 ^ np.uint64(0x6C7967656E657261)
    v3 = k1 ^ np.uint64(0x7465646279746573)
    for word in (np.uint64(a), np.uint64(b), np.uint64(c), np.uint64(d), np.uint64(e)):
        v3 ^= word
        v0, v1, v2, v3 = _round(v0, v1, v2, v3)
        v0 ^= word
    v2 ^= np.uint64(0xFF)
    v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    return v0 ^ v1 ^ v2 ^ v3


@njit(cache=True, inline="always")
def _round(
    v0: np.uint64, v1: np.uint64, v2: np.uint64, v3: np.uint64
) -> tuple[np.uint64, np.uint64, np.uint64, np.uint64]:
    v0 = v0 + v1
    v1 = (v1 << np.uint64(13)) | (v1 >> np.uint64(51))
    v1 ^= v0
    v0 = (v0 << np.uint64(32)) | (v0 >> np.uint64(32))
    v2 = v2 + v3
    v3 = (v3 << np.uint64(16)) | (v3 >> np.uint64(48))
    v3 ^= v2
    v0 = v0 + v3
    v3 = (v3 << np.uint64(21)) | (v3 >> np.uint64(43))
    v3 ^= v0
    v2 = v2 + v1
    v1 = (v1 << np.uint64(17)) | (v1 >> np.uint64(47))
    v1 ^= v2
    v2 = (v2 << np.uint64(32)) | (v2 >> np.uint64(32))
    return v0, v1, v2, v3
