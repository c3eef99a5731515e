"""A capture of packets as one chunk of flow records, as an exporter would tell of it: a public seed's traffic, for one.

The records of both directions are two, as of NetFlow, or one with `is_biflow`. Times are whole milliseconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from nsstream.capture import PcapFileSource
from nsstream.chunk import Chunk, ChunkStore
from nsstream.chunk.interval import SECOND_NS
from nsstream.counters import Tally
from nsstream.errors import InputError
from nsstream.trace import FlowTable
from nsstream.trace.metering import FlowMeter

TICK_NS: Final = 1_000_000


def meter_capture(
    capture: Path, store: ChunkStore, *, active_timeout_s: float, idle_timeout_s: float, is_biflow: bool
) -> tuple[Path, int]:
    """Meter a capture into a chunk of a store; gives its file and its records.

    Raises InputError where it cannot be read, holds no IP packet, or where the timeouts are none.
    """
    try:
        meter = FlowMeter(
            active_timeout_s=active_timeout_s,
            idle_timeout_s=idle_timeout_s,
            linger_s=min(1.0, idle_timeout_s),
            is_biflow=is_biflow,
            by_class_of_service=True,
        )
    except ValueError as err:
        raise InputError(str(err)) from err
    source, tables = PcapFileSource(capture), []
    source.open()
    try:
        while (batch := source.read_batch()) is not None:
            tables.append(meter.push(batch))
    finally:
        source.close()
    table = _in_ticks(FlowTable.concatenate([*tables, meter.flush()]))
    if not len(table):
        raise InputError(f"{capture} holds no IP packet to meter")
    table = table.take(np.argsort(table.flow_end_ns, kind="stable"))
    start_ns = int(table.flow_start_ns.min()) // SECOND_NS * SECOND_NS
    end_ns = (int(table.flow_end_ns[-1]) // SECOND_NS + 1) * SECOND_NS
    tally = Tally(offered=len(table), kept=len(table))
    return store.write(Chunk.of(start_ns, end_ns, table, tally, is_partial=True)), len(table)


def _in_ticks(table: FlowTable) -> FlowTable:
    columns = table.columns()
    for name in ("flow_start_ns", "flow_end_ns"):
        columns[name] = columns[name] // TICK_NS * TICK_NS
    return FlowTable.from_columns(columns)
