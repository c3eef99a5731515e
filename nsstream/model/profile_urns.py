"""What was counted of single conversations as urns, one for each longer conversation that is drawn.

The network says what comes when; the urn makes a step less likely as there are fewer of it left than packets, and
likelier as there are more.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.encode.codec import Codec
from nsstream.encode.profiles import Profiles, Scale
from nsstream.encode.schema import ATTRIBUTE_INDEX
from nsstream.model.recurrent import Matrix

_SOFT: Final = np.float32(0.5)  # of a packet, added to what was counted
_UNSEEN: Final = np.float32(0.25)  # the same, left of what was never counted
_LEAST, _MOST = np.float32(0.05), np.float32(3.0)  # of the share that is left, over that of the packets
_NONE, _ONE = np.float32(0.0), np.float32(1.0)


class ProfileUrns(NamedTuple):
    """The urns of n conversations.

    Attributes:
        row: (n,) a conversation's urn, -1 for one that has none.
        wanted, wanting: (u, steps) packets of each step, in all and still to come; the latter changes.
        weight: (steps,) work space.
    """

    row: NDArray[np.int64]
    wanted: Matrix
    wanting: Matrix
    weight: Matrix


def profile_urns(
    profiles: Profiles, scale: Scale, codec: Codec, attributes: NDArray[np.int64], counts: NDArray[np.int64]
) -> ProfileUrns:
    """Full urns of n conversations with these attributes (n, a) and numbers of packets (n,).

    Of those of a class of services the shortest has the profile of the shortest that was counted, and so on.
    """
    class_ = codec.service_classes()[attributes[:, ATTRIBUTE_INDEX["service"]]]
    rows = np.flatnonzero((counts > scale.longer_than) & np.isin(class_, profiles.of[:, 0]))
    rows = rows[np.lexsort((counts[rows], class_[rows]))]
    begin, end = (np.searchsorted(class_[rows], class_[rows], side=side) for side in ("left", "right"))
    first, last = (np.searchsorted(profiles.of[:, 0], class_[rows], side=side) for side in ("left", "right"))
    which = first + (np.arange(len(rows)) - begin) * (last - first) // np.maximum(end - begin, 1)
    share = counts[rows] / np.maximum(profiles.of[which, 1], 1)
    wanted = np.ascontiguousarray(profiles.table(scale)[which] * share[:, None], np.float32)
    row = np.full(len(counts), -1, np.int64)
    row[rows] = np.arange(len(rows))
    return ProfileUrns(row, wanted, wanted.copy(), np.zeros(scale.steps, np.float32))


@njit(cache=True)
def over(wanting: float, wanted: float, share: float) -> np.float32:
    """What is left of a step over what would be left of it; `share` of the conversation's packets are to come."""
    soft = _SOFT if wanted > _NONE else _UNSEEN
    ratio = np.float32((wanting + soft * share) / ((wanted + _SOFT) * share))
    return min(max(ratio, _LEAST), _MOST)


@njit(cache=True)
def take(urns: ProfileUrns, row: int, step: int) -> None:
    """Take a packet out of an urn."""
    urns.wanting[row, step] -= _ONE
