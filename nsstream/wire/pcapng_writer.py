"""Pcapng, written: a section with one interface of nanosecond resolution, and an enhanced packet block a packet.

Promises: what `pcapng_header` and `write_packet_blocks` give is a little-endian pcapng file that libpcap and Wireshark
read. The same bounds as `pcap.write_records`, though without its end in 2106. Reading pcapng is left to others.

Source: draft-ietf-opsawg-pcapng, sections 4.1 (section header), 4.2 (interface description), 4.3 (enhanced packet).
"""

from __future__ import annotations

import struct
from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.wire.pcap import MAX_SNAPLEN

SECTION_HEADER: Final = 0x0A0D0D0A
INTERFACE_DESCRIPTION: Final = 1
ENHANCED_PACKET: Final = 6
BYTE_ORDER_MAGIC: Final = 0x1A2B3C4D
NANOSECONDS: Final = 9  # if_tsresol: units of 10 ** -9 seconds
PACKET_BLOCK_BYTES: Final = 32  # of an enhanced packet block without its packet and padding

_IF_TSRESOL: Final = 9
_UNKNOWN_LENGTH: Final = 0xFFFF_FFFF_FFFF_FFFF


def pcapng_header(linktype: int = 1, snaplen: int = MAX_SNAPLEN) -> bytes:
    """The section header block and the description of interface 0; link type 1 is Ethernet."""
    section = struct.pack("<IHHQ", BYTE_ORDER_MAGIC, 1, 0, _UNKNOWN_LENGTH)
    resolution = struct.pack("<HHB3x", _IF_TSRESOL, 1, NANOSECONDS) + struct.pack("<HH", 0, 0)  # opt_endofopt
    interface = struct.pack("<HHI", linktype, 0, snaplen) + resolution
    return _block(SECTION_HEADER, section) + _block(INTERFACE_DESCRIPTION, interface)


def write_packet_blocks(times_ns: NDArray[np.int64], offset: NDArray[np.int64], octets: NDArray[np.uint8]) -> bytes:
    """Frame whole packets of interface 0 as blocks to follow `pcapng_header`.

    Args:
        times_ns: (m,) int64 since the Unix epoch, not negative.
        offset: (m + 1,) int64; packet i is ``octets[offset[i]:offset[i + 1]]``, at most `MAX_SNAPLEN` long.
        octets: uint8, all packets one after another.

    Raises ValueError if the arguments break these bounds.
    """
    m = len(times_ns)
    if len(offset) != m + 1:
        raise ValueError(f"offset must have {m + 1} entries for {m} packets, got {len(offset)}")
    if m == 0:
        return b""
    lengths = np.diff(offset)
    if offset[0] < 0 or offset[-1] > len(octets) or lengths.min() < 0 or lengths.max() > MAX_SNAPLEN:
        raise ValueError(f"packets must lie in the {len(octets)} octets and be 0 to {MAX_SNAPLEN} long")
    if times_ns.min() < 0:
        raise ValueError("times_ns must not be before 1970: pcapng times are unsigned")
    out = np.zeros(PACKET_BLOCK_BYTES * m + int(((lengths + 3) & ~3).sum()), np.uint8)
    _fill_blocks(
        np.ascontiguousarray(times_ns, np.int64),
        np.ascontiguousarray(offset, np.int64),
        np.ascontiguousarray(octets, np.uint8),
        out,
    )
    return out.tobytes()


def _block(kind: int, body: bytes) -> bytes:
    length = struct.pack("<I", 12 + len(body))
    return struct.pack("<I", kind) + length + body + length


@njit(cache=True, nogil=True)
def _fill_blocks(
    times_ns: NDArray[np.int64], offset: NDArray[np.int64], octets: NDArray[np.uint8], out: NDArray[np.uint8]
) -> None:
    at = 0
    for i in range(len(times_ns)):
        start = offset[i]
        length = offset[i + 1] - start
        padded = (length + 3) & ~3
        block_length = PACKET_BLOCK_BYTES + padded
        _put_u32(out, at, ENHANCED_PACKET)
        _put_u32(out, at + 4, block_length)
        _put_u32(out, at + 8, 0)  # interface
        _put_u32(out, at + 12, times_ns[i] >> 32)
        _put_u32(out, at + 16, times_ns[i] & 0xFFFFFFFF)
        _put_u32(out, at + 20, length)
        _put_u32(out, at + 24, length)
        for k in range(length):
            out[at + 28 + k] = octets[start + k]
        _put_u32(out, at + 28 + padded, block_length)
        at += block_length


@njit(cache=True, nogil=True)
def _put_u32(out: NDArray[np.uint8], at: int, value: int) -> None:
    out[at] = value & 0xFF
    out[at + 1] = (value >> 8) & 0xFF
    out[at + 2] = (value >> 16) & 0xFF
    out[at + 3] = (value >> 24) & 0xFF
