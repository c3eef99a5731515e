"""Profiles: how often the packets of each longer conversation of a chunk were what, coarsely.

A network is right about packets on the average, and not about what one conversation is made of: it says a wait too many
and the next one, or alternates where a transfer has runs. What is counted of single conversations is kept to when they
are drawn (`model.profile_urns`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nsstream.encode.urns import CLASSES


@dataclass(frozen=True)
class Scale:
    """What is counted of the longest conversations, those beyond so many packets: how many packets are of each step."""

    longer_than: int
    most: int
    steps: int


@dataclass(frozen=True)
class Profiles:
    """Counts of p conversations.

    Attributes:
        of: (p, 2) class of the service (`urns.Urns`) and packets of each; rising.
        cells: (c, 3) conversation, step, how many; rising by the first two.
    """

    of: NDArray[np.int64]
    cells: NDArray[np.int64]

    @classmethod
    def empty(cls) -> Self:
        """Nothing counted: the network alone decides."""
        return cls(np.zeros((0, 2), np.int64), np.zeros((0, 3), np.int64))

    @classmethod
    def fit(
        cls,
        scale: Scale,
        class_: NDArray[np.int64],
        packet_offset: NDArray[np.int64],
        step: NDArray[np.int64],
        chosen: NDArray[np.bool_] | None = None,
    ) -> Self:
        """Count the longer ones of n conversations of these classes (n,), or those chosen of them (n,).

        Steps (m,) are of packets, -1 for none.
        """
        packets = np.diff(packet_offset)
        rows = np.flatnonzero((packets > scale.longer_than) & (True if chosen is None else chosen))
        rows = rows[np.argsort(-packets[rows], kind="stable")][: scale.most]
        rows = rows[np.lexsort((packets[rows], class_[rows]))]
        cells = [np.zeros((0, 3), np.int64)]
        for i, row in enumerate(rows.tolist()):
            mine = step[packet_offset[row] : packet_offset[row + 1]]
            counts = np.bincount(mine[mine >= 0], minlength=scale.steps)
            steps = np.flatnonzero(counts)
            cells.append(np.stack([np.full(len(steps), i), steps, counts[steps]], axis=1))
        return cls(np.stack([class_[rows], packets[rows]], axis=1).astype(np.int64), np.concatenate(cells))

    def table(self, scale: Scale) -> NDArray[np.float64]:
        """The counts: (p, steps)."""
        out = np.zeros((len(self.of), scale.steps))
        out[self.cells[:, 0], self.cells[:, 1]] = self.cells[:, 2]
        return out

    def as_json(self) -> dict[str, Any]:
        """Everything, as JSON."""
        return {"of": self.of.tolist(), "cells": self.cells.tolist()}

    @classmethod
    def from_json(cls, scale: Scale, data: dict[str, Any]) -> Self:
        """The inverse of `as_json`; raises LookupError, TypeError or ValueError on anything else."""
        out = cls(np.array(data["of"], np.int64).reshape(-1, 2), np.array(data["cells"], np.int64).reshape(-1, 3))
        limits = np.array([len(out.of), scale.steps, np.iinfo(np.int64).max])
        if not ((out.cells >= 0).all() and (out.cells < limits).all()):
            raise ValueError("the counts of a profile name what there is not")
        is_class = (out.of[:, 0] >= 0) & (out.of[:, 0] < CLASSES)
        if not (is_class.all() and (out.of[:, 1] > scale.longer_than).all()):
            raise ValueError("a profile is of what is no longer conversation")
        return out
