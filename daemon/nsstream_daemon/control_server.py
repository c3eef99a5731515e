"""ControlServer: the daemon's own socket: JSON lines over a Unix socket, one thread, nobody waits for nobody.

A request is one line, ``{"command": "status", ...}``; the reply is one line, ``{"ok": true, "result": ...}`` or
``{"ok": false, "error": "..."}``. What comes is bounded: lines, connections, and the time that one may stay idle. The
socket's mode is 0660: who may command the daemon is a matter of its group.
"""

from __future__ import annotations

import json
import logging
import os
import selectors
import socket
import stat
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from nsstream.errors import InputError, NsstreamError, OutputError

_log = logging.getLogger(__name__)

MODE: Final = 0o660
MOST_LINE_OCTETS: Final = 1 << 16
MOST_CONNECTIONS: Final = 32
IDLE_S: Final = 30.0
PROBE_S: Final = 1.0
Answer = Callable[[dict[str, Any]], Any]


@dataclass(slots=True)
class _Peer:
    """One connection."""

    heard_s: float
    coming: bytearray = field(default_factory=bytearray)
    going: bytearray = field(default_factory=bytearray)


class ControlServer:
    """Answers at a path; `answer` takes a request and gives a result, or raises NsstreamError to refuse."""

    def __init__(self, path: Path, answer: Answer, on_death: Callable[[str, BaseException], None]) -> None:
        self._path, self._answer, self._on_death = path, answer, on_death
        self._wake_in, self._wake_out = -1, -1
        self._listener: socket.socket | None = None
        self._peers: dict[socket.socket, _Peer] = {}
        self._thread = threading.Thread(target=self._guarded, name="control", daemon=True)

    def start(self) -> None:
        """Listen; raises OutputError where the path cannot be used. A socket that a dead process left is replaced."""
        try:
            if self._path.exists() and not stat.S_ISSOCK(self._path.stat().st_mode):
                raise OutputError(f"{self._path} is there already, and no socket; give another control.socket")
            if _is_listened_at(self._path):
                raise OutputError(f"another daemon listens at {self._path}; give another control.socket")
            self._path.unlink(missing_ok=True)
            listener = _listen(self._path)
        except OSError as err:
            raise OutputError(
                f"cannot listen at {self._path}: {err.strerror}; control.socket is in a folder that we may write in"
            ) from err
        listener.setblocking(False)
        self._listener = listener
        self._wake_in, self._wake_out = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._thread.start()

    def stop(self) -> None:
        """Stop answering, and remove the socket."""
        if self._listener is None:
            return
        os.write(self._wake_out, b"x")
        self._thread.join()
        self._listener.close()
        self._path.unlink(missing_ok=True)
        os.close(self._wake_in)
        os.close(self._wake_out)
        self._listener = None

    def _guarded(self) -> None:
        try:
            self._serve()
        except BaseException as err:  # the boundary of the thread
            _log.exception("thread_died name=control")
            self._on_death("control", err)

    def _serve(self) -> None:
        assert self._listener is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_in, selectors.EVENT_READ)
            selector.register(self._listener, selectors.EVENT_READ)
            while True:
                for key, events in selector.select(IDLE_S / 4):
                    if key.fd == self._wake_in:
                        for each in list(self._peers):
                            self._drop(selector, each)
                        return
                    if key.fileobj is self._listener:
                        self._accept(selector)
                    elif isinstance(key.fileobj, socket.socket):
                        self._exchange(selector, key.fileobj, events)
                for connection, peer in list(self._peers.items()):
                    if time.monotonic() - peer.heard_s > IDLE_S:
                        self._drop(selector, connection)

    def _accept(self, selector: selectors.BaseSelector) -> None:
        assert self._listener is not None
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        if len(self._peers) >= MOST_CONNECTIONS:
            connection.close()
            return
        connection.setblocking(False)
        self._peers[connection] = _Peer(time.monotonic())
        selector.register(connection, selectors.EVENT_READ)

    def _exchange(self, selector: selectors.BaseSelector, connection: socket.socket, events: int) -> None:
        peer = self._peers[connection]
        try:
            if events & selectors.EVENT_READ:
                octets = connection.recv(MOST_LINE_OCTETS)
                if not octets:
                    return self._drop(selector, connection)
                peer.heard_s = time.monotonic()
                peer.coming += octets
            while b"\n" in peer.coming and not peer.going:
                line, _, rest = bytes(peer.coming).partition(b"\n")
                peer.coming = bytearray(rest)
                peer.going += self._reply(line)
                peer.going = peer.going[connection.send(peer.going) :]
            if peer.going and events & selectors.EVENT_WRITE:
                peer.going = peer.going[connection.send(peer.going) :]
        except BlockingIOError:
            pass
        except OSError:
            return self._drop(selector, connection)
        if len(peer.coming) > MOST_LINE_OCTETS:
            return self._drop(selector, connection)
        selector.modify(connection, selectors.EVENT_WRITE if peer.going else selectors.EVENT_READ)
        return None

    def _reply(self, line: bytes) -> bytes:
        try:
            request = json.loads(line)
            if not isinstance(request, dict) or not isinstance(request.get("command"), str):
                raise InputError('a request is a JSON object with a "command"')
            reply: dict[str, Any] = {"ok": True, "result": self._answer(request)}
        except (ValueError, RecursionError) as err:
            reply = {"ok": False, "error": f"the request is not JSON: {err}"}
        except NsstreamError as err:
            reply = {"ok": False, "error": str(err)}
        return json.dumps(reply).encode() + b"\n"

    def _drop(self, selector: selectors.BaseSelector, connection: socket.socket) -> None:
        self._peers.pop(connection, None)
        with suppress(KeyError, ValueError):
            selector.unregister(connection)
        connection.close()


def _listen(path: Path) -> socket.socket:
    """A socket that listens at a path; raises OSError."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o777 & ~MODE)
    try:
        listener.bind(str(path))
        listener.listen(MOST_CONNECTIONS)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    return listener


def _is_listened_at(path: Path) -> bool:
    """Whether a process that lives has the socket, one that is too busy to be reached among them."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_S)
        try:
            probe.connect(str(path))
        except (TimeoutError, BlockingIOError):
            return True
        except OSError:
            return False
    return True


def ask(path: Path, request: dict[str, Any], timeout_s: float = 30.0) -> Any:
    """Ask a daemon; gives the result. Raises InputError where nobody answers, or it refuses."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            connection.connect(str(path))
            connection.sendall(json.dumps(request).encode() + b"\n")
            octets = bytearray()
            while not octets.endswith(b"\n"):
                got = connection.recv(1 << 16)
                if not got:
                    break
                octets += got
    except PermissionError as err:
        raise InputError(f"{path}: this user may not command the daemon; be root, or in the socket's group") from err
    except FileNotFoundError as err:
        raise InputError(
            f"no daemon answers at {path}: there is no such socket; is it running? "
            "Where its control.socket is elsewhere, give --socket or NSSTREAM_CONTROL_SOCKET"
        ) from err
    except OSError as err:
        raise InputError(f"no daemon answers at {path}: {err.strerror or err}; is it running?") from err
    try:
        reply = json.loads(octets)
        if reply["ok"]:
            return reply["result"]
        raise InputError(str(reply["error"]))
    except (ValueError, KeyError, TypeError) as err:
        raise InputError(f"what answers at {path} is no nsstream daemon: {bytes(octets[:80])!r}") from err
