"""Time as an argument: the only place that reads the machine's clocks.

Everything that needs the time takes a `Clock`; tests hand in a `ManualClock`.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Where a component gets its time from."""

    def wall_ns(self) -> int:
        """Nanoseconds since the Unix epoch."""
        ...

    def monotonic_ns(self) -> int:
        """Nanoseconds since an arbitrary start; never steps back."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def wall_ns(self) -> int:
        """Nanoseconds since the Unix epoch (CLOCK_REALTIME)."""
        return time.time_ns()

    def monotonic_ns(self) -> int:
        """Nanoseconds of CLOCK_MONOTONIC."""
        return time.monotonic_ns()


class ManualClock:
    """A clock that moves only when told to."""

    def __init__(self, start_ns: int = 0) -> None:
        self._now_ns = start_ns

    def wall_ns(self) -> int:
        """The time that was set."""
        return self._now_ns

    def monotonic_ns(self) -> int:
        """The time that was set."""
        return self._now_ns

    def advance(self, by_ns: int) -> None:
        """Move on by `by_ns` nanoseconds; raises ValueError if negative."""
        if by_ns < 0:
            raise ValueError(f"a clock cannot go back: by_ns must be >= 0, got {by_ns!r}")
        self._now_ns += by_ns
