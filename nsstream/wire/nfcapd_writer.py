"""NfcapdWriter: flow columns in, the octets of a file of nfdump 1.7 (layout 2) out. Sans-IO, the mate of `nfcapd`.

A file is `begin`, any number of `write`, and `finish`, whose header takes the place of the first one: it says how many
blocks there are. Blocks are not compressed. As nfdump does, counts of sampled traffic are multiplied by the sampling
interval, type and code of ICMP are in the destination port, and times are in milliseconds. Counts of the reverse
direction are nfdump's out packets and out bytes. The exporter's address is left out; the observation domain is there as
the engine, of 16 bits.

Source: nfdump's headers nfxV3.h and nffileV2.h, releases 1.7.0 to 1.7.6, and files that nfdump 1.7.1 wrote.
"""

from __future__ import annotations

import struct
from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.trace.fields import ICMP, ICMPV6, TCP, UDP
from nsstream.trace.flows import FlowTable
from nsstream.wire.nfcapd import HEADER_BYTES, LAYOUT, MAGIC
from nsstream.wire.nfcapd_records import RECORD_HEADER_BYTES

NFDUMP_VERSION: Final = 0x01070100
BLOCK_BYTES: Final = 1 << 20
_HEADER: Final = struct.Struct("<2sHIqBBHIqII")
_BLOCK_HEADER: Final = struct.Struct("<IIHH")
_BLOCK_TYPE: Final = 3
_IS_UNCOMPRESSED: Final = 1
_V3_RECORD: Final = 11
_WRITTEN_BY: Final = 10  # the version of NetFlow that a record came by
_IDENT_RECORD: Final = 0x8001
_STATISTICS_RECORD: Final = 0x8002
_STATISTICS: Final = struct.Struct("<HH18Q")
_NS_PER_MS: Final = 1_000_000

# name, format; the names of an element's header begin with its type
_Fields = list[tuple[str, str]]
_GENERIC: Final[_Fields] = [
    ("first", "<u8"), ("last", "<u8"), ("received", "<u8"), ("packets", "<u8"), ("octets", "<u8"),
    ("source_port", "<u2"), ("destination_port", "<u2"), ("protocol", "u1"), ("tcp_flags", "u1"), ("status", "u1"),
    ("tos", "u1"),
]  # fmt: skip
_MISC: Final[_Fields] = [
    ("input", "<u4"), ("output", "<u4"), ("source_mask", "u1"), ("destination_mask", "u1"), ("direction", "u1"),
    ("reverse_tos", "u1"), ("biflow_direction", "u1"), ("end_reason", "u1"), ("reverse_flags", "u1"), ("pad", "u1"),
    ("pad4", "<u4"),
]  # fmt: skip
_OUT: Final[_Fields] = [("flows", "<u8"), ("reverse_packets", "<u8"), ("reverse_octets", "<u8")]
_VLAN: Final[_Fields] = [("source_vlan", "<u4"), ("destination_vlan", "<u4")]
_AS: Final[_Fields] = [("source_as", "<u4"), ("destination_as", "<u4")]
_ADDRESSES: Final[dict[int, tuple[int, int, str]]] = {4: (2, 10, "V4"), 6: (3, 11, "V16")}  # elements, format


def _layout(ip_version: int, *, has_reverse: bool) -> tuple[np.dtype[np.void], list[tuple[int, int]]]:
    """A record's dtype, packed, and its elements as (type, length)."""
    flow, next_hop, address = _ADDRESSES[ip_version]
    elements: list[tuple[int, _Fields]] = [
        (1, _GENERIC),
        (flow, [("source", address), ("destination", address)]),
        (4, _MISC),
        *([(5, _OUT)] if has_reverse else []),
        (6, _VLAN),
        (7, _AS),
        (next_hop, [("next_hop", address)]),
    ]
    parts: _Fields = [
        ("type", "<u2"), ("size", "<u2"), ("elements", "<u2"), ("engine_type", "u1"), ("engine_id", "u1"),
        ("exporter", "<u2"), ("flags", "u1"), ("netflow_version", "u1"),
    ]  # fmt: skip
    assert np.dtype(parts).itemsize == RECORD_HEADER_BYTES
    sizes = []
    for kind, fields in elements:
        parts += [(f"{kind}_type", "<u2"), (f"{kind}_length", "<u2"), *fields]
        sizes.append((kind, 4 + np.dtype(fields).itemsize))
    return np.dtype(parts), sizes


