"""Chance inside numba loops: splitmix64, one state a stream, and the same mixing step as a hash.

Promises: the same seed gives the same numbers on every machine. Not for secrets. Source: Steele, Lea, Flood 2014.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.assemble.octets import signed

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31 = np.uint64(27), np.uint64(30), np.uint64(31)


@njit(cache=True, nogil=True)
def mix(value: np.uint64) -> np.uint64:
    """Scatter 64 bits over 64 bits, one to one."""
    z = np.uint64(value) + _GAMMA
    z = (z ^ (z >> _S30)) * _FIRST
    z = (z ^ (z >> _S27)) * _SECOND
    return np.uint64(z ^ (z >> _S31))


@njit(cache=True, nogil=True)
def draw(stream: Any, bound: int) -> int:
    """A number in [0, bound) from the generator of a `STREAM` row; bound is at most 2**32."""
    stream.random = stream.random + _GAMMA
    z = stream.random
    z = (z ^ (z >> _S30)) * _FIRST
    z = (z ^ (z >> _S27)) * _SECOND
    z = z ^ (z >> _S31)
    return signed((z >> np.uint64(32)) % np.uint64(bound))


@njit(cache=True, nogil=True)
def mix_all(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """`mix` of each value."""
    result = np.empty_like(values)
    for i in range(len(values)):
        result[i] = mix(values[i])
    return result
