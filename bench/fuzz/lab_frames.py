"""Frames of our own lab capture, to fuzz with."""

from __future__ import annotations

import lzma
import struct
from pathlib import Path
from typing import Final

LAB_CAPTURE: Final = Path(__file__).resolve().parents[2] / "daemon" / "nsstream_daemon" / "data" / "lab.pcap.xz"


def lab_frames(count: int) -> list[bytes]:
    """The first so many frames of the capture, a little-endian pcap."""
    with lzma.open(LAB_CAPTURE) as file:
        octets = file.read(24 + count * 2000)
    frames = []
    at = 24
    while len(frames) < count and at + 16 <= len(octets):
        size = struct.unpack_from("<I", octets, at + 8)[0]
        frames.append(octets[at + 16 : at + 16 + size])
        at += 16 + size
    return frames