_LAYOUTS: Final = [_layout(version, has_reverse=has) for has in (False, True) for version in (4, 6)]


class NfcapdWriter:
    """One file, created at `created_s` since the Unix epoch, with a name that `nfdump -I` prints."""

    def __init__(self, created_s: int, ident: str = "nsstream") -> None:
        self._created_s = created_s
        self._ident = ident.encode()[:127]
        self._block_octets = np.empty(BLOCK_BYTES, np.uint8)  # in one piece: small ones would lie all over the heap
        self._record_bytes = 0
        self._record_count = 0
        self._block_count = 0
        self._offset = HEADER_BYTES
        # flows, octets and packets, each in all and by protocol, in nfdump's order
        self._sums = np.zeros((3, 5), np.uint64)
        self._first_ms = self._last_ms = 0

    def begin(self) -> bytes:
        """The header of a file that is being written."""
        return self._header(0)

    def write(self, table: FlowTable) -> bytes:
        """Add flows; the blocks that are full with them."""
        blocks = []
        step = BLOCK_BYTES // max(layout.itemsize for layout, _ in _LAYOUTS)
        for start in range(0, len(table), step):
            rows = table.take(slice(start, start + step))
            records = encode_nfcapd_records(rows)
            if self._record_bytes + len(records) > BLOCK_BYTES:
                blocks.append(self._block())
            self._block_octets[self._record_bytes : self._record_bytes + len(records)] = records
            self._record_bytes += len(records)
            self._record_count += len(rows)
            self._count(rows)
        return b"".join(blocks)

    def finish(self) -> tuple[bytes, bytes]:
        """What is left of the file, and the header that it is to begin with."""
        rest = self._block()
        ident = self._ident + b"\0"
        flows, octets, packets = (list(map(int, row)) for row in self._sums)
        statistics = _STATISTICS.pack(
            _STATISTICS_RECORD, _STATISTICS.size,
            flows[0], octets[0], packets[0], *flows[1:], *octets[1:], *packets[1:], self._first_ms, self._last_ms, 0,
        )  # fmt: skip
        appendix = struct.pack("<HH", _IDENT_RECORD, 4 + len(ident)) + ident + statistics
        header = self._header(self._offset)
        return rest + _BLOCK_HEADER.pack(2, len(appendix), _BLOCK_TYPE, _IS_UNCOMPRESSED) + appendix, header

    def _header(self, appendix: int) -> bytes:
        return _HEADER.pack(
            MAGIC, LAYOUT, NFDUMP_VERSION, self._created_s, 0, 0, 1 if appendix else 0, 0, appendix, BLOCK_BYTES,
            self._block_count,
        )  # fmt: skip

    def _block(self) -> bytes:
        if not self._record_count:
            return b""
        header = _BLOCK_HEADER.pack(self._record_count, self._record_bytes, _BLOCK_TYPE, 0)
        octets = header + self._block_octets[: self._record_bytes].tobytes()
        self._record_bytes = self._record_count = 0
        self._block_count += 1
        self._offset += len(octets)
        return octets

    def _count(self, table: FlowTable) -> None:
        protocol = table.protocol_identifier
        is_icmp = (protocol == ICMP) | (protocol == ICMPV6)
        kinds = [protocol == TCP, protocol == UDP, is_icmp]
        kinds.append(~(kinds[0] | kinds[1] | kinds[2]))
        interval = table.sampling_interval.astype(np.uint64)
        ones = np.ones(len(table), np.uint64)
        for row, counts in enumerate((ones, table.octet_delta_count * interval, table.packet_delta_count * interval)):
            self._sums[row, 0] += counts.sum()
            for column, kind in enumerate(kinds, 1):
                self._sums[row, column] += counts[kind].sum()
        first, last = int(table.flow_start_ns.min()) // _NS_PER_MS, int(table.flow_end_ns.max()) // _NS_PER_MS
        self._first_ms = min(self._first_ms or first, first)
        self._last_ms = max(self._last_ms, last)


