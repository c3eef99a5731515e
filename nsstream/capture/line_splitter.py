"""LineSplitter: octets as they come to whole lines, of bounded memory; no IO."""

from __future__ import annotations

from nsstream.capture.line_blocks import MAX_LINE_BYTES, tidied


class LineSplitter:
    """One stream of lines. Those longer than `MAX_LINE_BYTES` are left out and counted."""

    def __init__(self) -> None:
        self.long_line_count = 0
        self._rest = b""
        self._is_inside_long_line = False

    def feed(self, octets: bytes) -> bytes:
        """The lines that are whole with these octets, none of them empty."""
        end = octets.rfind(b"\n") + 1
        if not end:
            self._keep(b"" if self._is_inside_long_line else self._rest + octets)
            return b""
        start = 0
        if self._is_inside_long_line:
            start = octets.index(b"\n") + 1
            self._is_inside_long_line = False
        lines, long_line_count = tidied(self._rest + octets[start:end])
        self.long_line_count += long_line_count
        self._keep(octets[end:])
        return lines

    def finish(self) -> bool:
        """Whether the stream ends in the middle of a line, one that was not too long."""
        is_cut = bool(self._rest)
        self._rest, self._is_inside_long_line = b"", False
        return is_cut

    def _keep(self, rest: bytes) -> None:
        if len(rest) > MAX_LINE_BYTES:
            self.long_line_count += 1
            self._is_inside_long_line = True
            rest = b""
        self._rest = rest
