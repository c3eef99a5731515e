"""ReplayClient: commands a replay server. Blocking, of one thread; imports neither torch nor numba.

Promises: every call ends within its timeout with the server's answer or with ReplayError, whose sentence is the
server's own where it refused. A late reply to an earlier request is never taken for the answer to another one, and a
request is not kept for a server that comes up after the timeout.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self, TypeVar

import zmq

from nsstream.clock import Clock, SystemClock
from nsstream.errors import ReplayError
from nsstream.replay.codec import BadMessageError, decode_reply, encode, make_command
from nsstream.replay.endpoint import check_endpoint
from nsstream.replay.messages import (
    MAX_MESSAGE_BYTES,
    Accepted,
    AnyReply,
    Command,
    GetStatus,
    Hello,
    Refusal,
    Reply,
    Shutdown,
    Status,
    Stop,
    Welcome,
)

POLL_INTERVAL_S: Final = 0.2

_R = TypeVar("_R", bound=Reply)


class RefusedError(ReplayError):
    """The server refused a command. Attribute code: why, one of `messages.RefusalCode`."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.sentence)
        self.code = refusal.code


class ReplayClient:
    """A connection to the replay server at `endpoint`; a context manager that closes it."""

    def __init__(self, endpoint: str, timeout_s: float = 5.0, clock: Clock | None = None) -> None:
        self.endpoint = check_endpoint(endpoint)
        self._timeout_s = timeout_s
        self._clock = clock or SystemClock()
        self._next_id = 1
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
        self._context.term()

    def hello(self) -> Welcome:
        """Agree on a protocol version."""
        return self._ask(Hello(id=self._new_id()), Welcome)

    def start(
        self,
        models: Sequence[str | Path],
        sink: Mapping[str, object],
        seed: int = 0,
        mtu: int = 1500,
        rate: float | Literal["max"] = "max",
    ) -> Accepted:
        """Start a run.

        Args:
            models: checkpoint directories in the order of their chunks, absolute paths.
            sink: ``{"kind": "pcap", "path": ..., "overwrite": False}`` or another kind's fields (`registry`).
            seed: 0 to 2**63 - 1; the same seed gives the same twin.
            mtu: octets of the longest IP datagram, 576 to 9216.
            rate: twin seconds a second, or "max".
        """
        fields = {
            "type": "start",
            "id": self._new_id(),
            "models": [str(model) for model in models],
            "sink": {key: str(value) if isinstance(value, Path) else value for key, value in sink.items()},
            "seed": seed,
            "mtu": mtu,
            "rate": rate,
        }
        return self._ask(make_command(fields), Accepted)

    def status(self) -> Status:
        """How the newest run goes."""
        return self._ask(GetStatus(id=self._new_id()), Status)

    def stop(self) -> Accepted:
        """Ask the run to end; `status` says when it has."""
        return self._ask(Stop(id=self._new_id()), Accepted)

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
            if status.state not in ("running", "stopping"):
                raise ReplayError(f"there is no run to wait for: the server is {status.state}")
            time.sleep(POLL_INTERVAL_S)

    def _connect(self) -> zmq.Socket[bytes]:
        connection = self._context.socket(zmq.DEALER)
        connection.setsockopt(zmq.LINGER, 0)
        connection.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        connection.connect(self.endpoint)
        return connection

    def _new_id(self) -> int:
        self._next_id += 1
        return self._next_id

    def _ask(self, command: Command, expected: type[_R]) -> _R:
        deadline_ns = self._clock.monotonic_ns() + int(self._timeout_s * 1e9)
        octets = encode(command)
        self._socket.send_multipart([b"", octets], zmq.NOBLOCK)
        reply = self._receive(command.id, deadline_ns)
        if reply is None:
            # A request that waits for a server goes with its connection. ZMQ_IMMEDIATE would not queue it at all, but
            # also throws replies away that were received but not read when the server closes (libzmq 4.3.5).
            self._socket.close()
            self._socket = self._connect()
            raise ReplayError(
                f"{self.endpoint}: the replay server does not answer within {self._timeout_s:g} s; is it running?"
            )
        if isinstance(reply, Refusal):
            raise RefusedError(reply)
        if not isinstance(reply, expected):
            raise ReplayError(f"{self.endpoint}: the server answered {type(command).__name__} with {reply!r:.100}")
        return reply

    def _receive(self, request_id: int, deadline_ns: int) -> AnyReply | None:
        """The reply to a request; None if it does not come in time."""
        while self._socket.poll(max((deadline_ns - self._clock.monotonic_ns()) // 1_000_000, 0)):
            parts = self._socket.recv_multipart()
            with suppress(BadMessageError):  # as good as no answer: a newer one may come before the deadline
                if len(parts) == 2:
                    reply = decode_reply(parts[1])
                    if reply.id == request_id or (reply.id is None and isinstance(reply, Refusal)):
                        return reply
        return None
