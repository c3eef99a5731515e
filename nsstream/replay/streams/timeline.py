"""Timeline: the model's time to the twin's, shifted and compressed. Pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Timeline:
    """Maps `origin_ns` to `start_ns`, and what comes `compression` nanoseconds later to a nanosecond later."""

    origin_ns: int
    start_ns: int
    compression: float = 1.0

    def twin_ns(self, time_ns: int) -> int:
        """The twin's time at a time of the model."""
        return int(self.twin_times(np.array([time_ns], np.int64))[0])

    def twin_times(self, times_ns: NDArray[np.int64]) -> NDArray[np.int64]:
        """The twin's times (m,) at times of the model (m,); never fall where those never fall."""
        since = times_ns - self.origin_ns
        if self.compression != 1.0:
            since = np.floor(since / self.compression).astype(np.int64)
        return since + self.start_ns

    def model_ns(self, twin_ns: int) -> int:
        """The model's time at a time of the twin, to within a nanosecond of the twin's."""
        since = twin_ns - self.start_ns
        return self.origin_ns + (since if self.compression == 1.0 else int(since * self.compression))
