"""Pace: how soon after one packet a chunk shows the next, where it does so at its soonest.

A wire carries one packet at a time, a scanner waits between two probes, and a capture has clocks of its own: so the
packets of all conversations together keep a distance that no conversation tells of. Conversations are drawn each by
itself, and their packets would come as close to each other as chance has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

SHARE: Final = 0.05  # of all packets, those that come soonest after another
QUANTILES: Final = 33
FEWEST: Final = 200  # packets of which it is measured


@dataclass(frozen=True)
class Pace:
    """What lies between a packet and the one before it, of any conversation, where that is least.

    Attributes:
        quantiles_ns: of the least twentieth, from the least of all on, evenly; empty: nobody measured.
    """

    quantiles_ns: tuple[int, ...] = ()

    @classmethod
    def fit(cls, time_ns: NDArray[np.int64]) -> Self:
        """Measure a chunk's packets, in any order."""
        if len(time_ns) < FEWEST:
            return cls()
        between = np.diff(np.sort(time_ns))
        return cls(tuple(np.quantile(between, np.linspace(0, SHARE, QUANTILES)).astype(np.int64).tolist()))

    def as_json(self) -> list[int]:
        """The numbers."""
        return list(self.quantiles_ns)

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """The inverse of `as_json`; raises TypeError or ValueError on anything else."""
        told = np.array(data, np.int64)
        if told.shape not in ((0,), (QUANTILES,)) or (np.diff(told, prepend=0) < 0).any():
            raise ValueError(f"a pace is {QUANTILES} times that rise, or none")
        return cls(tuple(told.tolist()))
