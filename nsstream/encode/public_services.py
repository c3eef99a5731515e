"""Services that everybody knows: a public dictionary, so that a private chunk's need not come from a public seed.

Of a protocol and port each, over IPv4 and IPv6; ports by IANA's registry of service names. Any other port is spelt out
(`schema.RARE_PORT`).
"""

from __future__ import annotations

from typing import Final

from nsstream.encode.schema import RARE_PORT
from nsstream.trace.fields import ICMP, ICMPV6, TCP, UDP

_IGMP: Final = 2
_TCP_PORTS: Final = (
    20, 21, 22, 23, 25, 53, 80, 81, 88, 102, 110, 111, 113, 119, 135, 139, 143, 179, 389, 427, 443, 445, 465, 502, 515,
    548, 554, 587, 631, 636, 853, 873, 993, 995, 1080, 1433, 1521, 1723, 1883, 2049, 2222, 2404, 3000, 3128, 3268, 3306,
    3389, 4786, 4840, 5000, 5060, 5061, 5222, 5223, 5228, 5357, 5432, 5555, 5671, 5672, 5900, 5985, 6379, 6667, 8000,
    8008, 8009, 8080, 8081, 8086, 8443, 8883, 8888, 9000, 9090, 9100, 9200, 9443, 10001, 11211, 20000, 27017, 44818,
    47808,
)  # fmt: skip
_UDP_PORTS: Final = (
    53, 67, 68, 69, 123, 137, 138, 161, 162, 319, 320, 389, 427, 443, 500, 514, 520, 546, 547, 623, 853, 1194, 1434,
    1701, 1812, 1813, 1900, 2055, 2152, 3074, 3478, 3702, 4500, 4739, 4789, 5004, 5005, 5060, 5090, 5353, 5355, 5683,
    6343, 6666, 6667, 6771, 8080, 8801, 9995, 9996, 10000, 10001, 17500, 19302, 34964, 44818, 47808, 51820, 56700,
)  # fmt: skip

PUBLIC_SERVICES: Final[tuple[tuple[int, int, int, int], ...]] = (
    *((TCP, version, 0, port) for port in (*_TCP_PORTS, RARE_PORT) for version in (4, 6)),
    *((UDP, version, 0, port) for port in (*_UDP_PORTS, RARE_PORT) for version in (4, 6)),
    (ICMP, 4, 0, 0),
    (ICMPV6, 6, 0, 0),
    (_IGMP, 4, 0, 0),
)  # as `codec.service_values` has them: protocol, IP version, is_fragment, responder port
