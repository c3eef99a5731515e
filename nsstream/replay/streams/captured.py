"""What is in captured frames, as far as their replay needs to know: where the datagram starts, and its five-tuple.

Promises: `survey` reads nothing beyond the captured octets, whatever they are, and says of every frame what it is.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.trace.fields import SCTP, TCP, UDP
from nsstream.wire import fates
from nsstream.wire.ipv6 import walk_extension_headers
from nsstream.wire.link import find_network_header
from nsstream.wire.octets import u8, u16

WHOLE: Final = 0  # an IP datagram whose headers are there
FRAGMENT: Final = 1  # a later one: no ports
OTHER: Final = 2  # no IP, or not as it should be: nothing in it can be changed


class Survey(NamedTuple):
    """One row a frame; positions are in the octets of all frames, -1 where there is none."""

    kind: NDArray[np.uint8]
    network: NDArray[np.int64]  # the IP header
    transport: NDArray[np.int64]
    end: NDArray[np.int64]  # of the datagram, as its header says, captured or not
    version: NDArray[np.uint8]
    protocol: NDArray[np.uint8]
    has_more: NDArray[np.bool_]  # a first fragment
    source_port: NDArray[np.uint16]
    destination_port: NDArray[np.uint16]
    source: NDArray[np.uint8]  # (m, 16), IPv4 as ::ffff:a.b.c.d
    destination: NDArray[np.uint8]
    identification: NDArray[np.int64]  # of the datagram; over IPv6 only of fragments


def survey(octets: NDArray[np.uint8], offset: NDArray[np.int64], link_type: NDArray[np.int64]) -> Survey:
    """Look at m frames; frame i is ``octets[offset[i]:offset[i + 1]]``."""
    m = len(offset) - 1
    found = Survey(
        np.full(m, OTHER, np.uint8),
        np.full(m, -1, np.int64),
        np.full(m, -1, np.int64),
        np.full(m, -1, np.int64),
        np.zeros(m, np.uint8),
        np.zeros(m, np.uint8),
        np.zeros(m, bool),
        np.zeros(m, np.uint16),
        np.zeros(m, np.uint16),
        np.zeros((m, 16), np.uint8),
        np.zeros((m, 16), np.uint8),
        np.zeros(m, np.int64),
    )
    _survey(octets, offset, link_type, *found)
    return found


@njit(cache=True, nogil=True)
def _survey(
    octets: NDArray[np.uint8],
    offset: NDArray[np.int64],
    link_type: NDArray[np.int64],
    kind: NDArray[np.uint8],
    network: NDArray[np.int64],
    transport: NDArray[np.int64],
    datagram_end: NDArray[np.int64],
    version: NDArray[np.uint8],
    protocol: NDArray[np.uint8],
    has_more: NDArray[np.bool_],
    source_port: NDArray[np.uint16],
    destination_port: NDArray[np.uint16],
    source: NDArray[np.uint8],
    destination: NDArray[np.uint8],
    identification: NDArray[np.int64],
) -> None:
    for i in range(len(offset) - 1):
        end = offset[i + 1]
        fate, at, promised, _ = find_network_header(octets, offset[i], end, link_type[i])
        if fate != fates.KEPT or at + 20 > end:
            continue
        nibble = u8(octets, at) >> 4
        if (nibble != 4 and nibble != 6) or (promised != 0 and nibble != promised):
            continue
        if nibble == 4:
            header = (u8(octets, at) & 0x0F) << 2
            total = u16(octets, at + 2)
            if header < 20 or at + header > end or total < header:
                continue
            flags = u16(octets, at + 6)
            fragment, more = flags & 0x1FFF, (flags & 0x2000) != 0
            inside, behind, stop = u8(octets, at + 9), at + header, at + total
            number = u16(octets, at + 4)
            for k in range(4):
                source[i, 12 + k] = octets[at + 12 + k]
                destination[i, 12 + k] = octets[at + 16 + k]
            for k in (10, 11):
                source[i, k] = 0xFF
                destination[i, k] = 0xFF
        else:
            if at + 40 > end:
                continue
            stop = at + 40 + u16(octets, at + 4)
            walked, behind, inside, number, fragment, bits = walk_extension_headers(
                octets, at + 40, end, stop, u8(octets, at + 6)
            )
            if walked != fates.KEPT:
                continue
            more = (bits & 1) != 0
            for k in range(16):
                source[i, k] = octets[at + 8 + k]
                destination[i, k] = octets[at + 24 + k]
        least = 4
        if inside == TCP:
            least = 20
        elif inside == UDP:
            least = 8
        elif inside == SCTP:
            least = 12
        network[i], datagram_end[i], version[i], protocol[i] = at, stop, nibble, inside
        identification[i] = number
        if fragment:
            kind[i] = FRAGMENT
            continue
        if behind + least > end or behind + least > stop:
            continue
        kind[i], transport[i], has_more[i] = WHOLE, behind, more
        if inside in (TCP, UDP, SCTP):
            source_port[i] = u16(octets, behind)
            destination_port[i] = u16(octets, behind + 2)
