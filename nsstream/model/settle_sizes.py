"""Settle sizes: the largest records that a chunk counted come, though the network hardly ever says them.

One record of a file copied may hold half of a table's packets. Its number of packets is one token of thousands, said
once; where its service's records are drawn before the part of the chunk in which it was, its ball stays in the urns. So
what is left there of large numbers is given to records of the same kind that were drawn large and need not be, in the
part of the chunk in which they were counted, if there are such. Octets and durations go with it, as they are left for
records of that size.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nsstream.encode.flow_codec import FlowCodec
from nsstream.encode.flow_encoding import octave_of
from nsstream.encode.flow_schema import FIELD_INDEX
from nsstream.model.flow_urns import DrawingUrns, Urn

LARGE: Final = 64  # quanta of packets, at least, of what is large
SHARE: Final = 0.1  # of all records, at most, that are
_OF: Final = {"packets": ("octets", "durations"), "reverse_packets": ("reverse_octets", "durations")}
_FIELD: Final = {"octets": "octets", "reverse_octets": "reverse_octets", "durations": "duration"}


def settle_sizes(
    fields: NDArray[np.int64],
    attributes: NDArray[np.int64],
    before_ns: NDArray[np.int64],
    codec: FlowCodec,
    urns: DrawingUrns,
    rng: np.random.Generator,
) -> None:
    """Give what the urns still hold of large records to m records, in place.

    Args:
        fields: (m, f) tokens, drawn from the urns.
        attributes: (m, a) of each record's conversation.
        before_ns: (m,) when the record before started, or the conversation.
        codec: the chunk's.
        urns: as the drawing left them; changed.
        rng: of all chance.
    """
    drawn = _Drawn(fields, attributes, before_ns, codec, urns)
    for name in _OF:
        _settle(name, drawn, rng)


class _Drawn(NamedTuple):
    """What `settle_sizes` is given."""

    fields: NDArray[np.int64]
    attributes: NDArray[np.int64]
    before_ns: NDArray[np.int64]
    codec: FlowCodec
    urns: DrawingUrns


def _settle(name: str, drawn: _Drawn, rng: np.random.Generator) -> None:
    fields, attributes, before_ns, codec, urns = drawn
    urn, shown, at = urns.urn(name), urns.shown(name), FIELD_INDEX[name]
    counts = getattr(codec, name)
    value = counts.usual()[shown]
    kind = urns.rows_of_kind(name, fields, attributes)
    cell = urns.rows_of_cell(before_ns)
    column = np.searchsorted(shown, fields[:, at])
    times = np.zeros(urn.wanted.shape, np.int64)
    known = np.flatnonzero(kind >= 0)
    np.add.at(times, (kind[known], column[known]), 1)
    large = _large(value, urn)
    rows, columns = np.nonzero((urn.left >= 1) & (value >= large))
    for which in np.argsort(-value[columns], kind="stable").tolist():
        row, wanted = int(rows[which]), int(columns[which])
        mine = known[kind[known] == row]
        for _ in range(int(urn.left[row, wanted])):
            size = value[column[mine]]
            may = (size < value[wanted]) & ((size < large) | (times[row, column[mine]] > urn.wanted[row, column[mine]]))
            if not may.any():
                break
            fits = urns.is_left_in_cell(cell[mine], wanted) if name == "packets" else np.zeros(len(mine), bool)
            likeness = np.floor(np.log2(np.clip(size, 1, large))) + 0.5 * fits + 0.25 * size / value[wanted]
            chosen = int(mine[np.argmax(np.where(may, likeness, -1.0))])
            others = [_Place(other, chosen, drawn) for other in _OF[name]]
            for other in others:
                other.give_back()
            times[row, column[chosen]] -= 1
            times[row, wanted] += 1
            column[chosen] = wanted
            fields[chosen, at] = shown[wanted]
            _take(urn, row, wanted)
            for other in others:
                other.take(rng)


def _large(value: NDArray[np.float64], urn: Urn) -> float:
    """How many packets are many, of tokens (t,) that mean so many."""
    order = np.argsort(-value, kind="stable")
    beyond = np.cumsum(urn.wanted.sum(axis=0)[order])
    within = np.flatnonzero(beyond <= SHARE * beyond[-1]) if len(beyond) else np.zeros(0, np.int64)
    return max(float(LARGE), float(value[order[within[-1]]]) if len(within) else np.inf)


class _Place:
    """One record's octets or duration, in the urn of those of its kind and size."""

    def __init__(self, name: str, record: int, drawn: _Drawn) -> None:
        self._name, self._field = name, FIELD_INDEX[_FIELD[name]]
        self._record, self._fields = drawn.fields[record], drawn.fields[record : record + 1]
        self._attributes = drawn.attributes[record : record + 1]
        self._codec, self._urns, self._urn = drawn.codec, drawn.urns, drawn.urns.urn(name)

    def give_back(self) -> None:
        """Put what it has into the urn, if that counted it."""
        row, column = self._row(), int(np.searchsorted(self._urns.shown(self._name), self._record[self._field]))
        if row >= 0 and self._urn.left[row, column] < self._urn.wanted[row, column]:
            self._urn.left[row, column] += 1
            self._urn.rest[row] += 1

    def take(self, rng: np.random.Generator) -> None:
        """Have what is left for its size, if anything is."""
        row = self._row()
        left = np.flatnonzero(self._urn.left[row] >= 1) if row >= 0 else np.zeros(0, np.int64)
        if len(left):
            weight = self._urn.left[row, left].astype(np.float64)
            column = int(rng.choice(left, p=weight / weight.sum()))
            self._record[self._field] = self._urns.shown(self._name)[column]
            _take(self._urn, row, column)

    def _row(self) -> int:
        octave = octave_of(self._fields, self._codec)
        return int(self._urns.rows_of_kind(self._name, self._fields, self._attributes, octave)[0])


def _take(urn: Urn, row: int, column: int) -> None:
    urn.left[row, column] -= 1
    urn.rest[row] -= 1
