"""RateCap: how many packets and bits a second may leave at most, whatever a command asks for.

Promises: in any T seconds at most ``limit * (T + BURST_S)`` and one frame more leave. One cap is made when a server
starts, and all its sinks take from it, one run after another; nothing that a client sends can change it. It is taken
from by one thread at a time.

Theory: a token bucket for packets and one for the bits of frames (without preamble, FCS and gap). A frame may go while
both hold something; it is then taken out whole, so that a bucket may owe up to one frame. So no frame is too long for
a small bucket, and the mean is exact.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

BURST_S: Final = 0.001
MAX_LIMIT: Final = 1e15


class RateCap:
    """A cap on both rates; None: that one is not capped.

    Attributes: limits (2,) float64, packets and bits a second, 0 where there is none; tokens (2,) float64, what may go
    now; last_ns (1,) int64, when they were counted, on CLOCK_MONOTONIC. The latter two belong to `refill`, `give_back`
    and `take`.
    """

    def __init__(self, packets_per_s: float | None = None, bits_per_s: float | None = None) -> None:
        for name, limit in (("packets_per_s", packets_per_s), ("bits_per_s", bits_per_s)):
            if limit is not None and not 0 < limit <= MAX_LIMIT:
                raise ValueError(f"{name} must be more than 0 and at most {MAX_LIMIT:g}, got {limit!r}")
        self.limits: NDArray[np.float64] = np.array([packets_per_s or 0.0, bits_per_s or 0.0])
        self.tokens: NDArray[np.float64] = self.limits * BURST_S
        self.last_ns: NDArray[np.int64] = np.zeros(1, np.int64)

    @property
    def packets_per_s(self) -> float | None:
        """The cap on packets."""
        return float(self.limits[0]) or None

    @property
    def bits_per_s(self) -> float | None:
        """The cap on bits of frames."""
        return float(self.limits[1]) or None

    def __repr__(self) -> str:
        return f"RateCap(packets_per_s={self.packets_per_s}, bits_per_s={self.bits_per_s})"


@njit(cache=True, nogil=True)
def refill(limits: NDArray[np.float64], tokens: NDArray[np.float64], last_ns: NDArray[np.int64], now_ns: int) -> None:
    """Add what has come due since the last time."""
    elapsed_s = max(now_ns - last_ns[0], 0) * 1e-9
    last_ns[0] = max(now_ns, last_ns[0])
    for i in range(2):
        tokens[i] = min(limits[i] * BURST_S, tokens[i] + limits[i] * elapsed_s)


@njit(cache=True, nogil=True)
def take(limits: NDArray[np.float64], tokens: NDArray[np.float64], frame_bytes: int) -> bool:
    """Take a frame's tokens if it may go now; whether it may."""
    for i in range(2):
        if limits[i] > 0 and tokens[i] <= 0:
            return False
    tokens[0] -= 1
    tokens[1] -= 8 * frame_bytes
    return True


@njit(cache=True, nogil=True)
def give_back(tokens: NDArray[np.float64], frame_bytes: int) -> None:
    """Undo a `take`: the frame did not leave."""
    tokens[0] += 1
    tokens[1] += 8 * frame_bytes


@njit(cache=True, nogil=True)
def wait_ns(limits: NDArray[np.float64], tokens: NDArray[np.float64]) -> int:
    """How long until the next frame may go, at least 1."""
    longest = 0.0
    for i in range(2):
        if limits[i] > 0 and tokens[i] <= 0:
            longest = max(longest, -tokens[i] / limits[i])
    return int(longest * 1e9) + 1


@njit(cache=True, nogil=True)
def take_leading(
    limits: NDArray[np.float64],
    tokens: NDArray[np.float64],
    last_ns: NDArray[np.int64],
    now_ns: int,
    offset: NDArray[np.int64],
    first: int,
) -> int:
    """Take tokens for frames from `first` on, as many as may go now; how many."""
    refill(limits, tokens, last_ns, now_ns)
    at = first
    while at + 1 < len(offset) and take(limits, tokens, offset[at + 1] - offset[at]):
        at += 1
    return at - first
