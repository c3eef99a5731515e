"""LineBlocks: a text file in blocks of whole lines, of bounded size whatever the file is.

Promises: lines end in one line feed, those of DOS too, and none is empty; a line longer than `MAX_LINE_BYTES` is left
out and counted; the last line may lack its end. A carriage return inside a line becomes a space.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from nsstream.capture.compression import STREAM_ERRORS, Reader

MAX_LINE_BYTES: Final = 1 << 16

_LINE_FEED: Final = 10


class LineBlocks:
    """The lines of one open file."""

    def __init__(self, file: Reader, block_bytes: int) -> None:
        self.long_line_count = 0
        self._file = file
        self._buffer = memoryview(bytearray(max(block_bytes, 64)))
        self._rest = b""  # the beginning of a line
        self._is_inside_long_line = False
        self._has_ended = False
        self._raised: Exception | None = None

    def read(self) -> bytes:
        """The next lines; none at the end.

        Raises what the file does, where its compression is cut or corrupt; `take_rest` then tells what was left.
        """
        while not self._has_ended:
            octets = self._fill()
            if not octets:
                self._has_ended = True
                lines = self.take_rest() + b"\n"
            else:
                lines = self._whole_lines(octets, octets.rfind(b"\n") + 1)
            lines, long_line_count = tidied(lines)
            self.long_line_count += long_line_count
            if lines:
                return lines
        return b""

    def _fill(self) -> bytes:
        """As much as a block holds, or what is left; what the file raised meanwhile is raised by the next call."""
        if self._raised is not None:
            raise self._raised
        filled = 0
        try:
            while filled < len(self._buffer) and (count := self._file.readinto1(self._buffer[filled:])):
                filled += count
        except STREAM_ERRORS as err:
            if not filled:
                raise
            self._raised = err
        return bytes(self._buffer[:filled])

    def take_rest(self) -> bytes:
        """The line that has no end yet; it is no longer waiting."""
        rest, self._rest = self._rest, b""
        return rest

    def _whole_lines(self, octets: bytes, end: int) -> bytes:
        """Lines that are whole with these octets, of which the last line ends at `end`."""
        start = 0
        if end and self._is_inside_long_line:
            start = octets.index(b"\n") + 1
            self._is_inside_long_line = False
        lines = self._rest + octets[start:end] if end else b""
        tail = octets[end:] if end else self._rest + octets
        self._rest = b"" if self._is_inside_long_line else tail
        if len(self._rest) > MAX_LINE_BYTES:
            self.long_line_count += 1
            self._is_inside_long_line = True
            self._rest = b""
        return lines


def tidied(lines: bytes) -> tuple[bytes, int]:
    """Whole lines as they are promised, and how many were too long."""
    if b"\r" in lines:
        lines = lines.replace(b"\r\n", b"\n").replace(b"\r", b" ")
    octets = np.frombuffer(lines, np.uint8)
    ends = np.flatnonzero(octets == _LINE_FEED)
    lengths = np.diff(ends, prepend=-1) - 1
    is_wanted = (lengths > 0) & (lengths <= MAX_LINE_BYTES)
    if is_wanted.all():
        return lines, 0
    return octets[np.repeat(is_wanted, lengths + 1)].tobytes(), int((lengths > MAX_LINE_BYTES).sum())
