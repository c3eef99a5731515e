"""Keep apart: packets of different conversations come no closer to each other than the chunk's did.

What would come too soon waits its turn, and those behind it wait with it until a pause takes the delay up: a queue with
one server (Lindley 1952). Order is kept, so whatever holds of a conversation's order still does.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.encode.pace import Pace


def keep_apart(time_ns: NDArray[np.int64], pace: Pace, rng: np.random.Generator, last_ns: int) -> NDArray[np.int64]:
    """The times (n,) of packets, in any order, each as soon as it may be; none is put off beyond `last_ns`."""
    if not pace.quantiles_ns or len(time_ns) < 2:
        return time_ns
    order = np.argsort(time_ns, kind="stable")
    quantiles = np.array(pace.quantiles_ns, np.float64)
    chance = rng.random(len(time_ns)) * (len(quantiles) - 1)
    out = np.empty_like(time_ns)
    out[order] = _queue(time_ns[order], quantiles, chance, last_ns)
    return out


@njit(cache=True)
def _queue(
    time_ns: NDArray[np.int64], quantiles: NDArray[np.float64], chance: NDArray[np.float64], last_ns: int
) -> NDArray[np.int64]:
    out = time_ns.copy()
    for i in range(1, len(out)):
        if time_ns[i] < out[i - 1] + quantiles[-1]:
            at = int(chance[i])
            between = quantiles[at] + (quantiles[at + 1] - quantiles[at]) * (chance[i] - at)
            out[i] = max(time_ns[i], min(out[i - 1] + int(between), last_ns))
    return out
