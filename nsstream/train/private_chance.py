"""Chance for private learning: from the operating system's generator alone, and never reproducible.

Lots are a keyed function of a unit and of what they are drawn for: a unit's do not change with who else is there. The
key is secret, made for one training and forgotten. Noise is a sum of four normal numbers, halved, each by the inverse
of its distribution from 53 random bits: what was added to a sum cannot be told from the low bits of the result (Holohan
and Braghin 2021, "Secure random sampling in differential privacy", section 5.1; Mironov 2012 shows what one alone gives
away). opacus' `secure_mode` adds up four numbers too, but of torch's own generator, which is no cryptographic one.
"""

from __future__ import annotations

import hashlib
import math
import os
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

SUMMANDS: Final = 4
_BLOCK: Final = 1 << 16  # numbers made at once


class Chance:
    """The lots and the noise of one training.

    Args:
        secret: the key of the lots; None: a new one, as it has to be outside of tests.
    """

    def __init__(self, secret: bytes | None = None) -> None:
        self._secret = os.urandom(32) if secret is None else secret

    def normal(self, count: int) -> NDArray[np.float64]:
        """Standard normal numbers: (count,)."""
        out = np.empty(count)
        for begin in range(0, count, _BLOCK):
            n = min(_BLOCK, count - begin)
            bits = np.frombuffer(os.urandom(8 * SUMMANDS * n), np.uint64) >> np.uint64(11)
            out[begin : begin + n] = ndtri((bits + 0.5) * 2.0**-53).reshape(SUMMANDS, n).sum(axis=0)
        out /= math.sqrt(SUMMANDS)
        return out

    def coins(self, unit: bytes, rate: float, count: int) -> NDArray[np.bool_]:
        """Which of so many Poisson samples a unit is in, each with chance `rate`: (count,)."""
        return np.asarray(self._lots(b"coins", unit, count) < rate, np.bool_)

    def choose(self, what: bytes, unit: bytes, n: int, most: int) -> NDArray[np.int64]:
        """At most so many of n things of a unit, by lot: rising indices."""
        if n <= most:
            return np.arange(n)
        return np.sort(np.argsort(self._lots(what, unit, n), kind="stable")[:most])

    def _lots(self, what: bytes, unit: bytes, count: int) -> NDArray[np.float64]:
        """Numbers in [0, 1) that belong to a unit and a purpose."""
        stream = hashlib.shake_256(self._secret + len(what).to_bytes(1, "big") + what + unit).digest(8 * count)
        return np.asarray((np.frombuffer(stream, np.uint64) >> np.uint64(11)) * 2.0**-53, np.float64)
