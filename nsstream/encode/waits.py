"""Waits: how long each long conversation of a chunk waits between its packets.

A session of ten thousand packets lasts as long as its hundred longest waits do. A network that is right on the average
says one of them too many in a hundred packets, feeds on it, and the session runs into the chunk's end before half of
its packets are said. So the waits of those that no step of training reads whole are counted, coarsely, and drawing
keeps to the counts (`model.wait_urns`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from nsstream.encode.urns import CLASSES

LONG: Final = 96  # packets, of which a conversation that has more is counted
MOST: Final = 1024  # conversations; the longest
STEPS: Final = 44  # of waits: below a microsecond, then four a decade
LEAST_NS: Final = 1_000
PER_DECADE: Final = 4


@dataclass(frozen=True)
class Waits:
    """Waits of p conversations.

    Attributes:
        of: (p, 2) class of the service (`urns.Urns`) and packets of each; rising.
        cells: (c, 3) conversation, step of the wait, how many; rising by the first two.
    """

    of: NDArray[np.int64]
    cells: NDArray[np.int64]

    @classmethod
    def empty(cls) -> Self:
        """Nothing counted: the network alone decides."""
        return cls(np.zeros((0, 2), np.int64), np.zeros((0, 3), np.int64))

    @classmethod
    def fit(cls, class_: NDArray[np.int64], packet_offset: NDArray[np.int64], since_any: NDArray[np.int64]) -> Self:
        """Count the long ones of n conversations.

        Args:
            class_: (n,) of the service.
            packet_offset: (n + 1,).
            since_any: (m,) nanoseconds since the packet before.
        """
        packets = np.diff(packet_offset)
        rows = np.flatnonzero(packets > LONG)
        rows = rows[np.argsort(-packets[rows], kind="stable")][:MOST]
        rows = rows[np.lexsort((packets[rows], class_[rows]))]
        cells = []
        for i, row in enumerate(rows.tolist()):
            counts = np.bincount(step_of(since_any[packet_offset[row] + 1 : packet_offset[row + 1]]), minlength=STEPS)
            steps = np.flatnonzero(counts)
            cells.append(np.stack([np.full(len(steps), i), steps, counts[steps]], axis=1))
        return cls(
            np.stack([class_[rows], packets[rows]], axis=1).astype(np.int64),
            np.concatenate(cells).astype(np.int64) if cells else np.zeros((0, 3), np.int64),
        )

    def as_json(self) -> dict[str, Any]:
        """Everything, as JSON."""
        return {"of": self.of.tolist(), "cells": self.cells.tolist()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The inverse of `as_json`; raises LookupError, TypeError or ValueError on anything else."""
        out = cls(np.array(data["of"], np.int64).reshape(-1, 2), np.array(data["cells"], np.int64).reshape(-1, 3))
        limits = np.array([len(out.of), STEPS, np.iinfo(np.int64).max])
        if not ((out.cells >= 0).all() and (out.cells < limits).all()):
            raise ValueError("the counts of waits name what there is not")
        if not ((out.of >= 0).all() and (out.of[:, 0] < CLASSES).all() and (out.of[:, 1] > LONG).all()):
            raise ValueError("waits are counted of what is no long conversation")
        return out


def step_of(wait_ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """The step of each wait (n,)."""
    steps = np.floor(np.log10(np.maximum(wait_ns, 1) / LEAST_NS) * PER_DECADE) + 1
    return np.asarray(np.clip(steps, 0, STEPS - 1), np.int64)
