"""Sources that listen, made from one text: ``127.0.0.1:2055``, ``[::1]:4739``, ``:2055``, or an address alone.

No address is every IPv4 address of the machine, as in other collectors; no port is the protocol's own. ``@`` is the
socket that the service manager passed in, ``@name`` the one of that name (`FileDescriptorName=`, systemd.socket(5)).
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any, Final

from nsstream.capture.netflow_tcp import NetflowTcpSource
from nsstream.capture.netflow_udp import IPFIX_PORT, NETFLOW_PORT, NetflowUdpSource
from nsstream.capture.sockets import passed_socket
from nsstream.errors import InputError

_BRACKETED: Final = re.compile(r"\[([^\]]+)\](?::(.*))?", re.DOTALL)
_PLAIN: Final = re.compile(r"([^:]*)(?::([^:]*))?")  # an IPv6 address without brackets has no port


def split_address(text: str, default_port: int) -> tuple[str, int]:
    """Address and port of a text; raises InputError if it is neither."""
    found = _BRACKETED.fullmatch(text) or _PLAIN.fullmatch(text)
    host, port = (found[1] or "0.0.0.0", found[2] or "") if found is not None else (text, "")
    try:
        address = ipaddress.ip_address(host)
    except ValueError as err:
        raise InputError(f"{text!r} is no numeric address; write 127.0.0.1:2055, [::1]:2055 or :2055") from err
    if not port:
        return str(address), default_port
    if not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        raise InputError(f"{text!r}: the port must be a number from 0 to 65535, got {port!r}")
    return str(address), int(port)


def netflow_udp_source(target: str, **options: Any) -> NetflowUdpSource:
    """NetFlow v5, v9 and IPFIX over UDP; options as of `NetflowUdpSource`."""
    if target.startswith("@"):
        return NetflowUdpSource(passed=passed_socket(target[1:]), **options)
    address, port = split_address(target, NETFLOW_PORT)
    return NetflowUdpSource(address, port, **options)


def netflow_tcp_source(target: str, **options: Any) -> NetflowTcpSource:
    """IPFIX over TCP; options as of `NetflowTcpSource`."""
    if target.startswith("@"):
        return NetflowTcpSource(passed=passed_socket(target[1:]), **options)
    address, port = split_address(target, IPFIX_PORT)
    return NetflowTcpSource(address, port, **options)
