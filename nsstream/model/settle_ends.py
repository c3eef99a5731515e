"""Settle ends: records that last long start early enough.

Urns hold how long records last, not when such records start, and a chunk ends: a record that says to last for two days
and starts in the last hour would lose all but that hour. So it changes size, duration and flags with a record of its
kind that starts early enough, as late as there is one, and lasts less. Where there is none it changes starts with any
such record, if each is alone in its conversation.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.encode.flow_codec import FlowCodec
from nsstream.encode.flow_schema import FIELD_INDEX
from nsstream.model.settle_loads import CHANGED

_DURATION: Final = FIELD_INDEX["duration"]
_KEPT: Final = 0.95  # of a duration, that has to fit
_MOST: Final = 4096  # records that are looked at, of those that start too late


def settle_ends(
    fields: NDArray[np.int64],
    kind: NDArray[np.int64],
    start_ns: NDArray[np.int64],
    is_alone: NDArray[np.bool_],
    codec: FlowCodec,
) -> None:
    """Exchange what m records say of sizes and durations, and starts, in place.

    Args:
        fields: (m, f) tokens.
        kind: (m,) numbers of kinds (`flow_urns`): only records of the same change with one another.
        start_ns: (m,).
        is_alone: (m,) whether no other record is of its conversation.
        codec: the chunk's.
    """
    left_ns = codec.last_ns - start_ns
    lasts_ns = _KEPT * (codec.duration.usual() * codec.duration.quantum)[fields[:, _DURATION]]
    late = [(-lasts_ns[row], row) for row in np.flatnonzero(lasts_ns > left_ns).tolist()]
    heapify(late)  # the longest first: who has to make room lasts less, and is late in its turn
    for _ in range(_MOST):
        if not late:
            break
        row = heappop(late)[1]
        if lasts_ns[row] <= left_ns[row]:
            continue
        may = (left_ns >= lasts_ns[row]) & (lasts_ns < lasts_ns[row])
        alike = np.flatnonzero(may & (kind == kind[row]))
        chosen = alike if len(alike) else np.flatnonzero(may & is_alone & is_alone[row])
        if not len(chosen):
            continue
        is_harmless = lasts_ns[chosen] <= left_ns[row]
        other = int(chosen[np.lexsort((left_ns[chosen], ~is_harmless))[0]])
        pair, swapped = [row, other], [other, row]
        if len(alike):
            fields[np.ix_(pair, CHANGED)] = fields[np.ix_(swapped, CHANGED)]
            lasts_ns[pair] = lasts_ns[swapped]
        else:
            start_ns[pair], left_ns[pair] = start_ns[swapped], left_ns[swapped]
        for one in pair:
            if lasts_ns[one] > left_ns[one]:
                heappush(late, (-lasts_ns[one], one))
