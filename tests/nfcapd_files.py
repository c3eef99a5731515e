"""Files of nfdump made by hand, of any layout, compression and content."""

from __future__ import annotations

import bz2
import ipaddress
import struct

import zstandard

COMPRESSIONS = {"none": 0, "lzo": 1, "bz2": 2, "lz4": 3, "zstd": 4}
START_MS = 1_700_000_000_123


def element(kind: int, octets: bytes) -> bytes:
    return struct.pack("<HH", kind, 4 + len(octets)) + octets


def generic(
    *,
    first: int = START_MS,
    last: int = START_MS + 5,
    received: int = 0,
    packets: int = 3,
    octets: int = 300,
    port: int = 443,
) -> bytes:
    return element(1, struct.pack("<QQQQQHHBBBB", first, last, received, packets, octets, 1025, port, 6, 0x1B, 0, 4))


def ipv4(source: str = "192.0.2.1", destination: str = "198.51.100.2") -> bytes:
    return element(2, struct.pack("<II", *(int(ipaddress.IPv4Address(one)) for one in (source, destination))))


def ipv6(source: str = "2001:db8::1", destination: str = "2001:db8::2:3") -> bytes:
    numbers = [int(ipaddress.IPv6Address(one)) for one in (source, destination)]
    return element(3, b"".join(struct.pack("<QQ", one >> 64, one & 2**64 - 1) for one in numbers))


def record(*elements: bytes, flags: int = 0, exporter: int = 0, count: int | None = None) -> bytes:
    body = b"".join(elements)
    head = (11, 12 + len(body), len(elements) if count is None else count, 1, 2, exporter, flags, 9)
    return struct.pack("<HHHBBHBB", *head) + body


def flow(**fields: int) -> bytes:
    return record(generic(**fields), ipv4())


def block(*records: bytes, count: int | None = None, compression: str = "none", kind: int = 3, flags: int = 0) -> bytes:
    inside = b"".join(records)
    if not flags & 1:
        inside = compress(inside, compression)
    return struct.pack("<IIHH", len(records) if count is None else count, len(inside), kind, flags) + inside


def compress(octets: bytes, compression: str) -> bytes:
    """Compress as nfdump would; with LZO and LZ4 as one run of literals, which is lawful."""
    if compression == "bz2":
        return bz2.compress(octets)
    if compression == "zstd":
        return zstandard.compress(octets)
    if compression == "lzo":
        zeros, rest = divmod(len(octets) - 19, 255)
        return bytes([0, *bytes(zeros), rest + 1]) + octets + b"\x11\0\0"
    if compression == "lz4":
        full, rest = divmod(len(octets) - 15, 255)
        return b"\xf0" + b"\xff" * full + bytes([rest]) + octets
    return octets


def file_of(
    *blocks: bytes,
    compression: str = "none",
    appendix: int = 0,
    layout: int = 2,
    encryption: int = 0,
    count: int | None = None,
) -> bytes:
    """A file of these blocks, of which the last `appendix` are behind the data."""
    data = len(blocks) - appendix if count is None else count
    head = (0xA50C, layout, 0x01070100, 1_700_000_000, COMPRESSIONS[compression], encryption, appendix, 0, 0, 0, data)
    return struct.pack("<HHIQBBHIQII", *head) + b"".join(blocks)


def old_file_of(count: int) -> bytes:
    """A file of nfdump 1.6 (layout 1): flows of IPv4 without any of its optional extensions."""
    octets = struct.pack("<HHHHHH", 2, 12, 0, 0, 0, 0)  # a map of no extensions
    for k in range(count):
        head = struct.pack("<HHHHHHII", 10, 48, 0, 0, 123, 128, 1_700_000_000, 1_700_000_001)
        key = struct.pack("<BBBBHHHBB", 0, 0x1B, 6, 0, 1025, 443, 0, 0, 0)
        octets += head + key + struct.pack("<IIII", 0xC0000201, 0xC6336402, k + 1, 100 * (k + 1))
    header = struct.pack("<HHII128s", 0xA50C, 1, 0, 1, b"old")
    statistics = struct.pack("<15QIIHHI", count, *[0] * 14, 1_700_000_000, 1_700_000_001, 123, 128, 0)
    return header + statistics + struct.pack("<IIHH", count + 1, len(octets), 2, 0) + octets
