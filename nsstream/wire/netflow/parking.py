"""Parking: data sets whose template has not come yet, in bounded memory, for a bounded time.

RFC 3954 9: "The NetFlow Collector SHOULD store the Flow Data Records and decode the Flow Records after the Template
Records are received." A parked set counts as one record, since only its template tells how many there are. The oldest
sets give way to new ones.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_OVERHEAD_BYTES = 256  # what a set costs beside its octets


@dataclass(frozen=True, slots=True, eq=False)
class ParkedSet:
    """A data set with what reading it needs."""

    session_number: int
    template_id: int
    message: NDArray[np.int64]  # (MESSAGE_FACT_COUNT,)
    exporter: bytes
    body: bytes
    since_ns: int  # by `now_ns`, which never steps back


class Parking:
    """Parked sets, oldest first."""

    def __init__(self, max_bytes: int, max_age_ns: int) -> None:
        self._max_bytes = max_bytes
        self._max_age_ns = max_age_ns
        self._bytes = 0
        self._next = 0
        self._sets: OrderedDict[int, ParkedSet] = OrderedDict()  # by order of arrival
        self._waiting: dict[int, dict[int, None]] = {}  # session and template -> sets, in order

    def __len__(self) -> int:
        return len(self._sets)

    def __iter__(self) -> Iterator[ParkedSet]:
        return iter(self._sets.values())

    def park(self, parked: ParkedSet) -> int:
        """Keep a set; how many older ones had to go, or 1 where it is larger than all the room itself."""
        cost = len(parked.body) + _OVERHEAD_BYTES
        if cost > self._max_bytes:
            return 1
        gone = 0
        while self._bytes + cost > self._max_bytes:
            self._drop(next(iter(self._sets)))
            gone += 1
        self._sets[self._next] = parked
        self._waiting.setdefault(_key(parked.session_number, parked.template_id), {})[self._next] = None
        self._next += 1
        self._bytes += cost
        return gone

    def take(self, session_number: int, template_id: int) -> list[ParkedSet]:
        """The sets that waited for this template, in order; they are parked no more."""
        places = list(self._waiting.get(_key(session_number, template_id), ()))
        return [self._drop(place) for place in places]

    def expire(self, now_ns: int) -> int:
        """Drop what has waited too long; how many."""
        gone = 0
        while self._sets:
            place, parked = next(iter(self._sets.items()))
            if now_ns - parked.since_ns <= self._max_age_ns:
                break
            self._drop(place)
            gone += 1
        return gone

    def forget(self, session_numbers: list[int]) -> int:
        """Drop the sets of sessions that are no more; how many."""
        numbers = set(session_numbers)
        places = [place for place, parked in self._sets.items() if parked.session_number in numbers] if numbers else []
        for place in places:
            self._drop(place)
        return len(places)

    def _drop(self, place: int) -> ParkedSet:
        parked = self._sets.pop(place)
        key = _key(parked.session_number, parked.template_id)
        del self._waiting[key][place]
        if not self._waiting[key]:
            del self._waiting[key]
        self._bytes -= len(parked.body) + _OVERHEAD_BYTES
        return parked


def _key(session_number: int, template_id: int) -> int:
    return session_number << 16 | template_id
