"""Flows as ntop's records: elements by number, as `ntop_message` carries them and ntopng reads them."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

from nsstream.trace.fields import ICMP, ICMPV6
from nsstream.trace.flows import FlowTable
from nsstream.wire import ntop_elements as ie

_NUMBERS = {
    ie.IN_BYTES: "octet_delta_count",
    ie.IN_PKTS: "packet_delta_count",
    ie.OUT_BYTES: "reverse_octet_delta_count",
    ie.OUT_PKTS: "reverse_packet_delta_count",
    ie.PROTOCOL: "protocol_identifier",
    ie.SRC_TOS: "ip_class_of_service",
    ie.L4_SRC_PORT: "source_transport_port",
    ie.L4_DST_PORT: "destination_transport_port",
    ie.INPUT_SNMP: "ingress_interface",
    ie.OUTPUT_SNMP: "egress_interface",
    ie.SRC_AS: "bgp_source_as_number",
    ie.DST_AS: "bgp_destination_as_number",
    ie.SRC_VLAN: "vlan_id",
    ie.IP_PROTOCOL_VERSION: "ip_version",
    ie.ICMP_TYPE: "icmp_type_code",
}


def ntop_records(table: FlowTable, shift_ns: int) -> Iterator[dict[int, int | str]]:
    """Each flow as a record, its times moved by `shift_ns`."""
    columns = {number: getattr(table, name).tolist() for number, name in _NUMBERS.items()}
    flags = (table.tcp_control_bits | table.reverse_tcp_control_bits).tolist()
    starts, ends = ((getattr(table, name) + shift_ns).tolist() for name in ("flow_start_ns", "flow_end_ns"))
    sources, destinations = table.source_address, table.destination_address
    for at in range(len(table)):
        record: dict[int, int | str] = {number: values[at] for number, values in columns.items()}
        if record[ie.PROTOCOL] not in (ICMP, ICMPV6):
            del record[ie.ICMP_TYPE]
        record[ie.TCP_FLAGS] = flags[at]
        record[ie.FIRST_SWITCHED], record[ie.LAST_SWITCHED] = starts[at] // 10**9, ends[at] // 10**9
        record[ie.FLOW_START_MILLISECONDS], record[ie.FLOW_END_MILLISECONDS] = (
            starts[at] // 10**6,
            ends[at] // 10**6,
        )
        if record[ie.IP_PROTOCOL_VERSION] == 4:
            record[ie.IPV4_SRC_ADDR] = str(IPv4Address(sources[at, 12:].tobytes()))
            record[ie.IPV4_DST_ADDR] = str(IPv4Address(destinations[at, 12:].tobytes()))
        else:
            record[ie.IPV6_SRC_ADDR] = str(IPv6Address(sources[at].tobytes()))
            record[ie.IPV6_DST_ADDR] = str(IPv6Address(destinations[at].tobytes()))
        yield record
