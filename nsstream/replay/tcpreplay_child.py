"""TcpreplayChild: one tcpreplay process, what it was handed, and what became of that.

Promises: each frame that it was handed is in one of its counts at any moment, and the counts are final once it has
ended: by its own summary where it ended well; where it died, by what it had surely taken from the pipe. The process is
gone when `end` returns, and when this process is gone.

Facts (tcpreplay 4.4.3, 2026-11): its summary is all that it tells, at its end, and not if it is killed or no frame
could go out; it counts frames that the device refuses as failed, and ends with 0 nevertheless; a last record that is
cut is dropped without a word. It reads a pipe through stdio: what it has taken, but not sent, is at most one buffer.
"""

from __future__ import annotations

import array
import fcntl
import os
import re
import select
import termios
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.capture.tool_process import ToolProcess
from nsstream.errors import InputError, OutputError
from nsstream.wire.pcap import pcap_header

POLL_S: Final = 0.02
START_S: Final = 10.0
GRACE_S: Final = 2.0
MAX_SUMMARY_BYTES: Final = 1 << 16

_STDIO_BYTES: Final = 4096  # st_blksize of a pipe, which is the buffer of a FILE
_SUMMARY: Final = {
    "successful": re.compile(rb"Successful packets:\s+(\d+)"),
    "failed": re.compile(rb"Failed packets:\s+(\d+)"),
    "enobufs": re.compile(rb"Retried packets \(ENOBUFS\):\s+(\d+)"),
    "eagain": re.compile(rb"Retried packets \(EAGAIN\):\s+(\d+)"),
}


class ChildDiedError(Exception):
    """tcpreplay ended before it was told to; the message says how."""


class StoppedError(Exception):
    """`is_stopped` said yes while tcpreplay was waited for."""


def parse_summary(text: bytes) -> dict[str, int] | None:
    """The counts of tcpreplay's summary (the last one), None if there is none."""
    found = {name: pattern.findall(text) for name, pattern in _SUMMARY.items()}
    if not found["successful"] or not found["failed"]:
        return None
    return {name: int(counts[-1][:18]) if counts else 0 for name, counts in found.items()}


def sum_summaries(text: bytes) -> dict[str, int] | None:
    """The counts of tcpreplay's summaries of all its interfaces, added up; None if there is none."""
    parts = [parse_summary(part) for part in text.split(b"Statistics for network device:")]
    found = [part for part in parts if part is not None]
    return {name: sum(part[name] for part in found) for name in found[0]} if found else None


