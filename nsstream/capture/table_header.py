"""What the columns of a text table are: found out from its first lines, which preset or the user's own mapping it is.

A table begins with a line of names (or none, where the mapping brings them), Zeek's ``#fields``, or an object of JSON.
Lines in front that start with ``#`` are passed over. Errors are sentences without the name of the file.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from nsstream.capture.flow_mapping import TableMapping
from nsstream.capture.flow_presets import PRESETS, detect_preset
from nsstream.errors import InputError

ZEEK_FIELDS: Final = b"#fields"
MAX_HEADER_LINES: Final = 1000

_MAX_COLUMNS: Final = 4096


@dataclass(frozen=True, slots=True)
class TableHeader:
    """The columns of a table, and the lines that follow its header."""

    mapping: TableMapping
    names: tuple[str, ...]
    rest: bytes


def find_header(lines: bytes, asked: TableMapping | None) -> TableHeader | None:
    """The header of the table that these whole lines begin, None if it is not among them.

    Raises InputError where there is one, and no preset has its columns, or it lacks those of the mapping asked for.
    """
    if asked is not None and asked.header is not None:
        return TableHeader(asked, asked.header, lines)
    if asked is not None and asked.layout == "json":
        return TableHeader(asked, tuple(_object(lines.partition(b"\n")[0])), lines)
    others: tuple[str, ...] | None = None  # the keys of another record that the same log has, perhaps
    start = first = 0
    for _ in range(MAX_HEADER_LINES):
        end = lines.find(b"\n", start)
        if end < 0:
            break
        line = lines[start:end]
        if line.startswith(ZEEK_FIELDS):
            return _accepted(tuple(line.decode(errors="replace").split("\t"))[1:_MAX_COLUMNS], asked, lines[end + 1 :])
        if asked is None and line.lstrip().startswith(b"{"):
            row = _object(line)
            first = start if others is None else first
            mapping = detect_preset(_paths(row), "json")
            if mapping is not None:
                return TableHeader(mapping, tuple(row), lines[first:])
            others = others or tuple(row)
        elif not line.startswith(b"#") and others is None:
            return _accepted(_split(line, "," if asked is None else asked.delimiter), asked, lines[end + 1 :])
        start = end + 1
    if others is not None:
        raise InputError(_no_preset_has(others))
    return None


def _accepted(names: tuple[str, ...], asked: TableMapping | None, rest: bytes) -> TableHeader:
    mapping = asked or detect_preset(names)
    if mapping is None:
        raise InputError(_no_preset_has(names))
    if lacking := sorted(mapping.required_columns() - set(names)):
        raise InputError(
            f"lacks the columns {_shortened(lacking)} of the mapping {mapping.name!r}; it has {_shortened(names)}"
        )
    return TableHeader(mapping, names, rest)


def _split(line: bytes, delimiter: str) -> tuple[str, ...]:
    """The names in a header line."""
    try:
        names = next(csv.reader([line.decode("utf-8", errors="replace")], delimiter=delimiter), [])
    except csv.Error:
        names = []
    return tuple(name.strip() for name in names[:_MAX_COLUMNS])


def _object(line: bytes) -> dict[str, Any]:
    """The first keys of an object of JSON, none of anything else."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return dict(islice(row.items(), _MAX_COLUMNS)) if isinstance(row, dict) else {}


def _paths(row: dict[str, Any]) -> list[str]:
    """What a mapping may call the values of an object."""
    inner = [f"{key}.{name}" for key, value in row.items() if isinstance(value, dict) for name in value]
    return [*row, *inner[:_MAX_COLUMNS]]


def _no_preset_has(names: Sequence[str]) -> str:
    known = ", ".join(PRESETS)
    return f"no preset has just these columns: {_shortened(names)}; name one of {known}, or give a mapping of your own"


def _shortened(names: Sequence[str]) -> str:
    text = ", ".join(repr(name[:40])[1:-1] for name in names[:20]) or "none"
    return text + (", ..." if len(names) > 20 else "")
