"""TableRows: lines of a text table to flows, once it is known what its columns are.

Promises: every line is a row or counted by reason; nothing raises but InputError where Zeek's columns change in the
middle, a sentence without the name of the file. Codes of labels are the same in all batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nsstream.capture.flow_cells import Cells, csv_cells, json_cells, row_cells
from nsstream.capture.flow_mapping import TableMapping
from nsstream.capture.flow_rows import flow_columns
from nsstream.capture.flow_texts import LabelCodes
from nsstream.capture.table_header import ZEEK_FIELDS, TableHeader
from nsstream.counters import Tally
from nsstream.errors import InputError
from nsstream.trace import FlowTable
from nsstream.trace.fields import FLOW_FIELDS


class TableRows:
    """Reads lines as rows of one table after the other.

    Args:
        time_zone: of times that do not say theirs, in place of the mapping's.
    """

    def __init__(self, time_zone: str | None = None) -> None:
        self.tally = Tally()
        self.placeholder_count = 0  # rows kept that have an address that stands for a name or an AS number
        self.has_ended = False  # at the table's footer
        self.mapping: TableMapping | None = None
        self.names: tuple[str, ...] = ()
        self._time_zone = time_zone
        self._wanted: frozenset[str] = frozenset()
        self._labels = LabelCodes()

    def begin(self, header: TableHeader) -> None:
        """Read what follows by this header."""
        mapping = header.mapping
        if self._time_zone is not None:
            mapping = TableMapping.model_validate(mapping.model_dump() | {"time_zone": self._time_zone})
        self.mapping = mapping
        self.names = header.names
        self.has_ended = False
        self._wanted = mapping.columns() if mapping.layout == "json" else mapping.columns() & set(header.names)

    def flows(self, lines: bytes) -> FlowTable | None:
        """The flows of whole lines, None where they hold none; the first lines of a table follow `begin`."""
        assert self.mapping is not None
        lines = self._rows_of(lines, self.mapping)
        if not lines:
            return None
        malformed = self.tally.malformed
        before = malformed.total()
        n, cells = self._cells(lines, self.mapping)
        self.tally.offered += malformed.total() - before
        return self._flows(n, cells, self.mapping)

    def flows_of(self, rows: Sequence[Mapping[str, Any]]) -> FlowTable | None:
        """The flows of rows that are no text any more, None where they hold none; keys are the mapping's columns."""
        assert self.mapping is not None
        return self._flows(len(rows), row_cells(rows, self._wanted), self.mapping)

    def _flows(self, n: int, cells: Mapping[str, Cells], mapping: TableMapping) -> FlowTable | None:
        if not n:
            return None
        columns, placeholders = flow_columns(n, cells, mapping, self._labels, self.tally)
        if not len(columns["flow_start_ns"]):
            return None
        self.placeholder_count += placeholders
        typed = {name: column.astype(FLOW_FIELDS[name][0], copy=False) for name, column in columns.items()}
        return FlowTable.from_columns(typed, self._labels.names)

    def refuse(self, reason: str, count: int = 1) -> None:
        """Count lines that are no rows."""
        if count:
            self.tally.offered += count
            self.tally.malformed[reason] += count

    def _rows_of(self, lines: bytes, mapping: TableMapping) -> bytes:
        """The lines that are rows: no comments, and none from the footer on."""
        if mapping.footer:
            footer = mapping.footer.encode()
            at = 0 if lines.startswith(footer) else lines.find(b"\n" + footer) + 1
            if at or lines.startswith(footer):
                self.has_ended = True
                lines = lines[:at]
        if mapping.comment and (comment := mapping.comment.encode()) in lines:
            rows = lines.splitlines(keepends=True)
            for line in rows:
                if line.startswith(ZEEK_FIELDS) and tuple(line.decode(errors="replace").split()[1:]) != self.names:
                    raise InputError(f"its columns change in the middle; split it at each {line[:7]!r}")
            lines = b"".join(line for line in rows if not line.startswith(comment))
        return lines

    def _cells(self, lines: bytes, mapping: TableMapping) -> tuple[int, dict[str, Cells]]:
        if mapping.layout == "json":
            return json_cells(lines, self._wanted, self.tally.malformed)
        return csv_cells(lines, self.names, self._wanted, mapping.delimiter, self.tally.malformed)
