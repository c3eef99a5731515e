"""Channel: a bounded queue of rows between the thread that reads a source and the one that makes chunks.

Where it is full, it either blocks who puts (a file waits), or drops what came last and counts it as ``channel`` (a live
source does not wait). The counts of a source travel with its rows, those of dropped rows with the next that get
through: so who takes sees a tally that adds up at every moment.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from enum import StrEnum
from threading import Condition
from typing import Any

from nsstream.chunk import Rows
from nsstream.counters import Tally


class WhenFull(StrEnum):
    """What happens to rows that there is no room for."""

    BLOCK = "block"
    DROP_NEWEST = "drop newest"


@dataclass(frozen=True, slots=True)
class Delivery:
    """Rows, and what became of all records since the delivery before; ``told.kept`` are the rows."""

    rows: Rows | None
    told: Tally = field(default_factory=Tally)
    parked: int = 0  # records that wait in the source at this moment; in no other count
    total: Tally = field(default_factory=Tally)  # of the source, to here
    handover: dict[str, Any] | None = None  # of the source, as it is here; None: as before
    is_end: bool = False
    error: BaseException | None = None


class Channel:
    """A queue of at most `capacity_rows` rows; one batch that is larger passes alone."""

    def __init__(self, capacity_rows: int, when_full: WhenFull) -> None:
        if capacity_rows < 1:
            raise ValueError(f"capacity_rows must be >= 1, got {capacity_rows!r}")
        self._capacity_rows = capacity_rows
        self._when_full = when_full
        self._changed = Condition()
        self._queue: deque[Delivery] = deque()
        self._row_count = 0
        self._untold = Tally()  # of rows that were dropped, and of deliveries without rows that found no room
        self._is_abandoned = False

    @property
    def row_count(self) -> int:
        """Rows that wait."""
        return self._row_count

    def put(self, delivery: Delivery) -> bool:
        """Hand rows over, or drop them; whether they got in."""
        count = 0 if delivery.rows is None else len(delivery.rows)
        with self._changed:
            if self._when_full is WhenFull.BLOCK:
                self._changed.wait_for(lambda: self._has_room(count) or self._is_abandoned)
            is_in = self._has_room(count)
            if not is_in:
                told = delivery.told
                told = replace(told, kept=told.kept - count, dropped=told.dropped.copy())
                told.dropped["channel"] += count
                self._untold.add(told)
                return False
            self._enqueue(delivery, count)
            return True

    def finish(self, last: Delivery) -> None:
        """Hand over the last of all, which has no rows, and say that nothing more comes; never blocks."""
        assert last.rows is None
        with self._changed:
            self._enqueue(replace(last, is_end=True), 0)

    def get(self, timeout_s: float) -> Delivery | None:
        """The next delivery, None where none came in time."""
        with self._changed:
            if not self._changed.wait_for(lambda: bool(self._queue), timeout_s):
                return None
            delivery = self._queue.popleft()
            self._row_count -= 0 if delivery.rows is None else len(delivery.rows)
            self._changed.notify_all()
            return delivery

    def abandon(self) -> None:
        """Let whoever waits to put go: nobody takes any more."""
        with self._changed:
            self._is_abandoned = True
            self._changed.notify_all()

    def _has_room(self, count: int) -> bool:
        if not self._queue:
            return True
        return len(self._queue) < self._capacity_rows and self._row_count + count <= self._capacity_rows

    def _enqueue(self, delivery: Delivery, count: int) -> None:
        told = self._untold
        told.add(delivery.told)
        self._untold = Tally()
        self._queue.append(replace(delivery, told=told))
        self._row_count += count
        self._changed.notify_all()
