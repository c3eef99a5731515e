"""FifoSink: frames to a FIFO that another process reads, such as ``tcpreplay -i veth0 - < fifo`` or tshark.

Promises: nothing waits longer than `POLL_INTERVAL_S` once the run is stopped, for a reader to come or to read on. What
was written before an abort has been read, and cannot be undone.
"""

from __future__ import annotations

import errno
import os
import select
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from nsstream.errors import OutputError
from nsstream.replay.messages import AbsolutePath
from nsstream.replay.pipe_writer import PipeWriter
from nsstream.replay.sink import POLL_INTERVAL_S, SinkContext, SinkSpec, output_error
from nsstream.wire.pcap import check_pcap_time

if TYPE_CHECKING:
    from nsstream.assemble.frames import Frames


class FifoSinkSpec(SinkSpec):
    """A FIFO that exists, read by another process: nanosecond pcap octets, written as they fall due."""

    kind: Literal["fifo"] = "fifo"
    path: AbsolutePath


class FifoSink:
    """A FIFO."""

    spec_type: ClassVar[type[SinkSpec]] = FifoSinkSpec

    def __init__(self, spec: FifoSinkSpec, context: SinkContext) -> None:
        self._path = Path(spec.path)
        self._is_stopped = context.is_stopped
        self._pipe = PipeWriter(spec.path, context.is_stopped)

    @property
    def counters(self) -> Mapping[str, int]:
        """Frames by fate."""
        return self._pipe.counters

    def check(self) -> None:
        """Raise OutputError if there is no FIFO that we may write to."""
        try:
            is_fifo = stat.S_ISFIFO(self._path.stat().st_mode)
        except OSError as err:
            raise output_error(self._path, err) from err
        if not is_fifo:
            raise OutputError(f"{self._path}: is not a FIFO (make one with mkfifo)")
        if not os.access(self._path, os.W_OK):
            raise OutputError(f"{self._path}: no permission to write to the FIFO")

    def check_time(self, time_ns: int) -> None:
        """Raise OutputError if a pcap has no such time."""
        check_pcap_time(time_ns)

    def open(self) -> None:
        """Wait for a reader, and write the file header."""
        self.check()
        poll = select.poll()  # of nothing: it waits, and no longer than it is told
        while True:
            if self._is_stopped():
                raise OutputError(f"{self._path}: stopped before a reader came")
            try:
                descriptor = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK)
            except OSError as err:
                if err.errno != errno.ENXIO:  # ENXIO: nobody reads yet
                    raise output_error(self._path, err) from err
                poll.poll(int(POLL_INTERVAL_S * 1000))
            else:
                self._pipe.begin(descriptor)
                return

    def write(self, frames: Frames) -> None:
        """Write frames as records; waits where the reader is slow."""
        self._pipe.write(frames)

    def close(self) -> None:
        """Let the reader see the end."""
        self._pipe.end()

    def abort(self) -> None:
        """Let go of the FIFO."""
        self._pipe.end()
