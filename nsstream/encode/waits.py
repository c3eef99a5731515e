"""Waits: how long each long conversation of a chunk waits between its packets, by quarters of a decade.

A session of ten thousand packets lasts as long as its hundred longest waits do. A network that is right on the average
says one of them too many in a hundred packets, feeds on it, and the session runs into the chunk's end before half of
its packets are said. Counted are those that no step of training reads whole.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.encode.profiles import Profiles, Scale

LEAST_NS: Final = 1_000
PER_DECADE: Final = 4
WAITS: Final = Scale(longer_than=96, most=1024, steps=44)


def fit_waits(class_: NDArray[np.int64], packet_offset: NDArray[np.int64], since_any: NDArray[np.int64]) -> Profiles:
    """Count the waits of n conversations of these classes (n,); nanoseconds (m,) since the packet before."""
    step = step_of(since_any)
    step[packet_offset[:-1]] = -1
    return Profiles.fit(WAITS, class_, packet_offset, step)


def step_of(wait_ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """The step of each wait (n,): below a microsecond, then four a decade."""
    steps = np.floor(np.log10(np.maximum(wait_ns, 1) / LEAST_NS) * PER_DECADE) + 1
    return np.asarray(np.clip(steps, 0, WAITS.steps - 1), np.int64)
