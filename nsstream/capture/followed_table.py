"""FollowedTableSource: a text table of flows that a tool appends to, eve.json or conn.log, followed as it grows.

Promises: each line comes once, over rotations and restarts (see `FollowedFile`, whose position is the handover), and is
a row or counted by reason. Each file may begin with a header of its own, and Zeek's ``#fields`` may come again in the
middle. Lines in front of any header are counted as ``malformed["no_header"]``; only where the first file of all begins
with what is no table it is refused. Lines that a file which was left ends in the middle of are ``cut_record``; files of
which something was not read before they were gone count one each as ``dropped["disk"]``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from nsstream.capture.flow_csv import CUT_RECORD, LONG_LINE
from nsstream.capture.flow_mapping import TableMapping
from nsstream.capture.flow_presets import chosen_mapping
from nsstream.capture.follow_position import FollowPosition
from nsstream.capture.followed_file import FollowedFile
from nsstream.capture.source import IDLE_S, SENSOR_LATENESS_S
from nsstream.capture.table_header import ZEEK_FIELDS, find_header
from nsstream.capture.table_rows import TableRows
from nsstream.errors import InputError
from nsstream.trace import FlowTable

NO_HEADER: Final = "no_header"

_LOOK_S: Final = 0.02  # between two looks at a file to which nothing came

_log = logging.getLogger(__name__)


class FollowedTableSource:
    """Follows a table at a path; the file may come later, and be rotated.

    Args:
        path: of the file that the tool writes to now.
        preset: a name of `flow_presets.PRESETS`; without it and a `mapping`, the beginning of each file tells.
        mapping: of the user's own, or the path of a file with it.
        time_zone: of times that do not say theirs, instead of the preset's.
        from_end: leave out what is there when it is opened for the first time.
        block_bytes: of lines that become a batch, about.
    """

    lateness_s: Final = SENSOR_LATENESS_S

    def __init__(
        self,
        path: Path | str,
        *,
        preset: str | None = None,
        mapping: TableMapping | Path | str | None = None,
        time_zone: str | None = None,
        from_end: bool = False,
        block_bytes: int = 1 << 20,
    ) -> None:
        self._path = Path(path)
        self._asked = chosen_mapping(preset, mapping)
        self._time_zone = time_zone
        self._file = FollowedFile(self._path, from_end=from_end, block_bytes=block_bytes)
        self._rows = TableRows(time_zone)
        self.tally = self._rows.tally
        self._file_number = 0  # of the file that was begun last
        self._is_header_known = False
        self._is_open = self._has_ended = False
        self._inherited: FollowPosition | None = None
        self._told: FollowPosition | None = None
        self._handover: dict[str, Any] | None = None

    @property
    def mapping(self) -> TableMapping | None:
        """What the columns of the file in hand mean; None as long as nobody knows."""
        return self._rows.mapping

    def open(self) -> None:
        """Begin, or go on where the predecessor stopped.

        Raises InputError if the directory is not there, or the path is of something else than a regular file.
        """
        self.close()
        self._rows = TableRows(self._time_zone)
        self.tally = self._rows.tally
        self._file_number = 0
        self._file.open(self._inherited)
        self._inherited = None
        self._is_open, self._has_ended = True, False
        self._count()

    def read_batch(self) -> FlowTable | None:
        """The next flows; none where none came for `IDLE_S`; None once closed.

        Raises InputError if the file cannot be read, or is no table.
        """
        if self._has_ended:
            return None
        if not self._is_open:
            raise RuntimeError("read_batch before open")
        until_s = time.monotonic() + IDLE_S
        while True:
            lines = self._file.read()
            self._count()
            if lines and (flows := self._flows(lines)) is not None:
                return flows
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                return FlowTable.empty()
            if lines is None:
                time.sleep(min(_LOOK_S, left_s))

    def close(self) -> None:
        """Let go of the file; the tally and the position stay."""
        if self._is_open:
            self._file.close()
            self._is_open, self._has_ended = False, True

    def handover(self) -> dict[str, Any] | None:
        """Where the rows given last end; None before `open`."""
        if not self._is_open and not self._has_ended:
            return self._handover
        if self._file.position is not self._told:
            self._told = self._file.position
            self._handover = self._told.as_dict()
        return self._handover

    def take_over(self, handover: object) -> None:
        """Go on where a predecessor stopped; raises InputError where that is not what one hands over."""
        self._inherited = FollowPosition.from_dict(handover)

    def _flows(self, lines: bytes) -> FlowTable | None:
        if self._file.file_count != self._file_number:
            self._file_number = self._file.file_count
            self._is_header_known = False
            if self._file.began_at:
                self._find_header(self._file.first_lines())
        batches = [flows for part in _parts(lines) if (flows := self._flows_of(part)) is not None]
        return FlowTable.concatenate(batches) if batches else None

    def _flows_of(self, lines: bytes) -> FlowTable | None:
        """The flows of lines of one table, which may begin with its header."""
        if lines.startswith(ZEEK_FIELDS) or self._rows.has_ended:
            self._is_header_known = False
        if not self._is_header_known:
            lines = self._find_header(lines)
        return self._rows.flows(lines) if lines else None

    def _find_header(self, lines: bytes) -> bytes:
        """Lines behind the header, which is known then; none where there is none, and they are counted."""
        asked, known = self._asked, self._rows.mapping
        if asked is None and known is not None and known.layout == "json" and lines.lstrip().startswith(b"{"):
            asked = known  # of a log of many kinds of events, which may begin with others
        try:
            header = find_header(lines, asked)
        except InputError as err:
            if known is None:
                raise InputError(f"{self._path}: {err}") from err
            _log.warning("table_without_header path=%s reason=%s", self._path, err)
            header = None
        if header is None:
            self._rows.refuse(NO_HEADER, sum(not line.startswith(b"#") for line in lines.splitlines()))
            return b""
        self._rows.begin(header)
        self._is_header_known = True
        return header.rest

    def _count(self) -> None:
        file = self._file
        self._rows.refuse(LONG_LINE, file.long_line_count)
        self._rows.refuse(CUT_RECORD, file.cut_count)
        self.tally.drop("disk", file.lost_count)
        file.long_line_count = file.cut_count = file.lost_count = 0


def eve_source(target: str, **options: Any) -> FollowedTableSource:
    """Suricata's eve.json, whatever event it begins with; options as of `FollowedTableSource`."""
    return FollowedTableSource(target, preset="eve", **options)


def _parts(lines: bytes) -> Iterator[bytes]:
    """Lines, cut in front of each line in which Zeek names its columns."""
    start = 0
    while (at := lines.find(b"\n" + ZEEK_FIELDS, start)) >= 0:
        yield lines[start : at + 1]
        start = at + 1
    yield lines[start:]
