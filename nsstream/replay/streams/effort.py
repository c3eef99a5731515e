"""AsManyAsKeepUp: candidates are halved where a stream is late, and doubled again where it is well ahead.

A conversation that is chosen among many is more like the real ones, and takes as many times longer to draw.
"""

from __future__ import annotations

from nsstream.replay.streams.line import DrawsChunks


class AsManyAsKeepUp:
    """Sets a drawer's candidates between 1 and what they were; what is drawn then depends on how fast it is drawn."""

    def __init__(self, drawer: DrawsChunks) -> None:
        self._drawer = drawer
        self._most = drawer.candidates

    def less(self) -> None:
        """Half as many."""
        self._drawer.candidates = max(self._drawer.candidates // 2, 1)

    def more(self) -> None:
        """Twice as many."""
        self._drawer.candidates = min(self._drawer.candidates * 2, self._most)
