"""Column names, dtypes and numbers: the one table that says what a packet column is called and holds.

Names are IANA IPFIX information elements in snake case (RFC 7012 registry); the number behind each is its element id,
None where IANA has no element and the RFC of the protocol names the field.
"""

from __future__ import annotations

from typing import Final

import numpy as np

# name -> (dtype, shape of one cell, IANA element id)
PACKET_FIELDS: Final[dict[str, tuple[np.dtype[np.generic], tuple[int, ...], int | None]]] = {
    "observation_time_ns": (np.dtype(np.int64), (), 325),  # since the Unix epoch
    "ip_version": (np.dtype(np.uint8), (), 60),
    "source_address": (np.dtype(np.uint8), (16,), 27),  # IPv4 as ::ffff:a.b.c.d (RFC 4291 2.5.5.2)
    "destination_address": (np.dtype(np.uint8), (16,), 28),
    "protocol_identifier": (np.dtype(np.uint8), (), 4),  # of the innermost header, behind IPv6 extension headers
    "source_transport_port": (np.dtype(np.uint16), (), 7),  # 0 unless TCP, UDP or SCTP, first fragment
    "destination_transport_port": (np.dtype(np.uint16), (), 11),
    "ip_total_length": (np.dtype(np.uint32), (), 224),  # octets of the datagram, header included (IPv6: 40 + payload)
    "ip_header_length": (np.dtype(np.uint16), (), 189),  # octets before the transport header, IPv6 extensions included
    "ip_class_of_service": (np.dtype(np.uint8), (), 5),
    "ip_ttl": (np.dtype(np.uint8), (), 192),  # TTL or hop limit
    "flow_label_ipv6": (np.dtype(np.uint32), (), 31),
    "fragment_identification": (np.dtype(np.uint32), (), 54),
    "fragment_offset": (np.dtype(np.uint16), (), 88),  # in units of 8 octets
    "fragment_flags": (np.dtype(np.uint8), (), 197),  # bit 1 (0x2) don't fragment, bit 0 (0x1) more fragments
    "tcp_control_bits": (np.dtype(np.uint16), (), 6),  # FIN 0x1 .. CWR 0x80; 0 unless TCP
    "tcp_sequence_number": (np.dtype(np.uint32), (), 184),
    "tcp_acknowledgement_number": (np.dtype(np.uint32), (), 185),
    "tcp_window_size": (np.dtype(np.uint16), (), 186),
    "tcp_header_length": (np.dtype(np.uint8), (), 188),  # octets, options included; 0 unless TCP
    "icmp_type": (np.dtype(np.uint8), (), 176),  # ICMP or ICMPv6; 0 otherwise
    "icmp_code": (np.dtype(np.uint8), (), 177),
    "vlan_id": (np.dtype(np.uint16), (), 58),  # outermost tag, 0 where untagged
}

ICMP: Final = 1
TCP: Final = 6
UDP: Final = 17
ICMPV6: Final = 58
SCTP: Final = 132

FIN: Final = 0x01
SYN: Final = 0x02
RST: Final = 0x04
PSH: Final = 0x08
ACK: Final = 0x10

# name -> (dtype, shape of one cell, IANA element id); the `reverse_` ones are of PEN 29305 (RFC 5103)
FLOW_FIELDS: Final[dict[str, tuple[np.dtype[np.generic], tuple[int, ...], int | None]]] = {
    "flow_start_ns": (np.dtype(np.int64), (), 156),  # since the Unix epoch
    "flow_end_ns": (np.dtype(np.int64), (), 157),
    "ip_version": (np.dtype(np.uint8), (), 60),
    "source_address": (np.dtype(np.uint8), (16,), 27),  # IPv4 as ::ffff:a.b.c.d
    "destination_address": (np.dtype(np.uint8), (16,), 28),
    "protocol_identifier": (np.dtype(np.uint8), (), 4),
    "source_transport_port": (np.dtype(np.uint16), (), 7),
    "destination_transport_port": (np.dtype(np.uint16), (), 11),
    "icmp_type_code": (np.dtype(np.uint16), (), 32),  # type << 8 | code, of ICMPv6 (139) too
    "packet_delta_count": (np.dtype(np.uint64), (), 2),
    "octet_delta_count": (np.dtype(np.uint64), (), 1),
    "tcp_control_bits": (np.dtype(np.uint16), (), 6),  # of all packets, or-ed
    "reverse_packet_delta_count": (np.dtype(np.uint64), (), 2),  # 0 in records of one direction
    "reverse_octet_delta_count": (np.dtype(np.uint64), (), 1),
    "reverse_tcp_control_bits": (np.dtype(np.uint16), (), 6),
    "ip_class_of_service": (np.dtype(np.uint8), (), 5),
    "flow_end_reason": (np.dtype(np.uint8), (), 136),  # `flows.FlowEndReason`
    "flow_direction": (np.dtype(np.uint8), (), 61),  # 0 ingress, 1 egress, 255 not told
    "ingress_interface": (np.dtype(np.uint32), (), 10),
    "egress_interface": (np.dtype(np.uint32), (), 14),
    "bgp_source_as_number": (np.dtype(np.uint32), (), 16),
    "bgp_destination_as_number": (np.dtype(np.uint32), (), 17),
    "source_prefix_length": (np.dtype(np.uint8), (), 9),  # of IPv6 (29), too
    "destination_prefix_length": (np.dtype(np.uint8), (), 13),
    "ip_next_hop_address": (np.dtype(np.uint8), (16,), 15),  # all zero where nobody told
    "vlan_id": (np.dtype(np.uint16), (), 58),
    "sampling_interval": (np.dtype(np.uint32), (), 34),  # one packet in so many was looked at; 1: all
    "exporter_address": (np.dtype(np.uint8), (16,), 131),  # all zero where nobody told
    "observation_domain_id": (np.dtype(np.uint32), (), 149),  # v9: source id; v5: engine type << 8 | engine id
    "time_quality": (np.dtype(np.uint8), (), None),  # `flows.TimeQuality`, or-ed
    "label": (np.dtype(np.uint16), (), None),  # 0: none; else an index into the names beside the table, plus 1
}
