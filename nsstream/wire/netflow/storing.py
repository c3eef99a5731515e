"""Storing: a block of records, role by role, into the columns. For numba loops.

Every loop writes one column; values wider than a column lose their high bits, as exporters that widen a field have them
zero.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.wire.netflow import columns as c
from nsstream.wire.netflow import plan
from nsstream.wire.netflow.roles import Role

_V4_MAPPED: Final = 0xFFFF << 32
_ICMP: Final = 1
_ICMPV6: Final = 58
_LAST_END_REASON: Final = 5
_LOW_PAIRS: Final = 0x0000FFFF0000FFFF
_LOW_OCTETS: Final = 0x00FF00FF00FF00FF
_NOT_TOLD: Final = 255

# As plain integers, for the loops.
_SOURCE_IPV4, _DESTINATION_IPV4 = int(Role.SOURCE_IPV4), int(Role.DESTINATION_IPV4)
_SOURCE_IPV6, _DESTINATION_IPV6 = int(Role.SOURCE_IPV6_HIGH), int(Role.DESTINATION_IPV6_HIGH)
_NEXT_HOP_IPV4, _NEXT_HOP_IPV6 = int(Role.NEXT_HOP_IPV4), int(Role.NEXT_HOP_IPV6_HIGH)
_SOURCE_PREFIX_IPV4, _DESTINATION_PREFIX_IPV4 = int(Role.SOURCE_PREFIX_IPV4), int(Role.DESTINATION_PREFIX_IPV4)
_SOURCE_PREFIX_IPV6, _DESTINATION_PREFIX_IPV6 = int(Role.SOURCE_PREFIX_IPV6), int(Role.DESTINATION_PREFIX_IPV6)
_IP_VERSION, _PROTOCOL = int(Role.IP_VERSION), int(Role.PROTOCOL)
_SOURCE_PORT, _DESTINATION_PORT = int(Role.SOURCE_PORT), int(Role.DESTINATION_PORT)
_ICMP_TYPE_CODE, _ICMP_TYPE, _ICMP_CODE = int(Role.ICMP_TYPE_CODE), int(Role.ICMP_TYPE), int(Role.ICMP_CODE)
_PACKETS, _OCTETS = int(Role.PACKETS), int(Role.OCTETS)
_REVERSE_PACKETS, _REVERSE_OCTETS = int(Role.REVERSE_PACKETS), int(Role.REVERSE_OCTETS)
_TCP_BITS, _MORE_TCP_BITS = int(Role.TCP_BITS), int(Role.MORE_TCP_BITS)
_REVERSE_TCP_BITS, _MORE_REVERSE_TCP_BITS = int(Role.REVERSE_TCP_BITS), int(Role.MORE_REVERSE_TCP_BITS)
_CLASS_OF_SERVICE, _END_REASON, _DIRECTION = int(Role.CLASS_OF_SERVICE), int(Role.END_REASON), int(Role.DIRECTION)
_INGRESS, _EGRESS, _VLAN = int(Role.INGRESS), int(Role.EGRESS), int(Role.VLAN)
_SOURCE_AS, _DESTINATION_AS = int(Role.SOURCE_AS), int(Role.DESTINATION_AS)


@njit(cache=True)
def store_counts(values: NDArray[np.int64], n: int, row: int, uint64: NDArray[np.uint64]) -> None:
    """Store packets and octets of both directions."""
    for role, column in (
        (_PACKETS, c.PACKETS),
        (_OCTETS, c.OCTETS),
        (_REVERSE_PACKETS, c.REVERSE_PACKETS),
        (_REVERSE_OCTETS, c.REVERSE_OCTETS),
    ):
        _store(values[role], n, uint64[column], row)


@njit(cache=True)
def store_addresses(
    values: NDArray[np.int64],
    n: int,
    facts: NDArray[np.int64],
    exporter_high: np.uint64,
    exporter_low: np.uint64,
    row: int,
    addresses: NDArray[np.uint64],
    uint8: NDArray[np.uint8],
) -> None:
    """Store addresses and what depends on their family: IP version and prefix lengths."""
    has_ipv4 = facts[plan.HAS_IPV4] != 0
    has_ipv6 = facts[plan.HAS_IPV6] != 0
    source = addresses[c.SOURCE]
    destination = addresses[c.DESTINATION]
    next_hop = addresses[c.NEXT_HOP]
    exporter = addresses[c.EXPORTER]
    for r in range(n):
        is_ipv6 = has_ipv6
        if has_ipv6 and has_ipv4:  # one template for both: the record must tell
            version = values[_IP_VERSION, r]
            is_ipv6 = version == 6
            if version not in (4, 6):
                is_ipv6 = _is_ipv6(values, r, facts[plan.IPV6_FIRST] != 0)
        at = row + r
        if is_ipv6:
            uint8[c.VERSION, at] = 6
            uint8[c.SOURCE_PREFIX, at] = values[_SOURCE_PREFIX_IPV6, r] & 0xFF
            uint8[c.DESTINATION_PREFIX, at] = values[_DESTINATION_PREFIX_IPV6, r] & 0xFF
            source[at, 0] = network_order(values[_SOURCE_IPV6, r])
            source[at, 1] = network_order(values[_SOURCE_IPV6 + 1, r])
            destination[at, 0] = network_order(values[_DESTINATION_IPV6, r])
            destination[at, 1] = network_order(values[_DESTINATION_IPV6 + 1, r])
        else:
            uint8[c.VERSION, at] = 4
            uint8[c.SOURCE_PREFIX, at] = values[_SOURCE_PREFIX_IPV4, r] & 0xFF
            uint8[c.DESTINATION_PREFIX, at] = values[_DESTINATION_PREFIX_IPV4, r] & 0xFF
            source[at, 0] = 0
            source[at, 1] = network_order(_V4_MAPPED | values[_SOURCE_IPV4, r])
            destination[at, 0] = 0
            destination[at, 1] = network_order(_V4_MAPPED | values[_DESTINATION_IPV4, r])
        high = values[_NEXT_HOP_IPV6, r]
        low = values[_NEXT_HOP_IPV6 + 1, r]
        if high == 0 and low == 0 and values[_NEXT_HOP_IPV4, r] != 0:
            low = _V4_MAPPED | values[_NEXT_HOP_IPV4, r]
        next_hop[at, 0] = network_order(high)
        next_hop[at, 1] = network_order(low)
        exporter[at, 0] = exporter_high
        exporter[at, 1] = exporter_low


@njit(cache=True)
def _is_ipv6(values: NDArray[np.int64], r: int, is_ipv6_first: bool) -> bool:
    """Whether a record with addresses of both families is IPv6's: by the first that is not zero.

    A router that meters SRv6 gives the outer header first, then the inner one; its first protocol and ports are those
    of the outer header too.
    """
    if is_ipv6_first:
        halves = values[_SOURCE_IPV6, r] | values[_SOURCE_IPV6 + 1, r]
        return bool((halves | values[_DESTINATION_IPV6, r] | values[_DESTINATION_IPV6 + 1, r]) != 0)
    return bool(values[_SOURCE_IPV4, r] == 0 and values[_DESTINATION_IPV4, r] == 0)


@njit(cache=True)
def store_rest(
    values: NDArray[np.int64],
    n: int,
    is_directed: bool,
    domain: int,
    row: int,
    uint8: NDArray[np.uint8],
    uint16: NDArray[np.uint16],
    uint32: NDArray[np.uint32],
) -> None:
    """Store everything that is one small integer."""
    for role, column in ((_PROTOCOL, c.PROTOCOL), (_CLASS_OF_SERVICE, c.CLASS_OF_SERVICE)):
        _store(values[role], n, uint8[column], row)
    for role, column in ((_SOURCE_PORT, c.SOURCE_PORT), (_DESTINATION_PORT, c.DESTINATION_PORT), (_VLAN, c.VLAN)):
        _store(values[role], n, uint16[column], row)
    for role, column in (
        (_INGRESS, c.INGRESS),
        (_EGRESS, c.EGRESS),
        (_SOURCE_AS, c.SOURCE_AS),
        (_DESTINATION_AS, c.DESTINATION_AS),
    ):
        _store(values[role], n, uint32[column], row)
    for r in range(n):
        uint32[c.DOMAIN, row + r] = domain
    for r in range(n):
        reason = values[_END_REASON, r]
        uint8[c.END_REASON, row + r] = reason if 0 <= reason <= _LAST_END_REASON else 0
    for r in range(n):
        direction = values[_DIRECTION, r]
        uint8[c.DIRECTION, row + r] = direction if is_directed and 0 <= direction <= 1 else _NOT_TOLD
    for r in range(n):
        uint16[c.TCP_BITS, row + r] = (values[_TCP_BITS, r] | values[_MORE_TCP_BITS, r]) & 0x0FFF
    for r in range(n):
        bits = values[_REVERSE_TCP_BITS, r] | values[_MORE_REVERSE_TCP_BITS, r]
        uint16[c.REVERSE_TCP_BITS, row + r] = bits & 0x0FFF
    for r in range(n):
        told = values[_ICMP_TYPE_CODE, r]
        if told == 0:
            told = (values[_ICMP_TYPE, r] << 8) | (values[_ICMP_CODE, r] & 0xFF)
        if told == 0 and values[_PROTOCOL, r] in (_ICMP, _ICMPV6):
            told = values[_DESTINATION_PORT, r]  # where v5, and many a v9, has it
        uint16[c.ICMP, row + r] = told & 0xFFFF


@njit(cache=True)
def _store(values: NDArray[np.int64], n: int, column: NDArray[np.generic], row: int) -> None:
    for r in range(n):
        column[row + r] = values[r]


@njit(cache=True)
def network_order(value: np.int64) -> np.uint64:
    """The integer whose octets in this machine's memory (little endian) are those of `value` in network order."""
    bits = np.uint64(value)
    halves = (bits >> np.uint64(32)) | (bits << np.uint64(32))
    pairs = ((halves >> np.uint64(16)) & np.uint64(_LOW_PAIRS)) | ((halves & np.uint64(_LOW_PAIRS)) << np.uint64(16))
    return ((pairs >> np.uint64(8)) & np.uint64(_LOW_OCTETS)) | ((pairs & np.uint64(_LOW_OCTETS)) << np.uint64(8))
