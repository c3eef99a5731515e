"""Vocabulary: a bounded set of values that have a token each, stable from one chunk to the next.

A vocabulary has a fixed number of slots, so that the networks built on it keep their shape. A value keeps its slot for
as long as it is in use; a value that the present chunk does not show is *inactive*: it is never drawn, and its slot is
the first to be given away. What finds no slot is the caller's affair: `tokens` gives -1 for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Value = tuple[int, ...]


def distinct_rows(values: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The different rows (k, c) of values (n, c) in lexical order, which of them each is (n,), and their counts (k,).

    As numpy's `unique` along an axis, which sorts whole rows; here columns are sorted one by one, those that differ.
    """
    codes = np.zeros(len(values), np.int64)
    for column in values.T:
        if len(column) and (column != column[0]).any():
            different, at = np.unique(column, return_inverse=True)
            codes = np.unique(codes * len(different) + at, return_inverse=True)[1]
    _, first, which, counts = np.unique(codes, return_index=True, return_inverse=True, return_counts=True)
    return values[first], which, counts


@dataclass(frozen=True)
class Vocabulary:
    """Values by slot.

    Attributes:
        slots: value of each slot, None where it is free; its length is the capacity.
        counts: how often the present chunk shows each slot's value; 0 makes it inactive.
    """

    slots: tuple[Value | None, ...]
    counts: tuple[int, ...]

    @classmethod
    def fit(
        cls,
        values: NDArray[np.int64],
        capacity: int,
        least: int = 1,
        parent: Self | None = None,
        *,
        is_closed: bool = False,
    ) -> Self:
        """Give slots to the most frequent rows of `values` (n, k) that occur at least `least` times.

        With a parent of the same capacity, values keep the slots they had; if `is_closed`, no others get one. Ties go
        to the smaller value, so that the same rows in any order give the same vocabulary.
        """
        distinct, _, counts = distinct_rows(values)
        rank = np.argsort(-counts, kind="stable")
        wanted = {tuple(int(v) for v in distinct[i]): int(counts[i]) for i in rank[:capacity] if counts[i] >= least}
        slots: list[Value | None] = list(parent.slots) if parent else [None] * capacity
        if len(slots) != capacity:
            raise ValueError(f"a parent of the same capacity is needed: {capacity}, got {len(slots)}")
        held = {value for value in slots if value is not None}
        newcomers = [] if is_closed else [value for value in wanted if value not in held]
        free = [i for i, v in enumerate(slots) if v is None] + [
            i for i, v in enumerate(slots) if v is not None and v not in wanted
        ]
        for i, value in zip(free, newcomers, strict=False):
            slots[i] = value
        return cls(tuple(slots), tuple(wanted.get(v, 0) if v is not None else 0 for v in slots))

    def __len__(self) -> int:
        return len(self.slots)

    def is_active(self) -> NDArray[np.bool_]:
        """Which slots hold a value that the present chunk shows: (capacity,)."""
        return np.array(self.counts) > 0

    def table(self) -> NDArray[np.int64]:
        """Values by slot as rows (capacity, k), -1 in free slots."""
        width = max((len(v) for v in self.slots if v is not None), default=1)
        return np.array([v if v is not None else (-1,) * width for v in self.slots], np.int64)

    def tokens(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Slot of each active row of values (n, k); -1 where it has none: (n,)."""
        index = {v: i for i, (v, n) in enumerate(zip(self.slots, self.counts, strict=True)) if v is not None and n}
        if not len(values):
            return np.zeros(0, np.int64)
        distinct, where, _ = distinct_rows(values)
        found = np.array([index.get(tuple(int(x) for x in v), -1) for v in distinct], np.int64)
        return found[where]

    def nearest(self, values: NDArray[np.int64], exact: int) -> NDArray[np.int64]:
        """Like `tokens`, but a row without a slot gets the active one nearest to it.

        Nearest means: equal in the first `exact` columns if any is, then least sum of differences, then most frequent.
        Raises ValueError if no slot is active.
        """
        tokens = self.tokens(values)
        missing = np.flatnonzero(tokens < 0)
        if len(missing):
            active = np.flatnonzero(self.is_active())
            if not len(active):
                raise ValueError("no value is active")
            table, counts = self.table()[active], np.array(self.counts)[active]
            distinct, which, _ = distinct_rows(values[missing])
            found = np.zeros(len(distinct), np.int64)
            for i, value in enumerate(distinct):
                unequal = (table[:, :exact] != value[:exact]).sum(axis=1)
                away = np.abs(table[:, exact:] - value[exact:]).sum(axis=1)
                found[i] = active[np.lexsort((-counts, away, unequal))[0]]
            tokens[missing] = found[which]
        return tokens

    def as_json(self) -> list[list[int] | None]:
        """Slots as JSON: value followed by its count, or null."""
        return [None if v is None else [*v, n] for v, n in zip(self.slots, self.counts, strict=True)]

    @classmethod
    def from_json(cls, slots: list[list[int] | None]) -> Self:
        """The inverse of `as_json`."""
        return cls(
            tuple(None if s is None else tuple(s[:-1]) for s in slots),
            tuple(0 if s is None else s[-1] for s in slots),
        )
