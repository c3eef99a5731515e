"""What a process uses while it runs, sample by sample, and how that grows: the slope of Theil and Sen."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

WARM_UP_SHARE = 1 / 3
MOST_WARM_UP_S = 300.0


@dataclass(frozen=True, slots=True)
class Sample:
    at_s: float
    resident_mb: float
    descriptors: int
    threads: int
    cpu_s: float


def sample(pid: int, at_s: float) -> Sample:
    """What a process uses now; raises OSError if it is gone."""
    root = Path("/proc", str(pid))
    resident_mb = int((root / "statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / (1 << 20)
    fields = (root / "stat").read_text().rpartition(")")[2].split()
    cpu_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return Sample(at_s, resident_mb, len(list((root / "fd").iterdir())), int(fields[17]), cpu_s)


def children(pid: int, name: str) -> list[int]:
    """The children of a process that have this name."""
    found = []
    for task in Path("/proc", str(pid), "task").iterdir():
        for child in (task / "children").read_text().split():
            if Path("/proc", child, "comm").read_text().strip() == name:
                found.append(int(child))
    return found


def warm_up_s(length_s: float) -> float:
    """How much of a run is not looked at: what it needs it takes within that."""
    return min(length_s * WARM_UP_SHARE, MOST_WARM_UP_S)


def theil_sen(x: ArrayLike, y: ArrayLike) -> float:
    """The median of the slopes between all pairs of points; NaN where there are less than two.

    Steps and outliers in less than 29 % of the points do not move it beyond bounds. Source: Sen 1968.
    """
    xs, ys = np.asarray(x, float), np.asarray(y, float)
    first, second = np.triu_indices(len(xs), 1)
    run = xs[second] - xs[first]
    slopes = (ys[second] - ys[first])[run > 0] / run[run > 0]
    return float(np.median(slopes)) if len(slopes) else float("nan")
