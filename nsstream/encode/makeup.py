"""Makeup: what packets each longer conversation of a chunk is made of: whose, and how large those with payload are.

Half a dozen transfers of twenty packets among twenty thousand probes are hardly learned, and so a download comes as a
chat: small packets from both sides in turn.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.encode.profiles import Profiles, Scale
from nsstream.encode.urns import CLASSES

EDGES: Final[NDArray[np.int64]] = np.array([64, 128, 256, 512, 1024, 1400])  # octets of a datagram, where steps begin
SIDE: Final = len(EDGES) + 2  # steps of a side: nothing behind the headers, and each size
FEW: Final = 32  # longer conversations of a class, at most, for them to be counted
MAKEUP: Final = Scale(longer_than=16, most=2048, steps=2 * SIDE)


def fit_makeup(
    class_: NDArray[np.int64],
    packet_offset: NDArray[np.int64],
    side: NDArray[np.int64],
    has_payload: NDArray[np.bool_],
    octets: NDArray[np.int64],
) -> Profiles:
    """Count the packets of n conversations of these classes (n,); the others (m,): 0 is the initiator's side.

    Of classes that have few longer conversations: what many do is learned, and each by itself.
    """
    is_longer = np.diff(packet_offset) > MAKEUP.longer_than
    is_rare = np.bincount(class_[is_longer], minlength=CLASSES)[class_] <= FEW
    step = SIDE * side + np.where(has_payload, size_step(octets), 0)
    return Profiles.fit(MAKEUP, class_, packet_offset, step, is_rare)


def size_step(octets: NDArray[np.int64]) -> NDArray[np.int64]:
    """The step (n,) of a side's datagrams of these octets (n,) that have payload: from 1 on."""
    return np.asarray(np.searchsorted(EDGES, octets, side="right") + 1, np.int64)
