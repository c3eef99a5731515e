"""TCP life cycle: from flags, lengths and events to sequence numbers, acknowledgements, options and windows.

Rules:

1. Sequence numbers follow from what was sent. SYN and FIN take one number each; a repeated SYN or FIN takes its old
one. 2. Nothing is acknowledged that was not sent. Where the other side was never seen, its octets are assumed. 3. A
bare ACK that is `FRESH` acknowledges something new. Between two segments of the peer there may be several, so every
packet holds back as many segments (or, if there are too few of them, octets) as later ones need. 4. What is repeated
was sent before, octet by octet, and is not acknowledged yet, as far as rule 3 allows; see `tcp_repeat`. 5. What cannot
be made lawful is dropped or trimmed, and counted under its name in `records.Repair`.

A run of packets of one conversation is planned in three passes. `tcp_sequence` goes forward: what each segment is,
its sequence number, how much of the peer is there to acknowledge. `tcp_acknowledge` goes backward first, to find
the highest acknowledgements that leave enough to later ones, then forward again to write them. A SYN that opens the
five-tuple anew ends a run. Sources: RFC 9293, RFC 7323; the tests hold it against the analysis of tshark.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.assemble.tcp_acknowledge import acknowledge, hold_back
from nsstream.assemble.tcp_sequence import Scratch, sequence


def make_scratch(longest: int) -> Scratch:
    """Work space of `plan_tcp` for conversations of up to `longest` packets."""
    return np.zeros((2, longest + 2), np.int64), np.zeros((6, longest), np.int64), np.zeros(longest, np.uint8)


@njit(cache=True, nogil=True)
def plan_tcp(
    packets: Any,
    event: NDArray[np.uint8],
    first: int,
    end: int,
    is_swapped: int,
    stream: Any,
    scratch: Scratch,
    tally: NDArray[np.int64],
) -> None:
    """Plan the segments ``packets[first:end]`` of one conversation.

    Args:
        packets: `PACKET` rows, lengths already lawful; sequence numbers, flags, options and windows are written.
        event: `TcpEvent` of each row of `packets`.
        first: first row of the conversation.
        end: one past its last.
        is_swapped: 1 if direction 0 of the conversation is side 1 of the stream.
        stream: `STREAM` row of its five-tuple, carried on.
        scratch: from `make_scratch`, at least ``end - first`` long.
        tally: counts by `Repair`.
    """
    last_of_side = np.full(2, -1, np.int64)
    for i in range(first, end):
        if packets[i].is_kept:
            last_of_side[packets[i].direction ^ is_swapped] = i
    stream.last_row[0] = -1
    stream.last_row[1] = -1
    stream.data_row[0] = -1
    stream.data_row[1] = -1
    start = first
    while start < end:
        stop = sequence(packets, event, first, start, end, is_swapped, last_of_side, stream, scratch, tally)
        hold_back(packets, first, start, stop, is_swapped, scratch)
        acknowledge(packets, first, start, stop, is_swapped, stream, scratch, tally)
        start = stop
