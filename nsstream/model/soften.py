"""Logits to a token, in compiled code: a vectorised exponential, and a draw by the inverse of the cumulated weights."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

_LOG2_E = np.float32(1.4426950408889634)
_LEAST, _MOST = np.float32(-127.0), np.float32(126.0)
_ONE = np.float32(1.0)
# 2**f for 0 <= f <= 1, least squares in relative error on Chebyshev's points with both ends exact
_C1, _C2, _C3, _C4, _C5 = (np.float32(c) for c in (0.693151739, 0.240159272, 0.0558186752, 0.0089909963, 0.00187931805))


@njit(cache=True, fastmath=True, error_model="numpy")
def exponentiate(x: NDArray[np.float32], n: int, power: NDArray[np.int32]) -> None:
    """Replace x[:n] by exp(x[:n] - max), to 5e-7 of each value; what is below 2**-126 becomes 0.

    power: (>= n,) int32 work space.
    """
    most = x[0]
    for j in range(n):
        most = max(most, x[j])
    for j in range(n):
        x[j] = (x[j] - most) * _LOG2_E
    _two_to(x, n, power)


@njit(cache=True, fastmath=True, error_model="numpy")
def squash(x: NDArray[np.float32], n: int, power: NDArray[np.int32]) -> None:
    """Replace x[:n] by the logistic function of it; power as of `exponentiate`."""
    for j in range(n):
        x[j] *= -_LOG2_E
    _two_to(x, n, power)
    for j in range(n):
        x[j] = _ONE / (_ONE + x[j])


@njit(cache=True, fastmath=True, error_model="numpy")
def _two_to(x: NDArray[np.float32], n: int, power: NDArray[np.int32]) -> None:
    """Replace x[:n] by 2**x, x at most 126 or taken so; 0 below -126.

    The fraction's power is a polynomial of degree 5; the whole part goes into the exponent's bits.
    """
    scale = power.view(np.float32)
    for j in range(n):
        t = min(max(x[j], _LEAST), _MOST)
        whole = np.floor(t)
        f = t - whole
        power[j] = (np.int32(whole) + np.int32(127)) << np.int32(23)
        p = _C5
        p = p * f + _C4
        p = p * f + _C3
        p = p * f + _C2
        p = p * f + _C1
        x[j] = p * f + _ONE
    for j in range(n):
        x[j] *= scale[j]


@njit(cache=True)
def pick(weight: NDArray[np.float32], n: int, at: float) -> int:
    """The index of weight[:n] at which the cumulated weights pass the share `at` in [0, 1) of their sum.

    A weight of 0 is never picked; -1 if all are.
    """
    total = np.float32(0.0)
    for j in range(n):
        total += weight[j]
    goal, passed = at * np.float64(total), np.float32(0.0)  # in float32, `at` could be 1
    for j in range(n):
        passed += weight[j]
        if passed > goal:
            return j
    return -1


@njit(cache=True)
def chance(state: NDArray[np.uint64], row: int) -> float:
    """The next number in [0, 1) of the generator of a row: SplitMix64 (Steele et al. 2014); state (rows,) uint64."""
    state[row] += np.uint64(0x9E3779B97F4A7C15)
    z = state[row]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return float((z >> np.uint64(11)) * (1.0 / (1 << 53)))
