"""ReplayClient: commands a replay server, and subscribes to it. Blocking, of one thread; loads neither torch nor numba.

Promises: every call ends within its timeout with the server's answer or with ReplayError, whose sentence is the
server's own where it refused. A late reply to an earlier request is never taken for the answer to another one, and a
request is not kept for a server that comes up after the timeout.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self, TypeVar

import zmq

from nsstream.clock import Clock, SystemClock
from nsstream.errors import ReplayError
from nsstream.replay.codec import encode, make_command
from nsstream.replay.endpoint import check_endpoint, reach
from nsstream.replay.keys import ClientKeys
from nsstream.replay.messages import (
    MAX_MESSAGE_BYTES,
    Accepted,
    Command,
    GetStatus,
    Hello,
    Models,
    Oversize,
    Pause,
    Payload,
    Reply,
    Resume,
    Shutdown,
    Status,
    Stop,
    Subscription,
    Welcome,
)
from nsstream.replay.rate import Rate
from nsstream.replay.receiver import (
    PacketItem,
    PacketReceiver,
    RefusedError,
    expect,
    no_answer,
    read_published,
    read_reply,
    start_command,
)
from nsstream.replay.sockets import connect

__all__ = ["CREDIT", "CREDIT_INTERVAL_S", "SILENCE_S", "RefusedError", "ReplayClient"]

POLL_INTERVAL_S: Final = 0.2
CREDIT: Final = 8  # batches on their way: enough to hide the latency, see docs/protocol.md
CREDIT_INTERVAL_S: Final = 1.0  # how often a subscriber says that it is there
SILENCE_S: Final = 5.0  # of published status, which comes every second, before the server counts as gone
COMMAND_OPTIONS: Final[Mapping[int, int]] = {zmq.MAXMSGSIZE: MAX_MESSAGE_BYTES}

_R = TypeVar("_R", bound=Reply)


class ReplayClient:
    """A connection to the replay server at `endpoint`; a context manager that closes it.

    Args:
        endpoint: ``ipc:///absolute/path``, or ``tcp://HOST:PORT`` with keys.
        timeout_s: of each call.
        clock: of the timeout.
        keys: its own, and the server's public one, for tcp.
    """

    def __init__(
        self, endpoint: str, timeout_s: float = 5.0, clock: Clock | None = None, keys: ClientKeys | None = None
    ) -> None:
        self.endpoint = check_endpoint(endpoint, has_keys=keys is not None)
        self._timeout_s = timeout_s
        self._clock = clock or SystemClock()
        self._keys = keys
        self._next_id = 1
        # A name of our own, so that after a broken connection we are still the client that started the run.
        self._name = b"c" + secrets.token_bytes(15)
        self._context = zmq.Context()
        self._socket = self._connect()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connection; may be repeated."""
        self._socket.close()
        self._context.destroy(0)

    def hello(self) -> Welcome:
        """Agree on a protocol version."""
        return self._ask(Hello(id=self._new_id()), Welcome)

    def start(
        self,
        stream: Mapping[str, object] | Sequence[str | Path],
        sink: Mapping[str, object],
        *,
        scenario: Mapping[str, object] | None = None,
        loop: int | None = 1,
        seed: int = 0,
        mtu: int = 1500,
        payload: Payload = "template",
        oversize: Oversize = "clamp",
        testbed: Mapping[str, object] | None = None,
        rate: Rate = "max",
        controller_timeout_s: float | None = None,
        is_exclusive: bool = False,
    ) -> Accepted:
        """Start a run.

        Args:
            stream: ``{"kind": "recorded", "path": ...}`` or another of `scenario.StreamSpec`; or directories of
                checkpoints in the order of their chunks, which is short for the kind "models".
            sink: ``{"kind": "pcap", "path": ..., "overwrite": False}`` or another that is registered.
            scenario: what is made of the stream, as `scenario.Scenario`.
            loop: how often the stream is played; None for ever.
            seed: 0 to 2**63 - 1; the same seed gives the same twin.
            mtu: octets of the longest IP datagram, 576 to 65,535.
            payload: what drawn packets carry.
            oversize: whether drawn TCP segments beyond the MTU are cut, or sent as several.
            testbed: a lab's addresses, VLANs and MACs, as `assemble.testbed.TestbedSpec`; None: the stream's own.
            rate: twin seconds a second, a `PacketRate`, a `BitRate`, or "max".
            controller_timeout_s: stop the run once this client has said nothing for so long; `wait` says enough.
            is_exclusive: whether only this client may steer the run; all may stop it.
        """
        command = start_command(
            self._new_id(), stream, sink, scenario, loop, seed, mtu, payload, oversize, testbed, rate,
            controller_timeout_s, is_exclusive,
        )  # fmt: skip
        return self._ask(command, Accepted)

    def status(self) -> Status:
        """How the newest run goes."""
        return self._ask(GetStatus(id=self._new_id()), Status)

    def stop(self) -> Accepted:
        """Ask the run to end; `status` says when it has."""
        return self._ask(Stop(id=self._new_id()), Accepted)

    def pause(self) -> Accepted:
        """Hold the run."""
        return self._ask(Pause(id=self._new_id()), Accepted)

    def resume(self) -> Accepted:
        """Let the run go on."""
        return self._ask(Resume(id=self._new_id()), Accepted)

    def set_rate(self, rate: Rate) -> Accepted:
        """Go on at another rate: twin seconds a second, a `PacketRate`, a `BitRate`, or "max"."""
        return self._ask(make_command({"type": "rate", "id": self._new_id(), "rate": rate}), Accepted)

    def seek(self, twin_time_ns: int) -> Accepted:
        """Go on at another time of the twin, in nanoseconds since the Unix epoch."""
        return self._ask(make_command({"type": "seek", "id": self._new_id(), "twin_time_ns": twin_time_ns}), Accepted)

    def set_loop(self, loop: int | None) -> Accepted:
        """Play the stream so many times in all; None for ever."""
        return self._ask(make_command({"type": "loop", "id": self._new_id(), "loop": loop}), Accepted)

    def models(self, first: int = 0) -> Models:
        """The models that the server offers, from the first-th on; `Models.total` says whether there are more."""
        return self._ask(make_command({"type": "models", "id": self._new_id(), "first": first}), Models)

    def shutdown(self) -> Accepted:
        """Ask the server to end, and its run with it."""
        return self._ask(Shutdown(id=self._new_id()), Accepted)

    def wait(self, on_progress: Callable[[Status], None] = lambda status: None) -> Status:
        """Wait until the run is done, however long it takes; gives its last status.

        Args:
            on_progress: called with every status on the way, and with the last.

        Raises ReplayError if the run failed, was stopped, never was, or if the server no longer answers.
        """
        while True:
            status = self.status()
            on_progress(status)
            if status.state == "done":
                return status
            if status.state == "failed":
                raise ReplayError(status.error or "the run failed")
            if status.state not in ("running", "paused", "stopping"):
                raise ReplayError(status.error or f"there is no run to wait for: the server is {status.state}")
            time.sleep(POLL_INTERVAL_S)

    def statuses(self) -> Iterator[Status]:
        """Every status that the server publishes: one at once, at every change of the state, and every second.

        Raises ReplayError once nothing has come for SILENCE_S.
        """
        subscription = self._subscribe("status", "")
        where = reach(subscription.endpoint, self.endpoint)
        with connect(self._context, zmq.SUB, where, self._keys, COMMAND_OPTIONS) as published:
            published.setsockopt(zmq.SUBSCRIBE, b"status")
            while published.poll(int(SILENCE_S * 1000)):
                yield read_published(published.recv_multipart())
        raise no_answer(where, SILENCE_S)

    def packets(self, name: str = "", credit: int = CREDIT) -> Iterator[PacketItem]:
        """Subscribe to packets: `PacketBatch`es, a `Missed` before one that does not follow, and the `End` of a run.

        The subscription begins with the call of this method, and ends with the iterator. What is taken out of it is
        acknowledged when the next is asked for, so that the server sends no more than can be dealt with.

        Args:
            name: in the server's status, for the operator.
            credit: batches that may be on their way, 1 to 1024.

        Raises ReplayError if the server no longer answers.
        """
        return self._receive_packets(self._subscribe("packets", name), credit)

    def _receive_packets(self, subscription: Subscription, credit: int) -> Iterator[PacketItem]:
        receiver = PacketReceiver(subscription, credit)
        where = reach(subscription.endpoint, self.endpoint)
        with connect(self._context, zmq.DEALER, where, self._keys, {zmq.LINGER: 100}) as connection:
            connection.send(receiver.credit())
            told_ns = heard_ns = self._clock.monotonic_ns()
            try:
                while True:
                    items: list[PacketItem] = []
                    if connection.poll(int(CREDIT_INTERVAL_S * 1000)):
                        items = receiver.take(connection.recv_multipart())
                    yield from items
                    now_ns = self._clock.monotonic_ns()
                    if receiver.is_credit_due or now_ns - told_ns >= CREDIT_INTERVAL_S * 1e9:
                        with suppress(zmq.Again):
                            connection.send(receiver.credit(), zmq.NOBLOCK)
                        told_ns = now_ns
                    if items:
                        heard_ns = now_ns
                    elif now_ns - heard_ns >= SILENCE_S * 1e9:
                        self.status()  # raises where the silence is that of a server that has gone
                        heard_ns = now_ns
            finally:
                with suppress(zmq.ZMQError):
                    connection.send(receiver.leave(), zmq.NOBLOCK)

    def _subscribe(self, to: Literal["packets", "status"], name: str) -> Subscription:
        command = make_command({"type": "subscribe", "id": self._new_id(), "to": to, "name": name})
        return self._ask(command, Subscription)

    def _connect(self) -> zmq.Socket[bytes]:
        made: zmq.Socket[bytes] = connect(
            self._context, zmq.DEALER, self.endpoint, self._keys, COMMAND_OPTIONS, self._name
        )
        return made

    def _new_id(self) -> int:
        self._next_id += 1
        return self._next_id

    def _ask(self, command: Command, expected: type[_R]) -> _R:
        deadline_ns = self._clock.monotonic_ns() + int(self._timeout_s * 1e9)
        self._socket.send_multipart([b"", encode(command)], zmq.NOBLOCK)
        while self._socket.poll(max((deadline_ns - self._clock.monotonic_ns()) // 1_000_000, 0)):
            reply = read_reply(self._socket.recv_multipart(), command.id)
            if reply is not None:
                return expect(reply, expected, self.endpoint)
        # A request that waits for a server goes with its connection. ZMQ_IMMEDIATE would not queue it at all, but
        # also throws replies away that were received but not read when the server closes (libzmq 4.3.5).
        self._socket.close()
        self._socket = self._connect()
        raise no_answer(self.endpoint, self._timeout_s)
