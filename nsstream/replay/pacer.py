"""Pacer: when frames are due. Absolute deadlines, so that no delay adds up.

The first frame is due at once, and every other at ``first + (t - t_first) / rate`` on the monotonic clock. What is late
is due at once too, and does not move what follows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from nsstream.clock import Clock

MAX_BURST: Final = 16_384  # frames handed out at once, so that a stop is seen soon


class Pacer(Protocol):
    """Says how many frames may go."""

    def due(self, times_ns: NDArray[np.int64]) -> int:
        """Wait until the first of these frames is due; how many leading ones are. 0: told to stop while waiting.

        times_ns: (m,) rising, m >= 1, not before those of the call before.
        """
        ...


class Unpaced:
    """All frames are due at once."""

    def due(self, times_ns: NDArray[np.int64]) -> int:
        """As many frames as there are, up to MAX_BURST."""
        return min(len(times_ns), MAX_BURST)


class PacedByClock:
    """Frames are due at their own times.

    Args:
        rate: seconds of the twin a second of the clock, > 0.
        clock: its monotonic time is used.
        wait: waits for so many seconds; True: told to stop. ``threading.Event.wait`` is one.
    """

    def __init__(self, rate: float, clock: Clock, wait: Callable[[float], bool]) -> None:
        if not rate > 0:
            raise ValueError(f"rate must be > 0, got {rate!r}")
        self._rate = rate
        self._clock = clock
        self._wait = wait
        self._origin: tuple[int, int] | None = None  # the first frame's time, and the clock's then

    def due(self, times_ns: NDArray[np.int64]) -> int:
        """Wait until the first frame is due; how many are, up to MAX_BURST."""
        if self._origin is None:
            self._origin = int(times_ns[0]), self._clock.monotonic_ns()
        first_ns, start_ns = self._origin
        deadline_ns = start_ns + (int(times_ns[0]) - first_ns) / self._rate
        while (left_ns := deadline_ns - self._clock.monotonic_ns()) > 0:
            if self._wait(left_ns * 1e-9):
                return 0
        reached_ns = first_ns + (self._clock.monotonic_ns() - start_ns) * self._rate
        return min(max(int(np.searchsorted(times_ns, reached_ns, side="right")), 1), MAX_BURST)
