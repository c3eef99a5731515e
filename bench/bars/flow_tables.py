"""Tables of flows for a judge that reads the form ``plain``; both directions of a record count as one."""

from __future__ import annotations

from pathlib import Path

from nsstream.capture.flow_presets import PRESETS
from nsstream.capture.flow_table_file import PLAIN, FlowTableWriter, preset_columns
from nsstream.trace import FlowTable


def write_judged(table: FlowTable, output: Path) -> None:
    """Write a table for the judge."""
    columns = table.columns()
    for name in ("packet_delta_count", "octet_delta_count"):
        columns[name] = columns[name] + columns[f"reverse_{name}"]
    with output.open("wb") as file:
        preset = PRESETS[PLAIN]
        FlowTableWriter(file, preset, preset_columns(preset)).write(FlowTable.from_columns(columns, table.label_names))
