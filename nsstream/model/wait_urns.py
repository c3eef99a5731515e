"""Waits of long conversations as urns (`profile_urns`), and how much of a chunk's time a wait may take."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.encode.codec import Codec
from nsstream.encode.waits import LEAST_NS, PER_DECADE, WAITS
from nsstream.model.profile_urns import ProfileUrns, over, profile_urns, take

SHORT_NS: Final = 10**9  # a wait of less is part of what a conversation does, one of more is a pause
_UPPER_NS: Final = LEAST_NS * 10 ** (np.arange(WAITS.steps) / PER_DECADE)  # where each step ends


class WaitUrns(NamedTuple):
    """The urns of n conversations' waits.

    Attributes:
        urns: the urns; a step is one of `waits.step_of`.
        pace_ns: (u,) the mean of the waits that are no pause.
        upper_ns: (steps,) where each step ends.
    """

    urns: ProfileUrns
    pace_ns: NDArray[np.float64]
    upper_ns: NDArray[np.float64]


def wait_urns(codec: Codec, attributes: NDArray[np.int64], counts: NDArray[np.int64]) -> WaitUrns:
    """Full urns of n conversations with these attributes (n, a) and numbers of packets (n,)."""
    urns = profile_urns(codec.waits, WAITS, codec, attributes, counts)
    middle_ns = _UPPER_NS * 10 ** (-0.5 / PER_DECADE)
    is_short = np.where(middle_ns < SHORT_NS, urns.wanted, 0)
    return WaitUrns(urns, (is_short * middle_ns).sum(axis=1) / np.maximum(is_short.sum(axis=1), 1), _UPPER_NS)


@njit(cache=True)
def weigh_waits(waits: WaitUrns, row: int, share_left: float) -> None:
    """The weight of each step of waits in one urn, of whose conversation's packets so many are left, into `weight`."""
    urns = waits.urns
    for j in range(len(urns.weight)):
        ratio = over(urns.wanting[row, j], urns.wanted[row, j], share_left)
        ratio *= ratio
        ratio *= ratio
        urns.weight[j] = ratio * ratio


@njit(cache=True)
def note_wait(waits: WaitUrns, row: int, wait_ns: int) -> None:
    """Take a wait out of an urn."""
    step = 0
    while step < len(waits.upper_ns) - 1 and wait_ns >= waits.upper_ns[step]:
        step += 1
    take(waits.urns, row, step)


@njit(cache=True)
def time_to_wait(waits: WaitUrns, row: int, left_ns: int, packets_left: int) -> int:
    """How long the next wait may be: what is left of the chunk, less what as many packets take without a pause."""
    reserve = waits.pace_ns[row] * (packets_left - 1)
    return int(max(left_ns - reserve, left_ns / packets_left))
