"""Portrait: a conversation as the numbers that a critic looks at, the same for measured ones and drawn ones.

Totals of each side, the first packets of each side, the first packets of both, and a few of its attributes: what a
detector of synthetic traffic would compute from a capture. Addresses and port numbers are left out.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.encode.codec import Codec
from nsstream.encode.schema import ATTRIBUTE_INDEX
from nsstream.encode.tokens import ChunkTokens
from nsstream.model.sample_packets import DrawnPackets
from nsstream.trace.conversations import ConversationTable

ELEPHANT: Final = 384  # packets, of which a conversation that has more is drawn once, and no critic asked
SIDE_PACKETS: Final = 6  # looked at one by one, of each side
PACKETS: Final = 8  # and of both together
_TOLD: Final = ("service", "responder_host", "ttl", "marking", "initiator_port", "continues_from_before")
_TOTALS: Final = 8  # of a side
_SIDE: Final = _TOTALS + 3 * SIDE_PACKETS
FEATURES: Final = len(_TOLD) + 3 + 2 * _SIDE + 2 * PACKETS
_ABSENT: Final = -9.0


def portrait_of_drawn(packets: DrawnPackets, attributes: NDArray[np.int64], codec: Codec) -> NDArray[np.float32]:
    """Portraits (n, FEATURES) of drawn conversations with these attributes (n, a)."""
    kinds = codec.kind.table()[packets.kind]
    return _portrait(
        attributes, packets.packet_offset, kinds[:, 1], kinds[:, 2], packets.octets, packets.time_ns, codec
    )


def portrait_of_measured(table: ConversationTable, tokens: ChunkTokens, codec: Codec) -> NDArray[np.float32]:
    """Portraits (n, FEATURES) of the conversations of a chunk, sorted by start, and their tokens."""
    columns = (table.direction, table.control, table.ip_total_length, table.observation_time_ns)
    side, flags, octets, time_ns = (np.asarray(c, np.int64) for c in columns)
    return _portrait(tokens.attributes, table.packet_offset, side, flags, octets, time_ns, codec)


def _portrait(
    attributes: NDArray[np.int64],
    offset: NDArray[np.int64],
    side: NDArray[np.int64],
    flags: NDArray[np.int64],
    octets: NDArray[np.int64],
    time_ns: NDArray[np.int64],
    codec: Codec,
) -> NDArray[np.float32]:
    out = np.full((len(attributes), FEATURES), _ABSENT, np.float32)
    for i, name in enumerate(_TOLD):
        out[:, i] = attributes[:, ATTRIBUTE_INDEX[name]]
    length_ns = max(codec.last_ns + 1 - codec.first_ns, 1)
    _look(offset, np.clip(side, 0, 1), flags, octets, time_ns, codec.first_ns, length_ns, len(_TOLD), out)
    return out


@njit(cache=True, nogil=True)
def _look(
    offset: NDArray[np.int64],
    side: NDArray[np.int64],
    flags: NDArray[np.int64],
    octets: NDArray[np.int64],
    time_ns: NDArray[np.int64],
    first_ns: int,
    length_ns: int,
    at: int,
    out: NDArray[np.float32],
) -> None:
    """Write what packets show, from column `at` on."""
    count, total, last_ns = np.zeros(2, np.int64), np.zeros(2, np.int64), np.zeros(2, np.int64)
    start_ns, most, least = np.zeros(2, np.int64), np.zeros(2, np.int64), np.zeros(2, np.int64)
    for c in range(len(offset) - 1):
        begin, end = offset[c], offset[c + 1]
        row = out[c, at:]
        count[:] = 0
        total[:] = 0
        row[0] = np.log1p(end - begin)
        row[1] = np.log10((time_ns[end - 1] - time_ns[begin]) * 1e-9 + 1e-6)
        row[2] = np.floor(32 * (time_ns[begin] - first_ns) / length_ns)
        for i in range(begin, end):
            s = side[i]
            gap_ns = time_ns[i] - last_ns[s]
            if count[s] == 0:
                start_ns[s], most[s], least[s] = time_ns[i], octets[i], octets[i]
            if count[s] < SIDE_PACKETS:
                here = 3 + s * _SIDE + _TOTALS + 3 * count[s]
                row[here], row[here + 1] = octets[i], flags[i]
                row[here + 2] = np.log10(gap_ns * 1e-9 + 1e-6) if count[s] else _ABSENT
            if i - begin < PACKETS:
                here = 3 + 2 * _SIDE + 2 * (i - begin)
                row[here] = s
                row[here + 1] = np.log10((time_ns[i] - time_ns[i - 1]) * 1e-9 + 1e-6) if i > begin else _ABSENT
            count[s] += 1
            total[s] += octets[i]
            most[s], least[s], last_ns[s] = max(most[s], octets[i]), min(least[s], octets[i]), time_ns[i]
        for s in range(2):
            here = 3 + s * _SIDE
            row[here], row[here + 1] = np.log1p(count[s]), np.log1p(total[s])
            if count[s]:
                row[here + 2], row[here + 3], row[here + 4] = total[s] / count[s], most[s], least[s]
                row[here + 5] = np.log10((last_ns[s] - start_ns[s]) * 1e-9 + 1e-6)
                row[here + 6] = np.log10((start_ns[s] - time_ns[begin]) * 1e-9 + 1e-6)
                row[here + 7] = np.log10((time_ns[end - 1] - last_ns[s]) * 1e-9 + 1e-6)
