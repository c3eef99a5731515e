"""Clients that a replay server must survive: some die within a greeting or a message, some never read what they get.

Promises: nothing that is said here changes a run, so that what is counted at its other end stays true. Each kind of
client comes in its turn, some a second; what they hold they let go of after some seconds, most without a word.
"""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import msgpack
import zmq

from nsstream.errors import ReplayError
from nsstream.replay import PacketRate, ReplayClient

INTERVAL_S = 0.25
HELD_S = (0.5, 12.0)
UNREAD = 500  # requests of a client that reads no reply
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)  # ZMTP 3.0
READY = b"\x04\x1c\x05READY\x0bSocket-Type" + struct.pack(">I", 6) + b"DEALER"


class Chaos:
    """Such clients, in a thread of their own.

    Args:
        endpoint: of the server, on ipc.
        packets_per_s: the rate of the run, which a polite one of them sets again.
    """

    def __init__(self, endpoint: str, packets_per_s: float, seed: int = 1) -> None:
        self.came: Counter[str] = Counter()
        self.unanswered = 0  # of the polite ones
        self._endpoint = endpoint
        self._path = endpoint.removeprefix("ipc://")
        self._rate = PacketRate(packets_per_s=packets_per_s)
        self._chance = random.Random(seed)
        self._context = zmq.Context()
        self._held: list[tuple[float, Callable[[], object]]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._come_and_go, daemon=True)

    def begin(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """All are gone when this returns."""
        self._ended.set()
        self._thread.join()
        self._context.destroy(0)

    def _come_and_go(self) -> None:
        kinds = (
            self.dies_in_greeting,
            self.stalls_in_greeting,
            self.dies_in_message,
            self.says_nonsense,
            self.reads_nothing,
            self.reads_no_status,
            self.gives_no_more_credit,
            self.is_polite,
        )
        k = 0
        while not self._ended.wait(INTERVAL_S):
            kind = kinds[k % len(kinds)]
            with suppress(OSError, zmq.ZMQError):
                kind()
            self.came[kind.__name__] += 1
            k += 1
            self._let_go(time.monotonic())
        self._let_go(float("inf"))

    def _hold(self, close: Callable[[], object]) -> None:
        self._held.append((time.monotonic() + self._chance.uniform(*HELD_S), close))

    def _let_go(self, now_s: float) -> None:
        for _, close in (entry for entry in self._held if entry[0] <= now_s):
            with suppress(OSError, zmq.ZMQError):
                close()
        self._held = [entry for entry in self._held if entry[0] > now_s]

    def dies_in_greeting(self) -> None:
        with self._raw() as raw:
            raw.send(GREETING[: self._chance.randrange(1, len(GREETING))])

    def stalls_in_greeting(self) -> None:
        raw = self._raw()
        raw.send(GREETING[: self._chance.randrange(1, len(GREETING))])
        self._hold(raw.close)

    def dies_in_message(self) -> None:
        """It says how long its message is, and half of it."""
        with self._raw() as raw:
            raw.send(GREETING + READY)
            raw.settimeout(1.0)
            raw.recv(4096)  # the server's greeting: from now on it expects messages
            raw.send(b"\x02" + struct.pack(">Q", 500_000) + self._chance.randbytes(self._chance.randrange(1, 100_000)))

    def says_nonsense(self) -> None:
        one = self._dealer(self._chance.choice(("", ".packets")))
        octets = bytearray(_packed("status"))
        for _ in range(10):
            octets[self._chance.randrange(len(octets))] = self._chance.randrange(256)
            one.send_multipart([b"", bytes(octets[: self._chance.randrange(len(octets) + 1)])], zmq.NOBLOCK)
        self._hold(one.close)

    def reads_nothing(self) -> None:
        """Its replies stay in the server's queue, and then are thrown away."""
        one = self._dealer("")
        one.setsockopt(zmq.RCVHWM, 1)
        for _ in range(UNREAD):
            one.send_multipart([b"", _packed("status")], zmq.NOBLOCK)
        self._hold(one.close)

    def reads_no_status(self) -> None:
        one = self._context.socket(zmq.SUB)
        one.setsockopt(zmq.RCVHWM, 1)
        one.setsockopt(zmq.SUBSCRIBE, b"")
        one.connect(self._endpoint + ".status")
        self._hold(lambda: one.close(0))

    def gives_no_more_credit(self) -> None:
        """It subscribes, takes some batches, acknowledges none, and is gone without a word."""
        with ReplayClient(self._endpoint) as client, suppress(ReplayError):
            token = client._subscribe("packets", "dies").token  # the iterator would take leave
            one = self._dealer(".packets")
            credit = {"v": 2, "type": "credit", "token": token, "credit": 4, "ack": -1}
            one.send(msgpack.packb(credit), zmq.NOBLOCK)
            self._hold(one.close)

    def is_polite(self) -> None:
        try:
            with ReplayClient(self._endpoint) as client:
                client.hello()
                client.models()
                client.set_rate(self._rate)
                client.status()
        except ReplayError:
            self.unanswered += 1

    def _raw(self) -> socket.socket:
        raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        raw.settimeout(5.0)
        raw.connect(self._path + self._chance.choice(("", ".status", ".packets")))
        return raw

    def _dealer(self, plane: str) -> zmq.Socket[bytes]:
        one = self._context.socket(zmq.DEALER)
        one.setsockopt(zmq.LINGER, 0)
        one.connect(self._endpoint + plane)
        return one


def _packed(kind: str) -> bytes:
    octets: bytes = msgpack.packb({"v": 2, "id": 1, "type": kind})
    return octets
