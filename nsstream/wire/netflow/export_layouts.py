"""How flow records are laid out in our exports: the templates, and the octets of records by them.

A `Layout` is a template: elements with their lengths, in order. `encode_records` fills the records of many flows at
once, a column at a time. NetFlow v5 has one layout, which needs no announcement.

Sources: Cisco's NetFlow v5; RFC 3954 section 8 (field types); RFC 7012's registry; RFC 7011 6.1.9 (NTP nanoseconds).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from nsstream.trace.fields import ICMP, ICMPV6
from nsstream.trace.flows import FlowTable
from nsstream.wire.netflow.v5 import RECORD_BYTES as V5_RECORD_BYTES

TimeUnit = Literal["milliseconds", "nanoseconds"]
Rows = NDArray[np.intp] | slice

ALL: Final = slice(None)
NO_DIRECTION: Final = 255
_NTP_TO_UNIX_S: Final = 2_208_988_800
_SECOND_NS: Final = 1_000_000_000
_NS_PER_MS: Final = 1_000_000
_AS_TRANS: Final = 23456  # RFC 6793: what stands for a number of 32 bits where there is room for 16

# element, octets, column of `ExportColumns`
_Part = tuple[int, int, str]
_COMMON: Final[tuple[_Part, ...]] = (
    (10, 4, "ingress_interface"),
    (14, 4, "egress_interface"),
    (2, 8, "packet_delta_count"),
    (1, 8, "octet_delta_count"),
    (7, 2, "source_transport_port"),
    (11, 2, "destination_transport_port"),
    (16, 4, "bgp_source_as_number"),
    (17, 4, "bgp_destination_as_number"),
    (58, 2, "vlan_id"),
    (4, 1, "protocol_identifier"),
    (6, 1, "tcp_control_bits"),
    (5, 1, "ip_class_of_service"),
    (136, 1, "flow_end_reason"),
)
_IPV4: Final[tuple[_Part, ...]] = (
    (8, 4, "source_address"),
    (12, 4, "destination_address"),
    (15, 4, "ip_next_hop_address"),
    (9, 1, "source_prefix_length"),
    (13, 1, "destination_prefix_length"),
    (32, 2, "icmp_type_code"),
)
_IPV6: Final[tuple[_Part, ...]] = (
    (27, 16, "source_address"),
    (28, 16, "destination_address"),
    (62, 16, "ip_next_hop_address"),
    (29, 1, "source_prefix_length"),
    (30, 1, "destination_prefix_length"),
    (139, 2, "icmp_type_code"),
)
_DIRECTION: Final[_Part] = (61, 1, "flow_direction")
_TIMES: Final[dict[str, tuple[_Part, ...]]] = {
    "uptime": ((22, 4, "first_ms"), (21, 4, "last_ms")),
    "milliseconds": ((152, 8, "start_ms"), (153, 8, "end_ms")),
    "nanoseconds": ((156, 8, "start_ntp"), (157, 8, "end_ntp")),
}
_TIME_COLUMNS: Final = {
    "first_ms": ("flow_start_ns", "uptime"),
    "last_ms": ("flow_end_ns", "uptime"),
    "start_ms": ("flow_start_ns", "ms"),
    "end_ms": ("flow_end_ns", "ms"),
    "start_ntp": ("flow_start_ns", "ntp"),
    "end_ntp": ("flow_end_ns", "ntp"),
}


@dataclass(frozen=True)
class Layout:
    """One template. `elements` are (element, octets); `dtype` is a record, packed, with a field for each."""

    template_id: int
    parts: tuple[_Part, ...]
    elements: tuple[tuple[int, int], ...] = field(init=False)
    dtype: np.dtype[np.void] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "elements", tuple(part[:2] for part in self.parts))
        object.__setattr__(self, "dtype", np.dtype([(name, _format(name, size)) for _, size, name in self.parts]))

    @property
    def record_bytes(self) -> int:
        """Octets of one record."""
        return self.dtype.itemsize

    def template_record(self) -> bytes:
        """The template as a record of a template set; v9 and IPFIX write it alike (no enterprise elements)."""
        fields = b"".join(struct.pack("!HH", *element) for element in self.elements)
        return struct.pack("!HH", self.template_id, len(self.elements)) + fields


def layouts(version: int, time_unit: TimeUnit = "milliseconds") -> tuple[Layout, ...]:
    """The templates of NetFlow v9 or IPFIX; flow f is of the one at ``layout_of(table)[f]``."""
    times = _TIMES["uptime" if version == 9 else time_unit]
    return tuple(
        Layout(256 + number, (*addresses, *times, *_COMMON, *direction))
        for number, (addresses, direction) in enumerate(
            ((_IPV4, ()), (_IPV6, ()), (_IPV4, (_DIRECTION,)), (_IPV6, (_DIRECTION,)))
        )
    )


def layout_of(table: FlowTable) -> NDArray[np.int64]:
    """Which of `layouts` each flow is written by: IPv4 or IPv6, without or with its direction."""
    number: NDArray[np.int64] = (table.ip_version == 6).astype(np.int64)
    number[table.flow_direction != NO_DIRECTION] += 2
    return number


def encode_records(columns: ExportColumns, rows: Rows, layout: Layout) -> NDArray[np.uint8]:
    """The records of some flows, of one IP version, ``(n, layout.record_bytes)``."""
    records = np.zeros(columns.count_of(rows), layout.dtype)
    for _, size, name in layout.parts:
        values = columns[name][rows]
        if values.ndim == 2:
            records[name] = np.ascontiguousarray(values[:, 16 - size :]).view(f"V{size}")[:, 0]
        else:
            records[name] = values
    return records.view(np.uint8).reshape(len(records), layout.record_bytes)


V5_DTYPE: Final = np.dtype(
    [
        ("source", "V4"), ("destination", "V4"), ("next_hop", "V4"), ("input", ">u2"), ("output", ">u2"),
        ("packets", ">u4"), ("octets", ">u4"), ("first", ">u4"), ("last", ">u4"), ("source_port", ">u2"),
        ("destination_port", ">u2"), ("pad1", "u1"), ("tcp_flags", "u1"), ("protocol", "u1"), ("tos", "u1"),
        ("source_as", ">u2"), ("destination_as", ">u2"), ("source_mask", "u1"), ("destination_mask", "u1"),
        ("pad2", ">u2"),
    ]
)  # fmt: skip
assert V5_DTYPE.itemsize == V5_RECORD_BYTES


def encode_v5_records(columns: ExportColumns) -> NDArray[np.uint8]:
    """The v5 records of IPv4 flows, ``(n, 48)``; counts must fit 32 bits (`fit_counters`).

    An interface beyond 16 bits is 0, such an AS number 23456.
    """
    records = np.zeros(columns.count_of(ALL), V5_DTYPE)
    for name, of in (
        ("source", "source_address"),
        ("destination", "destination_address"),
        ("next_hop", "ip_next_hop_address"),
    ):
        records[name] = np.ascontiguousarray(columns[of][:, 12:]).view("V4")[:, 0]
    for name, of, too_large in (
        ("input", "ingress_interface", 0),
        ("output", "egress_interface", 0),
        ("source_as", "bgp_source_as_number", _AS_TRANS),
        ("destination_as", "bgp_destination_as_number", _AS_TRANS),
    ):
        records[name] = np.where(columns[of] > 0xFFFF, too_large, columns[of])
    for name, of in (
        ("packets", "packet_delta_count"),
        ("octets", "octet_delta_count"),
        ("first", "first_ms"),
        ("last", "last_ms"),
        ("source_port", "source_transport_port"),
        ("destination_port", "destination_transport_port"),
        ("tcp_flags", "tcp_control_bits"),
        ("protocol", "protocol_identifier"),
        ("tos", "ip_class_of_service"),
        ("source_mask", "source_prefix_length"),
        ("destination_mask", "destination_prefix_length"),
    ):
        records[name] = columns[of]
    return records.view(np.uint8).reshape(len(records), V5_RECORD_BYTES)


def fit_counters(table: FlowTable) -> FlowTable:
    """Flows whose counts do not fit 32 bits as several records each, of the same key and times, one behind the other.

    Their counts add up to the flow's, unless it has fewer packets than records: each counts one at least.
    """
    most = np.uint64(0xFFFFFFFF)
    largest = np.maximum(table.packet_delta_count, table.octet_delta_count)
    if not len(table) or largest.max() <= most:
        return table
    parts = np.maximum((largest + (most - np.uint64(1))) // most, np.uint64(1)).astype(np.int64)
    parts = np.where(largest <= most, 1, parts)
    rows = np.repeat(np.arange(len(table)), parts)
    number = np.arange(len(rows)) - np.repeat(np.cumsum(parts) - parts, parts)
    columns: dict[str, NDArray[Any]] = {name: column[rows] for name, column in table.columns().items()}
    of = parts[rows].astype(np.uint64)
    for name in ("packet_delta_count", "octet_delta_count"):
        total = columns[name]
        columns[name] = total // of + (number.astype(np.uint64) < total % of).astype(np.uint64)
    columns["packet_delta_count"] = np.maximum(columns["packet_delta_count"], np.uint64(1))
    return type(table).from_columns(columns, table.label_names)


class ExportColumns(dict[str, NDArray[Any]]):
    """Every column that a layout may ask for, by its name; made of a table when it is asked for.

    `boot_ns`: when the exporter's system started, what times by uptime count from.
    """

    def __init__(self, table: FlowTable, boot_ns: int) -> None:
        super().__init__()
        self._table = table
        self._boot_ns = boot_ns

    def count_of(self, rows: Rows) -> int:
        """How many flows that are."""
        return len(self._table) if isinstance(rows, slice) else len(rows)

    def __missing__(self, name: str) -> NDArray[Any]:
        table = self._table
        if name == "destination_transport_port":
            # Collectors look for type and code in the port, as Cisco's v5 and v9 have them, elements 32, 139 or not.
            protocol = table.protocol_identifier
            is_icmp = (protocol == ICMP) | (protocol == ICMPV6)
            column: NDArray[Any] = np.where(is_icmp, table.icmp_type_code, table.destination_transport_port)
        elif name in _TIME_COLUMNS:
            column = self._time(name)
        else:
            column = getattr(table, name)
        self[name] = column
        return column

    def _time(self, name: str) -> NDArray[Any]:
        start_or_end, unit = _TIME_COLUMNS[name]
        at: NDArray[np.int64] = getattr(self._table, start_or_end)
        if unit == "ms":
            return at // _NS_PER_MS
        if unit == "uptime":
            return ((at - self._boot_ns) // _NS_PER_MS & 0xFFFFFFFF).astype(np.uint32)
        seconds, rest = np.divmod(at, _SECOND_NS)
        fraction = ((rest << 32) + _SECOND_NS // 2) // _SECOND_NS
        return ((seconds + _NTP_TO_UNIX_S) & 0xFFFFFFFF) << 32 | fraction


def _format(name: str, size: int) -> str:
    if name.endswith("_address"):
        return f"V{size}"
    return "u1" if size == 1 else f">u{size}"
