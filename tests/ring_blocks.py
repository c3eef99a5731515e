"""Blocks of a TPACKET_V3 ring, made by hand: right ones, and such as lie about their offsets and lengths."""

from __future__ import annotations

import struct

MACS = bytes.fromhex("020000000002 020000000001")
DATAGRAM = bytes.fromhex("4500 001c 0001 0000 4011 0000 c0000201 c6336407 d431 0035 0008 0000")
FRAME = MACS + b"\x08\x00" + DATAGRAM
SECONDS = 1_700_000_000


def ring_frame(
    frame: bytes,
    *,
    mac: int = 82,
    status: int = 0,
    tci: int = 0,
    tpid: int = 0,
    length: int | None = None,
    nanoseconds: int = 5,
    protocol: int = 0x0800,
    hardware_type: int = 1,
    packet_type: int = 0,
    next_offset: int | None = None,
) -> bytes:
    """tpacket3_hdr, sockaddr_ll, a gap and the frame, padded to the next."""
    size = -(-(mac + len(frame)) // 16) * 16
    head = struct.pack(
        "=6I2H2I2H8x",
        size if next_offset is None else next_offset,
        SECONDS,
        nanoseconds,
        len(frame),
        len(frame) if length is None else length,
        status,
        mac,
        mac + 14,
        0,
        tci,
        tpid,
        0,
    )
    sockaddr = struct.pack("=H2siHBB8s", 17, protocol.to_bytes(2, "big"), 3, hardware_type, packet_type, 6, MACS[6:])
    return (head + sockaddr).ljust(mac, b"\0")[:mac] + frame + bytes(size - mac - len(frame))


def ring_block(*frames: bytes, count: int | None = None, first: int = 48, block_bytes: int = 4096) -> bytes:
    """The tpacket_block_desc, the frames, and zeros to the block's end."""
    head = struct.pack("=6IQ4I", 1, 0, 1, len(frames) if count is None else count, first, 0, 1, 0, 0, 0, 0)
    return (head + b"".join(frames)).ljust(block_bytes, b"\0")
