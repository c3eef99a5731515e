"""Payloads of UDP out of frames, packed one behind the other: what a collector would have received.

Promises: any octets give payloads and counts, never an error; payloads come in the order of the records; none reaches
beyond its datagram, and none that a snaplen cut is given. Fragments are not put together.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.wire import fates
from nsstream.wire.ipv6 import walk_extension_headers
from nsstream.wire.link import find_network_header
from nsstream.wire.octets import u8, u16

# Fates of a record, the indices of the counts that `find_payloads` returns.
GIVEN: Final = 0
NOT_UDP: Final = 1  # or to a port that was not asked for, or with no time
CUT: Final = 2  # UDP to a port that was asked for, but not all of it was captured
FRAGMENT: Final = 3  # the first of several, to a port that was asked for
FATE_COUNT: Final = 4

_UDP: Final = 17


@njit(cache=True)
def find_payloads(
    octets: NDArray[np.uint8],
    time_ns: NDArray[np.int64],
    start: NDArray[np.int64],
    captured_length: NDArray[np.int64],
    link_type: NDArray[np.int64],
    record_count: int,
    is_wanted: NDArray[np.bool_],
    payloads: NDArray[np.uint8],
    offset: NDArray[np.int64],
    sender: NDArray[np.uint8],
    received_ns: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Pack the payloads of the first `record_count` records that are UDP to a port p with ``is_wanted[p]``.

    `payloads` has room for as many octets as `octets`, `offset` (first cell 0), `sender` (n, 16) and `received_ns` for
    as many rows as there are records.

    Returns:
        records by fate; the first is how many rows were written.
    """
    counts = np.zeros(FATE_COUNT, np.int64)
    for record in range(record_count):
        end = start[record] + captured_length[record]
        fate, row = NOT_UDP, counts[GIVEN]
        kind, at, version, _ = find_network_header(octets, start[record], end, link_type[record])
        if kind == fates.KEPT and time_ns[record] >= 0:
            transport, datagram_end, is_fragment = _find_udp(octets, at, end, version)
            if transport > 0 and is_wanted[u16(octets, transport + 2)]:
                payload_end = transport + u16(octets, transport + 4)
                if is_fragment:
                    fate = FRAGMENT
                elif payload_end > end or payload_end > datagram_end or payload_end < transport + 8:
                    fate = CUT
                else:
                    fate = GIVEN
                    size = payload_end - transport - 8
                    offset[row + 1] = offset[row] + size
                    payloads[offset[row] : offset[row + 1]] = octets[transport + 8 : payload_end]
                    received_ns[row] = time_ns[record]
                    if u8(octets, at) >> 4 == 4:
                        sender[row, :10] = 0
                        sender[row, 10:12] = 255
                        sender[row, 12:] = octets[at + 12 : at + 16]
                    else:
                        sender[row] = octets[at + 8 : at + 24]
        counts[fate] += 1
    return counts


@njit(cache=True)
def _find_udp(octets: NDArray[np.uint8], at: int, end: int, version: int) -> tuple[int, int, bool]:
    """Where the UDP header is (0: there is none whole), where the IP datagram ends, whether it is a first fragment."""
    if at >= end:
        return 0, 0, False
    nibble = u8(octets, at) >> 4
    if (version != 0 and nibble != version) or (nibble != 4 and nibble != 6) or at + (20 if nibble == 4 else 40) > end:
        return 0, 0, False
    if nibble == 4:
        transport = at + ((u8(octets, at) & 0x0F) << 2)
        datagram_end = at + u16(octets, at + 2)
        offset, flags, protocol = u16(octets, at + 6) & 0x1FFF, u16(octets, at + 6) >> 13 & 1, u8(octets, at + 9)
        kind = fates.KEPT if transport >= at + 20 else fates.BAD_IP_HEADER_LENGTH
    else:
        datagram_end = at + 40 + u16(octets, at + 4)
        kind, transport, protocol, _, offset, flags = walk_extension_headers(
            octets, at + 40, end, datagram_end, u8(octets, at + 6)
        )
    if kind != fates.KEPT or protocol != _UDP or offset != 0 or transport + 8 > end:
        return 0, 0, False
    return transport, datagram_end, flags & 1 == 1
