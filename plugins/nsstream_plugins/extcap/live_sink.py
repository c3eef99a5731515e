"""LiveSink: frames of a run into the FIFO of a capture, at the time when they are due and with that time on them.

A twin's own times are those of its model, days or years ago; a live capture has the present. So a frame's stamp is the
moment at which it is due, on a clock that no change of the system's time moves: even where this process is late, stamps
stand where the rate puts them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from nsstream.assemble.frames import Frames
from nsstream.clock import Clock
from nsstream.errors import OutputError
from nsstream.replay.pipe_writer import PipeWriter
from nsstream.replay.stream import make_rise, take_frames
from nsstream_plugins.extcap.frame_filter import FrameFilter

SLEEP_S = 0.05


class LiveSink:
    """A sink that paces itself (see `replay.sink`).

    Args:
        descriptor: of the FIFO, whose header is written.
        frame_filter: which frames pass; the others are counted.
        clock: of what is due.
        is_stopped: whether the run was told to stop.
        on_first: called when the first frames have come.
    """

    def __init__(
        self,
        descriptor: int,
        frame_filter: FrameFilter,
        clock: Clock,
        is_stopped: Callable[[], bool],
        on_first: Callable[[], None] = lambda: None,
    ) -> None:
        self._pipe = PipeWriter("the capture", is_stopped)
        self._descriptor = descriptor
        self._filter = frame_filter
        self._clock = clock
        self._is_stopped = is_stopped
        self._wall_less_monotonic_ns = clock.wall_ns() - clock.monotonic_ns()
        self._on_first: Callable[[], None] | None = on_first
        self._last_ns: int | None = None
        self._filtered = 0

    @property
    def counters(self) -> Mapping[str, int]:
        """Frames by fate."""
        told = self._pipe.counters
        return {**told, "frames": told["frames"] + self._filtered, "frames_filtered": self._filtered}

    def open(self) -> None:
        """Take the FIFO."""
        self._pipe.begin(os.dup(self._descriptor), has_header=True)  # the original tells of its reader to the end

    def write(self, frames: Frames) -> None:
        """Write frames now."""
        self.write_due(frames, np.zeros(len(frames), np.int64))

    def write_due(self, frames: Frames, due_ns: NDArray[np.int64]) -> None:
        """Write frames once the last of them is due, each with the time of its own."""
        if self._on_first is not None:
            self._on_first()
            self._on_first = None
        now_ns = self._clock.monotonic_ns()
        due_ns = np.where(due_ns > 0, due_ns, now_ns)
        while (wait_ns := int(due_ns[-1]) - self._clock.monotonic_ns()) > 0:
            if self._is_stopped():
                raise OutputError("the capture: stopped")
            time.sleep(min(wait_ns * 1e-9, SLEEP_S))
        stamps, _ = make_rise(due_ns + self._wall_less_monotonic_ns, self._last_ns)
        self._last_ns = int(stamps[-1])
        stamped = Frames(stamps, frames.offset, frames.octets, frames.side)
        rows = self._filter.rows(stamped)
        if rows is not None:
            self._filtered += len(frames) - len(rows)
            stamped = take_frames(stamped, rows)
        if len(stamped):
            self._pipe.write(stamped)

    def close(self) -> None:
        """Let Wireshark see the end."""
        self._pipe.end()

    def abort(self) -> None:
        """Let Wireshark see the end."""
        self._pipe.end()
