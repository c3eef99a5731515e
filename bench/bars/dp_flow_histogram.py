"""A baseline: flow records as independent noisy histograms, of which records are drawn field by field.

Of each unit, so many conversations at most; every conversation counts once in the histogram of each field, with one of
its records. All histograms together have discrete normal noise that keeps to (epsilon, delta) for a unit. A drawn
record has each field from its histogram; whether it is answered by another one is a field, too.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from bars.flow_bins import bins_of, records_of
from nsstream.encode.flow_clients import group_by_client, unit_keys
from nsstream.privacy import noise_multiplier_for, noisy_counts
from nsstream.trace import FlowTable
from nsstream.train.private_chance import Chance
from nsstream.train.private_units import units_by


def histogram_flows(
    table: FlowTable,
    interval_ns: tuple[int, int],
    unit: Literal["host", "flow"],
    epsilon: float,
    delta: float,
    most: int,
) -> FlowTable:
    """Records drawn from a table's noisy histograms."""
    flows = group_by_client(table)
    most = most if unit == "host" else 1
    units = units_by(unit_keys(flows, unit), most, Chance())
    fields = bins_of(flows.take(units.rows), interval_ns)
    counts = np.concatenate([np.bincount(values, minlength=size) for values, size in fields.values()])
    noise, length = noise_multiplier_for(epsilon, delta, 1.0, 1), most * math.sqrt(len(fields))
    noisy = noisy_counts(counts, noise, math.ceil(length)).astype(float)
    blocks = dict(zip(fields, np.split(noisy, np.cumsum([size for _, size in fields.values()])[:-1]), strict=True))
    count = int(np.clip(np.median([block.sum() for block in blocks.values()]), 16, 1 << 20))
    rng = np.random.default_rng()
    drawn = {}
    for name, block in blocks.items():
        believed = np.where(block > noise * length * math.sqrt(2 * math.log(len(block))), block, 0.0)
        shares = believed if believed.any() else np.maximum(block, 0) + 1e-9
        drawn[name] = rng.choice(len(shares), count, p=shares / shares.sum())
    return records_of(drawn, count, interval_ns, rng)
