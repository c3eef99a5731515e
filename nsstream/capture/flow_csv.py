"""FlowCsvSource: one text table of flows as a source: CSV, Zeek's logs, JSON lines; compressed or not.

Promises: every line of the table is a row or counted by reason in `tally`; no line, however long or odd, raises or
takes more than bounded memory; a file that cannot be used is refused with one sentence that names it and says what to
do. Which columns mean what is a preset's matter (`flow_presets`), found by the header line where that is unambiguous,
or a mapping's of the user's own (`flow_mapping`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from nsstream.capture.compression import STREAM_ERRORS, Reader, open_decompressed
from nsstream.capture.flow_mapping import TableMapping
from nsstream.capture.flow_presets import chosen_mapping
from nsstream.capture.line_blocks import LineBlocks
from nsstream.capture.source import UNORDERED_S
from nsstream.capture.table_header import MAX_HEADER_LINES, find_header
from nsstream.capture.table_rows import TableRows
from nsstream.errors import InputError
from nsstream.trace import FlowTable

LONG_LINE: Final = "long_line"
CUT_RECORD: Final = "cut_record"

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_UTF16_MARKS: Final = (b"\xff\xfe", b"\xfe\xff")


class FlowCsvSource:
    """Reads a table in batches of the lines of about `block_bytes` of it.

    Without a `preset` (a name of `flow_presets.PRESETS`) and a `mapping` (or the path of a file with one), the header
    line tells which preset it is. `time_zone` is that of times that do not say theirs, instead of the preset's. A file
    whose compression is cut is refused when its end is reached, or with `allow_cut` read as far as it goes, the cut
    line counted as malformed.
    """

    lateness_s: Final = UNORDERED_S

    def __init__(
        self,
        path: Path | str,
        *,
        preset: str | None = None,
        mapping: TableMapping | Path | str | None = None,
        time_zone: str | None = None,
        allow_cut: bool = False,
        block_bytes: int = 1 << 20,
    ) -> None:
        self._path = Path(path)
        self._asked = chosen_mapping(preset, mapping)
        self._time_zone = time_zone
        self._allow_cut = allow_cut
        self._block_bytes = block_bytes
        self._file: Reader | None = None
        self._blocks: LineBlocks | None = None
        self._has_ended = False
        self._reset()

    @property
    def placeholder_count(self) -> int:
        """How many of the rows kept have an address that stands for a name or an AS number."""
        return self._rows.placeholder_count

    @property
    def mapping(self) -> TableMapping:
        """What the columns mean: what was asked for, or what `open` found out.

        Raises RuntimeError before the file was opened.
        """
        if self._rows.mapping is None:
            raise RuntimeError("mapping before open")
        return self._rows.mapping

    @property
    def header(self) -> tuple[str, ...]:
        """The names of the columns, in order; none before `open`."""
        return self._rows.names

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
                return None
            try:
                flows = self._rows.flows(lines)
            except InputError as err:
                raise InputError(f"{self._path}: {err}") from err
            self._has_ended = self._rows.has_ended
            if flows is not None:
                return flows
        return None

    def close(self) -> None:
        """Close the file; the tally stays."""
        if self._file is not None:
            self._file.close()
            self._file = None
            self._has_ended = True

    def _reset(self) -> None:
        self._rows = TableRows(self._time_zone)
        self.tally = self._rows.tally
        self._waiting = b""
        self._blocks = None
        self._long_lines = 0
        self._has_ended = False

    def _read_lines(self) -> bytes:
        assert self._blocks is not None
        lines = self._blocks.read()
        if more := self._blocks.long_line_count - self._long_lines:
            self._rows.refuse(LONG_LINE, more)
            self._long_lines += more
        return lines

    def _cut(self, err: EOFError) -> None:
        self._has_ended = True
        self._rows.refuse(CUT_RECORD)
        if not self._allow_cut:
            raise InputError(
                f"{self._path}: its compression is cut, after {self.tally.read - 1} whole lines: unpack it anew"
            ) from err

    def _read_header(self) -> None:
        """Find out what the columns are; leaves the lines behind the header waiting."""
        assert self._blocks is not None
        if self._waiting.startswith(_UTF16_MARKS):
            raise InputError(f"{self._path}: UTF-16 text; `iconv -f UTF-16 -t UTF-8` converts it")
        self._waiting = self._waiting.removeprefix(_BYTE_ORDER_MARK)
        if not self._waiting:
            long = " but lines that are too long" if self._blocks.long_line_count else ""
            raise InputError(f"{self._path}: empty{long or ': not even a header line'}")
        line_count = 0
        try:
            while self._waiting and line_count < MAX_HEADER_LINES:
                if (header := find_header(self._waiting, self._asked)) is not None:
                    self._rows.begin(header)
                    self._waiting = header.rest
                    return
                line_count += self._waiting.count(b"\n")
                self._waiting = self._blocks.read()
        except InputError as err:
            raise InputError(f"{self._path}: {err}") from err
        raise InputError(f"{self._path}: no header line among its first lines")
