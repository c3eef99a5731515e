"""TcpreplaySink: frames sent by tcpreplay, as a child that is fed through its standard input, or given a file.

Three ways to keep time:

- ``clock``: each frame is handed over when it is due, and tcpreplay sends it at once;
- ``tcpreplay``: frames are handed over as it takes them, and it waits for their times (4.4.3 drifts by hundreds of
  milliseconds in seconds, see ``bench/replay.py``; here for comparison);
- ``file``: frames are gathered in a temporary file, and sent at the end as fast as it can (``--topspeed -K``).

Promises: `safety` is asked first. A child that dies is replaced, `restarts` times in a run, and what is not known to
have left is counted as ``frames_lost_with_child``; frames that it was not handed yet go to its successor. Frames that
it could not send are counted as failed, and a run all of whose frames failed is an error. A stop is seen within 20 ms.
No tcpreplay outlives its sink.

Source: tcpreplay(1); what it does is told in `tcpreplay_child`.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Annotated, ClassVar, Final, Literal

import numpy as np
from pydantic import Field

from nsstream.capture.interface import Interface
from nsstream.errors import OutputError
from nsstream.replay.rate_cap import take_leading, wait_ns
from nsstream.replay.safety import InterfaceName
from nsstream.replay.sink import SinkContext, SinkSpec, output_error
from nsstream.replay.tcpreplay_child import POLL_S, ChildDiedError, StoppedError, TcpreplayChild
from nsstream.wire.pcap import RECORD_HEADER_BYTES, check_pcap_time, pcap_header, write_records

if TYPE_CHECKING:
    from nsstream.assemble.frames import Frames

ETHERNET_HEADER_BYTES: Final = 14
CAPPED_PIPE_BYTES: Final = 4096  # what a pipe holds may leave in a burst
BURST_FRAMES: Final = 1024

_log = logging.getLogger(__name__)


class TcpreplaySinkSpec(SinkSpec):
    """An interface that tcpreplay sends on, which the server's configuration must name."""

    kind: Literal["tcpreplay"] = "tcpreplay"
    interface: InterfaceName
    default_route: bool = False  # a default route leads through it, and that is meant
    pacing: Literal["clock", "tcpreplay", "file"] = "clock"
    restarts: Annotated[int, Field(ge=0, le=1_000_000)] = 10  # children that may die in a run
    max_file_octets: Annotated[int, Field(ge=1, le=1 << 42)] = 1 << 32  # of the temporary file


