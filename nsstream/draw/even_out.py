"""Even out: candidates are weighed so that connections come to their ends as often in each way as the chunk's did.

What ends a connection, and whether it began within the chunk, is a matter of a few packets of many, and a generator's
small errors there show in a table of `trace.completeness`. Raking (iterative proportional fitting, Deming and Stephan
1940): each value has one weight, by which all candidates that show it are likelier, found so that the expected number
of conversations of each value is the chunk's.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.encode.codec import Codec
from nsstream.model.sample_packets import DrawnPackets
from nsstream.trace.completeness import COMPLETENESS, completeness_of, completeness_of_packets

ROUNDS: Final = 60
FEWEST: Final = 0.1  # conversations: what a value that was never seen counts for
HEAVIEST: Final = 12.0  # a weight's logarithm
_STACK, _CONTROL, _HAS_PAYLOAD = 0, 2, 5  # columns of a kind's value, `codec.kind_values`


def shown_by(packets: DrawnPackets, codec: Codec) -> NDArray[np.int64]:
    """The completeness of each of n conversations, 0 for what is not TCP: (n,)."""
    kinds = codec.kind.table()
    of_kind = completeness_of_packets(kinds[:, _CONTROL], kinds[:, _HAS_PAYLOAD] > 0)
    of_kind[kinds[:, _STACK] % 3 != 1] = 0
    return completeness_of(packets.packet_offset, of_kind[packets.kind])


def weights(scores: NDArray[np.float64], shown: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.float64]:
    """The logarithm of each value's weight: (COMPLETENESS,).

    Args:
        scores: (n, k) logarithms of how likely each of k candidates is to be chosen for each of n TCP conversations.
        shown: (n, k) the completeness of each.
        wanted: (COMPLETENESS,) how many conversations are to show each value, in proportion.
    """
    out = np.zeros(COMPLETENESS)
    if not len(scores) or not wanted.any():
        return out
    target = wanted * (len(scores) / wanted.sum()) + FEWEST
    for _ in range(ROUNDS):
        weighed = scores + out[shown]
        chance = np.exp(weighed - weighed.max(axis=1, keepdims=True))
        chance /= chance.sum(axis=1, keepdims=True)
        expected = np.bincount(shown.ravel(), chance.ravel(), minlength=COMPLETENESS) + FEWEST
        out = np.clip(out + np.log(target / expected), -HEAVIEST, HEAVIEST)
    return out
