"""A baseline: flow records by MST or AIM, published mechanisms that learn noisy marginals of tables (package dpmm).

A row is one conversation, as in `flow_bins`; the unit is that row (`flow`), of which one is taken away or added. They
know no hosts, of which one would be many rows. How many rows are drawn is what the noisy marginals say.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bars.flow_bins import bins_of, records_of
from bars.runs import Cost, run_command
from nsstream.encode.flow_clients import group_by_client, unit_keys
from nsstream.trace import FlowTable
from nsstream.train.private_chance import Chance
from nsstream.train.private_units import units_by

MECHANISMS = ("MST", "AIM")
MOST = 1 << 20  # rows that are made records of


def marginal_flows(
    table: FlowTable,
    interval_ns: tuple[int, int],
    mechanism: str,
    epsilon: float,
    delta: float,
    python: Path,
    folder: Path,
) -> tuple[FlowTable, Cost]:
    """Records drawn by one of `MECHANISMS`, which runs in `python`, where dpmm is installed; raises RunFailedError."""
    flows = group_by_client(table)
    units = units_by(unit_keys(flows, "flow"), 1, Chance())
    fields = bins_of(flows.take(units.rows), interval_ns)
    given, drawn = (folder / f"{mechanism}-{epsilon:g}.{name}.npz" for name in ("rows", "drawn"))
    rows = np.stack([values for values, _ in fields.values()], axis=1)
    np.savez(given, names=np.array(list(fields)), bins=np.array([size for _, size in fields.values()]), rows=rows)
    work = str(Path(__file__).parents[1] / "_marginals_work.py")
    cost = run_command([str(python), work, mechanism, str(given), str(drawn), f"{epsilon:g}", f"{delta:g}"])
    with np.load(drawn) as made:
        columns = {name: made["rows"][:MOST, i].astype(np.int64) for i, name in enumerate(fields)}
    count = len(columns["client"])
    return records_of(columns, count, interval_ns, np.random.default_rng()), cost
