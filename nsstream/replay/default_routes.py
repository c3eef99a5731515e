"""Which interfaces a default route leads through, as the kernel tells by rtnetlink: IPv4 and IPv6, all tables.

By netlink and not from /proc/net, which shows the namespace of the process and not of the thread, and the main table
only. No right is needed. Source: rtnetlink(7), linux/rtnetlink.h.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from typing import Final

_NETLINK_ROUTE: Final = 0
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_RTM_NEWROUTE: Final = 24
_RTM_GETROUTE: Final = 26
_NLM_F_REQUEST_DUMP: Final = 0x301
_RTN_UNICAST: Final = 1
_RTA_OIF: Final = 4
_RTA_MULTIPATH: Final = 9
_HEADER: Final = struct.Struct("=IHHII")  # nlmsghdr
_ROUTE: Final = struct.Struct("=8BI")  # rtmsg
_ATTRIBUTE: Final = struct.Struct("=HH")
_NEXT_HOP: Final = struct.Struct("=HBBi")  # rtnexthop
_REPLY_BYTES: Final = 1 << 16
_TIMEOUT_S: Final = 5.0  # the kernel answers at once

# A destination that is this short leads to most of the Internet: 0.0.0.0/1 and 128.0.0.0/1 of VPNs, 2000::/3.
_LONGEST_PREFIX: Final = {socket.AF_INET: 1, socket.AF_INET6: 3}


def default_route_indices() -> set[int]:
    """Indices of the interfaces that a default route leads through, in the calling thread's network namespace.

    Raises OSError if the kernel does not tell.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_ROUTE) as sock:
        sock.settimeout(_TIMEOUT_S)
        route = _ROUTE.pack(socket.AF_UNSPEC, 0, 0, 0, 0, 0, 0, 0, 0)
        sock.send(_HEADER.pack(_HEADER.size + len(route), _RTM_GETROUTE, _NLM_F_REQUEST_DUMP, 0, 0) + route)
        found: set[int] = set()
        while True:
            indices, is_last = parse_routes(sock.recv(_REPLY_BYTES))
            found |= indices
            if is_last:
                return found


def parse_routes(octets: bytes) -> tuple[set[int], bool]:
    """Parse one datagram of the answer to RTM_GETROUTE: interfaces of default routes in it, and whether it is the last.

    Raises OSError for an error that it tells, and if it is no such answer.
    """
    found: set[int] = set()
    at = 0
    while at + _HEADER.size <= len(octets):
        length, kind, _, _, _ = _HEADER.unpack_from(octets, at)
        if length < _HEADER.size or at + length > len(octets):
            break
        body = octets[at + _HEADER.size : at + length]
        if kind == _NLMSG_DONE:
            return found, True
        if kind == _NLMSG_ERROR and len(body) >= 4:
            number = -struct.unpack_from("=i", body)[0]
            raise OSError(number, f"rtnetlink: {errno.errorcode.get(number, number)}")
        if kind == _RTM_NEWROUTE and len(body) >= _ROUTE.size:
            found.update(_default_interfaces(body))
        at += length + -length % 4
    if at == 0:
        raise OSError(errno.EBADMSG, "rtnetlink: no answer about routes")
    return found, False


def _default_interfaces(body: bytes) -> Iterator[int]:
    """The interfaces of one route, if it is a default route."""
    family, prefix_length, _, _, _, _, _, route_type, _ = _ROUTE.unpack_from(body)
    if route_type != _RTN_UNICAST or prefix_length > _LONGEST_PREFIX.get(family, -1):
        return
    for kind, value in _attributes(body[_ROUTE.size :]):
        if kind == _RTA_OIF and len(value) >= 4:
            yield struct.unpack_from("=i", value)[0]
        elif kind == _RTA_MULTIPATH:
            at = 0
            while at + _NEXT_HOP.size <= len(value):
                length, _, _, index = _NEXT_HOP.unpack_from(value, at)
                yield index
                at += max(length + -length % 4, _NEXT_HOP.size)


def _attributes(octets: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _ATTRIBUTE.size <= len(octets):
        length, kind = _ATTRIBUTE.unpack_from(octets, at)
        if length < _ATTRIBUTE.size or at + length > len(octets):
            return
        yield kind, octets[at + _ATTRIBUTE.size : at + length]
        at += length + -length % 4
