"""TCP, UDP and SCTP headers (RFC 9293, 7323, 2018; RFC 768; RFC 9260) and the checksums of all transports.

Promises: TCP options fill their length exactly; a UDP checksum is never 0.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.assemble.octets import Octets, put_run, put_u16, put_u32, put_u64, signed
from nsstream.assemble.records import Options

_NO_OPERATION: Final = 1
_END_OF_OPTIONS: Final = 0  # and the padding behind it: RFC 9293 section 3.1
_ONE_BLOCK: Final = 0x0101_050A  # SACK with one block, behind two no-operations: RFC 2018
_URGENT: Final = 0x20
WINDOW_SHIFT: Final = 7
_HEADERS_4: Final = 40  # octets of IPv4's and TCP's fixed headers, which an MSS leaves out: RFC 9293 section 3.7.1
_HEADERS_6: Final = 60


@njit(cache=True, inline="always")
def write_tcp(octets: Octets, at: int, packet: Any, conversation: Any, mtu: int) -> tuple[int, int]:
    """Write header and options, checksum zero; returns the position of the payload, and the sum of the header."""
    header = signed(packet.transport_header)
    direction = np.uintp(packet.direction)
    ports = signed(conversation.port[direction]) << 16 | signed(conversation.port[np.uintp(1 - packet.direction)])
    control = (header >> 2) << 28 | (signed(packet.control) & 0x1FF) << 16 | signed(packet.window)
    urgent = min(signed(packet.payload), 0xFFFF) if packet.control & _URGENT else 0
    put_u64(octets, at, ports << 32 | signed(packet.sequence))
    put_u64(octets, at + 8, signed(packet.acknowledgement) << 32 | control)
    put_u32(octets, at + 16, urgent)
    total = ports + signed(packet.sequence) + signed(packet.acknowledgement) + control + urgent
    if header > 20:
        mss = mtu - (_HEADERS_4 if conversation.version == 4 else _HEADERS_6)
        end, total = _write_options(octets, at + 20, packet, mss, total)
        put_run(octets, end, at + header - end, _END_OF_OPTIONS)
    return at + header, total


@njit(cache=True, inline="always")
def write_udp(octets: Octets, at: int, packet: Any, conversation: Any) -> tuple[int, int]:
    """Write the header, checksum zero; returns the position of the payload, and the sum of the header."""
    direction = np.uintp(packet.direction)
    ports = signed(conversation.port[direction]) << 16 | signed(conversation.port[np.uintp(1 - packet.direction)])
    length = signed(packet.payload) + packet.tail + 8
    put_u64(octets, at, ports << 32 | length << 16)
    return at + 8, ports + length


@njit(cache=True, nogil=True)
def write_sctp(octets: Octets, at: int, packet: Any, conversation: Any, tag: int) -> int:
    """Write the common header, checksum zero; returns the position of the first chunk."""
    put_u16(octets, at, conversation.port[packet.direction])
    put_u16(octets, at + 2, conversation.port[1 - packet.direction])
    put_u32(octets, at + 4, tag)
    put_u32(octets, at + 8, 0)
    return at + 12


@njit(cache=True, nogil=True)
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


@njit(cache=True, inline="always")
def _write_options(octets: Octets, at: int, packet: Any, mss: int, total: int) -> tuple[int, int]:
    """Write the options that the plan names, in the order of common stacks.

    Returns:
        the position behind them, and `total` with their sum added.
    """
    options = signed(packet.options)
    scale = _NO_OPERATION << 24 | 3 << 16 | 3 << 8 | WINDOW_SHIFT
    if options & Options.MSS:
        word = 2 << 24 | 4 << 16 | mss
        put_u32(octets, at, word)
        total += word
        at += 4
    if options & Options.TIMESTAMPS:
        # Two octets stand before the timestamps so that they lie on a word: RFC 7323 appendix A.
        word = (0x0402 if options & Options.SACK_PERMITTED else 0x0101) << 16 | 0x080A
        put_u32(octets, at, word)
        put_u64(octets, at + 4, signed(packet.ts_value) << 32 | signed(packet.ts_echo))
        total += word + signed(packet.ts_value) + signed(packet.ts_echo)
        at += 12
        if options & Options.WINDOW_SCALE:
            put_u32(octets, at, scale)
            total += scale
            at += 4
    elif options & Options.WINDOW_SCALE:
        put_u32(octets, at, scale)
        total += scale
        at += 4
    if options & Options.SACK:
        put_u32(octets, at, _ONE_BLOCK)
        put_u64(octets, at + 4, signed(packet.sack_left) << 32 | signed(packet.sack_right))
        total += _ONE_BLOCK + signed(packet.sack_left) + signed(packet.sack_right)
        at += 12
    if options & Options.TIMESTAMPS:
        return at, total
    if options & Options.SACK_PERMITTED:
        put_u32(octets, at, 0x01010402)
        total += 0x01010402
        at += 4
    return at, total
