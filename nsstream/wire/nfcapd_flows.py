"""Flow columns of the records of one nfdump block: `flow_columns`, which counts every record by its fate.

nfdump keeps the counts of sampled traffic multiplied by the sampling interval, so that is what the columns hold, with a
sampling interval of 1. What nfdump calls out packets and out bytes are the reverse counts. ICMP type and code are in
the destination port.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nsstream.counters import Tally
from nsstream.wire import nfcapd_records as records
from nsstream.wire.nfcapd_records import RECORD_HEADER_BYTES, SLOT_COUNT, find_elements, gather

FlowColumns = dict[str, NDArray[Any]]
Exporters = dict[int, tuple[bytes, int]]  # number in the file -> (address of 16 octets, observation domain)

_MAX_MS: Final = (2**63 - 1) // 1_000_000
_NS_PER_MS: Final = 1_000_000
_IS_EVENT: Final = 1  # in the flags of a record
_EXPORT_TIME: Final = 2  # of `trace.flows.TimeQuality`
_CLAMPED: Final = 4
_ICMP: Final = 1
_ICMPV6: Final = 58

# column -> (slot of the element, offset in it, width, dtype, where there is none)
_NUMBERS: Final[dict[str, tuple[int, int, int, type[np.generic], int]]] = {
    "protocol_identifier": (records.GENERIC_FLOW, 44, 1, np.uint8, 0),
    "source_transport_port": (records.GENERIC_FLOW, 40, 2, np.uint16, 0),
    "destination_transport_port": (records.GENERIC_FLOW, 42, 2, np.uint16, 0),
    "packet_delta_count": (records.GENERIC_FLOW, 24, 8, np.int64, 0),
    "octet_delta_count": (records.GENERIC_FLOW, 32, 8, np.int64, 0),
    "tcp_control_bits": (records.GENERIC_FLOW, 45, 1, np.uint16, 0),
    "ip_class_of_service": (records.GENERIC_FLOW, 47, 1, np.uint8, 0),
    "reverse_packet_delta_count": (records.OUT_COUNTS, 8, 8, np.int64, 0),
    "reverse_octet_delta_count": (records.OUT_COUNTS, 16, 8, np.int64, 0),
    "reverse_tcp_control_bits": (records.LONG_FLOW_MISC, 14, 1, np.uint16, 0),
    "flow_end_reason": (records.LONG_FLOW_MISC, 13, 1, np.uint8, 0),
    "flow_direction": (records.FLOW_MISC, 10, 1, np.uint8, 255),
    "ingress_interface": (records.FLOW_MISC, 0, 4, np.uint32, 0),
    "egress_interface": (records.FLOW_MISC, 4, 4, np.uint32, 0),
    "source_prefix_length": (records.FLOW_MISC, 8, 1, np.uint8, 0),
    "destination_prefix_length": (records.FLOW_MISC, 9, 1, np.uint8, 0),
    "bgp_source_as_number": (records.AS_NUMBERS, 0, 4, np.uint32, 0),
    "bgp_destination_as_number": (records.AS_NUMBERS, 4, 4, np.uint32, 0),
    "vlan_id": (records.VLAN, 0, 2, np.uint16, 0),
}
# column -> (slot of the element of IPv4, of IPv6, which of the element's addresses)
_ADDRESSES: Final = {
    "source_address": (records.IPV4_FLOW, records.IPV6_FLOW, 0),
    "destination_address": (records.IPV4_FLOW, records.IPV6_FLOW, 1),
    "ip_next_hop_address": (records.NEXT_HOP_IPV4, records.NEXT_HOP_IPV6, 0),
    "exporter_address": (records.RECEIVED_IPV4, records.RECEIVED_IPV6, 0),
}


def flow_columns(
    block: NDArray[np.uint8], offsets: NDArray[np.int64], exporters: Exporters, tally: Tally
) -> FlowColumns | None:
    """The columns of the records at these offsets that are kept, in their order; None if none is.

    Reasons: ``bad_element`` (one reaches beyond its record, or is too short), ``no_generic_flow`` (times and counts are
    missing), ``no_address``, ``bad_time`` (after 2262), ``no_packets``; not supported: ``event`` (of a firewall or NAT,
    counts no packet).
    """
    is_sound = np.empty(len(offsets), np.bool_)
    index = np.empty((len(offsets), SLOT_COUNT), np.int64)
    find_elements(block, offsets, index, is_sound)
    tally.offered += len(offsets)
    offsets, index = _keep(is_sound, "bad_element", offsets, index, tally)

    is_event = np.zeros(len(offsets), np.uint8)
    gather(block, offsets + RECORD_HEADER_BYTES, -2, 1, is_event)
    is_counted = _number(block, index, "packet_delta_count") | _number(block, index, "reverse_packet_delta_count") != 0
    is_event = (is_event & _IS_EVENT).astype(np.bool_) & ~is_counted
    if events := int(is_event.sum()):
        tally.unsupported["event"] += events
    offsets, index, is_counted = offsets[~is_event], index[~is_event], is_counted[~is_event]

    fate = np.select(
        [
            index[:, records.GENERIC_FLOW] == 0,
            (index[:, records.IPV4_FLOW] == 0) & (index[:, records.IPV6_FLOW] == 0),
            ~is_counted,
        ],
        [1, 2, 3],
        0,
    )
    for code, reason in enumerate(("no_generic_flow", "no_address", "no_packets"), 1):
        if count := int((fate == code).sum()):
            tally.malformed[reason] += count
    offsets, index = offsets[fate == 0], index[fate == 0]

    times, is_in_time = _times(block, index[:, records.GENERIC_FLOW])
    offsets, index = _keep(is_in_time, "bad_time", offsets, index, tally)
    tally.kept += len(offsets)
    if not len(offsets):
        return None
    columns: FlowColumns = {name: column[is_in_time] for name, column in times.items()}
    columns["ip_version"] = np.where(index[:, records.IPV4_FLOW] != 0, np.uint8(4), np.uint8(6))
    for name, (ipv4, ipv6, which) in _ADDRESSES.items():
        columns[name] = np.zeros((len(index), 16), np.uint8)
        records.gather_ipv6(block, index[:, ipv6], 16 * which, columns[name])
        records.gather_ipv4(block, index[:, ipv4], 4 * which, columns[name])
    for name in _NUMBERS:
        column = _number(block, index, name)
        columns[name] = column.view(np.uint64) if column.dtype == np.int64 else column
    _move_icmp(columns)
    _name_exporters(block, offsets, index, exporters, columns)
    return columns


def _keep(
    is_kept: NDArray[np.bool_], reason: str, offsets: NDArray[np.int64], index: NDArray[np.int64], tally: Tally
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    if is_kept.all():
        return offsets, index
    tally.malformed[reason] += int((~is_kept).sum())
    return offsets[is_kept], index[is_kept]


def _number(block: NDArray[np.uint8], index: NDArray[np.int64], name: str) -> NDArray[Any]:
    slot, offset, width, dtype, default = _NUMBERS[name]
    column = np.full(len(index), default, dtype)
    gather(block, index[:, slot], offset, width, column)
    return column


def _times(block: NDArray[np.uint8], generic: NDArray[np.int64]) -> tuple[FlowColumns, NDArray[np.bool_]]:
    """Start, end and their quality; and which rows have times that a column can hold."""
    first, last, received = (np.zeros(len(generic), np.int64) for _ in range(3))
    for offset, out in ((0, first), (8, last), (16, received)):
        gather(block, generic, offset, 8, out)
    is_timeless = (first == 0) & (last == 0) & (received > 0)
    first = np.where(is_timeless, received, first)
    last = np.where(is_timeless, received, last)
    is_in_time = (first >= 0) & (first <= _MAX_MS)
    is_clamped = (last < first) | (last > _MAX_MS)
    last = np.where(is_clamped, first, last)
    quality = np.where(is_timeless, np.uint8(_EXPORT_TIME), np.uint8(0)) | np.where(
        is_clamped, np.uint8(_CLAMPED), np.uint8(0)
    )
    with np.errstate(over="ignore"):  # of rows that are not in time
        columns = {"flow_start_ns": first * _NS_PER_MS, "flow_end_ns": last * _NS_PER_MS, "time_quality": quality}
    return columns, is_in_time


def _move_icmp(columns: FlowColumns) -> None:
    is_icmp = (columns["protocol_identifier"] == _ICMP) | (columns["protocol_identifier"] == _ICMPV6)
    columns["icmp_type_code"] = np.where(is_icmp, columns["destination_transport_port"], np.uint16(0))
    columns["source_transport_port"][is_icmp] = 0
    columns["destination_transport_port"][is_icmp] = 0


def _name_exporters(
    block: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    index: NDArray[np.int64],
    exporters: Exporters,
    columns: FlowColumns,
) -> None:
    """Say which exporter and domain a flow is of: the record's own word, else the file's, else the engine's."""
    engine_type, engine_id, domain = (np.zeros(len(offsets), np.uint32) for _ in range(3))
    number = np.zeros(len(offsets), np.uint16)
    elements = offsets + RECORD_HEADER_BYTES
    gather(block, elements, -6, 1, engine_type)
    gather(block, elements, -5, 1, engine_id)
    gather(block, elements, -4, 2, number)
    domain |= engine_type << np.uint32(8) | engine_id
    for known in np.unique(number) if exporters else ():
        if known in exporters:
            address, domain_of_exporter = exporters[known]
            is_mine = number == known
            domain[is_mine] = domain_of_exporter
            is_nameless = is_mine & ~columns["exporter_address"].any(axis=1)
            columns["exporter_address"][is_nameless] = np.frombuffer(address, np.uint8)
    gather(block, index[:, records.OBSERVATION], 8, 4, domain)
    columns["observation_domain_id"] = domain
