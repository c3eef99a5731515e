"""PipeWriter: frames as a nanosecond pcap into a pipe that somebody reads, slow or fast.

Promises: nothing waits longer than `POLL_INTERVAL_S` once the run is stopped; the record in hand is finished if the
reader takes it within that. `counters` knows of each frame whether the pipe took it whole; what it took has been, or
will be, read, and cannot be undone.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from nsstream.errors import OutputError
from nsstream.replay.sink import POLL_INTERVAL_S, output_error
from nsstream.wire.pcap import RECORD_HEADER_BYTES, pcap_header, write_records

if TYPE_CHECKING:
    from nsstream.assemble.frames import Frames

_NEVER_BLOCKS_BYTES: Final = select.PIPE_BUF  # where poll says that a pipe can be written to, so many octets fit


class PipeWriter:
    """Owns a descriptor, which may be blocking, from `begin` to `end`.

    Args:
        name: for messages.
        is_stopped: asked while the reader is slow; once it says yes OutputError is raised.
    """

    def __init__(self, name: str, is_stopped: Callable[[], bool]) -> None:
        self.counters = {"frames": 0, "frames_written": 0, "frames_failed": 0, "octets": 0}
        self._name = name
        self._is_stopped = is_stopped
        self._descriptor: int | None = None

    def begin(self, descriptor: int, *, has_header: bool = False) -> None:
        """Take the descriptor, and write the file header unless it is written."""
        self._descriptor = descriptor
        if not has_header:
            self._put(pcap_header())

    def write(self, frames: Frames, wire_length: NDArray[np.int64] | None = None) -> None:
        """Write frames as records; waits where the reader is slow. Raises OutputError.

        `wire_length` (m,) is how long frames were of which only the beginning is there; None: they are whole.
        """
        written = 0
        ends = frames.offset[1:] + RECORD_HEADER_BYTES * np.arange(1, len(frames) + 1)
        self.counters["frames"] += len(frames)
        self.counters["frames_failed"] += len(frames)
        try:
            records = memoryview(write_records(frames.observation_time_ns, frames.offset, frames.octets, wire_length))
            for written in self._put_in_steps(records, ends):  # noqa: B007 - the last one counts
                pass
        finally:
            count = int(np.searchsorted(ends, written, "right"))
            self.counters["frames_failed"] -= count
            self.counters["frames_written"] += count
            self.counters["octets"] += int(frames.offset[count])

    def end(self) -> None:
        """Let go of the descriptor, so that the reader sees the end; may be repeated, never raises."""
        with suppress(OSError):
            if self._descriptor is not None:
                os.close(self._descriptor)
        self._descriptor = None

    def _put(self, octets: bytes) -> None:
        for _ in self._put_in_steps(memoryview(octets), np.array([len(octets)])):
            pass

    def _put_in_steps(self, octets: memoryview, ends: NDArray[np.int64]) -> Iterator[int]:
        """Write, and say how many octets are written so far; `ends` are those of the records in them, rising."""
        if self._descriptor is None:
            raise ValueError("a sink is written to between open and close")
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        at, stop_at = 0, len(octets)
        until_s: float | None = None  # once stopped: how long the record in hand may take
        while at < stop_at:
            if until_s is None and self._is_stopped():
                until_s = time.monotonic() + POLL_INTERVAL_S
                stop_at = int(ends[np.searchsorted(ends, at)]) if at else 0
                continue
            wait_s = POLL_INTERVAL_S if until_s is None else until_s - time.monotonic()
            if wait_s <= 0:
                break
            if not poll.poll(wait_s * 1000):
                continue
            try:
                at += os.write(self._descriptor, octets[at : min(at + _NEVER_BLOCKS_BYTES, stop_at)])
            except BlockingIOError:
                continue
            except OSError as err:
                raise output_error(self._name, err) from err
            yield at
        if at < len(octets):
            raise OutputError(f"{self._name}: stopped while the reader was slow")
