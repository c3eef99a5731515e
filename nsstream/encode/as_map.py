"""AS numbers to others, keyed: who may not learn an address should not learn whose it is.

A number goes to one of a range that IANA has not given to anybody, the same every time under one key. 0 (nobody told)
and AS_TRANS (RFC 6793 section 9) say nothing of anybody and stay. Two numbers may share one: of 1,000 systems, one pair
in 130 runs. The range of RFC 6996 is not taken: its numbers are too large for the addresses that stand for AS numbers.
"""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np
from numpy.typing import NDArray

FIRST: Final = 100_000_000
LAST: Final = FIRST + (1 << 26) - 1
_KEPT: Final = (0, 23_456)


def map_systems(numbers: NDArray[np.uint32], key: bytes) -> NDArray[np.uint32]:
    """Map AS numbers (n,) under a key of 16 to 64 octets."""
    distinct, which = np.unique(numbers, return_inverse=True)
    mapped = [number if number in _KEPT else _map_one(number, key) for number in distinct.tolist()]
    return np.array(mapped, np.uint32)[which.reshape(-1)] if len(mapped) else numbers.copy()


def _map_one(number: int, key: bytes) -> int:
    digest = hashlib.blake2b(number.to_bytes(4, "big"), key=key, person=b"as", digest_size=8).digest()
    return FIRST + int.from_bytes(digest, "big") % (LAST - FIRST + 1)
