"""The four consistency tests of NetShare's appendix: the share of records that could be real at all. Higher is better.

1. The source is no multicast or broadcast address, and neither end is in 0.0.0.0/8.
2. Octets of a flow lie between its packets times the smallest and the largest datagram of its protocol.
3. A well-known port carries a protocol that uses it.
4. A packet is no shorter than the headers that it must have.
IPv6 counts with its own header length and multicast range (RFC 4291 2.7), which NetShare does not know.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.score.observed import Observed
from nsstream.trace import PacketBatch
from nsstream.trace.fields import SCTP, TCP, UDP

LARGEST_OCTETS: Final = 65535
_MAPPED: Final = 12  # octet of a v4-mapped address where the IPv4 address begins
# Well-known port -> the transports that may carry it (IANA service registry, as used in practice).
_WELL_KNOWN: Final[dict[int, tuple[int, ...]]] = {
    **dict.fromkeys((20, 21, 22, 23, 25, 80, 110, 143, 179, 445, 993, 995, 3389), (TCP,)),
    **dict.fromkeys((67, 68, 69, 123, 161, 514, 1900, 5353), (UDP,)),
}


def consistency(trace: Observed) -> dict[str, float]:
    """The share of records that pass each test, in [0, 1]; test 2 is over flows, the others over packets."""
    least = _least_octets(trace.packets)
    octets = trace.packets.ip_total_length.astype(np.int64)
    flow_octets = np.bincount(trace.flow, weights=octets)
    flow_least = np.bincount(trace.flow, weights=least)
    largest = trace.flow_packet_count * LARGEST_OCTETS
    return {
        "addresses": float(_has_lawful_addresses(trace.packets).mean()),
        "flow_octets": float(((flow_octets >= flow_least) & (flow_octets <= largest)).mean()),
        "port_protocol": float(_has_lawful_port(trace.packets).mean()),
        "least_size": float((octets >= least).mean()),
    }


def _has_lawful_addresses(packets: PacketBatch) -> NDArray[np.bool_]:
    is_v4 = packets.ip_version == 4
    source, destination = packets.source_address, packets.destination_address
    first, other = source[:, _MAPPED], destination[:, _MAPPED]
    lawful_v4 = ~(((first >= 224) & (first < 240)) | (first == 255)) & (first != 0) & (other != 0)
    lawful_v6 = source[:, 0] != 0xFF
    lawful: NDArray[np.bool_] = np.where(is_v4, lawful_v4, lawful_v6)
    return lawful


def _has_lawful_port(packets: PacketBatch) -> NDArray[np.bool_]:
    lower = np.minimum(packets.source_transport_port, packets.destination_transport_port)
    protocol = packets.protocol_identifier
    lawful: NDArray[np.bool_] = np.ones(len(packets), np.bool_)
    for port, transports in _WELL_KNOWN.items():
        is_other = np.isin(protocol, (TCP, UDP)) & ~np.isin(protocol, transports)
        lawful = np.where((lower == port) & is_other, np.False_, lawful)
    return lawful


def _least_octets(packets: PacketBatch) -> NDArray[np.int64]:
    """The headers that a datagram must have: (m,). A later fragment needs its IP header only."""
    transport = np.zeros(256, np.int64)
    transport[TCP], transport[UDP], transport[SCTP] = 20, 8, 12
    header = np.where(packets.ip_version == 4, 20, 40)
    return header + np.where(packets.fragment_offset == 0, transport[packets.protocol_identifier], 0)