class TcpreplaySink:
    """One interface, one tcpreplay at a time."""

    spec_type: ClassVar[type[SinkSpec]] = TcpreplaySinkSpec

    def __init__(self, spec: TcpreplaySinkSpec, context: SinkContext) -> None:
        self._spec = spec
        self._context = context
        self._child: TcpreplayChild | None = None
        self._file: IO[bytes] | None = None
        self._file_count = 0
        self._mtu = 0
        self._has_ended = False
        self._given = self._octets = self._deaths = 0
        # Of children that have ended; `undone`, too, of what no child got.
        self._written = self._failed = self._lost = self._oversize = self._retries = 0

    @property
    def counters(self) -> Mapping[str, int]:
        """What became of the frames; those `waiting` are in the pipe, the file, or on their way to it."""
        child = self._child
        parts = {
            "frames_written": self._written + (0 if child is None else child.written_count),
            "frames_failed": self._failed,
            "frames_oversize": self._oversize,
            "frames_lost_with_child": self._lost,
        }
        rest = self._given - sum(parts.values())
        parts["frames_undone"], parts["frames_waiting"] = (rest, 0) if self._has_ended else (0, rest)
        told = {"octets": self._octets, "retries": self._retries, "child_deaths": self._deaths}
        return {"frames": self._given} | parts | told

    def check(self) -> None:
        """Raise OutputError if nothing may, or could, be sent."""
        self._check()

    def check_time(self, time_ns: int) -> None:
        """Raise OutputError if a pcap, which tcpreplay reads, has no such time."""
        check_pcap_time(time_ns)

    def _check(self) -> Interface:
        name, cap = self._spec.interface, self._context.rules.cap
        interface = self._context.rules.check(name, is_default_route_meant=self._spec.default_route)
        if shutil.which("tcpreplay") is None:
            raise OutputError("tcpreplay is not installed, or not in PATH")
        if self._spec.pacing == "file" and (cap.packets_per_s or cap.bits_per_s):
            raise OutputError(f"{name}: this server has a cap, which tcpreplay does not keep when it sends a file")
        return interface

    def open(self) -> None:
        """Start tcpreplay, or make the temporary file."""
        self._mtu = self._check().mtu
        try:
            if self._spec.pacing == "file":
                self._file = tempfile.NamedTemporaryFile(prefix="nsstream-", suffix=".pcap")  # noqa: SIM115 - till `close`
                self._file.write(pcap_header())
        except OSError as err:
            raise output_error(self._spec.interface, err) from err
        if self._file is None:
            self._start_child()

    def write(self, frames: Frames) -> None:
        """Hand frames over; waits where tcpreplay or the cap is slow."""
        self._given += len(frames)
        size = np.diff(frames.offset)
        # A VLAN tag is not part of what an MTU limits.
        is_tagged = frames.octets[np.minimum(frames.offset[:-1] + 12, max(len(frames.octets) - 1, 0))] == 0x81
        too_long = np.flatnonzero(size > self._mtu + ETHERNET_HEADER_BYTES + 4 * is_tagged)
        start = 0
        for end in (*too_long.tolist(), len(frames)):
            for at in range(start, end, BURST_FRAMES):
                self._hand_over(frames.slice(at, min(at + BURST_FRAMES, end)))
            start = end + 1
            self._oversize += end < len(frames)

    def close(self) -> None:
        """Wait until tcpreplay has sent all that it was handed."""
        try:
            if self._file is not None:
                self._send_file(self._file)
            elif self._child is not None:
                self._child.wait_for_end()
            self._bury(is_lost=True)
        except ChildDiedError as err:
            self._bury(is_lost=True)
            self._count_death(err)
        except StoppedError as err:
            raise self._stopped() from err
        self._release()
        if self._failed and not self._written:
            raise OutputError(f"{self._spec.interface}: tcpreplay could not send any of {self._failed} frames")

    def abort(self) -> None:
        """End tcpreplay at once; what it has not sent is undone."""
        self._bury(is_lost=False)
        self._release()

    def _release(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None
        self._has_ended = True

    def _hand_over(self, frames: Frames) -> None:
        """Give frames of one burst to the file or the child, as the cap allows."""
        cap, at = self._context.rules.cap, 0
        is_capped = cap.packets_per_s is not None or cap.bits_per_s is not None
        while at < len(frames):
            count = len(frames)
            if is_capped:
                now_ns = self._context.clock.monotonic_ns()
                count = take_leading(cap.limits, cap.tokens, cap.last_ns, now_ns, frames.offset, at)
                if count == 0:
                    if self._context.is_stopped():
                        raise self._stopped()
                    time.sleep(min(wait_ns(cap.limits, cap.tokens) * 1e-9, POLL_S))
                    continue
            self._put(frames.slice(at, at + count))
            at += count

    def _put(self, frames: Frames) -> None:
        records = write_records(frames.observation_time_ns, frames.offset, frames.octets)
        if self._file is not None:
            self._put_in_file(self._file, records, len(frames))
        else:
            self._feed(records, frames.offset[1:] + RECORD_HEADER_BYTES * np.arange(1, len(frames) + 1))
        self._octets += len(frames.octets)

    def _put_in_file(self, file: IO[bytes], records: bytes, count: int) -> None:
        if file.tell() + len(records) > self._spec.max_file_octets:
            raise OutputError(f"{file.name}: the frames take more than max_file_octets, {self._spec.max_file_octets}")
        if self._context.is_stopped():
            raise self._stopped()
        try:
            file.write(records)
        except OSError as err:
            raise output_error(file.name, err) from err
        self._file_count += count

    def _feed(self, records: bytes, ends: np.ndarray) -> None:
        """Give records to the child, and what it did not take to its successor."""
        while len(ends):
            if self._child is None:
                self._start_child()
            child = self._child
            assert child is not None
            before = child.handed_count
            try:
                child.feed(records, ends)
            except ChildDiedError as err:
                handed = child.handed_count - before
                cut = int(ends[handed - 1]) if handed else 0
                records, ends = records[cut:], ends[handed:] - cut
                self._bury(is_lost=True)
                self._count_death(err)
                continue
            except StoppedError as err:
                raise self._stopped() from err
            return

    def _start_child(self) -> None:
        """Start tcpreplay; it is an error if it does not begin to read."""
        cap = self._context.rules.cap
        is_capped = cap.packets_per_s is not None or cap.bits_per_s is not None
        options = ["--topspeed"] if self._spec.pacing == "clock" else []
        command = ["tcpreplay", f"--intf1={self._spec.interface}", "--quiet", *options, "-"]
        self._child = TcpreplayChild(command, self._context.is_stopped)
        try:
            self._child.start(CAPPED_PIPE_BYTES if is_capped else None)
        except ChildDiedError as err:
            self._bury(is_lost=True)
            raise OutputError(f"{self._spec.interface}: {err}") from err
        except StoppedError as err:
            raise self._stopped() from err

    def _send_file(self, file: IO[bytes]) -> None:
        file.flush()
        if not self._file_count:
            return
        command = ["tcpreplay", f"--intf1={self._spec.interface}", "--quiet", "--topspeed", "--preload-pcap", file.name]
        self._child = TcpreplayChild(command, self._context.is_stopped, file_frames=self._file_count)
        self._child.wait_for_end()

    def _bury(self, *, is_lost: bool) -> None:
        """Take over the counts of the child, which has ended, or is ended now."""
        child = self._child
        if child is None:
            return
        child.end()
        self._child = None
        self._written += child.written_count
        self._failed += child.failed_count
        self._retries += child.retry_count
        if is_lost:
            self._lost += child.handed_count - child.written_count - child.failed_count
        if child.failed_count:
            _log.warning("tcpreplay could not send frames interface=%s count=%d", self._spec.interface, self._failed)

    def _count_death(self, err: ChildDiedError) -> None:
        self._deaths += 1
        _log.warning("tcpreplay died interface=%s how=%s", self._spec.interface, err)
        if self._deaths > self._spec.restarts:
            raise OutputError(f"{self._spec.interface}: {err}; it has died {self._deaths} times in this run") from err

    def _stopped(self) -> OutputError:
        return OutputError(f"{self._spec.interface}: stopped before all frames were sent")
