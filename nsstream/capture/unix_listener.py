"""listen_at: a Unix socket at a path of the file system, and its removal; a socket that nobody listens at gives way."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from nsstream.errors import InputError

_MOST_PATH_OCTETS: Final = 107  # sockaddr_un, unix(7)


class UnixListener:
    """A socket bound to a path, a stream's (which listens) or for datagrams; `close` removes it if it is still ours."""

    def __init__(self, path: Path, kind: socket.SocketKind, mode: int) -> None:
        """Bind; raises InputError if the path cannot be had."""
        if len(os.fsencode(path)) > _MOST_PATH_OCTETS:
            raise InputError(f"{path}: the path of a socket has at most {_MOST_PATH_OCTETS} octets")
        _make_room(path)
        self.socket = socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK)
        self._path = path
        try:
            self.socket.bind(os.fspath(path))
            self._status = path.lstat()
            path.chmod(mode)
            if kind == socket.SOCK_STREAM:
                self.socket.listen()
        except OSError as err:
            self.socket.close()
            raise InputError(f"{path}: no socket can be made there: {err.strerror}") from err

    def close(self) -> None:
        """Stop listening."""
        self.socket.close()
        with suppress(OSError):
            if os.path.samestat(self._path.lstat(), self._status):
                self._path.unlink()


def _make_room(path: Path) -> None:
    """Remove a socket that a process left behind; raises InputError where it is none, or somebody listens at it."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as err:
        raise InputError(f"{path}: no socket can be made there: {err.strerror}") from err
    if not stat.S_ISSOCK(mode):
        raise InputError(f"{path}: exists and is not a socket")
    if any(_is_heard(path, kind) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)):
        raise InputError(f"{path}: somebody listens there already")
    path.unlink(missing_ok=True)


def _is_heard(path: Path, kind: socket.SocketKind) -> bool:
    """Whether a socket of this kind there has a listener; one of the other kind refuses us by EPROTOTYPE."""
    with socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(os.fspath(path))
        except BlockingIOError:  # its queue is full
            return True
        except OSError:
            return False
    return True
