"""A chunk's waits as urns, one for each long conversation that is drawn: what was counted of one of that length.

The network says which wait comes when; the urn makes a wait less likely as there are fewer of it left than packets, and
likelier as there are more.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.encode.codec import Codec
from nsstream.encode.schema import ATTRIBUTE_INDEX
from nsstream.encode.waits import LEAST_NS, LONG, PER_DECADE, STEPS
from nsstream.model.recurrent import Matrix

SHORT_NS: Final = 10**9  # a wait of less is part of what a conversation does, one of more is a pause
_SOFT: Final = np.float32(0.5)  # of a wait, added to what was counted
_UNSEEN: Final = np.float32(0.25)  # the same, left of what was never counted
_LEAST, _MOST = np.float32(0.05), np.float32(3.0)  # of the share that is left, over that of the packets
_NONE, _ONE = np.float32(0.0), np.float32(1.0)
_UPPER_NS: Final = LEAST_NS * 10 ** (np.arange(STEPS) / PER_DECADE)  # where each step ends


class WaitUrns(NamedTuple):
    """The urns of n conversations.

    Attributes:
        row: (n,) a conversation's urn, -1 for one that has none.
        wanted, wanting: (u, STEPS) waits of each step, in all and still to come; the latter changes.
        pace_ns: (u,) the mean of the waits that are no pause.
        upper_ns: (STEPS,) where each step ends.
        weight: (STEPS,) work space.
    """

    row: NDArray[np.int64]
    wanted: Matrix
    wanting: Matrix
    pace_ns: NDArray[np.float64]
    upper_ns: NDArray[np.float64]
    weight: Matrix


def wait_urns(codec: Codec, attributes: NDArray[np.int64], counts: NDArray[np.int64]) -> WaitUrns:
    """Full urns of n conversations with these attributes (n, a) and numbers of packets (n,).

    Of those of a class of services the shortest has the waits of the shortest that was counted, and so on.
    """
    class_ = codec.service_classes()[attributes[:, ATTRIBUTE_INDEX["service"]]]
    rows = np.flatnonzero((counts > LONG) & np.isin(class_, codec.waits.of[:, 0]))
    rows = rows[np.lexsort((counts[rows], class_[rows]))]
    begin, end = (np.searchsorted(class_[rows], class_[rows], side=side) for side in ("left", "right"))
    first, last = (np.searchsorted(codec.waits.of[:, 0], class_[rows], side=side) for side in ("left", "right"))
    which = first + (np.arange(len(rows)) - begin) * (last - first) // np.maximum(end - begin, 1)
    table = np.zeros((len(codec.waits.of), STEPS))
    table[codec.waits.cells[:, 0], codec.waits.cells[:, 1]] = codec.waits.cells[:, 2]
    share = (counts[rows] - 1) / np.maximum(codec.waits.of[which, 1] - 1, 1)
    wanted = np.ascontiguousarray(table[which] * share[:, None], np.float32)
    middle_ns = _UPPER_NS * 10 ** (-0.5 / PER_DECADE)
    is_short = np.where(middle_ns < SHORT_NS, wanted, 0)
    row = np.full(len(counts), -1, np.int64)
    row[rows] = np.arange(len(rows))
    return WaitUrns(
        row=row,
        wanted=wanted,
        wanting=wanted.copy(),
        pace_ns=(is_short * middle_ns).sum(axis=1) / np.maximum(is_short.sum(axis=1), 1),
        upper_ns=_UPPER_NS,
        weight=np.zeros(STEPS, np.float32),
    )


@njit(cache=True)
def weigh_waits(urns: WaitUrns, row: int, share_left: float) -> None:
    """The weight of each step of waits in one urn, of whose conversation's packets so many are left, into `weight`."""
    share = np.float32(share_left)
    for j in range(len(urns.weight)):
        wanted, wanting = urns.wanted[row, j], urns.wanting[row, j]
        soft = _SOFT if wanted > _NONE else _UNSEEN
        over = (wanting + soft * share) / ((wanted + _SOFT) * share)
        over = min(max(over, _LEAST), _MOST)
        over *= over
        over *= over
        urns.weight[j] = over * over


@njit(cache=True)
def note_wait(urns: WaitUrns, row: int, wait_ns: int) -> None:
    """Take a wait out of an urn."""
    step = 0
    while step < len(urns.upper_ns) - 1 and wait_ns >= urns.upper_ns[step]:
        step += 1
    urns.wanting[row, step] -= _ONE


@njit(cache=True)
def time_to_wait(urns: WaitUrns, row: int, left_ns: int, packets_left: int) -> int:
    """How long the next wait may be: what is left of the chunk, less what as many packets take without a pause."""
    reserve = urns.pace_ns[row] * (packets_left - 1)
    return int(max(left_ns - reserve, left_ns / packets_left))
