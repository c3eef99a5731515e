"""ZmqInlet: messages of one ZeroMQ socket that a source owns, from peers that are not trusted.

Promises: `receive` waits no longer than `IDLE_S` for the first message, and gives no more than a batch; a message
larger than `MAX_MESSAGE_BYTES` closes its connection (libzmq's doing), and no more than `QUEUED` wait per peer. `close`
counts what waits, and leaves neither thread nor descriptor behind.
"""

from __future__ import annotations

import time
from typing import Final

import zmq

from nsstream.capture.source import IDLE_S
from nsstream.errors import InputError

MAX_MESSAGE_BYTES: Final = 128 << 10  # the longest datagram of a tee has 64 KiB, what ntopng takes 32 KiB
QUEUED: Final = 4000  # of a peer, half a gigabyte at worst; what a publisher sends beyond is lost at its side

_GATHER_S: Final = 0.05
_BATCH_MESSAGES: Final = 500
_BATCH_BYTES: Final = 4 << 20
_SCHEMES: Final = ("tcp://", "ipc://")


class ZmqInlet:
    """Receives on one socket.

    Args:
        kind: SUB, which subscribes to everything, or PULL.
        endpoints: ``tcp://ADDRESS:PORT`` or ``ipc://PATH``; several, with commas in between, to connect to.
        is_bound: whether peers connect to us; else we connect to them, who may come later.
    """

    def __init__(self, kind: zmq.SocketType, endpoints: str, *, is_bound: bool) -> None:
        self._kind = kind
        self._endpoints = endpoints.split(",")
        self._is_bound = is_bound
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._socket: zmq.Socket[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """Where the open socket is bound, or was connected last; with the port that the kernel chose."""
        assert self._socket is not None
        return self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def open(self) -> None:
        """Bind, or begin to connect; raises InputError where that cannot be."""
        self._context = zmq.Context()
        self._socket = self._context.socket(self._kind)
        options = {
            zmq.LINGER: 0,
            zmq.RCVHWM: QUEUED,
            zmq.MAXMSGSIZE: MAX_MESSAGE_BYTES,
            zmq.TCP_KEEPALIVE: 1,
            zmq.TCP_KEEPALIVE_IDLE: 60,
            zmq.IPV6: int(any("[" in endpoint for endpoint in self._endpoints)),
        }
        try:
            for option, value in options.items():
                self._socket.setsockopt(option, value)
            if self._kind == zmq.SUB:
                self._socket.setsockopt(zmq.SUBSCRIBE, b"")
            for endpoint in self._endpoints:
                if not endpoint.startswith(_SCHEMES):
                    raise InputError(f"{endpoint!r}: an endpoint is tcp://ADDRESS:PORT or ipc://PATH")
                try:
                    if self._is_bound:
                        self._socket.bind(endpoint)
                    else:
                        self._socket.connect(endpoint)
                except zmq.ZMQError as err:
                    doing = "listened at" if self._is_bound else "connected to"
                    raise InputError(f"{endpoint}: cannot be {doing}: {err.strerror.lower()}") from err
        except InputError:
            self.close()
            raise

    def receive(self) -> list[list[bytes]]:
        """The next messages, each of its frames; none where none came for `IDLE_S`."""
        assert self._socket is not None
        messages: list[list[bytes]] = []
        size = 0
        until_s = time.monotonic() + IDLE_S
        while len(messages) < _BATCH_MESSAGES and size < _BATCH_BYTES:
            left_s = until_s - time.monotonic()
            if left_s <= 0 or not self._socket.poll(max(1, round(1000 * left_s))):
                break
            if not messages:
                until_s = time.monotonic() + _GATHER_S
            while len(messages) < _BATCH_MESSAGES and size < _BATCH_BYTES and (frames := self._take()):
                messages.append(frames)
                size += sum(map(len, frames))
        return messages

    def close(self) -> int:
        """Let go of the socket; how many messages had come and were not received."""
        if self._context is None or self._socket is None:
            return 0
        count = 0
        while count < QUEUED and self._take():
            count += 1
        self._socket.close(0)
        self._context.term()
        self._context = self._socket = None
        return count

    def _take(self) -> list[bytes]:
        """One message, of any number of frames, if there is one; it has one frame at least."""
        assert self._socket is not None
        try:
            return self._socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return []
