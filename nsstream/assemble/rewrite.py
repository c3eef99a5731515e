"""Rewriting of frames for a testbed: addresses, MACs and VLAN tags in place of the twin's, and checksums that follow.

Left to `testbed`: what the rules mean. Promises: never reads past a frame; a checksum that was right is right
afterwards, one that was wrong stays wrong, but for those of ICMP errors and neighbour discovery, which are made anew.
Source of the updates: RFC 1624.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.assemble.icmp import is_error
from nsstream.assemble.icmpv6 import is_error_6
from nsstream.assemble.octets import Octets, copy_run, put_u16, put_u32, put_u64, signed
from nsstream.trace.fields import ICMP, ICMPV6, TCP, UDP
from nsstream.wire.checksum import fold, internet_checksum, ones_complement_sum
from nsstream.wire.octets import u8, u16, u32

RULE: Final = np.dtype(
    [
        ("prefix", np.uint64, (2,)),  # an IPv4 address is the second number's low half
        ("prefix_mask", np.uint64, (2,)),
        ("target", np.uint64, (2,)),
        ("target_mask", np.uint64, (2,)),
        ("gateway", np.uint64, (2,)),
        ("target_gateway", np.uint64, (2,)),
        ("has_gateway", np.uint8),
        ("version", np.uint8),
        ("side", np.uint8),
    ],
    align=True,
)
SIDE: Final = np.dtype([("gateway_mac", np.int64), ("host_mac", np.int64), ("vlan", np.int64)])  # -1: as it is
FATES: Final = {0: "kept", 1: "testbed_not_ip", 2: "testbed_elsewhere"}

_ETHERNET: Final = 14
_FIXED: Final = 2  # "side" of an address that stays: a group's, link-local and the like
_ELSEWHERE: Final = 3
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
_ALL_4 = np.uint64(0xFFFFFFFF)
_NONE, _ONE = np.uint64(0), np.uint64(1)
_LONGEST_MASK = np.uint64(0xFFFFFFFC)  # of a prefix that has a broadcast address: RFC 3021


@njit(cache=True, nogil=True)
def measure(
    octets: Octets, offset: NDArray[np.int64], rules: Any, sides: Any, keeps_elsewhere: bool
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """What becomes of each frame (`FATES`), and its length afterwards: (m,) each."""
    fate = np.zeros(len(offset) - 1, np.uint8)
    length = np.zeros(len(offset) - 1, np.int64)
    for i in range(len(fate)):
        at, version = _datagram(octets, offset[i], offset[i + 1])
        if version == 0:
            fate[i] = 1
            continue
        size = 4 if version == 4 else 16
        source = at + (12 if version == 4 else 8)
        side = _map(octets, source, version, rules)[2]
        other = _map(octets, source + size, version, rules)[2]
        if (side == _ELSEWHERE or other == _ELSEWHERE) and not keeps_elsewhere:
            fate[i] = 2
            continue
        vlan = sides[side].vlan if side < 2 else -1
        tags = at - offset[i] - _ETHERNET if vlan < 0 else 4 * (vlan > 0)
        length[i] = offset[i + 1] - at + _ETHERNET + tags
    return fate, length


@njit(cache=True, nogil=True)
def rewrite(
    before: Octets,
    before_offset: NDArray[np.int64],
    kept: NDArray[np.int64],
    rules: Any,
    sides: Any,
    offset: NDArray[np.int64],
    octets: Octets,
    out_side: NDArray[np.uint8],
) -> None:
    """Write frame ``kept[k]`` of `before` to ``octets[offset[k]:offset[k + 1]]``, and the side that it leaves on."""
    for k in range(len(kept)):
        start, end = before_offset[kept[k]], before_offset[kept[k] + 1]
        at, version = _datagram(before, start, end)
        new = offset[k + 1] - (end - at)
        copy_run(octets, new, before, at, end - at)
        size = 4 if version == 4 else 16
        source = at + (12 if version == 4 else 8)
        side = _map(before, source, version, rules)[2]
        other = _map(before, source + size, version, rules)[2]
        copy_run(octets, offset[k], before, start, 12)
        tags = new - offset[k] - _ETHERNET
        vlan = sides[side].vlan if side < 2 else -1
        if vlan < 0:
            copy_run(octets, offset[k] + 12, before, start + 12, tags)
        elif vlan > 0:
            put_u32(octets, offset[k] + 12, 0x8100 << 16 | vlan)
        put_u16(octets, new - 2, 0x0800 if version == 4 else 0x86DD)
        if side < 2:
            out_side[k] = side
            if sides[side].host_mac >= 0:
                _put_mac(octets, offset[k] + 6, sides[side].host_mac)
            if other < 2 and other != side and not octets[offset[k]] & 1:
                _put_mac(octets, offset[k], sides[side].gateway_mac)
        _rewrite_datagram(octets, new, offset[k + 1], version, rules)


@njit(cache=True, nogil=True)
def _datagram(octets: Octets, start: int, end: int) -> tuple[int, int]:
    """Where a whole IP header begins, and its version; 0 if there is none."""
    at = start + _ETHERNET
    if at > end:
        return start, 0
    kind = u16(octets, at - 2)
    while (kind == 0x8100 or kind == 0x88A8) and at + 4 <= end:
        kind = u16(octets, at + 2)
        at += 4
    if kind == 0x0800 and at + 20 <= end and u8(octets, at) >> 4 == 4:
        return at, 4
    if kind == 0x86DD and at + 40 <= end and u8(octets, at) >> 4 == 6:
        return at, 6
    return start, 0


@njit(cache=True, nogil=True)
def _map(octets: Octets, at: int, version: int, rules: Any) -> tuple[np.uint64, np.uint64, int]:
    """The address at this position as the lab has it, and its side, `_FIXED` or `_ELSEWHERE`."""
    if version == 4:
        high, low = _NONE, np.uint64(u32(octets, at))
        first = u8(octets, at)
        if (first >= 224 and (first < 240 or low == _ALL_4)) or first == 127 or first == 0:
            return high, low, _FIXED
    else:
        high = np.uint64(u32(octets, at)) << np.uint64(32) | np.uint64(u32(octets, at + 4))
        low = np.uint64(u32(octets, at + 8)) << np.uint64(32) | np.uint64(u32(octets, at + 12))
        is_link_local = u16(octets, at) & 0xFFC0 == 0xFE80
        if u8(octets, at) == 0xFF or is_link_local or (high == _NONE and low <= _ONE):
            return high, low, _FIXED
    for r in range(len(rules)):
        rule = rules[r]
        if rule.version != version:
            continue
        if high & rule.prefix_mask[0] != rule.prefix[0] or low & rule.prefix_mask[1] != rule.prefix[1]:
            continue
        side = signed(rule.side)
        if rule.has_gateway and high == rule.gateway[0] and low == rule.gateway[1]:
            return rule.target_gateway[0], rule.target_gateway[1], side
        whole = _ALL_4 if version == 4 else _ALL
        is_broadcast = version == 4 and low | rule.prefix_mask[1] == _ALL_4 and rule.prefix_mask[1] <= _LONGEST_MASK
        free_high = (_NONE if version == 4 else ~rule.target_mask[0]) & _ALL
        free_low = ~rule.target_mask[1] & whole
        if is_broadcast:
            return _NONE, rule.target[1] | free_low, side
        host_high = high & ~rule.prefix_mask[0] & free_high
        host_low = low & ~rule.prefix_mask[1] & free_low
        while True:
            new_high, new_low = rule.target[0] | host_high, rule.target[1] | host_low
            is_gateway = rule.has_gateway and new_high == rule.target_gateway[0] and new_low == rule.target_gateway[1]
            is_network = host_high == _NONE and host_low == _NONE
            if not is_gateway and not is_network and not (version == 4 and host_low == free_low):
                return new_high, new_low, side
            host_low = (host_low + _ONE) & free_low
    return high, low, _ELSEWHERE


@njit(cache=True, nogil=True)
def _rewrite_address(octets: Octets, at: int, version: int, rules: Any) -> int:
    """Map the address at this position in place; returns by how much the sum of its words has changed."""
    size = 4 if version == 4 else 16
    before = fold(ones_complement_sum(octets, at, size, 0))
    high, low, _ = _map(octets, at, version, rules)
    if version == 4:
        put_u32(octets, at, signed(low))
    else:
        put_u64(octets, at, signed(high))
        put_u64(octets, at + 8, signed(low))
    return fold(ones_complement_sum(octets, at, size, 0)) + (0xFFFF & ~before)


@njit(cache=True, nogil=True)
def _update(octets: Octets, at: int, change: int) -> None:
    """Bring a checksum up to date: HC' = ~(~HC + ~m + m'), RFC 1624 equation 3."""
    put_u16(octets, at, 0xFFFF & ~fold((0xFFFF & ~u16(octets, at)) + change))


@njit(cache=True, nogil=True)
def _rewrite_datagram(octets: Octets, at: int, end: int, version: int, rules: Any) -> None:
    transport, protocol, change, is_first_fragment = _rewrite_header(octets, at, end, version, rules)
    kind = u8(octets, transport) if transport + 8 <= end and not is_first_fragment else -1
    if protocol == ICMP and version == 4:
        # No address is in its checksum, and that of a first fragment spans the others.
        if kind >= 0 and is_error(kind):
            stop = min(end, at + u16(octets, at + 2))
            if kind == 5:  # redirect: the gateway to use
                _rewrite_address(octets, transport + 4, 4, rules)
            _rewrite_quote(octets, transport + 8, stop, 4, rules)
            put_u16(octets, transport + 2, 0)
            put_u16(octets, transport + 2, internet_checksum(octets, transport, stop - transport, 0))
    elif protocol == ICMPV6 and version == 6 and kind >= 0 and (is_error_6(kind) or 135 <= kind <= 137):
        stop = min(end, at + 40 + u16(octets, at + 4))
        if is_error_6(kind):
            _rewrite_quote(octets, transport + 8, stop, 6, rules)
        else:  # targets of neighbour discovery, and the destination of a redirect
            for target in range(transport + 8, transport + (40 if kind == 137 else 24), 16):
                if target + 16 <= stop:
                    _rewrite_address(octets, target, 6, rules)
        put_u16(octets, transport + 2, 0)
        pseudo = ones_complement_sum(octets, at + 8, 32, stop - transport + ICMPV6)
        put_u16(octets, transport + 2, internet_checksum(octets, transport, stop - transport, pseudo))
    else:
        _update_transport(octets, transport, end, protocol, change)


@njit(cache=True, nogil=True)
def _rewrite_quote(octets: Octets, at: int, end: int, version: int, rules: Any) -> None:
    """The datagram that an error is about; as much of it as is there."""
    if at + (20 if version == 4 else 40) <= end and u8(octets, at) >> 4 == version:
        transport, protocol, change, _ = _rewrite_header(octets, at, end, version, rules)
        _update_transport(octets, transport, end, protocol, change)


@njit(cache=True, nogil=True)
def _rewrite_header(octets: Octets, at: int, end: int, version: int, rules: Any) -> tuple[int, int, int, bool]:
    """Map both addresses.

    Returns:
        where the transport is, its protocol (-1 behind a later fragment), the change of the addresses' sum, and whether
        it is the first fragment of several.
    """
    if version == 4:
        change = _rewrite_address(octets, at + 12, 4, rules) + _rewrite_address(octets, at + 16, 4, rules)
        _update(octets, at + 10, change)
        protocol = -1 if u16(octets, at + 6) & 0x1FFF else u8(octets, at + 9)
        return at + (u8(octets, at) & 15) * 4, protocol, change, (u16(octets, at + 6) & 0x2000) != 0
    change = _rewrite_address(octets, at + 8, 6, rules) + _rewrite_address(octets, at + 24, 6, rules)
    protocol, behind, is_first_fragment = u8(octets, at + 6), at + 40, False
    while (protocol == 0 or protocol == 43 or protocol == 44 or protocol == 60) and behind + 8 <= end:
        if protocol == 44 and u16(octets, behind + 2) & 0xFFF8:
            return behind, -1, change, is_first_fragment
        if protocol == 44:
            is_first_fragment = (u16(octets, behind + 2) & 1) != 0
        size = 8 if protocol == 44 else (u8(octets, behind + 1) + 1) * 8
        protocol = u8(octets, behind)
        behind += size
    return behind, protocol, change, is_first_fragment


@njit(cache=True, nogil=True)
def _update_transport(octets: Octets, at: int, end: int, protocol: int, change: int) -> None:
    if protocol == TCP and at + 18 <= end:
        _update(octets, at + 16, change)
    elif protocol == UDP and at + 8 <= end and u16(octets, at + 6):
        _update(octets, at + 6, change)
        if u16(octets, at + 6) == 0:
            put_u16(octets, at + 6, 0xFFFF)
    elif protocol == ICMPV6 and at + 4 <= end:
        _update(octets, at + 2, change)


@njit(cache=True, nogil=True)
def _put_mac(octets: Octets, at: int, mac: int) -> None:
    put_u16(octets, at, mac >> 32)
    put_u32(octets, at + 2, mac)
