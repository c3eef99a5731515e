"""NetFlow v5: its fixed record as a template, so that the same loops read it. No RFC; Cisco's format of 1996.

Header, 24 octets: version, count, SysUptime (ms), unix_secs, unix_nsecs, flow_sequence, engine_type, engine_id, and
sampling: 2 bits of mode, 14 of interval. Record, 48 octets, as below.
"""

from __future__ import annotations

from typing import Final

from nsstream.wire.netflow.plan import Plan, plan_flows
from nsstream.wire.netflow.template import Field

VERSION: Final = 5
HEADER_BYTES: Final = 24
RECORD_BYTES: Final = 48

_PADDING: Final = 210  # paddingOctets: an element without a role

_RECORD: Final = (
    (8, 4),  # srcaddr
    (12, 4),  # dstaddr
    (15, 4),  # nexthop
    (10, 2),  # input
    (14, 2),  # output
    (2, 4),  # dPkts
    (1, 4),  # dOctets
    (22, 4),  # First, SysUptime
    (21, 4),  # Last
    (7, 2),  # srcport
    (11, 2),  # dstport
    (_PADDING, 1),
    (6, 1),  # tcp_flags
    (4, 1),  # prot
    (5, 1),  # tos
    (16, 2),  # src_as
    (17, 2),  # dst_as
    (9, 1),  # src_mask
    (13, 1),  # dst_mask
    (_PADDING, 2),
)


def v5_plan() -> Plan:
    """The plan of every v5 record."""
    return plan_flows(Field(0, element, length) for element, length in _RECORD)
