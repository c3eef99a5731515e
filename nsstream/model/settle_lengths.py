"""Settle lengths: each service's conversations have the chunk's own lengths, the longest goes to the one drawn longest.

The network knows which conversations are likely to be long, but says a length for each alone: a session of hundreds of
packets among a hundred attempts of three comes three times or never, and may be half of all packets that follow one
another. So of the conversations of a service, answered or not, the order by length is kept, and the lengths are those
that the chunk counted of such. Who is long goes before in that order where the chunk began one of that length: what has
gone on for an hour did not begin in the last minute.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nsstream.encode.codec import Codec, slice_of
from nsstream.encode.schema import ATTRIBUTE_INDEX, LENGTH_GRID, MOMENTS
from nsstream.encode.tokens import moment_of

_SERVICE, _TTL, _LENGTH = (ATTRIBUTE_INDEX[name] for name in ("service", "ttl", "packet_count"))


def settle_lengths(
    attributes: NDArray[np.int64], start_ns: NDArray[np.int64], codec: Codec, rng: np.random.Generator
) -> NDArray[np.int64]:
    """The length tokens (n,) that n conversations are to have, drawn with these attributes (n, a) and starts (n,).

    Equal lengths are ranked by lot. Where conversations of a kind are more or fewer than were counted, lengths are
    taken evenly by rank, the longest always. What was never counted keeps what was drawn.
    """
    drawn, classes = attributes[:, _LENGTH], codec.service_classes()
    is_silent = codec.ttl.table()[attributes[:, _TTL], -1] == 0
    given = 2 * classes[attributes[:, _SERVICE]] + is_silent
    counted = codec.urns.lengths[codec.length.is_active()[codec.urns.lengths[:, 1]] & (codec.urns.lengths[:, 2] > 0)]
    counted = counted[np.lexsort((-counted[:, 1], counted[:, 0]))]
    rows = np.flatnonzero(np.isin(given, counted[:, 0]))
    rows = rows[np.lexsort((rng.random(len(rows)), -drawn[rows], given[rows]))]
    begin, end = _spans(given[rows], given[rows])
    before = np.concatenate([[0], np.cumsum(counted[:, 2])])
    first, last = (before[at] for at in _spans(counted[:, 0], given[rows]))
    rank = (np.arange(len(rows)) - begin) * (last - first) / (end - begin)
    rank = np.where(last - first < end - begin, np.ceil(rank), np.floor(rank)).astype(np.int64)
    lengths = counted[np.searchsorted(before, first + np.minimum(rank, last - first - 1), side="right") - 1, 1]
    out = drawn.copy()
    out[rows] = lengths
    where = moment_of(slice_of(start_ns, codec.first_ns, codec.last_ns))
    begun = np.zeros((MOMENTS, len(LENGTH_GRID)), np.int64)
    begun[codec.urns.volumes[:, 0], codec.urns.volumes[:, 1]] = codec.urns.volumes[:, 2]
    for low in np.unique(begin[lengths > LENGTH_GRID.exact]).tolist():
        kind = slice(low, int(end[low]))
        out[_where_begun(rows[kind], lengths[kind], where, begun)] = lengths[kind]
    return out


def _where_begun(
    rows: NDArray[np.int64], lengths: NDArray[np.int64], where: NDArray[np.int64], begun: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Conversations of one kind (m,) in another order, for lengths that fall (m,).

    Args:
        rows: as they were drawn, the longest first.
        lengths: tokens.
        where: moment of each conversation there is.
        begun: (MOMENTS, lengths) how many there still are to begin; changed.
    """
    long = int((lengths > LENGTH_GRID.exact).sum())
    is_left = np.ones(len(rows), bool)
    order = []
    for length in lengths[:long].tolist():
        fits = is_left & (begun[where[rows], length] > 0)
        chosen = int(np.argmax(fits if fits.any() else is_left))
        is_left[chosen] = False
        begun[where[rows[chosen]], length] -= 1
        order.append(rows[chosen])
    return np.concatenate([np.array(order, np.int64), rows[is_left]])


def _spans(rising: NDArray[np.int64], kinds: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each kind (m,) begins and ends among kinds in rising order: (m,) each."""
    return np.searchsorted(rising, kinds, side="left"), np.searchsorted(rising, kinds, side="right")
