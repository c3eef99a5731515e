"""Network interfaces as the kernel tells of them by rtnetlink: kind, state, and what the device itself has lost.

By netlink and not from /sys, which shows the namespace that it was mounted in, whatever the caller's is. No right is
needed. Source: rtnetlink(7), linux/if_link.h.
"""

from __future__ import annotations

import errno
import socket
import struct
from dataclasses import dataclass
from typing import Final

_NETLINK_ROUTE: Final = 0
_NLMSG_ERROR: Final = 2
_RTM_NEWLINK: Final = 16
_RTM_GETLINK: Final = 18
_NLM_F_REQUEST: Final = 1
_IFLA_IFNAME: Final = 3
_IFLA_MTU: Final = 4
_IFLA_LINK: Final = 5
_IFLA_MASTER: Final = 10
_IFLA_STATS64: Final = 23
_IFLA_LINK_NETNSID: Final = 37
_IFF_UP: Final = 0x1
_IFF_LOOPBACK: Final = 0x8
_HEADER: Final = struct.Struct("=IHHII")  # nlmsghdr
_INFO: Final = struct.Struct("=BxHiII")  # ifinfomsg
_MISSED: Final = 15  # rx_missed_errors, of the 64-bit counters of rtnl_link_stats64
_REPLY_BYTES: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Interface:
    """What an interface was when it was asked about."""

    name: str
    index: int
    hardware_type: int  # ARPHRD_*
    is_up: bool
    is_loopback: bool
    missed_count: int  # frames that the device had no buffer for (rx_missed_errors), since it came to be
    mtu: int = 0  # octets behind the link header
    master_index: int = 0  # of the bridge or bond that it is a port of, 0: none
    lower_index: int = 0  # of the interface below it in this namespace (a VLAN's, a veth's other end), 0: none


class InterfaceQuery:
    """Asks about interfaces of the network namespace that the calling thread was in when this was made."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_ROUTE)
        self._socket.settimeout(5.0)  # the kernel answers at once

    def by_name(self, name: str) -> Interface | None:
        """The interface of that name, None if there is none. Raises OSError."""
        octets = name.encode() + b"\0"
        if len(octets) > 16 or len(octets) < 2:  # IFNAMSIZ
            return None
        padding = -len(octets) % 4
        return self._ask(0, struct.pack("=HH", 4 + len(octets), _IFLA_IFNAME) + octets + bytes(padding))

    def by_index(self, index: int) -> Interface | None:
        """The interface of that index, None if there is none any more. Raises OSError."""
        return self._ask(index, b"")

    def close(self) -> None:
        """Release the socket."""
        self._socket.close()

    def _ask(self, index: int, attributes: bytes) -> Interface | None:
        body = _INFO.pack(socket.AF_UNSPEC, 0, index, 0, 0) + attributes
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), _RTM_GETLINK, _NLM_F_REQUEST, 0, 0) + body)
        return parse_link(self._socket.recv(_REPLY_BYTES))


def parse_link(message: bytes) -> Interface | None:
    """Parse the kernel's answer to RTM_GETLINK; None if it is that there is no such interface.

    Raises OSError for any other error that it tells, and if it is not such an answer.
    """
    kind = _HEADER.unpack_from(message)[1] if len(message) >= _HEADER.size + _INFO.size else None
    if kind == _NLMSG_ERROR:
        number = -struct.unpack_from("=i", message, _HEADER.size)[0]
        if number in (errno.ENODEV, errno.EINVAL):  # EINVAL: for a name that no interface can have
            return None
        raise OSError(number, f"rtnetlink: {errno.errorcode.get(number, number)}")
    if kind != _RTM_NEWLINK:
        raise OSError(errno.EBADMSG, "rtnetlink: no answer about an interface")
    _, hardware_type, index, flags, _ = _INFO.unpack_from(message, _HEADER.size)
    name, missed, mtu, master, lower = "", 0, 0, 0, 0
    is_lower_elsewhere = False
    at = _HEADER.size + _INFO.size
    while at + 4 <= len(message):
        length, attribute = struct.unpack_from("=HH", message, at)
        if length < 4 or at + length > len(message):
            break
        value = message[at + 4 : at + length]
        if attribute == _IFLA_IFNAME:
            name = value.rstrip(b"\0").decode(errors="replace")
        elif attribute == _IFLA_STATS64 and len(value) >= 8 * (_MISSED + 1):
            missed = struct.unpack_from("=Q", value, 8 * _MISSED)[0]
        elif attribute == _IFLA_MTU and len(value) >= 4:
            mtu = struct.unpack_from("=I", value)[0]
        elif attribute == _IFLA_MASTER and len(value) >= 4:
            master = struct.unpack_from("=I", value)[0]
        elif attribute == _IFLA_LINK and len(value) >= 4:
            lower = struct.unpack_from("=I", value)[0]
        elif attribute == _IFLA_LINK_NETNSID:
            is_lower_elsewhere = True
        at += length + -length % 4
    is_up, is_loopback = bool(flags & _IFF_UP), bool(flags & _IFF_LOOPBACK)
    lower = 0 if is_lower_elsewhere else lower
    return Interface(name, index, hardware_type, is_up, is_loopback, missed, mtu, master, lower)
