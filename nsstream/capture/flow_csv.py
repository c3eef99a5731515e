"""FlowCsvSource: one text table of flows as a source: CSV, Zeek's logs, JSON lines; compressed or not.

Promises: every line of the table is a row or counted by reason in `tally`; no line, however long or odd, raises or
takes more than bounded memory; a file that cannot be used is refused with one sentence that names it and says what to
do. Which columns mean what is a preset's matter (`flow_presets`), found by the header line where that is unambiguous,
or a mapping's of the user's own (`flow_mapping`).
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Final

from nsstream.capture.compression import STREAM_ERRORS, Reader, open_decompressed
from nsstream.capture.flow_cells import Cells, csv_cells, json_cells
from nsstream.capture.flow_mapping import TableMapping
from nsstream.capture.flow_presets import PRESETS, detect_preset
from nsstream.capture.flow_rows import flow_columns
from nsstream.capture.flow_texts import LabelCodes
from nsstream.capture.line_blocks import LineBlocks
from nsstream.capture.source import UNORDERED_S
from nsstream.counters import Tally
from nsstream.errors import InputError
from nsstream.trace import FlowTable
from nsstream.trace.fields import FLOW_FIELDS

LONG_LINE: Final = "long_line"
CUT_RECORD: Final = "cut_record"

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_UTF16_MARKS: Final = (b"\xff\xfe", b"\xfe\xff")
_ZEEK_FIELDS: Final = b"#fields"
_MAX_COLUMNS: Final = 4096
_MAX_HEADER_LINES: Final = 1000


class FlowCsvSource:
    """Reads a table in batches of the lines of about `block_bytes` of it.

    Without a `preset` (a name of `flow_presets.PRESETS`) and a `mapping`, the header line tells which preset it is.
    `time_zone` is that of times that do not say theirs, instead of the preset's. A file whose compression is cut is
    refused when its end is reached, or with `allow_cut` read as far as it goes, the cut line counted as malformed.
    """

    lateness_s: Final = UNORDERED_S

    def __init__(
        self,
        path: Path | str,
        *,
        preset: str | None = None,
        mapping: TableMapping | None = None,
        time_zone: str | None = None,
        allow_cut: bool = False,
        block_bytes: int = 1 << 20,
    ) -> None:
        if preset is not None and mapping is not None:
            raise ValueError("a preset or a mapping, not both")
        if preset is not None and preset not in PRESETS:
            raise InputError(f"no such preset: {preset!r}; there are {', '.join(PRESETS)}")
        self.tally = Tally()
        self.placeholder_count = 0  # rows kept that have an address that stands for a name or an AS number
        self._path = Path(path)
        self._asked = PRESETS[preset] if preset is not None else mapping
        self._time_zone = time_zone
        self._allow_cut = allow_cut
        self._block_bytes = block_bytes
        self._file: Reader | None = None
        self._mapping: TableMapping | None = None
        self._header: tuple[str, ...] = ()
        self._blocks: LineBlocks | None = None
        self._has_ended = False
        self._reset()

    @property
    def mapping(self) -> TableMapping:
        """What the columns mean: what was asked for, or what `open` found out.

        Raises RuntimeError before the file was opened.
        """
        if self._mapping is None:
            raise RuntimeError("mapping before open")
        return self._mapping

    @property
    def header(self) -> tuple[str, ...]:
        """The names of the columns, in order; none before `open`."""
        return self._header

    def open(self) -> None:
        """Open the file and read its header.

        Raises InputError if it is missing, not readable, or not a table that a preset or the mapping knows.
        """
        self.close()
        self._reset()
        try:
            self._file = open_decompressed(self._path)
            self._blocks = LineBlocks(self._file, self._block_bytes)
            self._waiting = self._blocks.read()
            self._read_header()
        except STREAM_ERRORS as err:
            self.close()
            reason = err.strerror if isinstance(err, OSError) and err.strerror else str(err)
            raise InputError(f"{self._path}: cannot be read: {reason}") from err
        except InputError:
            self.close()
            raise

    def read_batch(self) -> FlowTable | None:
        """The next flows, None at the end.

        Raises InputError where the compression around the table is corrupt or cut.
        """
        if self._file is None and not self._has_ended:
            raise RuntimeError("read_batch before open")
        while not self._has_ended:
            lines, self._waiting = self._waiting, b""
            try:
                lines = lines or self._read_lines()
            except EOFError as err:
                self._cut(err)
                return None
            except STREAM_ERRORS as err:
                self._has_ended = True
                raise InputError(
                    f"{self._path}: corrupt, or its compression is, after {self.tally.read} whole lines: {err}"
                ) from err
            if not lines:
                self._has_ended = True
            elif (flows := self._flows(self._rows_of(lines))) is not None:
                return flows
        return None

    def close(self) -> None:
        """Close the file; the tally stays."""
        if self._file is not None:
            self._file.close()
            self._file = None
            self._has_ended = True

    def _reset(self) -> None:
        self.tally = Tally()
        self.placeholder_count = 0
        self._labels = LabelCodes()
        self._waiting = b""
        self._blocks = None
        self._long_lines = 0
        self._has_ended = False

    def _read_lines(self) -> bytes:
        assert self._blocks is not None
        lines = self._blocks.read()
        if more := self._blocks.long_line_count - self._long_lines:
            self.tally.offered += more
            self.tally.malformed[LONG_LINE] += more
            self._long_lines += more
        return lines

    def _cut(self, err: EOFError) -> None:
        self._has_ended = True
        self.tally.offered += 1
        self.tally.malformed[CUT_RECORD] += 1
        if not self._allow_cut:
            raise InputError(
                f"{self._path}: its compression is cut, after {self.tally.read - 1} whole lines: unpack it anew"
            ) from err

    def _read_header(self) -> None:
        """Find out what the columns are; leaves the lines behind the header waiting."""
        if self._waiting.startswith(_UTF16_MARKS):
            raise InputError(f"{self._path}: UTF-16 text; `iconv -f UTF-16 -t UTF-8` converts it")
        self._waiting = self._waiting.removeprefix(_BYTE_ORDER_MARK)
        if not self._waiting:
            long = " but lines that are too long" if self._blocks and self._blocks.long_line_count else ""
            raise InputError(f"{self._path}: empty{long or ': not even a header line'}")
        if self._asked is not None and self._asked.header is not None:
            self._accept(self._asked, self._asked.header)
            return
        line, header = self._header_line()
        layout = "json" if not header else "csv"
        if layout == "json":
            header = _keys(line)
        mapping = self._asked or detect_preset(header, layout)
        if mapping is None:
            known = ", ".join(PRESETS)
            raise InputError(
                f"{self._path}: no preset has just these columns: {_shortened(header)}; name one of {known}, or give a "
                "mapping of your own"
            )
        if layout == "csv" and mapping.layout == "csv" and not line.startswith(_ZEEK_FIELDS):
            header = _split(line, mapping.delimiter)
        if mapping.layout == "csv" and (lacking := sorted(mapping.required_columns() - set(header))):
            raise InputError(
                f"{self._path}: lacks the columns {_shortened(lacking)} of the mapping {mapping.name!r}; it has "
                f"{_shortened(header)}"
            )
        self._accept(mapping, header)

    def _header_line(self) -> tuple[bytes, tuple[str, ...]]:
        """The line that names the columns, which is taken away, and them; of JSON lines the first, which stays."""
        assert self._blocks is not None
        for _ in range(_MAX_HEADER_LINES):
            self._waiting = self._waiting or self._blocks.read()
            if not self._waiting:
                break
            line, _, rest = self._waiting.partition(b"\n")
            if line.startswith(_ZEEK_FIELDS):
                self._waiting = rest
                names = line.decode("utf-8", errors="replace").split("\t")
                return line, tuple(names[1:_MAX_COLUMNS])
            if line.lstrip().startswith(b"{") and (self._asked is None or self._asked.layout == "json"):
                return line, ()
            self._waiting = rest
            if not line.startswith(b"#"):
                delimiter = self._asked.delimiter if self._asked is not None else ","
                return line, _split(line, delimiter)
        raise InputError(f"{self._path}: no header line among its first lines")

    def _accept(self, mapping: TableMapping, header: tuple[str, ...]) -> None:
        if self._time_zone is not None:
            mapping = TableMapping.model_validate(mapping.model_dump() | {"time_zone": self._time_zone})
        self._mapping = mapping
        self._header = header
        self._wanted = mapping.columns() if mapping.layout == "json" else mapping.columns() & set(header)

    def _rows_of(self, lines: bytes) -> bytes:
        """The lines that are rows: no comments, and none from the footer on."""
        mapping = self.mapping
        if mapping.footer:
            footer = mapping.footer.encode()
            at = 0 if lines.startswith(footer) else lines.find(b"\n" + footer) + 1
            if at or lines.startswith(footer):
                self._has_ended = True
                lines = lines[:at]
        if mapping.comment and (comment := mapping.comment.encode()) in lines:
            rows = lines.splitlines(keepends=True)
            for line in rows:
                if line.startswith(_ZEEK_FIELDS) and tuple(line.decode(errors="replace").split()[1:]) != self._header:
                    raise InputError(f"{self._path}: its columns change in the middle; split it at each {line[:7]!r}")
            lines = b"".join(line for line in rows if not line.startswith(comment))
        return lines

    def _flows(self, lines: bytes) -> FlowTable | None:
        if not lines:
            return None
        malformed = self.tally.malformed
        before = malformed.total()
        n, cells = self._cells(lines)
        self.tally.offered += malformed.total() - before
        if not n:
            return None
        columns, placeholders = flow_columns(n, cells, self.mapping, self._labels, self.tally)
        if not len(columns["flow_start_ns"]):
            return None
        self.placeholder_count += placeholders
        typed = {name: column.astype(FLOW_FIELDS[name][0], copy=False) for name, column in columns.items()}
        return FlowTable.from_columns(typed, self._labels.names)

    def _cells(self, lines: bytes) -> tuple[int, dict[str, Cells]]:
        if self.mapping.layout == "json":
            return json_cells(lines, self._wanted, self.tally.malformed)
        return csv_cells(lines, self._header, self._wanted, self.mapping.delimiter, self.tally.malformed)


def _split(line: bytes, delimiter: str) -> tuple[str, ...]:
    """The names in a header line."""
    try:
        names = next(csv.reader([line.decode("utf-8", errors="replace")], delimiter=delimiter), [])
    except csv.Error:
        names = []
    return tuple(name.strip() for name in names[:_MAX_COLUMNS])


def _keys(line: bytes) -> tuple[str, ...]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return ()
    return tuple(row)[:_MAX_COLUMNS] if isinstance(row, dict) else ()


def _shortened(names: tuple[str, ...] | list[str]) -> str:
    text = ", ".join(repr(name[:40])[1:-1] for name in names[:20]) or "none"
    return text + (", ..." if len(names) > 20 else "")
