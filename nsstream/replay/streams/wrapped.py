"""WrappedStream: what every stream on top of another does alike, which is what the one below does."""

from __future__ import annotations

from collections.abc import Mapping

from nsstream.replay.stream import OpenedStream


class WrappedStream:
    """A stream but for `read`; all else is the wrapped stream's."""

    def __init__(self, stream: OpenedStream) -> None:
        self._stream = stream

    def check_seek(self, twin_time_ns: int) -> None:
        """As the stream does."""
        self._stream.check_seek(twin_time_ns)

    def seek(self, twin_time_ns: int) -> None:
        """As the stream does."""
        self._stream.seek(twin_time_ns)

    def check_loop(self) -> None:
        """As the stream does."""
        self._stream.check_loop()

    def set_loop(self, passes: int | None) -> None:
        """As the stream does."""
        self._stream.set_loop(passes)

    def counters(self) -> Mapping[str, int]:
        """Those of the stream."""
        return self._stream.counters()

    def close(self) -> None:
        """Close the stream."""
        self._stream.close()
