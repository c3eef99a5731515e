"""Columns of text to flow columns, by a mapping: `flow_columns`, which counts every row by its fate.

Reasons: ``bad_protocol``, ``bad_address`` (none, or of another version than the other's), ``bad_time`` (none, before
1970 or after 2262), ``bad_port``, ``bad_count``, ``bad_flags``, ``bad_number`` (another column's), ``no_packets``; not
supported: ``non_ip`` (ARP and its like), ``unknown_protocol``, ``other_record`` (one that is none of a flow).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nsstream.capture.flow_cells import Cells
from nsstream.capture.flow_fields import (
    Flags,
    addresses,
    answering_types,
    durations_ns,
    icmp_of_text,
    times_ns,
    whole_numbers,
)
from nsstream.capture.flow_mapping import NUMBER_FIELDS, AddressColumn, TableMapping
from nsstream.capture.flow_texts import (
    BAD_PROTOCOL,
    NON_IP,
    UNKNOWN_PROTOCOL,
    LabelCodes,
    protocol_numbers,
    tcp_flags,
)
from nsstream.counters import Tally
from nsstream.trace.fields import ICMP, ICMPV6, TCP
from nsstream.trace.flows import TimeQuality

_MAX_PORT: Final = 0xFFFF
_MAX_COUNT: Final = 2**62  # so that no sum of two leaves 63 bits
_MAX_NS: Final = 2**63 - 1
_LEAST_IP_OCTETS: Final = 20
_UNSUPPORTED: Final = ("non_ip", "unknown_protocol", "other_record")


class _Fates:
    """Which rows are still to be kept; the first reason that refuses a row is the one that counts."""

    def __init__(self, n: int) -> None:
        self.is_kept = np.ones(n, np.bool_)
        self._counts: dict[str, int] = {}

    def refuse(self, reason: str, rows: Flags) -> None:
        refused = self.is_kept & rows
        if count := int(refused.sum()):
            self._counts[reason] = self._counts.get(reason, 0) + count
            self.is_kept &= ~rows

    def add_to(self, tally: Tally) -> None:
        tally.offered += len(self.is_kept)
        tally.kept += int(self.is_kept.sum())
        for reason, count in self._counts.items():
            (tally.unsupported if reason in _UNSUPPORTED else tally.malformed)[reason] += count


def flow_columns(
    n: int, cells: Mapping[str, Cells], mapping: TableMapping, labels: LabelCodes, tally: Tally
) -> tuple[dict[str, NDArray[Any]], int]:
    """The columns of the rows that are kept, in their order, and how many of those have a placeholder as an address."""
    fates = _Fates(n)
    columns: dict[str, NDArray[Any]] = {}
    if mapping.only is not None:
        fates.refuse("other_record", ~cells[mapping.only.column].is_one_of(mapping.only.texts))
    protocol = protocol_numbers(cells[mapping.protocol], mapping.protocol_prefix)
    fates.refuse("non_ip", protocol == NON_IP)
    fates.refuse("unknown_protocol", protocol == UNKNOWN_PROTOCOL)
    fates.refuse("bad_protocol", protocol == BAD_PROTOCOL)
    is_placeholder = _put_addresses(columns, cells, mapping, fates)
    protocol = np.where((columns["ip_version"] == 6) & (protocol == ICMP), ICMPV6, protocol)
    columns["protocol_identifier"] = np.where(protocol < 0, 0, protocol).astype(np.uint8)
    _put_times(columns, cells, mapping, fates)
    _put_ports(columns, cells, mapping, fates)
    _put_counts(columns, cells, mapping, fates)
    _put_flags(columns, cells, mapping, fates)
    for name, column in mapping.numbers.items():
        if column in cells:
            values, is_read = whole_numbers(cells[column], mapping.missing, NUMBER_FIELDS[name])
            fates.refuse("bad_number", ~is_read)
            columns[name] = values
    if "sampling_interval" in columns:
        columns["sampling_interval"][columns["sampling_interval"] == 0] = 1
    if mapping.label is not None and (parts := [cells[name] for name in mapping.label.columns if name in cells]):
        columns["label"] = labels.codes(parts, mapping.label, mapping.missing)
    fates.add_to(tally)
    kept = {name: column[fates.is_kept] for name, column in columns.items()}
    return kept, int((is_placeholder & fates.is_kept).sum())


def _put_addresses(
    columns: dict[str, NDArray[Any]], cells: Mapping[str, Cells], mapping: TableMapping, fates: _Fates
) -> Flags:
    source, source_version, is_source_made = addresses(cells[mapping.source_address.column], mapping.source_address)
    destination, version, is_destination_made = addresses(
        cells[mapping.destination_address.column], mapping.destination_address
    )
    for octets, is_made, other in (
        (source, is_source_made, version),
        (destination, is_destination_made, source_version),
    ):
        is_wide = is_made & (other == 6)  # the other end is IPv6: the same number below 2001:db8::/32
        octets[is_wide, :12] = np.array([0x20, 0x01, 0x0D, 0xB8, *[0] * 8], np.uint8)
    version = np.where(is_destination_made & (source_version != 0), source_version, version)
    source_version = np.where(is_source_made, version, source_version)
    fates.refuse("bad_address", (version == 0) | (version != source_version))
    columns |= {"source_address": source, "destination_address": destination, "ip_version": version}
    columns |= _other_address("ip_next_hop_address", mapping.next_hop, cells, fates)
    columns |= _other_address("exporter_address", mapping.exporter, cells, fates)
    if mapping.source_address.form == mapping.destination_address.form == "as_number":
        for name, column in (("source", mapping.source_address), ("destination", mapping.destination_address)):
            columns[f"bgp_{name}_as_number"] = whole_numbers(cells[column.column], (), 2**32 - 1)[0]
    return is_source_made | is_destination_made


def _other_address(
    name: str, column: AddressColumn | None, cells: Mapping[str, Cells], fates: _Fates
) -> dict[str, NDArray[Any]]:
    """A next hop or an exporter: all zero where it is not told, or told as an address of zeros."""
    if column is None or column.column not in cells:
        return {}
    octets, versions, _ = addresses(cells[column.column], column)
    fates.refuse("bad_address", (versions == 0) & ~cells[column.column].is_one_of(("", "-")))
    octets[~octets[:, 12:].any(axis=1) & (versions == 4)] = 0
    return {name: octets}


def _put_times(
    columns: dict[str, NDArray[Any]], cells: Mapping[str, Cells], mapping: TableMapping, fates: _Fates
) -> None:
    n = len(fates.is_kept)
    start = end = duration = None
    is_start = is_end = is_duration = np.zeros(n, np.bool_)
    if mapping.start is not None and mapping.start.column in cells:
        start, is_start = times_ns(cells[mapping.start.column], mapping.start, mapping.time_zone)
    if mapping.end is not None and mapping.end.column in cells:
        end, is_end = times_ns(cells[mapping.end.column], mapping.end, mapping.time_zone)
    if mapping.duration is not None and mapping.duration.column in cells:
        duration, is_duration = durations_ns(cells[mapping.duration.column], mapping.duration.unit, mapping.missing)
    length = np.zeros(n, np.int64) if duration is None else np.where(is_duration, duration, 0)
    if start is None:
        assert end is not None
        is_clamped = length < 0
        last = end
        first = last - np.where(is_clamped, 0, length)
        is_told = is_end & (is_duration | (duration is None)) & (first >= 0)
    else:
        first = start
        by_length = first + np.minimum(length, _MAX_NS - np.maximum(first, 0))
        last = first.copy() if end is None else np.where(is_end, end, first)
        if duration is not None:
            last = np.where(is_duration, by_length, last)
        is_clamped = last < first
        last = np.where(is_clamped, first, last)
        is_told = is_start & (is_duration | is_end | ((duration is None) & (end is None)))
        is_told &= ~is_duration | (length <= _MAX_NS - np.maximum(first, 0))
    fates.refuse("bad_time", ~is_told)
    columns["flow_start_ns"], columns["flow_end_ns"] = first, last
    columns["time_quality"] = np.where(is_clamped, np.uint8(TimeQuality.CLAMPED), np.uint8(0))


def _put_ports(
    columns: dict[str, NDArray[Any]], cells: Mapping[str, Cells], mapping: TableMapping, fates: _Fates
) -> None:
    n = len(fates.is_kept)
    is_icmp = (columns["protocol_identifier"] == ICMP) | (columns["protocol_identifier"] == ICMPV6)
    icmp = np.zeros(n, np.uint16)
    ports = {"source": np.zeros(n, np.int64), "destination": np.zeros(n, np.int64)}
    for end, column in (("source", mapping.source_port), ("destination", mapping.destination_port)):
        if column is None:
            continue
        if mapping.icmp == "dotted" and end == "destination" and is_icmp.any():
            icmp, is_bad = icmp_of_text(cells[column], is_icmp, mapping.missing)
            fates.refuse("bad_port", is_bad)
            values, is_read = whole_numbers(cells[column], mapping.missing, _MAX_PORT)
            is_read |= is_icmp
        else:
            values, is_read = whole_numbers(cells[column], mapping.missing, _MAX_PORT)
        fates.refuse("bad_port", ~is_read)
        ports[end] = values
    if mapping.icmp in ("ports", "argus", "zeek"):
        kind, code = ports["source"], ports["destination"]
        if mapping.icmp == "argus":  # of ICMPv4 it prints both as the little-endian number that they are in memory
            is_v4 = columns["protocol_identifier"] == ICMP
            kind, code = np.where(is_v4, kind & 0xFF, kind), np.where(is_v4, kind >> 8, code)
        elif mapping.icmp == "zeek":
            code = np.where(answering_types(kind, columns["protocol_identifier"] == ICMPV6) >= 0, 0, code)
        icmp = ((kind & 0xFF) << 8 | (code & 0xFF)).astype(np.uint16)
    elif mapping.icmp == "columns":
        kind, code = (
            np.zeros(n, np.int64) if name not in cells else whole_numbers(cells[name], mapping.missing, 255)[0]
            for name in (mapping.icmp_type or "", mapping.icmp_code or "")
        )
        icmp = (kind << 8 | code).astype(np.uint16)
    elif mapping.icmp == "destination_port":
        icmp = ports["destination"].astype(np.uint16)
    columns["icmp_type_code"] = np.where(is_icmp, icmp, np.uint16(0))
    for end, values in ports.items():
        columns[f"{end}_transport_port"] = np.where(is_icmp, 0, values).astype(np.uint16)


def _put_counts(
    columns: dict[str, NDArray[Any]], cells: Mapping[str, Cells], mapping: TableMapping, fates: _Fates
) -> None:
    def counts(column: str | None) -> NDArray[np.int64]:
        if column is None or column not in cells:
            return np.zeros(len(fates.is_kept), np.int64)
        values, is_read = whole_numbers(cells[column], mapping.missing, _MAX_COUNT)
        fates.refuse("bad_count", ~is_read)
        return values

    packets, octets = counts(mapping.packets), counts(mapping.octets)
    reverse_packets, reverse_octets = counts(mapping.reverse_packets), counts(mapping.reverse_octets)
    if mapping.total_packets is not None:
        packets = counts(mapping.total_packets)
        total = counts(mapping.total_octets)
        if mapping.octets is None:
            octets = total
        fates.refuse("bad_count", octets > total)
        reverse_octets = np.maximum(total - octets, 0)
        reverse_packets = _shared_packets(packets, octets, reverse_octets)
        packets = packets - reverse_packets
    if mapping.link_header_octets:
        octets = _without_link_headers(octets, packets, mapping.link_header_octets)
        reverse_octets = _without_link_headers(reverse_octets, reverse_packets, mapping.link_header_octets)
    fates.refuse("no_packets", (packets == 0) & (reverse_packets == 0))
    columns["packet_delta_count"], columns["octet_delta_count"] = packets, octets
    columns["reverse_packet_delta_count"], columns["reverse_octet_delta_count"] = reverse_packets, reverse_octets


def _without_link_headers(
    octets: NDArray[np.int64], packets: NDArray[np.int64], header_octets: int
) -> NDArray[np.int64]:
    """Octets of the IP datagrams alone; not below what their headers have, where there was no such link header."""
    packets = np.minimum(packets, octets)  # so that no product leaves 63 bits
    least = np.minimum(octets, _LEAST_IP_OCTETS * packets)
    bare: NDArray[np.int64] = np.maximum(octets - header_octets * packets, least)
    return bare


def _shared_packets(
    packets: NDArray[np.int64], octets: NDArray[np.int64], reverse_octets: NDArray[np.int64]
) -> NDArray[np.int64]:
    """How many of the packets of both directions were of the reverse one: its share of the octets.

    At least one where it had octets, and at least one left where the first direction had some.
    """
    share = reverse_octets / np.maximum(octets + reverse_octets, 1)
    reverse = np.rint(packets * share).astype(np.int64)
    reverse = np.maximum(reverse, (reverse_octets > 0).astype(np.int64))
    shared: NDArray[np.int64] = np.maximum(np.minimum(reverse, packets - (octets > 0)), 0)
    return shared


def _put_flags(
    columns: dict[str, NDArray[Any]], cells: Mapping[str, Cells], mapping: TableMapping, fates: _Fates
) -> None:
    is_tcp = columns["protocol_identifier"] == TCP
    for name, column in (
        ("tcp_control_bits", mapping.tcp_flags),
        ("reverse_tcp_control_bits", mapping.reverse_tcp_flags),
    ):
        if column is None or column.column not in cells:
            continue
        forward, reverse, is_read = tcp_flags(cells[column.column], column)
        fates.refuse("bad_flags", ~is_read)
        if column.form in ("flags", "hexadecimal"):
            columns[name] = forward  # as exported: some say the flags of what GRE or UDP carries
        else:
            columns[name] = np.where(is_tcp, forward, 0)
            columns["reverse_tcp_control_bits"] = np.where(is_tcp, reverse, 0)
