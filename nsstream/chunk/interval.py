"""Grid: the intervals that time is cut into, the same on every machine and after every restart.

Intervals are counted from the Unix epoch: ``index = t // length``. Open times are inclusive, close times exclusive. The
grid depends on its length alone, never on when a capture began.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray

SECOND_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Grid:
    """Intervals of `length_ns` nanoseconds on the UTC grid; whole seconds, so that an id names its start exactly."""

    length_ns: int

    def __post_init__(self) -> None:
        if self.length_ns < SECOND_NS or self.length_ns % SECOND_NS:
            raise ValueError(f"length_ns must be a positive number of whole seconds, got {self.length_ns!r}")

    @property
    def last_time_ns(self) -> int:
        """The latest time whose interval ends within int64."""
        return int(np.iinfo(np.int64).max) // self.length_ns * self.length_ns - 1

    def index_of(self, time_ns: NDArray[np.int64]) -> NDArray[np.int64]:
        """The interval that each time falls into; times in [0, `last_time_ns`]."""
        return time_ns // np.int64(self.length_ns)

    def start_ns(self, index: int) -> int:
        """The first nanosecond of an interval."""
        return index * self.length_ns

    def end_ns(self, index: int) -> int:
        """The first nanosecond after an interval."""
        return (index + 1) * self.length_ns


def id_of(start_ns: int, end_ns: int) -> str:
    """The name of an interval, ``YYYYMMDDTHHMMSSZ-<length>s``: sorts by time, says its length, is a file name."""
    start = datetime.fromtimestamp(start_ns // SECOND_NS, tz=UTC)
    return f"{start:%Y%m%dT%H%M%SZ}-{(end_ns - start_ns) // SECOND_NS}s"
