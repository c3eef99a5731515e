"""Rows: what chunks are made of, packets or flows, told apart by kind and otherwise handled alike.

A packet belongs to the time of its observation, a flow to its end: an exporter tells of a flow once it has ended, so
ends come nearly in order, and starts do not (docs/adr/0006).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.trace import FlowTable, PacketBatch
from nsstream.trace.fields import FLOW_FIELDS, PACKET_FIELDS

Rows = PacketBatch | FlowTable
Fields = Mapping[str, tuple[np.dtype[np.generic], tuple[int, ...], int | None]]


class Kind(StrEnum):
    """What the rows of a chunk are."""

    PACKETS = "packets"
    FLOWS = "flows"


class Fate(StrEnum):
    """Why rows are where they are: in a chunk, or apart from all chunks."""

    KEPT = "kept"
    LATE = "late"  # of an interval that had closed
    FUTURE = "future"  # too far ahead of what came before, or of the clock


FIELDS: Final[Mapping[Kind, Fields]] = {Kind.PACKETS: PACKET_FIELDS, Kind.FLOWS: FLOW_FIELDS}
TIME_FIELD: Final[Mapping[Kind, str]] = {Kind.PACKETS: "observation_time_ns", Kind.FLOWS: "flow_end_ns"}
ROW_OCTETS: Final[Mapping[Kind, int]] = {  # of memory, a row
    kind: sum(dtype.itemsize * int(np.prod(cell, dtype=np.int64)) for dtype, cell, _ in fields.values())
    for kind, fields in FIELDS.items()
}


def kind_of(rows: Rows) -> Kind:
    """What these rows are."""
    return Kind.PACKETS if isinstance(rows, PacketBatch) else Kind.FLOWS


def time_of(rows: Rows) -> NDArray[np.int64]:
    """The times that say which interval each row falls into."""
    return rows.observation_time_ns if isinstance(rows, PacketBatch) else rows.flow_end_ns


def label_names_of(rows: Rows) -> tuple[str, ...]:
    """The names of labels, where rows have them."""
    return rows.label_names if isinstance(rows, FlowTable) else ()


def make_rows(kind: Kind, columns: Mapping[str, NDArray[np.generic]], label_names: tuple[str, ...] = ()) -> Rows:
    """Rows of all these columns; raises ValueError or KeyError where they break the table's promises."""
    if kind is Kind.PACKETS:
        return PacketBatch.from_columns(columns)
    return FlowTable.from_columns({name: columns[name] for name in FLOW_FIELDS}, label_names)


def concatenate(kind: Kind, tables: Sequence[Rows]) -> Rows:
    """One table of all rows in order; raises TypeError where one is of another kind."""
    packets = [rows for rows in tables if isinstance(rows, PacketBatch)]
    flows = [rows for rows in tables if isinstance(rows, FlowTable)]
    if flows if kind is Kind.PACKETS else packets:
        raise TypeError(f"expected {kind}, got rows of the other kind")
    return PacketBatch.concatenate(packets) if kind is Kind.PACKETS else FlowTable.concatenate(flows)


def join(kind: Kind, tables: list[Rows]) -> Rows:
    """Empty a list of tables into one, column by column: at no time are all rows there twice."""
    if kind is Kind.FLOWS or len(tables) < 2:  # the labels of flows need more than their column
        joined = concatenate(kind, tables)
        tables.clear()
        return joined
    pieces = {name: [getattr(rows, name) for rows in tables] for name in FIELDS[kind]}
    tables.clear()
    return make_rows(kind, {name: np.concatenate(pieces.pop(name)) for name in FIELDS[kind]})


def with_sorted_labels(rows: Rows) -> Rows:
    """The same rows; of flows, only labels that are used have names, sorted: so batches cannot change a digest."""
    if not isinstance(rows, FlowTable) or not rows.label_names:
        return rows
    used = np.bincount(rows.label, minlength=len(rows.label_names) + 1)[1:] > 0
    names = tuple(sorted({name for name, is_used in zip(rows.label_names, used, strict=True) if is_used}))
    code_of = {name: code for code, name in enumerate(names, 1)}
    codes = np.array([0, *(code_of.get(name, 0) for name in rows.label_names)], np.uint16)
    return FlowTable.from_columns(rows.columns() | {"label": codes[rows.label]}, names)
