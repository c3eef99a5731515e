"""Clocks: what a packet's gap is counted from, the packet before it or the last one that its own side sent.

An answer comes some time after what it answers; a timer (a retransmission, a poll, a keep-alive) runs from its own
side's last packet, whatever the other side said meanwhile. Which of the two tells more is measured for each packet kind
of a chunk: the one of less differential entropy, in nanoseconds and not in their logarithm. An answer that comes 0.2 ms
after a question that is asked every 5 s is not told by 5 s, which may be off by a thousandth.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.trace.conversations import ConversationTable

_LEAST_NS: Final = 1_000  # what stamps tell apart
FEWEST: Final = 20  # gaps of a kind that may decide


def gaps_of(table: ConversationTable) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Nanoseconds (m,) since the packet before, 0 for a conversation's first, and since the last of the same side.

    The latter is -1 for a side's first packet.
    """
    time_ns, owner = table.observation_time_ns, np.repeat(np.arange(len(table)), table.packet_count)
    since_any = np.diff(time_ns, prepend=time_ns[:1])
    since_any[table.packet_offset[:-1]] = 0
    side = 2 * owner + table.direction
    order = np.argsort(side, kind="stable")
    sorted_ns, sorted_side = time_ns[order], side[order]
    since = np.full(len(order), -1, np.int64)
    goes_on = sorted_side[1:] == sorted_side[:-1]
    since[1:][goes_on] = np.diff(sorted_ns)[goes_on]
    since_own = np.empty_like(since)
    since_own[order] = since
    return since_any, since_own


def measure_clocks(
    kind: NDArray[np.int64], since_any: NDArray[np.int64], since_own: NDArray[np.int64], kinds: int
) -> NDArray[np.bool_]:
    """Which kinds (kinds,) are better timed from their own side's last packet; all arguments (m,)."""
    own = np.zeros(kinds, bool)
    tells = (since_own >= 0) & (since_own != since_any)
    kind, since_any, since_own = kind[tells], since_any[tells], since_own[tells]
    for k in np.flatnonzero(np.bincount(kind, minlength=kinds) >= FEWEST):
        of_kind = kind == k
        own[k] = _entropy(since_own[of_kind]) < _entropy(since_any[of_kind])
    return own


def _entropy(gap_ns: NDArray[np.int64]) -> float:
    """Differential entropy of n gaps in nats, but for a term that is the same for all n (Vasicek 1976: spacings)."""
    ordered, by = np.sort(gap_ns), max(1, round(len(gap_ns) ** 0.5))
    at = np.arange(len(ordered))
    spacing = ordered[np.minimum(at + by, len(at) - 1)] - ordered[np.maximum(at - by, 0)]
    return float(np.log(np.maximum(spacing, _LEAST_NS)).mean())
