"""Names of IP protocols in flow tables, to their IANA numbers; and names of what is no IP at all."""

from __future__ import annotations

from typing import Final

# IANA's names in lower case, and what tools write instead of them.
NUMBER_OF_NAME: Final[dict[str, int]] = {
    "hopopt": 0, "icmp": 1, "igmp": 2, "ggp": 3, "ipv4": 4, "ipip": 4, "ipnip": 4, "ip-in-ip": 4, "st": 5, "tcp": 6,
    "cbt": 7, "egp": 8, "igp": 9, "pup": 12, "argus": 13, "xnet": 15, "chaos": 16, "udp": 17, "mux": 18, "hmp": 20,
    "rdp": 27, "irtp": 28, "dccp": 33, "idpr": 35, "xtp": 36, "ddp": 37, "ipv6": 41, "sdrp": 42, "ipv6-route": 43,
    "ipv6-frag": 44, "idrp": 45, "rsvp": 46, "gre": 47, "dsr": 48, "esp": 50, "ah": 51, "swipe": 53, "mobile": 55,
    "tlsp": 56, "skip": 57, "ipv6-icmp": 58, "icmp6": 58, "icmpv6": 58, "icmp-v6": 58, "ipv6-no": 59,
    "ipv6-nonxt": 59, "ipv6-opts": 60, "cftp": 62, "eigrp": 88, "ospf": 89, "ospfigp": 89, "mtp": 92, "ax.25": 93,
    "etherip": 97, "encap": 98, "pim": 103, "ipcomp": 108, "vrrp": 112, "carp": 112, "pgm": 113, "l2tp": 115,
    "isis": 124, "fc": 133, "sctp": 132, "rsvp-e2e-ignore": 134, "mobility": 135, "udplite": 136, "udp-lite": 136,
    "mpls-in-ip": 137, "manet": 138, "shim6": 139, "wesp": 140, "rohc": 142,
    "rtp": 17, "rtcp": 17, "udt": 17,  # what Argus sees inside UDP
}  # fmt: skip

# A flow of these has no IP addresses, so it is not read: ARP, spanning tree, LLDP and their like.
NOT_IP: Final = frozenset(
    {"arp", "rarp", "lldp", "stp", "llc", "ipx/spx", "ipx", "man", "eapol", "loop", "cdp", "pnio", "profinet", "ether"}
)  # fmt: skip

# What a tool writes where it saw a protocol that it has no name for.
NAMELESS: Final = frozenset({"unknown_transport", "unas", "unknown"})
