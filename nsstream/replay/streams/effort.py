"""How much care goes into a drawing: AsManyAsKeepUp and SoonFirst.

A conversation that is chosen among many candidates is more like the real ones, and takes as many times longer to draw.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from nsstream.replay.streams.line import DrawsChunks

if TYPE_CHECKING:
    from nsstream.replay.streams.line import Select
    from nsstream.trace import ConversationTable


class AsManyAsKeepUp:
    """Halves a drawer's candidates where a stream is late, and doubles them again where it is well ahead.

    They stay between 1 and what they were. What is drawn depends on how fast it is drawn.
    """

    def __init__(self, drawer: DrawsChunks) -> None:
        self._drawer = drawer
        self._most = drawer.candidates

    def less(self) -> None:
        """Half as many."""
        self._drawer.candidates = max(self._drawer.candidates // 2, 1)

    def more(self) -> None:
        """Twice as many."""
        self._drawer.candidates = min(self._drawer.candidates * 2, self._most)


class SoonFirst:
    """A drawer whose first chunk is there soon: each conversation in it is drawn once. All others are as it draws them.

    What is drawn depends on the seed alone, as the drawer's own does.
    """

    def __init__(self, drawer: DrawsChunks) -> None:
        self._drawer = drawer
        self._first: int | None = None  # the turn that is drawn with one candidate, on every line

    @property
    def candidates(self) -> int:
        """Of all chunks but the first."""
        return self._drawer.candidates

    @candidates.setter
    def candidates(self, count: int) -> None:
        self._drawer.candidates = count

    def draw(self, checkpoint: Path, *, line: int, turn: int, select: Select | None) -> ConversationTable:
        """As the drawer's."""
        if self._first is None:
            self._first = turn
        if turn != self._first:
            return self._drawer.draw(checkpoint, line=line, turn=turn, select=select)
        most, self._drawer.candidates = self._drawer.candidates, 1
        try:
            return self._drawer.draw(checkpoint, line=line, turn=turn, select=select)
        finally:
            self._drawer.candidates = most

    def hosts(self, checkpoint: Path) -> Iterable[bytes]:
        """As the drawer's."""
        return self._drawer.hosts(checkpoint)

    def forget(self) -> None:
        """Begin anew."""
        self._drawer.forget()
