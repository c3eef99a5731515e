"""PipeSource: a pcap or pcapng stream on standard input, a FIFO, or any descriptor, for as long as somebody writes it.

Promises: `open` never waits for a writer, `read_batch` never waits longer than `IDLE_S` for octets; a FIFO that nobody
has opened for writing yet is idle, not at its end. The stream ends when its last writer closes it; what it ends in the
middle of is counted as ``malformed["cut_record"]``. A descriptor that was given stays open, its flags as they were.
"""

from __future__ import annotations

import fcntl
import os
import select
import stat
import time
from pathlib import Path
from typing import Final

from nsstream.capture.compression import GZIP_MAGIC, XZ_MAGIC, ZSTD_MAGIC
from nsstream.capture.source import IDLE_S
from nsstream.counters import Tally
from nsstream.errors import InputError, WireError
from nsstream.trace import PacketBatch
from nsstream.wire import PcapReader

STANDARD_INPUT: Final = "-"

_DECOMPRESSORS: Final = {GZIP_MAGIC: "zcat", XZ_MAGIC[:4]: "xzcat", ZSTD_MAGIC: "zstdcat"}
_PIPE_BYTES: Final = 1 << 20  # what an unprivileged user may ask for; the kernel's default is 64 KiB


class PipeSource:
    """Reads what comes, in batches of at most `buffer_bytes` of the stream.

    Args:
        pipe: a path (of a FIFO, as a rule), ``"-"`` for standard input, or a descriptor open for reading.
        buffer_bytes: the memory for octets that wait to be read; it grows to the largest record.
    """

    def __init__(self, pipe: Path | str | int, *, buffer_bytes: int = 1 << 20) -> None:
        self.tally = Tally()
        self._pipe = 0 if pipe == STANDARD_INPUT else pipe
        self._name = "standard input" if self._pipe == 0 else f"descriptor {pipe}" if self._is_given else str(pipe)
        self._buffer_bytes = buffer_bytes
        self._reader = PcapReader(64)
        self._descriptor: int | None = None
        self._poll = select.poll()
        self._head = b""  # the first octets of the stream
        self._is_at_end = False  # no more octets
        self._has_ended = False  # and that was said

    @property
    def is_at_end(self) -> bool:
        """Whether the last writer has closed the stream and all of it was read."""
        return self._is_at_end

    @property
    def has_ended(self) -> bool:
        """Whether `read_batch` has given its last batch, for an error or at the end."""
        return self._has_ended

    @property
    def _is_given(self) -> bool:
        return isinstance(self._pipe, int)

    def open(self) -> None:
        """Open the pipe, without waiting for its writer.

        Raises InputError if it is missing, not readable, a directory, or a terminal.
        """
        self.close()
        try:
            if isinstance(self._pipe, int):
                os.fstat(self._pipe)
                descriptor = self._pipe
            else:
                descriptor = os.open(self._pipe, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as err:
            raise InputError(f"{self._name}: cannot be read: {err.strerror}") from err
        self._descriptor = descriptor
        complaint = _why_unusable(descriptor)
        if complaint:
            self.close()
            raise InputError(f"{self._name}: {complaint}")
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        self._reader = PcapReader(self._buffer_bytes)
        self.tally = self._reader.tally
        self._head = b""
        self._is_at_end = self._has_ended = False

    def read_batch(self) -> PacketBatch | None:
        """The next packets; none where none came for `IDLE_S`; None at the end.

        Raises InputError where the stream is no capture, is corrupt, or has an unsupported link type.
        """
        if self._has_ended:
            return None
        if self._descriptor is None:
            raise RuntimeError("read_batch before open")
        until_s = time.monotonic() + IDLE_S
        try:
            while not self._is_at_end:
                left_s = max(0.0, until_s - time.monotonic())
                if not self._poll.poll(1000 * left_s):
                    return PacketBatch.empty()
                octet_count = self._fill(self._descriptor)
                batch = PacketBatch.from_columns(self._reader.buffer_updated(octet_count))
                if len(batch) or time.monotonic() >= until_s:
                    return batch
            self._has_ended = True
            self._reader.finish()
        except WireError as err:
            self._has_ended = True
            raise InputError(f"{self._name}: {err}{self._hint()}") from err
        except OSError as err:
            self._has_ended = True
            raise InputError(f"{self._name}: cannot be read: {err.strerror or err}") from err
        return None

    def close(self) -> None:
        """Close what `open` opened; the tally stays."""
        if self._descriptor is not None:
            if not self._is_given:
                os.close(self._descriptor)
            self._descriptor = None
            self._has_ended = True

    def _fill(self, descriptor: int) -> int:
        """Read what is there, at most a buffer of it, and notice the end."""
        buffer = self._reader.get_buffer()
        filled = 0
        while filled < len(buffer):
            if filled and not self._poll.poll(0):
                break
            try:
                count = os.readv(descriptor, [buffer[filled:]])
            except BlockingIOError:  # a descriptor that somebody else reads from, too
                break
            if count == 0:
                self._is_at_end = True
                break
            filled += count
        if len(self._head) < 4:
            self._head += bytes(buffer[: min(4, filled)])
        return filled

    def _hint(self) -> str:
        """What to do about a compressed stream, beside that it is no pcap."""
        tool = next((tool for magic, tool in _DECOMPRESSORS.items() if self._head.startswith(magic)), "")
        return f"; it is compressed: put `{tool}` in front" if tool else ""


def _why_unusable(descriptor: int) -> str:
    """Why a descriptor cannot be read as a stream, "" if it can; asks for a large pipe where it is one."""
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        return "is a directory"
    if os.isatty(descriptor):
        return "is a terminal: pipe a capture into it, as in `tcpdump -U -w - | ...`"
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    except OSError:  # not a pipe, or no more memory for pipes: it works as it is
        return ""
    return ""
