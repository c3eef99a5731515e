"""IPv6 extension headers (RFC 8200 section 4): a bounded walk to the transport header.

Promises: reads no octet at or beyond `captured_end`; ends after `MAX_EXTENSION_HEADERS` at the latest, whatever the
octets.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.wire import fates
from nsstream.wire.octets import u8, u16, u32

MAX_EXTENSION_HEADERS: Final = 16

HOP_BY_HOP: Final = 0
ROUTING: Final = 43
FRAGMENT: Final = 44
AUTHENTICATION: Final = 51
NO_NEXT_HEADER: Final = 59
DESTINATION: Final = 60
MOBILITY: Final = 135


@njit(cache=True, nogil=True)
def walk_extension_headers(
    octets: NDArray[np.uint8], at: int, captured_end: int, datagram_end: int, protocol: int
) -> tuple[int, int, int, int, int, int]:
    """Walk from the end of the fixed header (`at`) whose next header is `protocol`.

    The headers behind a later fragment's fragment header are payload of another packet, so the walk ends there.

    Returns:
        fate (`KEPT`, `CUT_BY_SNAPLEN` where the captured octets end too early, or what is wrong), the index where the
        transport header starts, its protocol, and the fragment's identification, offset (units of 8 octets) and flags.
    """
    identification = 0
    offset = 0
    flags = 0
    for _ in range(MAX_EXTENSION_HEADERS + 1):
        if protocol in (HOP_BY_HOP, ROUTING, DESTINATION, MOBILITY):
            size_shift = 3
            size_base = 1
        elif protocol == AUTHENTICATION:  # RFC 4302 2.2: 32-bit words, minus 2
            size_shift = 2
            size_base = 2
        elif protocol == FRAGMENT:
            size_shift = 3
            size_base = 1
        else:
            return fates.KEPT, at, protocol, identification, offset, flags
        if at + 8 > datagram_end:
            return fates.BAD_EXTENSION_HEADER, at, protocol, 0, 0, 0
        if at + 8 > captured_end:
            return fates.CUT_BY_SNAPLEN, at, protocol, 0, 0, 0
        next_protocol = u8(octets, at)
        if protocol == FRAGMENT:
            size = 8
            offset = u16(octets, at + 2) >> 3
            flags = u16(octets, at + 2) & 1
            identification = u32(octets, at + 4)
        else:
            size = (u8(octets, at + 1) + size_base) << size_shift
        at += size
        if at > datagram_end:
            return fates.BAD_EXTENSION_HEADER, at, protocol, 0, 0, 0
        is_fragment = protocol == FRAGMENT
        protocol = next_protocol
        if is_fragment and offset > 0:
            return fates.KEPT, at, protocol, identification, offset, flags
    return fates.EXTENSION_CHAIN, at, protocol, 0, 0, 0
