"""Exports made by hand: datagrams of NetFlow v5, v9 and IPFIX, octet by octet as their documents say."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Sequence

import numpy as np

from nsstream.trace import FlowTable
from nsstream.wire.netflow import ExportDecoder

NOW_S = 1_800_000_000
NOW_NS = NOW_S * 10**9
EXPORTER = bytes(10) + b"\xff\xff" + socket.inet_aton("192.0.2.1")
OTHER_EXPORTER = bytes(10) + b"\xff\xff" + socket.inet_aton("192.0.2.2")
VARIABLE = 0xFFFF
REVERSE = 29305

Field = tuple[int, int] | tuple[int, int, int]  # (element, octets) or (element, octets, enterprise)

# Source, destination, protocol, ports, packets, octets: what makes a flow.
BASE: tuple[Field, ...] = ((8, 4), (12, 4), (4, 1), (7, 2), (11, 2), (2, 4), (1, 4))
BASE_VALUES: dict[int, int | bytes] = {
    8: socket.inet_aton("10.0.0.1"), 12: socket.inet_aton("10.0.0.2"), 4: 6, 7: 40000, 11: 443, 2: 5, 1: 700,
}  # fmt: skip


def template_set(version: int, template_id: int, fields: Sequence[Field]) -> bytes:
    record = struct.pack("!HH", template_id, len(fields)) + b"".join(map(field_specifier, fields))
    return data_set(0 if version == 9 else 2, record)


def options_template_set(version: int, template_id: int, scope: Sequence[Field], options: Sequence[Field]) -> bytes:
    if version == 9:
        record = struct.pack("!HHH", template_id, 4 * len(scope), 4 * len(options))
    else:
        record = struct.pack("!HHH", template_id, len(scope) + len(options), len(scope))
    return data_set(1 if version == 9 else 3, record + b"".join(map(field_specifier, [*scope, *options])))


def field_specifier(field: Field) -> bytes:
    if len(field) == 3:
        return struct.pack("!HHI", field[0] | 0x8000, field[1], field[2])
    return struct.pack("!HH", *field)


def data_set(set_id: int, *records: bytes, padding: bytes = b"") -> bytes:
    body = b"".join(records) + padding
    return struct.pack("!HH", set_id, 4 + len(body)) + body


def record(fields: Sequence[Field], values: dict[int, int | bytes] | None = None) -> bytes:
    """The octets of one record; a field that `values` does not name is 0, a variable one empty."""
    known = BASE_VALUES | (values or {})
    octets = b""
    for field in fields:
        value = known.get(field[0] if len(field) == 2 else field[0] << 32 | field[2], 0)
        if field[1] == VARIABLE:
            value = value if isinstance(value, bytes) else b""
            octets += (bytes([len(value)]) if len(value) < 255 else b"\xff" + struct.pack("!H", len(value))) + value
        elif field[1]:
            octets += value if isinstance(value, bytes) else value.to_bytes(field[1], "big")
    return octets


def reverse(element: int) -> int:
    """The key in `record`'s values of a reverse element (RFC 5103)."""
    return element << 32 | REVERSE


def v9(*sets: bytes, sequence: int = 0, source_id: int = 7, uptime_ms: int = 1_000_000, now_s: int = NOW_S) -> bytes:
    return struct.pack("!HHIIII", 9, len(sets), uptime_ms, now_s, sequence, source_id) + b"".join(sets)


def ipfix(*sets: bytes, sequence: int = 0, domain: int = 7, now_s: int = NOW_S) -> bytes:
    body = b"".join(sets)
    return struct.pack("!HHIII", 10, 16 + len(body), now_s, sequence, domain) + body


def v5(
    *records: bytes, sequence: int = 0, sampling: int = 0, uptime_ms: int = 1_000_000, nanoseconds: int = 0,
    count: int | None = None,
) -> bytes:  # fmt: skip
    count = len(records) if count is None else count
    return struct.pack("!HHIIIIBBH", 5, count, uptime_ms, NOW_S, nanoseconds, sequence, 1, 2, sampling) + b"".join(
        records
    )


def v5_record(
    packets: int = 5, octets: int = 700, first: int = 900_000, last: int = 950_000, protocol: int = 6, port: int = 443
) -> bytes:
    return struct.pack(
        "!4s4s4sHHIIIIHHxBBBHHBBxx", socket.inet_aton("10.0.0.1"), socket.inet_aton("10.0.0.2"),
        socket.inet_aton("10.0.0.254"), 3, 4, packets, octets, first, last, 40000, port, 0x1B, protocol, 0x28, 64500,
        64501, 24, 16,
    )  # fmt: skip


def arrays(messages: Sequence[bytes], exporters: Sequence[bytes] | None = None, times_ns: Iterable[int] | None = None):
    """The arguments of `ExportDecoder.decode`."""
    exporters = exporters or [EXPORTER] * len(messages)
    return (
        np.frombuffer(b"".join(messages), np.uint8),
        np.cumsum([0, *map(len, messages)], dtype=np.int64),
        np.frombuffer(b"".join(exporters), np.uint8).reshape(-1, 16),
        np.array([NOW_NS] * len(messages) if times_ns is None else list(times_ns), np.int64),
    )


def decode(*messages: bytes, decoder: ExportDecoder | None = None) -> FlowTable:
    """Decode datagrams of one exporter in one batch; the tally adds up."""
    decoder = decoder or ExportDecoder()
    flows = decoder.decode(*arrays(messages))
    decoder.tally.check()
    return flows


def address(text: str) -> bytes:
    if ":" in text:
        return socket.inet_pton(socket.AF_INET6, text)
    return bytes(10) + b"\xff\xff" + socket.inet_aton(text)


def rows(flows: FlowTable) -> list[dict[str, object]]:
    return [
        {
            name: column[i].tobytes() if column.ndim == 2 else column[i].item()
            for name, column in flows.columns().items()
        }
        for i in range(len(flows))
    ]
