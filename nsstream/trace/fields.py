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
