"""Where a replay server listens: a Unix socket, or TCP with CURVE keys; and where its three sockets are.

The endpoint that is named is the one for commands. Those for status and packets follow from it: the path with
``.status`` and ``.packets`` behind it, or the two ports that follow.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import stat
from pathlib import Path
from typing import Final, Literal

from nsstream.errors import ReplayError

MAX_SOCKET_PATH_BYTES: Final = 107  # sun_path of unix(7), less the NUL at its end
Plane = Literal["status", "packets"]
PLANES: Final[tuple[Plane, ...]] = ("status", "packets")

_TCP: Final = re.compile(r"tcp://(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}):(\*|\d{1,5})", re.ASCII)
_ANY: Final = ("0.0.0.0", "[::]")
_LONGEST: Final = max(map(len, PLANES)) + 1


def check_endpoint(endpoint: str, *, has_keys: bool = False, is_server: bool = False) -> str:
    """The endpoint itself, if it can be used; else ReplayError.

    Args:
        endpoint: ``ipc:///absolute/path`` or ``tcp://HOST:PORT``, where HOST is an address, or for a client a name.
        has_keys: whether CURVE keys are given: TCP is never without them, not even on this machine, where everybody
            could connect.
        is_server: a server may have the port ``*`` for one that the system chooses, and no name for a host.
    """
    if endpoint.startswith("ipc:///") and "\0" not in endpoint:
        if has_keys:
            raise ReplayError(f"{endpoint}: a Unix socket has no keys: who may open it may command")
        length = len(os.fsencode(endpoint)) - len("ipc://") + _LONGEST
        if length > MAX_SOCKET_PATH_BYTES:
            raise ReplayError(
                f"{endpoint}: the path of a socket has at most {MAX_SOCKET_PATH_BYTES} octets, this one has {length} "
                f"with .{PLANES[-1]} behind it"
            )
        return endpoint
    match = _TCP.fullmatch(endpoint)
    if match is None or not _is_host(match[1], is_server) or not _is_port(match[2], is_server):
        host = "an address" if is_server else "a host"
        raise ReplayError(f"{endpoint}: an endpoint is ipc:///absolute/path, or tcp:// with {host} and a port")
    if not has_keys:
        raise ReplayError(f"{endpoint}: TCP needs CURVE keys, also on this machine (`nsstream keys` makes them)")
    return endpoint


def endpoint_of(plane: Plane, endpoint: str) -> str:
    """The endpoint of a plane, of the same host or path as that for commands."""
    if endpoint.startswith("ipc://"):
        return f"{endpoint}.{plane}"
    host, _, port = endpoint.rpartition(":")
    return f"{host}:{port if port == '*' else int(port) + 1 + PLANES.index(plane)}"


def reach(bound: str, connected: str) -> str:
    """Where a client that reached a server at `connected` reaches the socket that the server says it has at `bound`."""
    host, _, port = bound.removeprefix("tcp://").rpartition(":")
    is_any = bound.startswith("tcp://") and host in _ANY
    return f"{connected.rpartition(':')[0]}:{port}" if is_any and connected.startswith("tcp://") else bound


def socket_path(endpoint: str) -> Path | None:
    """The path of an ipc endpoint, None for tcp."""
    return Path(endpoint.removeprefix("ipc://")) if endpoint.startswith("ipc://") else None


def check_socket_path_is_free(path: Path) -> None:
    """Raise ReplayError if binding here would take the path from a live server, or destroy a file.

    ZeroMQ unlinks whatever it finds at the path before it binds; a socket that nobody listens on may go.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        if path.parent.is_dir():
            return
        raise ReplayError(f"{path.parent}: the socket's directory does not exist") from None
    except OSError as err:
        raise ReplayError(f"{path}: {(err.strerror or str(err)).lower()}") from err
    if not stat.S_ISSOCK(mode):
        raise ReplayError(f"{path}: exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return
        except OSError as err:
            raise ReplayError(f"{path}: {(err.strerror or str(err)).lower()}") from err
    raise ReplayError(f"{path}: another server listens here")


def _is_host(host: str, is_server: bool) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return not is_server and not host.startswith("[")
    return host.startswith("[") == (":" in host)


def _is_port(port: str, is_server: bool) -> bool:
    # The two ports behind it are needed, too.
    return is_server if port == "*" else 0 < int(port) <= 0xFFFF - len(PLANES)
