"""What can become of a record: kept, malformed for a reason, or of a kind that is not supported. One code for each.

The loops count codes in an array; `add_fates` turns the counts into a `Tally` by name. The table at the end is the
reference of every reason that reading packets can give.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.counters import Tally

KEPT: Final = 0
SHORT_FRAME: Final = 1
CUT_BY_SNAPLEN: Final = 2
BAD_IP_VERSION: Final = 3
BAD_IP_HEADER_LENGTH: Final = 4
BAD_IP_TOTAL_LENGTH: Final = 5
BAD_EXTENSION_HEADER: Final = 6
BAD_TRANSPORT_LENGTH: Final = 7
BAD_TIME: Final = 8
FIRST_UNSUPPORTED: Final = 9
NON_IP: Final = 9
ARP: Final = 10
EAPOL: Final = 11
LLDP: Final = 12
MPLS: Final = 13
PPPOE: Final = 14
LLC: Final = 15
VLAN_STACK: Final = 16
EXTENSION_CHAIN: Final = 17
LINK_TYPE: Final = 18
NO_TIME: Final = 19

REASONS: Final = (
    "",  # kept
    "short_frame",  # a header that we need is not there, and was not on the wire either
    "cut_by_snaplen",  # a header that we need was on the wire, but was not captured
    "bad_ip_version",  # the version nibble is neither 4 nor 6, or not what the link layer says
    "bad_ip_header_length",  # IPv4 IHL below 5
    "bad_ip_total_length",  # IPv4 total length below the header's own
    "bad_extension_header",  # an IPv6 extension header reaches beyond the payload
    "bad_transport_length",  # no room for the transport header in the datagram, or TCP data offset below 5
    "bad_time",  # a time before 1970 or after 2262
    "non_ip",  # an EtherType that has no name below
    "arp",  # EtherType 0x0806
    "eapol",  # 0x888e
    "lldp",  # 0x88cc
    "mpls",  # 0x8847, 0x8848
    "pppoe",  # 0x8863, 0x8864
    "llc",  # IEEE 802.2 without an EtherType of IP behind SNAP: spanning tree, IPX, NetBEUI
    "vlan_stack",  # more than `link.MAX_VLAN_TAGS` tags
    "extension_chain",  # more than `ipv6.MAX_EXTENSION_HEADERS` IPv6 extension headers
    "link_type",  # the record's pcapng interface has a link type that we do not read
    "no_time",  # a pcapng Simple Packet Block: it says no time
)


def add_fates(tally: Tally, counts: NDArray[np.int64]) -> None:
    """Add counts by fate code to a tally; every record counted was offered."""
    kept, *others = counts.tolist()
    tally.offered += kept
    tally.kept += kept
    for code, count in enumerate(others, 1):
        if count:
            reasons = tally.malformed if code < FIRST_UNSUPPORTED else tally.unsupported
            reasons[REASONS[code]] += count
            tally.offered += count
