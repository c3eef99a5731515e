"""Sides of captured frames: which end of its flow each comes from; and ports for later fragments, which have none.

Promises: all fragments of a datagram are of one side and have its ports, where the first comes first; nothing is read
beyond the captured octets. A side is a guess from the frame alone: a server has the lower port, it is a server that
answers an echo, and an error goes to whoever sent what it quotes. What says neither is the client's.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.replay.streams.captured import FRAGMENT, OTHER, Survey
from nsstream.trace.fields import ICMP, ICMPV6, SCTP, TCP, UDP
from nsstream.trace.fragments import FragmentTable, recall, remember
from nsstream.wire.octets import u8, u16

CLIENT: Final = 0
SERVER: Final = 1

_HEAD: Final = 8  # octets of an ICMP error before what it quotes


def find_sides(
    octets: NDArray[np.uint8],
    offset: NDArray[np.int64],
    times_ns: NDArray[np.int64],
    found: Survey,
    table: FragmentTable,
) -> NDArray[np.uint8]:
    """The side (m,) of each of m frames, in the order of the capture; the ports of later fragments are set in `found`.

    Args:
        octets: of all frames.
        offset: frame i is ``octets[offset[i]:offset[i + 1]]``.
        times_ns: (m,).
        found: what `survey` found in them.
        table: of datagrams whose first fragments came, also in the calls before.
    """
    side = np.zeros(len(times_ns), np.uint8)
    _find_sides(
        octets, offset, times_ns, found.kind, found.transport, found.version, found.protocol, found.has_more,
        found.identification, found.source_port, found.destination_port, found.source.view(np.int64),
        found.destination.view(np.int64), table, side,
    )  # fmt: skip
    return side


@njit(cache=True, nogil=True)
def _find_sides(
    octets: NDArray[np.uint8],
    offset: NDArray[np.int64],
    times_ns: NDArray[np.int64],
    kind: NDArray[np.uint8],
    transport: NDArray[np.int64],
    version: NDArray[np.uint8],
    protocol: NDArray[np.uint8],
    has_more: NDArray[np.bool_],
    identification: NDArray[np.int64],
    source_port: NDArray[np.uint16],
    destination_port: NDArray[np.uint16],
    source: NDArray[np.int64],
    destination: NDArray[np.int64],
    table: FragmentTable,
    side: NDArray[np.uint8],
) -> None:
    words = np.empty(5, np.int64)
    for i in range(len(times_ns)):
        if kind[i] == OTHER:
            continue
        inside = int(np.int64(protocol[i]))
        words[0], words[1] = source[i, 0], source[i, 1]
        words[2], words[3] = destination[i, 0], destination[i, 1]
        words[4] = identification[i] << 8 | inside
        if kind[i] == FRAGMENT:
            told = recall(table, words, times_ns[i])
            side[i] = told >> 32
            source_port[i], destination_port[i] = told >> 16 & 0xFFFF, told & 0xFFFF
            continue
        ports = int(np.int64(source_port[i]) << 16 | np.int64(destination_port[i]))
        own = _side(octets, transport[i], offset[i + 1], int(np.int64(version[i])), inside, ports)
        side[i] = own
        if has_more[i]:
            remember(table, words, own << 32 | ports, times_ns[i])


@njit(cache=True, nogil=True)
def _side(octets: NDArray[np.uint8], at: int, end: int, version: int, protocol: int, ports: int) -> int:
    """The side of the message at `at`, of which 4 octets are there; `ports` are its source's and its destination's."""
    if protocol in (TCP, UDP, SCTP):
        return SERVER if ports >> 16 < ports & 0xFFFF else CLIENT
    if protocol == ICMP and version == 4:
        kind = u8(octets, at)
        if kind == 3 or kind == 4 or kind == 5 or kind == 11 or kind == 12:
            return 1 - _side_of_quoted(octets, at + _HEAD, end, version)
        return SERVER if kind == 0 or kind == 14 or kind == 18 else CLIENT
    if protocol == ICMPV6 and version == 6:
        kind = u8(octets, at)
        if 1 <= kind <= 4:
            return 1 - _side_of_quoted(octets, at + _HEAD, end, version)
        return SERVER if kind == 129 else CLIENT
    return CLIENT


@njit(cache=True, nogil=True)
def _side_of_quoted(octets: NDArray[np.uint8], at: int, end: int, version: int) -> int:
    """The side of the datagram that an error quotes, as far as its first octets say."""
    header = 40
    if at + 20 > end or u8(octets, at) >> 4 != version:
        return CLIENT
    if version == 4:
        header = (u8(octets, at) & 0x0F) << 2
        if u16(octets, at + 6) & 0x1FFF:  # a later fragment
            return CLIENT
    if at + header + 4 > end:
        return CLIENT
    protocol = u8(octets, at + (9 if version == 4 else 6))
    start = at + header
    if protocol in (TCP, UDP, SCTP):
        return SERVER if u16(octets, start) < u16(octets, start + 2) else CLIENT
    is_reply = u8(octets, start) == (0 if version == 4 else 129)
    return SERVER if is_reply and protocol == (ICMP if version == 4 else ICMPV6) else CLIENT