def encode_nfcapd_records(table: FlowTable) -> NDArray[np.uint8]:
    """The records of flows, one behind the other, in their order."""
    has_reverse = (table.reverse_packet_delta_count != 0) | (table.reverse_octet_delta_count != 0)
    number = (table.ip_version == 6).astype(np.int64) + 2 * has_reverse
    sizes = np.array([layout.itemsize for layout, _ in _LAYOUTS], np.int64)[number]
    offsets = np.cumsum(sizes) - sizes
    out = np.empty(int(sizes.sum()), np.uint8)
    for which in np.unique(number).tolist():
        rows = np.flatnonzero(number == which)
        records = _fill(table, rows, which)
        _place(records.view(np.uint8).reshape(len(rows), -1), offsets[rows], out)
    return out


def _fill(table: FlowTable, rows: NDArray[np.intp], which: int) -> NDArray[Any]:
    dtype, elements = _LAYOUTS[which]
    is_ipv6, has_reverse = which % 2 == 1, which >= 2
    records = np.zeros(len(rows), dtype)
    records["type"], records["size"], records["elements"] = _V3_RECORD, dtype.itemsize, len(elements)
    records["netflow_version"] = _WRITTEN_BY
    for kind, length in elements:
        records[f"{kind}_type"], records[f"{kind}_length"] = kind, length
    told: dict[str, NDArray[Any]] = {name: column[rows] for name, column in table.columns().items()}
    is_icmp = (told["protocol_identifier"] == ICMP) | (told["protocol_identifier"] == ICMPV6)
    interval = told["sampling_interval"].astype(np.uint64)
    records["engine_type"], records["engine_id"] = np.divmod(told["observation_domain_id"] & 0xFFFF, 256)
    records["first"], records["last"] = told["flow_start_ns"] // _NS_PER_MS, told["flow_end_ns"] // _NS_PER_MS
    records["received"] = records["last"]
    records["packets"] = told["packet_delta_count"] * interval
    records["octets"] = told["octet_delta_count"] * interval
    records["destination_port"] = np.where(is_icmp, told["icmp_type_code"], told["destination_transport_port"])
    for name, of in (
        ("source_port", "source_transport_port"),
        ("protocol", "protocol_identifier"),
        ("tcp_flags", "tcp_control_bits"),
        ("tos", "ip_class_of_service"),
        ("input", "ingress_interface"),
        ("output", "egress_interface"),
        ("source_mask", "source_prefix_length"),
        ("destination_mask", "destination_prefix_length"),
        ("direction", "flow_direction"),
        ("end_reason", "flow_end_reason"),
        ("reverse_flags", "reverse_tcp_control_bits"),
        ("source_vlan", "vlan_id"),
        ("source_as", "bgp_source_as_number"),
        ("destination_as", "bgp_destination_as_number"),
    ):
        records[name] = told[of]
    if has_reverse:
        records["flows"] = 1
        records["reverse_packets"] = told["reverse_packet_delta_count"] * interval
        records["reverse_octets"] = told["reverse_octet_delta_count"] * interval
    for name, of in (
        ("source", "source_address"),
        ("destination", "destination_address"),
        ("next_hop", "ip_next_hop_address"),
    ):
        records[name] = _as_numbers(told[of], is_ipv6=is_ipv6)
    return records


def _as_numbers(addresses: NDArray[np.uint8], *, is_ipv6: bool) -> NDArray[Any]:
    """Addresses as nfdump holds them: a number of 32 bits, or two of 64, in the machine's order."""
    if not is_ipv6:
        return np.ascontiguousarray(addresses[:, :11:-1]).view("V4")[:, 0]
    halves = np.concatenate([addresses[:, 7::-1], addresses[:, :7:-1]], axis=1)
    return np.ascontiguousarray(halves).view("V16")[:, 0]


@njit(cache=True, nogil=True)
def _place(records: NDArray[np.uint8], offsets: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
    for row in range(len(records)):
        start = offsets[row]
        for i in range(records.shape[1]):
            out[start + i] = records[row, i]