class TcpreplayChild:
    """One run of tcpreplay, fed through its standard input, or reading a file that it was given.

    Attributes: handed_count, written_count, failed_count: frames; retry_count: what it tried again. While it lives, and
    if it dies, `written_count` is what it has surely taken; the rest, less the failed, is nobody knows where.
    """

    def __init__(
        self, command: Sequence[str], is_stopped: Callable[[], bool], *, file_frames: int | None = None
    ) -> None:
        """Start it; it is fed, unless it reads a file of so many frames. Raises OutputError if it cannot be started."""
        self.handed_count = file_frames or 0
        self.written_count = self.failed_count = self.retry_count = 0
        self._is_fed = file_frames is None
        self._is_stopped = is_stopped
        self._ends: deque[NDArray[np.int64]] = deque()  # of records that are perhaps not read yet, in the stream
        self._put_bytes = 0
        self._said = b""
        self._status: int | None = None
        try:
            self._tool = ToolProcess(command, is_fed=self._is_fed)
        except InputError as err:
            raise OutputError(str(err)) from err
        if self._is_fed:
            os.set_blocking(self._tool.stdin, False)

    def start(self, pipe_bytes: int | None) -> None:
        """Write the file header, and wait until it was read: the interface is open then.

        Args:
            pipe_bytes: how much the pipe may hold; None: what the system gives.

        Raises ChildDiedError and StoppedError.
        """
        if pipe_bytes is not None:
            fcntl.fcntl(self._tool.stdin, fcntl.F_SETPIPE_SZ, pipe_bytes)
        until_s = time.monotonic() + START_S
        try:
            self._put(memoryview(pcap_header()))
            while self._unread_bytes() and time.monotonic() < until_s:
                self._wait(0)
        except BrokenPipeError as err:
            raise ChildDiedError(self._obituary()) from err
        if self._unread_bytes():
            raise ChildDiedError(f"tcpreplay has not begun to read within {START_S:g} s")

    def feed(self, records: bytes, ends: NDArray[np.int64]) -> None:
        """Hand records over; waits while the pipe is full.

        Args:
            records: of a pcap, whole ones.
            ends: (m,) index behind each record in `records`.

        Raises ChildDiedError, after which `handed_count` tells how many of them it got, and StoppedError.
        """
        base = self._put_bytes
        broken: BrokenPipeError | None = None
        try:
            self._put(memoryview(records))
        except BrokenPipeError as err:
            broken = err
        finally:
            put = self._put_bytes - base
            # A record of which an octet was put is handed over.
            handed = ends[: min(int(np.searchsorted(ends, put)) + (put > 0), len(ends))]
            self.handed_count += len(handed)
            self._ends.append(handed + base)
            self._note_taken()
        if broken is not None:
            try:
                raise ChildDiedError(self._obituary()) from broken
            finally:
                broken = None  # its traceback leads to this frame, which would hold the records in a cycle

    def wait_for_end(self) -> None:
        """Let it see the end of its input, and wait for its own; raises ChildDiedError and StoppedError."""
        self._note_taken()
        self._is_fed = False
        self._tool.feed_no_more()
        while self._listen():
            if self._is_stopped():
                raise StoppedError
        status = self.end(GRACE_S)
        if status:
            raise ChildDiedError(self._tool.obituary(status))

    def end(self, grace_s: float = 0.0) -> int:
        """End it if it has not ended, within so long, and account for what it was handed; gives its exit status."""
        if self._status is not None:
            return self._status
        self._note_taken()
        self._is_fed = False
        if not grace_s:
            self._tool.ask_to_end()
        until_s = time.monotonic() + grace_s
        while time.monotonic() < until_s and self._listen():
            pass
        self._status = self._tool.end(until_s)
        summary = parse_summary(self._said)
        if summary is not None:
            self.written_count = min(summary["successful"], self.handed_count)
            self.failed_count = min(summary["failed"], self.handed_count - self.written_count)
            self.retry_count = summary["enobufs"] + summary["eagain"]
        elif self._status == 0:
            self.written_count, self.failed_count = 0, self.handed_count
        return self._status

    def _obituary(self) -> str:
        return self._tool.obituary(self.end(GRACE_S))

    def _put(self, rest: memoryview) -> None:
        """Write to the pipe; raises BrokenPipeError and StoppedError."""
        while rest:
            try:
                count = os.write(self._tool.stdin, rest)
            except BlockingIOError:
                self._wait(select.POLLOUT)
                continue
            self._put_bytes += count
            rest = rest[count:]
        self._tool.listen()

    def _wait(self, events: int) -> None:
        """Wait for an event of the pipe, or a moment; raises BrokenPipeError and StoppedError."""
        if self._is_stopped():
            raise StoppedError
        self._tool.listen()
        poll = select.poll()
        poll.register(self._tool.stdin, events)
        if any(got & select.POLLERR for _, got in poll.poll(1000 * POLL_S)):
            raise BrokenPipeError

    def _listen(self) -> bool:
        """Take what it has said within a moment; False at the end of it."""
        poll = select.poll()
        poll.register(self._tool.stdout, select.POLLIN)
        poll.register(self._tool.stderr, select.POLLIN)
        ready = dict(poll.poll(1000 * POLL_S))
        self._tool.listen()
        if self._tool.stdout not in ready:
            return True
        octets = os.read(self._tool.stdout, 1 << 16)
        self._said = (self._said + octets)[-MAX_SUMMARY_BYTES:]
        return bool(octets)

    def _unread_bytes(self) -> int:
        count = array.array("i", [0])
        fcntl.ioctl(self._tool.stdin, termios.FIONREAD, count)
        return count[0]

    def _note_taken(self) -> None:
        """Count the frames that were surely taken in, and forget where they end."""
        if not self._is_fed:
            return
        taken = self._put_bytes - self._unread_bytes() - _STDIO_BYTES
        while self._ends and (not len(self._ends[0]) or self._ends[0][-1] <= taken):
            self.written_count += len(self._ends.popleft())
        if self._ends:
            count = int(np.searchsorted(self._ends[0], taken, side="right"))
            self.written_count += count
            self._ends[0] = self._ends[0][count:]
