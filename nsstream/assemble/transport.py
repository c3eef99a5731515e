"""TCP, UDP and SCTP headers (RFC 9293, 7323, 2018; RFC 768; RFC 9260) and the checksums of all transports.

Promises: TCP options fill their length exactly; a UDP checksum is never 0.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.assemble.octets import Octets, put_run, put_u16, put_u32, signed
from nsstream.assemble.records import Options

_NO_OPERATION: Final = 1
_END_OF_OPTIONS: Final = 0  # and the padding behind it: RFC 9293 section 3.1
_URGENT: Final = 0x20
WINDOW_SHIFT: Final = 7
_MSS_4: Final = 1460
_MSS_6: Final = 1440


@njit(cache=True)
def write_tcp(octets: Octets, at: int, packet: Any, conversation: Any) -> int:
    """Write header and options, checksum zero; returns the position of the payload."""
    header = signed(packet.transport_header)
    put_u16(octets, at, conversation.port[packet.direction])
    put_u16(octets, at + 2, conversation.port[1 - packet.direction])
    put_u32(octets, at + 4, packet.sequence)
    put_u32(octets, at + 8, packet.acknowledgement)
    put_u16(octets, at + 12, (header >> 2) << 12 | packet.control & 0x1FF)
    put_u16(octets, at + 14, packet.window)
    put_u32(octets, at + 16, min(packet.payload, 0xFFFF) if packet.control & _URGENT else 0)
    end = _write_options(octets, at + 20, packet, _MSS_4 if conversation.version == 4 else _MSS_6)
    put_run(octets, end, at + header - end, _END_OF_OPTIONS)
    return at + header


@njit(cache=True)
def write_udp(octets: Octets, at: int, packet: Any, conversation: Any) -> int:
    """Write the header, checksum zero; returns the position of the payload."""
    put_u16(octets, at, conversation.port[packet.direction])
    put_u16(octets, at + 2, conversation.port[1 - packet.direction])
    put_u16(octets, at + 4, packet.payload + 8)
    put_u16(octets, at + 6, 0)
    return at + 8


@njit(cache=True)
def write_sctp(octets: Octets, at: int, packet: Any, conversation: Any, tag: int) -> int:
    """Write the common header, checksum zero; returns the position of the first chunk."""
    put_u16(octets, at, conversation.port[packet.direction])
    put_u16(octets, at + 2, conversation.port[1 - packet.direction])
    put_u32(octets, at + 4, tag)
    put_u32(octets, at + 8, 0)
    return at + 12


@njit(cache=True)
def crc32c(octets: Octets, at: int, length: int, table: NDArray[np.uint32]) -> int:
    """The CRC32c of a slice; SCTP sends it least octet first (RFC 9260 appendix A)."""
    crc = np.uint32(0xFFFFFFFF)
    for i in range(at, at + length):
        crc = table[(crc ^ octets[i]) & np.uint32(0xFF)] ^ (crc >> np.uint32(8))
    return signed(crc ^ np.uint32(0xFFFFFFFF))


def crc32c_table() -> NDArray[np.uint32]:
    """The 256 remainders of the Castagnoli polynomial, reflected."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(0x82F63B78), table >> 1).astype(np.uint32)
    return table


@njit(cache=True)
def _write_options(octets: Octets, at: int, packet: Any, mss: int) -> int:
    """Write the options that the plan names, in the order of common stacks; returns the position behind them."""
    options = signed(packet.options)
    scale = _NO_OPERATION << 24 | 3 << 16 | 3 << 8 | WINDOW_SHIFT
    if options & Options.MSS:
        put_u32(octets, at, 2 << 24 | 4 << 16 | mss)
        at += 4
    if options & Options.TIMESTAMPS:
        # Two octets stand before the timestamps so that they lie on a word: RFC 7323 appendix A.
        put_u16(octets, at, 0x0402 if options & Options.SACK_PERMITTED else 0x0101)
        put_u16(octets, at + 2, 0x080A)
        put_u32(octets, at + 4, packet.ts_value)
        put_u32(octets, at + 8, packet.ts_echo)
        at += 12
        if options & Options.WINDOW_SCALE:
            put_u32(octets, at, scale)
            at += 4
        return at
    if options & Options.WINDOW_SCALE:
        put_u32(octets, at, scale)
        at += 4
    if options & Options.SACK_PERMITTED:
        put_u32(octets, at, 0x01010402)
        at += 4
    return at
