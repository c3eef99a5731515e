"""Sketches that estimate how often keys come in fixed memory, and by how much they are off for heavy hitters.

Count-min (Cormode and Muthukrishnan 2005), count sketch (Charikar, Chen and Farach-Colton 2002), UnivMon (Liu et al.,
SIGCOMM 2016: a count sketch for each level of keys sampled by halves; a key's estimate is the first level's) and
NitroSketch (Liu et al., SIGCOMM 2019: each row of a count sketch is updated by a packet with a small chance, and by as
much more). All are linear, so a key's whole count is added at once; of NitroSketch the number of updates is binomial.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

ROWS: Final = 5
LEVELS: Final = 4  # of UnivMon
UPDATED: Final = 0.1  # of NitroSketch, the chance of a row
HEAVY: Final = 0.001  # of all packets, for a key to be a heavy hitter

Counts = NDArray[np.int64]
Estimates = NDArray[np.float64]
Sketch = Callable[[Counts, int, np.random.Generator], Estimates]


def count_min(counts: Counts, memory: int, rng: np.random.Generator) -> Estimates:
    """Estimates (k,) of the counts (k,) of k keys, with so many counters in all."""
    width, rows = memory // ROWS, np.arange(ROWS)[:, None]
    place = rng.integers(0, width, (ROWS, len(counts)))
    table = np.zeros((ROWS, width))
    np.add.at(table, (np.broadcast_to(rows, place.shape), place), counts)
    return np.asarray(table[rows, place].min(axis=0), np.float64)


def count_sketch(counts: Counts, memory: int, rng: np.random.Generator) -> Estimates:
    """The same."""
    return _signed(np.broadcast_to(counts, (ROWS, len(counts))).astype(np.float64), memory // ROWS, rng)


def univmon(counts: Counts, memory: int, rng: np.random.Generator) -> Estimates:
    """The same; the levels share the memory."""
    return count_sketch(counts, memory // LEVELS, rng)


def nitro_sketch(counts: Counts, memory: int, rng: np.random.Generator) -> Estimates:
    """The same."""
    updates = rng.binomial(counts, UPDATED, (ROWS, len(counts))) / UPDATED
    return _signed(updates, memory // ROWS, rng)


def _signed(updates: Estimates, width: int, rng: np.random.Generator) -> Estimates:
    rows = np.arange(ROWS)[:, None]
    place, sign = rng.integers(0, width, updates.shape), rng.choice((-1.0, 1.0), updates.shape)
    table = np.zeros((ROWS, width))
    np.add.at(table, (np.broadcast_to(rows, place.shape), place), sign * updates)
    return np.asarray(np.median(sign * table[rows, place], axis=0), np.float64)


SKETCHES: Final[dict[str, Sketch]] = {
    "count-min": count_min, "count sketch": count_sketch, "UnivMon": univmon, "NitroSketch": nitro_sketch,
}  # fmt: skip


def error_of(sketch: Sketch, counts: Counts, memory: int, runs: int, rng: np.random.Generator) -> float:
    """By what share of its count a heavy hitter's estimate is off, in the mean over heavy hitters and runs."""
    heavy = counts >= max(1, HEAVY * counts.sum())
    if not heavy.any():
        return float("nan")
    off = [abs(sketch(counts, memory, rng)[heavy] / counts[heavy] - 1).mean() for _ in range(runs)]
    return float(np.mean(off))
