"""TCP, what a repeated segment repeats: which octets, and where they stand.

Promises: what is found was sent before as fresh data of the same side, in this table, octet by octet; `copy_repeated`
writes just these octets, out of the frames that carried them. Which: the last segment if it has the same length, as a
sender does whose timer ran out; after a pause one of the same length that is not acknowledged yet; else as many of the
last octets. To tshark the end of what was sent last is a retransmission however soon it comes, while another segment
would be out of order (RFC 9293 3.8.1; Wireshark's packet-tcp.c).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.assemble.octets import Octets, copy_run, signed

_PAUSE_NS: Final = 250_000_000  # beyond any round trip that tshark takes for reordering
_MOST_LOOKED_AT: Final = 64  # segments


@njit(cache=True, nogil=True)
def find_repeated(packets: Any, i: int, last: int, acknowledged: int) -> int:
    """The row in which the octets that ``packets[i]`` repeats end, -1 if there are not so many.

    Args:
        packets: `PACKET` rows.
        i: the row that repeats.
        last: its side's last fresh data, -1 for none.
        acknowledged: the peer's last row that acknowledged something new, -1 for none.
    """
    if last < 0:
        return -1
    wanted = signed(packets[i].payload)
    is_pause = packets[i].time_ns - packets[last].time_ns > _PAUSE_NS
    row, octets = last, 0
    for _ in range(_MOST_LOOKED_AT):
        has_length = packets[row].payload == wanted
        # A single octet at the end would look like a keep-alive.
        if has_length and (row != last or wanted > 1) and (row == last or (is_pause and row > acknowledged)):
            return row
        octets += packets[row].payload
        if octets >= wanted > 1 and not is_pause:
            return last
        row = signed(packets[row].before_row)
        if row < 0:
            break
    return last if octets >= wanted > 1 else -1


@njit(cache=True, nogil=True)
def repeated_sequence(packets: Any, i: int, row: int, next_sequence: int) -> int:
    """The unwrapped sequence number at which ``packets[i]`` starts, if what it repeats ends with row `row`."""
    end = signed(packets[row].sequence) + signed(packets[row].payload)
    behind = (next_sequence - end) & 0xFFFFFFFF
    return next_sequence - behind - signed(packets[i].payload)


@njit(cache=True, nogil=True)
def copy_repeated(
    octets: Octets, at: int, packets: Any, i: int, place: NDArray[np.int64], offset: NDArray[np.int64]
) -> None:
    """Write the payload of ``packets[i]``, which repeats others.

    Args:
        octets: the frames before this one are written.
        at: where the payload starts.
        packets: `PACKET` rows.
        i: the row that repeats.
        place: by row, which frame it is.
        offset: of the frames.
    """
    left = signed(packets[i].payload)
    row = signed(packets[i].source_row)
    while left > 0:
        size = min(left, signed(packets[row].payload))
        left -= size
        copy_run(octets, at + left, octets, offset[place[row] + 1] - size, size)
        row = signed(packets[row].before_row)
