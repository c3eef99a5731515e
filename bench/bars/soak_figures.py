"""What a process uses while it runs, sample by sample, and how that grows: the slope of Theil and Sen."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

WARM_UP_SHARE = 0.5
MOST_WARM_UP_S = 1800.0
BLOCK_S = 30.0
FEWEST_BLOCKS = 10
NORMAL_95 = 1.96


@dataclass(frozen=True, slots=True)
class Sample:
    at_s: float
    resident_mb: float
    mapped_mb: float  # of it, pages of programs and libraries: the kernel's to take back
    descriptors: int
    threads: int
    cpu_s: float


def sample(pid: int, at_s: float) -> Sample:
    """What a process uses now; raises OSError if it is gone."""
    root = Path("/proc", str(pid))
    fields = (root / "stat").read_text().rpartition(")")[2].split()
    cpu_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return Sample(at_s, *_resident_mb(pid), len(list((root / "fd").iterdir())), int(fields[17]), cpu_s)


def resident_mb(pid: int) -> float:
    """Memory that a process holds now; raises OSError if it is gone."""
    return _resident_mb(pid)[0]


def _resident_mb(pid: int) -> tuple[float, float]:
    """All of it, and what is mapped from files. Source: proc(5), statm."""
    pages = Path("/proc", str(pid), "statm").read_text().split()
    resident, shared = (int(page) * os.sysconf("SC_PAGESIZE") / (1 << 20) for page in pages[1:3])
    return resident, shared


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


@dataclass(frozen=True, slots=True)
class Trend:
    """How memory went, behind the warm-up.

    Attributes:
        slope: MB an hour, Theil's and Sen's of the blocks' least; NaN where there are less than two blocks.
        low, high: between which it lies with 95 %, as far as blocks are independent of each other.
        risen_mb: the median of the last fifth of all samples, less that of the first: a step is no slope.
    """

    slope: float
    low: float
    high: float
    risen_mb: float


def trend(at_s: ArrayLike, mb: ArrayLike) -> Trend:
    """How memory went by these samples.

    Of each block the least is taken: what comes and goes (a buffer, a file that rotates, a client) is gone at times,
    what is kept is not; and samples that follow one another within a block are not counted as so many witnesses.
    """
    at, values = np.asarray(at_s, float), np.asarray(mb, float)
    if len(at) < 2:
        return Trend(*[float("nan")] * 4)
    length_s = min(BLOCK_S, (at[-1] - at[0]) / FEWEST_BLOCKS)
    block = ((at - at[0]) / max(length_s, 1e-9)).astype(int).clip(0, int((at[-1] - at[0]) / max(length_s, 1e-9)) - 1)
    rows = [np.flatnonzero(block == k) for k in np.unique(block)]
    hours = [float(at[row].mean()) / 3600 for row in rows]
    least = [float(values[row].min()) for row in rows]
    fifth = max(len(at) // 5, 1)
    risen = float(np.median(values[-fifth:]) - np.median(values[:fifth]))
    return Trend(theil_sen(hours, least), *sen_interval(hours, least), risen)


def theil_sen(x: ArrayLike, y: ArrayLike) -> float:
    """The median of the slopes between all pairs of points; NaN where there are less than two.

    Steps and outliers in less than 29 % of the points do not move it beyond bounds. Source: Sen 1968.
    """
    slopes = _slopes(x, y)
    return float(np.median(slopes)) if len(slopes) else float("nan")


def sen_interval(x: ArrayLike, y: ArrayLike) -> tuple[float, float]:
    """Between which slopes that of all such points lies with 95 %: by the variance of Kendall's S. Source: Sen 1968."""
    slopes = np.sort(_slopes(x, y))
    if not len(slopes):
        return float("nan"), float("nan")
    n = len(np.asarray(x))
    half = NORMAL_95 * np.sqrt(n * (n - 1) * (2 * n + 5) / 18) / 2
    low = int(max(np.floor(len(slopes) / 2 - half), 0))
    high = int(min(np.ceil(len(slopes) / 2 + half), len(slopes) - 1))
    return float(slopes[low]), float(slopes[high])


def _slopes(x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
    xs, ys = np.asarray(x, float), np.asarray(y, float)
    first, second = np.triu_indices(len(xs), 1)
    run = xs[second] - xs[first]
    slopes: NDArray[np.float64] = (ys[second] - ys[first])[run > 0] / run[run > 0]
    return slopes
