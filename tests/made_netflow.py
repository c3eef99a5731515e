"""Exports as an exporter would send them: v5, v9 and IPFIX of a few elements. Flows are told apart by number."""

from __future__ import annotations

import struct
import time

FLOWS_A_DATAGRAM = 30
TEMPLATE_ID = 256
# sourceIPv4Address, destinationIPv4Address, protocolIdentifier, ports, octets, packets, flowStart/EndMilliseconds
_FIELDS = [(8, 4), (12, 4), (4, 1), (7, 2), (11, 2), (1, 8), (2, 8), (152, 8), (153, 8)]


def v5(first: int, count: int = FLOWS_A_DATAGRAM, *, sequence: int | None = None) -> bytes:
    """Flows `first`, `first` + 1, ...: the number is in the octets and in the source address."""
    now = time.time()
    head = struct.pack("!HHIIIIBBH", 5, count, 100_000, int(now), 0, first if sequence is None else sequence, 0, 0, 0)
    records = [
        struct.pack(
            "!4s4s4sHHIIIIHHBBBBHHBBH",
            number.to_bytes(4, "big"), b"\xc0\0\2\1", bytes(4), 1, 2, 3, number + 1, 90_000, 95_000,
            40_000, 443, 0, 0x1B, 6, 0, 0, 0, 24, 24, 0,
        )
        for number in range(first, first + count)
    ]  # fmt: skip
    return head + b"".join(records)


def ipfix(*sets: bytes, sequence: int = 0, domain: int = 1) -> bytes:
    body = b"".join(sets)
    return struct.pack("!HHIII", 10, 16 + len(body), int(time.time()), sequence, domain) + body


def v9(*sets: bytes, sequence: int = 0, source_id: int = 1, at_s: float | None = None) -> bytes:
    now_s = int(time.time() if at_s is None else at_s)
    head = struct.pack("!HHIIII", 9, len(sets), 100_000, now_s, sequence, source_id)
    return head + b"".join(sets)


def template_set(version: int = 10) -> bytes:
    fields = b"".join(struct.pack("!HH", *field) for field in _FIELDS)
    return struct.pack("!HHHH", 2 if version == 10 else 0, 8 + len(fields), TEMPLATE_ID, len(_FIELDS)) + fields


def data_set(first: int, count: int = FLOWS_A_DATAGRAM, *, at_ms: int | None = None) -> bytes:
    now_ms = int(time.time() * 1000) if at_ms is None else at_ms + 1000  # flows end a second before
    records = b"".join(
        struct.pack(
            "!4s4sBHHQQQQ",
            number.to_bytes(4, "big"), b"\xc0\0\2\1", 6, 40_000, 443, number + 1, 3, now_ms - 2000, now_ms - 1000,
        )
        for number in range(first, first + count)
    )  # fmt: skip
    return struct.pack("!HH", TEMPLATE_ID, 4 + len(records)) + records
