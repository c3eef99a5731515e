"""PacketServer: the socket of the packet plane, and the thread that sends what its feed has due.

Promises: nothing that a subscriber sends stops the thread; what cannot be taken is counted and, where its sender reads,
answered; nobody waits for a subscriber that does not read: it has a window, and its connection a bounded queue.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import zmq

from nsstream.clock import Clock
from nsstream.replay.batch import MAX_CREDIT, MAX_CREDIT_BYTES, Leave, PartRefused, decode_credit, encode_part
from nsstream.replay.codec import BadMessageError
from nsstream.replay.feed import PacketFeed, UnknownSubscriberError
from nsstream.replay.messages import RefusalCode, fit_sentence

TICK_MS: Final = 250  # how soon silent subscribers are forgotten
MESSAGES_A_TURN: Final = 256  # taken before something is sent
OPTIONS: Final[Mapping[int, int]] = {
    zmq.LINGER: 500,
    zmq.MAXMSGSIZE: MAX_CREDIT_BYTES,
    zmq.RCVHWM: MESSAGES_A_TURN,
    zmq.SNDHWM: 2 * MAX_CREDIT,  # more than the credit allows, so that only refusals can fill it
    zmq.ROUTER_MANDATORY: 1,  # so that a broken connection is known
}

_log = logging.getLogger(__name__)


class PacketServer:
    """Serves a feed by a bound ROUTER socket, which it closes at the end."""

    def __init__(self, bound: zmq.Socket[bytes], feed: PacketFeed, clock: Clock) -> None:
        self._socket = bound
        self._feed = feed
        self._clock = clock
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._drain_until_ns: int | None = None
        self._thread = threading.Thread(target=self._serve, name="packets", daemon=True)
        self.malformed_count = 0  # messages that were none
        feed.on_change = self._wake

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self, drain_s: float = 0.0) -> None:
        """End the thread, which first goes on so long at most while a subscriber has not got everything."""
        self._drain_until_ns = self._clock.monotonic_ns() + int(drain_s * 1e9)
        self._wake()
        if self._thread.is_alive():
            self._thread.join()
        self._socket.close()
        self._wake_in.close()
        self._wake_out.close()

    def _serve(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._wake_out.fileno(), zmq.POLLIN)
        while not self._is_finished():
            poller.poll(TICK_MS if self._drain_until_ns is None else 10)
            with suppress(BlockingIOError):
                self._wake_out.recv(4096)
            try:
                self._receive()
                for address, parts in self._feed.due():
                    self._send(address, parts)
            except Exception:  # the thread's boundary: one turn is lost, and the connections go on
                _log.exception("packet plane failed")

    def _is_finished(self) -> bool:
        until_ns = self._drain_until_ns
        return until_ns is not None and (self._feed.is_drained or self._clock.monotonic_ns() >= until_ns)

    def _receive(self) -> None:
        for _ in range(MESSAGES_A_TURN):
            try:
                address, *parts = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                if len(parts) != 1:
                    raise BadMessageError("malformed", "a subscriber's message is one frame, a msgpack map")
                message = decode_credit(parts[0])
                if isinstance(message, Leave):
                    self._feed.leave(message.token)
                else:
                    self._feed.take_credit(address, message)
            except BadMessageError as err:
                self.malformed_count += 1
                self._refuse(address, err.code, str(err))
            except UnknownSubscriberError as err:
                self._refuse(address, "state", str(err))

    def _refuse(self, address: bytes, code: RefusalCode, sentence: str) -> None:
        with suppress(zmq.ZMQError):  # gone, or it does not read
            self._socket.send_multipart(
                [address, *encode_part(PartRefused(code=code, sentence=fit_sentence(sentence)))], zmq.NOBLOCK
            )

    def _send(self, address: bytes, parts: list[bytes]) -> None:
        try:
            self._socket.send_multipart([address, *parts], zmq.NOBLOCK, copy=False)
        except zmq.ZMQError:  # EHOSTUNREACH: the connection is gone; EAGAIN: it is full of refusals
            self._feed.break_off(address)

    def _wake(self) -> None:
        with suppress(OSError):  # full: the loop wakes anyway; closed: it has ended
            self._wake_in.send(b"\0")
