"""StdoutSink: frames as a nanosecond pcap on the standard output of the process that replays.

Promises: as `FifoSink`'s. The descriptor is a duplicate: standard output itself stays open, and its flags as they are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Final, Literal

from nsstream.errors import OutputError
from nsstream.replay.pipe_writer import PipeWriter
from nsstream.replay.sink import SinkContext, SinkSpec, output_error
from nsstream.wire.pcap import check_pcap_time

if TYPE_CHECKING:
    from nsstream.assemble.frames import Frames

NAME: Final = "standard output"
_STDOUT: Final = 1


class StdoutSinkSpec(SinkSpec):
    """Standard output, if it is no terminal."""

    kind: Literal["stdout"] = "stdout"


class StdoutSink:
    """Standard output."""

    spec_type: ClassVar[type[SinkSpec]] = StdoutSinkSpec

    def __init__(self, spec: StdoutSinkSpec, context: SinkContext) -> None:
        self._pipe = PipeWriter(NAME, context.is_stopped)
        self._is_free = context.rules.stdout

    @property
    def counters(self) -> Mapping[str, int]:
        """Frames by fate."""
        return self._pipe.counters

    def check(self) -> None:
        """Raise OutputError where standard output is closed, a terminal, or has the server's ready line."""
        if not self._is_free:
            raise OutputError(
                f"{NAME}: has the line that says that the server is ready; start it with --ready-fd 2 to keep it free"
            )
        try:
            os.fstat(_STDOUT)
        except OSError as err:
            raise output_error(NAME, err) from err
        if os.isatty(_STDOUT):
            raise OutputError(f"{NAME}: is a terminal, and a capture is not for eyes; send it to a file or a pipe")

    def check_time(self, time_ns: int) -> None:
        """Raise OutputError if a pcap has no such time."""
        check_pcap_time(time_ns)

    def open(self) -> None:
        """Write the file header."""
        self.check()
        self._pipe.begin(os.dup(_STDOUT))

    def write(self, frames: Frames) -> None:
        """Write frames as records; waits where the reader is slow."""
        self._pipe.write(frames)

    def close(self) -> None:
        """Let go of the duplicate; the reader sees the end when the process ends."""
        self._pipe.end()

    def abort(self) -> None:
        """Let go of the duplicate."""
        self._pipe.end()
