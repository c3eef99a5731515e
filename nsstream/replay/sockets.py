"""The server's sockets, bound with what keeps hostile peers within bounds; and a client's, connected.

Promises: an ipc socket is 0660 from its first moment on, and takes the place of nothing but a dead socket; a tcp socket
has CURVE and our ZAP domain, which libzmq is told to enforce, so that nobody is let in where no `zap.Door` answers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

import zmq

from nsstream.errors import ReplayError
from nsstream.replay import zap
from nsstream.replay.endpoint import check_socket_path_is_free, socket_path
from nsstream.replay.keys import ClientKeys, ServerKeys

HANDSHAKE_MS: Final = 5000
HEARTBEAT_MS: Final = 2000
HEARTBEAT_TIMEOUT_MS: Final = 6000
BACKLOG: Final = 100


def bind(
    context: zmq.Context[zmq.Socket[bytes]],
    kind: int,
    endpoint: str,
    keys: ServerKeys | None,
    options: Mapping[int, int],
) -> zmq.Socket[bytes]:
    """A socket of a server, bound; raises ReplayError. Its `LAST_ENDPOINT` has the port that was chosen."""
    bound = context.socket(kind)
    try:
        _set(bound, {zmq.BACKLOG: BACKLOG, zmq.HANDSHAKE_IVL: HANDSHAKE_MS, **options})
        if keys is not None:
            _set(bound, {zmq.HEARTBEAT_IVL: HEARTBEAT_MS, zmq.HEARTBEAT_TIMEOUT: HEARTBEAT_TIMEOUT_MS})
            bound.setsockopt(zmq.CURVE_SERVER, 1)
            bound.setsockopt(zmq.CURVE_SECRETKEY, keys.own.secret)
            bound.setsockopt_string(zmq.ZAP_DOMAIN, zap.DOMAIN)
            bound.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
            bound.setsockopt(zmq.IPV6, int("[" in endpoint))
        path = socket_path(endpoint)
        if path is not None:
            check_socket_path_is_free(path)  # libzmq would unlink whatever is there
        umask = os.umask(0o117)  # the socket is 0660 from its first moment on
        try:
            bound.bind(endpoint)
        except zmq.ZMQError as err:
            raise ReplayError(f"{endpoint}: cannot listen here: {err.strerror.lower()}") from err
        finally:
            os.umask(umask)
    except BaseException:
        bound.close(0)
        raise
    return bound


def connect(
    context: zmq.Context[Any],
    kind: int,
    endpoint: str,
    keys: ClientKeys | None,
    options: Mapping[int, int],
    name: bytes = b"",
) -> Any:
    """A socket of a client, of the context's kind (blocking, or asyncio's), which connects when there is a server.

    `name`: the client's routing id; none: the server chooses one for each connection.
    """
    connected = context.socket(kind)
    try:
        _set(connected, {zmq.LINGER: 0, zmq.HANDSHAKE_IVL: HANDSHAKE_MS, **options})
        if name:
            connected.setsockopt(zmq.ROUTING_ID, name)
        if keys is not None:
            _set(connected, {zmq.HEARTBEAT_IVL: HEARTBEAT_MS, zmq.HEARTBEAT_TIMEOUT: HEARTBEAT_TIMEOUT_MS})
            connected.setsockopt(zmq.CURVE_SERVERKEY, keys.server)
            connected.setsockopt(zmq.CURVE_PUBLICKEY, keys.own.public)
            connected.setsockopt(zmq.CURVE_SECRETKEY, keys.own.secret)
            connected.setsockopt(zmq.IPV6, int("[" in endpoint))
        connected.connect(endpoint)
    except BaseException:
        connected.close(0)
        raise
    return connected


def _set(of: zmq.Socket[bytes], options: Mapping[int, int]) -> None:
    for option, value in options.items():
        of.setsockopt(option, value)
