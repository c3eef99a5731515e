"""Where a replay server may listen: a Unix socket, or TCP on this machine."""

from __future__ import annotations

import os
import re
import socket
import stat
from pathlib import Path
from typing import Final

from nsstream.errors import ReplayError

MAX_SOCKET_PATH_BYTES: Final = 107  # sun_path of unix(7), less the NUL at its end

_TCP: Final = re.compile(r"tcp://127\.0\.0\.1:(\*|\d{1,5})", re.ASCII)


def check_endpoint(endpoint: str) -> str:
    """The endpoint itself, if it is `ipc://` with an absolute path or `tcp://127.0.0.1:PORT`; else ReplayError."""
    if endpoint.startswith("ipc:///"):
        length = len(os.fsencode(endpoint)) - len("ipc://")
        if length > MAX_SOCKET_PATH_BYTES:
            raise ReplayError(
                f"{endpoint}: the path of a socket has at most {MAX_SOCKET_PATH_BYTES} octets, this one has {length}"
            )
        return endpoint
    match = _TCP.fullmatch(endpoint)
    if match is None or (match[1] != "*" and int(match[1]) > 0xFFFF):
        raise ReplayError(
            f"{endpoint}: an endpoint is ipc:///absolute/path or tcp://127.0.0.1:PORT (commands are not encrypted, "
            "so they do not leave the machine)"
        )
    return endpoint


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
