"""The elements of ntop's flow records that we read and write: NetFlow v9's numbers, and what nProbe calls them.

FIRST_SWITCHED and LAST_SWITCHED are seconds since the Unix epoch here, not of uptime; 152 and 153 are milliseconds.
"""

from __future__ import annotations

from typing import Final

IN_BYTES, IN_PKTS, PROTOCOL, SRC_TOS, TCP_FLAGS, L4_SRC_PORT, IPV4_SRC_ADDR = 1, 2, 4, 5, 6, 7, 8
INPUT_SNMP, L4_DST_PORT, IPV4_DST_ADDR, OUTPUT_SNMP = 10, 11, 12, 14
SRC_AS, DST_AS, LAST_SWITCHED, FIRST_SWITCHED, OUT_BYTES, OUT_PKTS = 16, 17, 21, 22, 23, 24
IPV6_SRC_ADDR, IPV6_DST_ADDR, ICMP_TYPE, SRC_VLAN, IP_PROTOCOL_VERSION, DIRECTION = 27, 28, 32, 58, 60, 61
EXPORTER_IPV4_ADDRESS, EXPORTER_IPV6_ADDRESS = 130, 131
FLOW_START_MILLISECONDS, FLOW_END_MILLISECONDS = 152, 153

NUMBER_OF_NAME: Final = {
    name: number
    for name, number in globals().items()
    if name.isupper() and isinstance(number, int) and not name.startswith("_")
}
