"""Lines of a table to columns of text: pyarrow's CSV parser, Python's where quotes are astray, or JSON.

Promises: every line is a row or counted by reason, ``wrong_columns`` or ``bad_json``; nothing raises, whatever the
lines are. What is not UTF-8 becomes U+FFFD.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
from numpy.typing import NDArray

WRONG_COLUMNS: Final = "wrong_columns"
BAD_JSON: Final = "bad_json"


@dataclass(frozen=True, slots=True)
class Cells:
    """n cells of one column."""

    array: pa.BinaryArray

    def __len__(self) -> int:
        return len(self.array)

    def octets(self) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        """The octets of all cells, and the n + 1 offsets between them."""
        _, offsets, data = self.array.buffers()
        at = self.array.offset
        octets = np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(1, np.uint8)
        if offsets is None or not len(self):
            return octets, np.zeros(len(self) + 1, np.int32)
        return octets, np.frombuffer(offsets, np.int32)[at : at + len(self) + 1]

    def distinct(self) -> tuple[list[str], NDArray[np.int64]]:
        """The different texts, spaces around them left away, and which of them each cell is."""
        encoded = self.array.dictionary_encode()
        texts = [value.decode(errors="replace").strip() for value in encoded.dictionary.to_pylist()]
        return texts, encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)

    def is_one_of(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        """Which cells are one of a few texts."""
        values = pa.array([text.encode() for text in texts], pa.binary())
        found: NDArray[np.bool_] = pa.compute.is_in(self.array, value_set=values).to_numpy(zero_copy_only=False)
        return found

    def take(self, rows: NDArray[np.bool_]) -> Cells:
        """The cells of some rows."""
        return Cells(self.array.filter(pa.array(rows)))


def csv_cells(
    lines: bytes, header: Sequence[str], wanted: frozenset[str], delimiter: str, malformed: Counter[str]
) -> tuple[int, dict[str, Cells]]:
    """How many rows there are, and the columns of them that are wanted.

    A line without the right count of cells is counted as malformed. Every column has as many cells as there are rows.
    Of columns that are called the same, the first counts.
    """
    try:
        lines.decode()
    except UnicodeDecodeError:  # pyarrow hands refused lines over as text
        lines = lines.decode(errors="replace").encode()
    line_count = lines.count(b"\n")
    places = {name: header.index(name) for name in header if name in wanted}
    refused = 0

    def refuse(_: pa.csv.InvalidRow) -> str:
        nonlocal refused
        refused += 1
        return "skip"

    names = [str(at) for at in range(len(header))]
    try:
        table = pa.csv.read_csv(
            pa.py_buffer(lines),
            read_options=pa.csv.ReadOptions(use_threads=False, block_size=len(lines) + 1, column_names=names),
            parse_options=pa.csv.ParseOptions(
                delimiter=delimiter, quote_char='"' if b'"' in lines else False, invalid_row_handler=refuse
            ),
            convert_options=pa.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.binary()),
                include_columns=[str(at) for at in places.values()],
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid:
        return _csv_cells_by_line(lines, header, places, delimiter, malformed)
    if table.num_rows + refused != line_count:  # a quote that does not end has swallowed lines
        return _csv_cells_by_line(lines, header, places, delimiter, malformed)
    if refused:
        malformed[WRONG_COLUMNS] += refused
    columns = {name: Cells(_joined(table.column(str(at)))) for name, at in places.items()}
    return table.num_rows, columns


def json_cells(lines: bytes, wanted: frozenset[str], malformed: Counter[str]) -> tuple[int, dict[str, Cells]]:
    """How many rows there are, and the wanted keys of the objects, one a line; a key that is not there is empty.

    ``a.b`` is the key of that name or, where there is none, the key b of the object under the key a.
    """
    rows: list[Mapping[str, Any]] = []
    for line in lines.splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            malformed[BAD_JSON] += 1
    return len(rows), row_cells(rows, wanted)


def row_cells(rows: Sequence[Mapping[str, Any]], wanted: frozenset[str]) -> dict[str, Cells]:
    """The wanted columns of rows by key, as `json_cells` has them."""
    return {name: _cells(_texts_at(rows, name)) for name in wanted}


def _csv_cells_by_line(
    lines: bytes, header: Sequence[str], places: Mapping[str, int], delimiter: str, malformed: Counter[str]
) -> tuple[int, dict[str, Cells]]:
    rows = []
    for line in lines.splitlines():
        try:
            (cells,) = csv.reader([line.decode("latin-1")], delimiter=delimiter)
        except (csv.Error, ValueError):
            cells = []
        if len(cells) == len(header):
            rows.append(cells)
        else:
            malformed[WRONG_COLUMNS] += 1
    return len(rows), {name: _cells([row[at].encode("latin-1") for row in rows]) for name, at in places.items()}


def _texts_at(rows: Sequence[Mapping[str, Any]], name: str) -> list[bytes]:
    outer, dot, inner = name.partition(".")
    if not dot:
        return [_text(row.get(name)) for row in rows]
    return [_text(row[name] if name in row else _at(row.get(outer), inner)) for row in rows]


def _at(value: object, name: str) -> object:
    return value.get(name) if isinstance(value, dict) else None


def _text(value: object) -> bytes:
    if isinstance(value, list):
        value = value[0] if value else None
    if value is None:
        return b""
    return (value if isinstance(value, str) else repr(value)).encode(errors="replace")


def _cells(values: Sequence[bytes]) -> Cells:
    return Cells(pa.array(values, pa.binary()))


def _joined(column: pa.ChunkedArray) -> pa.BinaryArray:
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], pa.binary())
