"""NtopPublisher: messages to whoever subscribed, none lost without a name.

A publisher of ZeroMQ drops what a subscriber's queue has no room for, silently. This one is told (XPUB with
``XPUB_NODROP``) and waits; who has not read for `STALL_S` misses messages, which are counted. It knows who is there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import zmq

from nsstream.clock import Clock
from nsstream.errors import OutputError, ReplayError
from nsstream.replay.sink import POLL_INTERVAL_S
from nsstream.replay.sockets import bind

STALL_S: Final = 5.0
TOPIC: Final = b"flow"
QUEUED: Final = 1000  # messages for each subscriber; as in libzmq's own default


class NtopPublisher:
    """Publishes at one endpoint, to which subscribers connect."""

    def __init__(self, endpoint: str, is_stopped: Callable[[], bool], clock: Clock) -> None:
        self.subscriber_count = 0
        self.octet_count = 0
        self._endpoint = endpoint
        self._is_stopped = is_stopped
        self._clock = clock
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._socket: zmq.Socket[bytes] | None = None
        self._is_stalled = False

    def open(self) -> None:
        """Bind; raises OutputError."""
        self._context = zmq.Context()
        options: dict[int, int] = {
            zmq.SNDHWM: QUEUED,
            zmq.XPUB_NODROP: 1,
            zmq.XPUB_VERBOSER: 1,
            zmq.LINGER: 0,
            zmq.MAXMSGSIZE: 1024,
            zmq.IPV6: int("[" in self._endpoint),
        }
        try:
            self._socket = bind(self._context, zmq.XPUB, self._endpoint, None, options)
        except ReplayError as err:
            self._context.term()
            self._context = None
            raise OutputError(str(err)) from err

    def wait_for_subscriber(self) -> None:
        """Wait until somebody is there; raises OutputError once the run is stopped."""
        while not self.subscriber_count:
            if self._is_stopped():
                raise OutputError(f"{self._endpoint}: stopped before anybody had subscribed")
            self._look(POLL_INTERVAL_S)

    def send(self, frames: list[bytes]) -> bool | None:
        """Whether a message went to everybody; None where nobody is there, False where somebody does not read.

        Raises OutputError once the run is stopped while it waits.
        """
        assert self._socket is not None
        self._look(0)
        if not self.subscriber_count:
            return None
        until_ns = self._clock.monotonic_ns() + round(STALL_S * 1e9)
        while True:
            try:
                self._socket.send_multipart(frames, zmq.NOBLOCK)
            except zmq.Again:
                if self._is_stopped():
                    raise OutputError(f"{self._endpoint}: stopped before everything was sent") from None
                if self._is_stalled or self._clock.monotonic_ns() >= until_ns:
                    self._is_stalled = True  # and is not waited for again until it reads
                    return False
                self._look(POLL_INTERVAL_S)
                if not self.subscriber_count:
                    return None
            else:
                self._is_stalled = False
                self.octet_count += sum(map(len, frames))
                return True

    def close(self, linger_s: float) -> None:
        """Give what was sent so long to leave, and let go; may be repeated."""
        if self._context is None or self._socket is None:
            return
        self._socket.close(round(1000 * linger_s))
        self._context.term()
        self._context = self._socket = None

    def _look(self, wait_s: float) -> None:
        """Take note of who subscribed and who left."""
        assert self._socket is not None
        while self._socket.poll(round(1000 * wait_s), zmq.POLLIN):
            told = self._socket.recv(zmq.NOBLOCK)
            if TOPIC.startswith(told[1:]):  # what it subscribed to begins ours
                self.subscriber_count += 1 if told[:1] == b"\x01" else -1
            wait_s = 0.0
