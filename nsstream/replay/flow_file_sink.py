"""Flows to files: CsvSink and NfcapdSink, of frames that are metered here, or of flows as they come.

Promises: a file is there whole or not at all (`output_file`); flows are in the order in which they came or ended. With
`rotate_s` the path is a directory, and a file holds what ended in one interval of the UTC grid, by the latest time of
end so far; its name is nfcapd's: ``nfcapd.202311142210``, with seconds where the interval is no whole minute. What
private models promise stands beside the file, or beside the directory (`promise_file`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, Protocol, Self

import numpy as np
from pydantic import Field, model_validator

from nsstream.chunk.export import CsvWriter
from nsstream.chunk.rows import Kind
from nsstream.replay.frame_meter import FrameMeter
from nsstream.replay.messages import AbsolutePath
from nsstream.replay.output_file import OutputFile, check_directory
from nsstream.replay.promise_file import PromiseFile, promise_place
from nsstream.replay.sink import SinkContext, SinkSpec
from nsstream.trace.flows import FlowTable
from nsstream.wire.nfcapd_writer import NfcapdWriter

if TYPE_CHECKING:
    from nsstream.assemble.frames import Frames

_SECOND_NS: Final = 1_000_000_000
Timeout = Annotated[float, Field(ge=0.001, le=1e6, allow_inf_nan=False)]


class FlowFileSpec(SinkSpec):
    """A file of flows, or a directory of them."""

    path: AbsolutePath
    overwrite: bool = False
    rotate_s: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    active_timeout_s: Timeout = 60.0
    idle_timeout_s: Timeout = 15.0

    @model_validator(mode="after")
    def _is_in_order(self) -> Self:
        if self.idle_timeout_s > self.active_timeout_s:
            raise ValueError("idle_timeout_s must be at most active_timeout_s")
        return self


class CsvSinkSpec(FlowFileSpec):
    """CSV with the columns of `trace.fields.FLOW_FIELDS`, as ``nsstream chunk export`` writes it."""

    kind: Literal["csv"] = "csv"


class NfcapdSinkSpec(FlowFileSpec):
    """A file of nfdump 1.7."""

    kind: Literal["nfcapd"] = "nfcapd"


class _Encoder(Protocol):
    def begin(self, file: OutputFile, start_s: int) -> None: ...
    def write(self, table: FlowTable) -> None: ...
    def finish(self) -> None: ...


class _Puts:
    """An OutputFile as what `CsvWriter` writes to."""

    def __init__(self, file: OutputFile) -> None:
        self._file = file
        self.closed = False

    def write(self, octets: Any) -> int:
        octets = bytes(octets)
        self._file.put(octets)
        return len(octets)

    def writable(self) -> bool:
        return True

    def flush(self) -> None:
        pass


class _Csv:
    def begin(self, file: OutputFile, start_s: int) -> None:
        self._writer = CsvWriter(Kind.FLOWS, _Puts(file))

    def write(self, table: FlowTable) -> None:
        self._writer.write(table)

    def finish(self) -> None:
        self._writer.close()


class _Nfcapd:
    def begin(self, file: OutputFile, start_s: int) -> None:
        self._file, self._writer = file, NfcapdWriter(start_s)
        file.put(self._writer.begin())

    def write(self, table: FlowTable) -> None:
        self._file.put(self._writer.write(table))

    def finish(self) -> None:
        rest, header = self._writer.finish()
        self._file.put(rest)
        self._file.put_at_start(header)


class _FlowFileSink:
    def __init__(self, spec: FlowFileSpec, context: SinkContext, encoder: _Encoder, prefix: str, suffix: str) -> None:
        self._spec = spec
        self._path = Path(spec.path)
        twin = self._path if spec.rotate_s is None else None
        self._promise = PromiseFile(context, promise_place(self._path), twin, replaces=spec.overwrite)
        self._prefix, self._suffix = prefix, suffix
        self._encoder = encoder
        self._meter = FrameMeter(active_timeout_s=spec.active_timeout_s, idle_timeout_s=spec.idle_timeout_s)
        self._file: OutputFile | None = None
        self._is_done = False
        self._now_ns = 0  # the latest end so far
        self._interval = 0
        self._flows = {"flows": 0, "flows_written": 0, "flows_undone": 0, "files": 0}
        self._flows_in_file = 0

    @property
    def counters(self) -> Mapping[str, int]:
        """Frames and flows by fate."""
        return self._meter.counters | self._flows

    def check(self) -> None:
        """Raise OutputError if the output could not be made now; leaves nothing behind."""
        if self._spec.rotate_s is not None:
            check_directory(self._path)
        else:
            OutputFile(self._path, overwrite=self._spec.overwrite).check()

    def open(self) -> None:
        """Make the temporary file, unless the first flow names it."""
        self.check()
        if self._spec.rotate_s is None:
            self._begin(self._path, 0)

    def write(self, frames: Frames) -> None:
        """Meter frames, and write the flows that ended."""
        self._promise.note()
        self.write_flows(self._meter.push(frames))

    def tick(self, twin_now_ns: int) -> None:
        """Write the flows whose timeout has passed; end a file once all that may come ended after its interval."""
        self.write_flows(self._meter.advance_to(twin_now_ns))
        if self._spec.rotate_s is not None and self._file is not None:
            end_ns = (self._interval + 1) * self._spec.rotate_s * _SECOND_NS
            if twin_now_ns - round(self._spec.idle_timeout_s * _SECOND_NS) >= end_ns:
                self._now_ns = max(self._now_ns, end_ns)
                self._end()

    def write_flows(self, table: FlowTable) -> None:
        """Write flows that were metered elsewhere."""
        if not len(table):
            return
        self._flows["flows"] += len(table)
        self._flows["flows_undone"] += len(table)  # until they are put
        clock = np.maximum(np.maximum.accumulate(table.flow_end_ns), self._now_ns)
        self._now_ns = int(clock[-1])
        if self._spec.rotate_s is None:
            self._write(table)
            return
        intervals = clock // (self._spec.rotate_s * _SECOND_NS)
        edges = [0, *(np.flatnonzero(np.diff(intervals)) + 1).tolist(), len(table)]
        for start, stop in pairwise(edges):
            interval = int(intervals[start])
            if self._file is not None and interval != self._interval:
                self._end()
            if self._file is None:
                self._interval = interval
                self._begin(self._path / self._name_of(interval * self._spec.rotate_s), interval * self._spec.rotate_s)
            self._write(table.take(slice(start, stop)))

    def close(self) -> None:
        """End all flows, and make the last file whole."""
        if self._is_done or (self._file is None and self._spec.rotate_s is None):
            raise ValueError("a sink is closed once, after it was opened")
        self.write_flows(self._meter.flush())
        self._end()
        self._is_done = True

    def abort(self) -> None:
        """Remove what is not whole."""
        if self._file is not None and self._file.is_open:
            self._flows["flows_undone"] += self._flows_in_file
            self._flows["flows_written"] -= self._flows_in_file
            self._flows_in_file = 0
            self._file.abort()
        self._file = None

    def _write(self, table: FlowTable) -> None:
        if self._file is None:
            raise ValueError("a sink is written to between open and close")
        self._encoder.write(table)
        self._flows["flows_undone"] -= len(table)
        self._flows["flows_written"] += len(table)
        self._flows_in_file += len(table)

    def _begin(self, path: Path, start_s: int) -> None:
        self._file = OutputFile(path, overwrite=self._spec.overwrite)
        self._file.open()
        self._flows_in_file = 0
        self._encoder.begin(self._file, start_s)

    def _end(self) -> None:
        if self._file is not None:
            self._encoder.finish()
            self._file.close()
            self._promise.put()
            self._flows["files"] += 1
            self._flows_in_file = 0
            self._file = None

    def _name_of(self, start_s: int) -> str:
        is_minutes = self._spec.rotate_s is not None and self._spec.rotate_s % 60 == 0
        stamp = time.strftime("%Y%m%d%H%M" if is_minutes else "%Y%m%d%H%M%S", time.gmtime(start_s))
        return f"{self._prefix}.{stamp}{self._suffix}"


class CsvSink(_FlowFileSink):
    """Flows as CSV."""

    spec_type: ClassVar[type[SinkSpec]] = CsvSinkSpec

    def __init__(self, spec: CsvSinkSpec, context: SinkContext) -> None:
        super().__init__(spec, context, _Csv(), "flows", ".csv")


class NfcapdSink(_FlowFileSink):
    """Flows as files of nfdump 1.7."""

    spec_type: ClassVar[type[SinkSpec]] = NfcapdSinkSpec

    def __init__(self, spec: NfcapdSinkSpec, context: SinkContext) -> None:
        super().__init__(spec, context, _Nfcapd(), "nfcapd", "")
