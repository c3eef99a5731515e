"""What longer conversations are made of as urns (`profile_urns`): whose packets, with payload or not, and how large."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.encode.codec import Codec
from nsstream.encode.makeup import MAKEUP, SIDE
from nsstream.model.profile_urns import ProfileUrns, over, profile_urns, take
from nsstream.model.recurrent import Matrix

_NONE = np.float32(0.0)


def makeup_urns(codec: Codec, attributes: NDArray[np.int64], counts: NDArray[np.int64]) -> ProfileUrns:
    """Full urns of n conversations with these attributes (n, a) and numbers of packets (n,)."""
    return profile_urns(codec.makeup, MAKEUP, codec, attributes, counts)


@njit(cache=True)
def weigh_kinds(
    urns: ProfileUrns,
    row: int,
    share_left: float,
    side: NDArray[np.int64],
    is_bare: NDArray[np.bool_],
    weights: Matrix,
) -> None:
    """Multiply the weights of kinds (k,) by what is left of their side's bare packets, or of all others of the side."""
    for s in range(2):
        wanted = wanting = _NONE
        for j in range(s * SIDE + 1, (s + 1) * SIDE):
            wanted += urns.wanted[row, j]
            wanting += urns.wanting[row, j]
        bare = over(urns.wanting[row, s * SIDE], urns.wanted[row, s * SIDE], share_left)
        full = over(float(wanting), float(wanted), share_left)
        urns.weight[2 * s], urns.weight[2 * s + 1] = bare * bare, full * full
    for k in range(len(is_bare)):
        weights[k] *= urns.weight[2 * side[k] + (0 if is_bare[k] else 1)]


@njit(cache=True)
def weigh_sizes(
    urns: ProfileUrns, row: int, share_left: float, side: int, step: NDArray[np.int64], weights: Matrix
) -> None:
    """Multiply the weights of sizes (s,), of these steps (s,), by what is left of them on a side."""
    for j in range(SIDE * side + 1, SIDE * (side + 1)):
        ratio = over(urns.wanting[row, j], urns.wanted[row, j], share_left)
        ratio *= ratio
        urns.weight[j] = ratio * ratio
    for i in range(len(step)):
        weights[i] *= urns.weight[SIDE * side + step[i]]


@njit(cache=True)
def note_packet(urns: ProfileUrns, row: int, side: int, step: int) -> None:
    """Take a packet out of an urn; step 0 is a bare one."""
    take(urns, row, SIDE * side + step)
