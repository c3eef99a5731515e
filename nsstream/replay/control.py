"""ControlServer: the sockets for commands and status, and a loop that never waits for work.

Promises: every message that comes behind a request envelope gets one reply, whatever its octets are; a client that
does not read its replies loses them, and stalls nobody; status is published at every change of the state, to every new
subscriber, and every second; when the server ends it stops the run first, whose output is then undone. What a command
does is `conductor`'s matter, packets are `packet_server`'s, the process is `server`'s.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import zmq

from nsstream.clock import Clock
from nsstream.errors import ReplayError
from nsstream.replay import zap
from nsstream.replay.codec import encode
from nsstream.replay.conductor import Conductor, OpenStream
from nsstream.replay.endpoint import check_endpoint, endpoint_of, socket_path
from nsstream.replay.feed import PacketFeed
from nsstream.replay.keys import AllowedClients, ServerKeys
from nsstream.replay.messages import MAX_MESSAGE_BYTES, AnyReply, Refusal, State, Status
from nsstream.replay.packet_server import OPTIONS as PACKET_OPTIONS
from nsstream.replay.packet_server import PacketServer
from nsstream.replay.process_memory import ProcessMemory
from nsstream.replay.safety import SendingRules
from nsstream.replay.sockets import bind

TICK_MS: Final = 250  # how soon the parent's death is seen
HEARTBEAT_S: Final = 1.0  # between published statuses
MESSAGES_A_TURN: Final = 64  # taken from clients before signals and the player are looked at again
CLOSE_TIMEOUT_S: Final = 5.0  # how long a draw in hand may take at the end
DRAIN_S: Final = 2.0  # how long subscribers may take for what they have not fetched at the end
LINGER_MS: Final = 500  # how long the reply to `shutdown` may take to leave
TOPIC: Final = b"status"
REBIND_S: Final = 2.0  # how long an endpoint that was let go of may take to be free
REBIND_PAUSE_S: Final = 0.001
MAX_STRANGE_TOPICS: Final = 10_000  # subscriptions to nothing of ours, which libzmq keeps: then all have to come anew

CONTROL_OPTIONS: Final[Mapping[int, int]] = {
    zmq.LINGER: LINGER_MS,
    zmq.MAXMSGSIZE: MAX_MESSAGE_BYTES,
    zmq.RCVHWM: MESSAGES_A_TURN,
    zmq.SNDHWM: MESSAGES_A_TURN,
    zmq.ROUTER_MANDATORY: 1,  # so that an undelivered reply is counted, not dropped unseen
    zmq.ROUTER_HANDOVER: 1,  # a client that comes back under the name that it chose is the same client
}
STATUS_OPTIONS: Final[Mapping[int, int]] = {
    zmq.LINGER: LINGER_MS,
    zmq.MAXMSGSIZE: 1024,  # a subscription is shorter, but CURVE's INITIATE has 257 octets and more
    zmq.SNDHWM: 16,
    zmq.XPUB_VERBOSE: 1,
}

_log = logging.getLogger(__name__)


class ControlServer:
    """Serves the three sockets of one endpoint.

    Args:
        endpoint: see `endpoint.check_endpoint`; a port of ``*`` is chosen by the system.
        open_stream: makes a run's stream; called in a thread of the run.
        clock: paces and times runs.
        keys: for tcp, which is refused without.
        model_directories: whose models are listed.
        is_orphaned: asked every TICK_MS; True ends the server.
        rules: where runs may send, and how fast.
        memory: see `Conductor`.
        on_status: told of every status that is published, in the thread that serves.
    """

    def __init__(
        self,
        endpoint: str,
        open_stream: OpenStream,
        clock: Clock,
        *,
        keys: ServerKeys | None = None,
        model_directories: Sequence[Path] = (),
        is_orphaned: Callable[[], bool] = lambda: False,
        rules: SendingRules | None = None,
        memory: ProcessMemory | None = None,
        on_status: Callable[[Status], None] = lambda status: None,
    ) -> None:
        self._on_status = on_status
        self._endpoint = check_endpoint(endpoint, has_keys=keys is not None, is_server=True)
        self._clock = clock
        self._keys = keys
        self._is_orphaned = is_orphaned
        self._context = zmq.Context()
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._feed = PacketFeed(clock)
        self._conductor = Conductor(open_stream, clock, self._wake, self._feed, model_directories, rules, memory)
        self._zap: zmq.Socket[bytes] | None = None
        self._control: zmq.Socket[bytes] | None = None
        self._status: zmq.Socket[bytes] | None = None
        self._packets: PacketServer | None = None
        self._bound_paths: list[Path] = []
        self._published_ns = 0
        self._is_asked_to_end = False
        self.door = zap.Door(AllowedClients(keys.clients, clock).name_of if keys is not None else lambda key: None)
        self.undelivered_count = 0  # replies that their client did not take
        self.strange_topic_count = 0  # subscriptions to what is not published

    def bind(self) -> str:
        """Take the endpoints; gives that for commands with the port that was chosen. Raises ReplayError."""
        if self._keys is not None:  # before anybody can knock
            self._zap = self._context.socket(zmq.ROUTER)
            self._zap.setsockopt(zmq.LINGER, 0)
            self._zap.bind(zap.ENDPOINT)
        self._control, control = self._bind(zmq.ROUTER, self._endpoint, CONTROL_OPTIONS)
        self._status, status = self._bind(zmq.XPUB, endpoint_of("status", self._endpoint), STATUS_OPTIONS)
        bound, packets = self._bind(zmq.ROUTER, endpoint_of("packets", self._endpoint), PACKET_OPTIONS)
        self._packets = PacketServer(bound, self._feed, self._clock)
        self._packets.start()
        self._conductor.endpoints = {"status": status, "packets": packets}
        return control

    def request_end(self) -> None:
        """Ask `serve` to end; may be called from a signal handler or another thread."""
        self._is_asked_to_end = True
        self._wake()

    def answer(self, octets: bytes, client: bytes = b"") -> AnyReply:
        """The reply to a client's message; carries the command out. Raises nothing, whatever the octets."""
        return self._conductor.answer(octets, client)

    def serve(self) -> bool:
        """Serve until asked to end. False: a draw was still going on at the end, and its thread is left behind."""
        conductor = self._conductor
        poller = zmq.Poller()
        for each in (self._zap, self._control, self._status):
            if each is not None:
                poller.register(each, zmq.POLLIN)
        poller.register(self._wake_out.fileno(), zmq.POLLIN)
        deadline_ns: int | None = None
        published: tuple[State, int] | None = None
        while not self._is_finished(deadline_ns):
            ready = dict(poller.poll(self._patience_ms()))
            with suppress(BlockingIOError):
                self._wake_out.recv(4096)
            if self._is_asked_to_end or self._is_orphaned():
                conductor.end()
            self._let_in()
            self._answer_waiting()
            conductor.observe()
            if self._status in ready and self._take_subscriptions(poller):
                published = None
            now_ns = self._clock.monotonic_ns()
            current = conductor.session.state, conductor.session.run
            if published != current or now_ns - self._published_ns >= HEARTBEAT_S * 1e9:
                published, self._published_ns = current, now_ns
                self._publish()
            if conductor.session.state == "closing" and deadline_ns is None:
                deadline_ns = now_ns + int(CLOSE_TIMEOUT_S * 1e9)
                conductor.end()
        return conductor.is_quiet

    def close(self) -> None:
        """Let go of the sockets, and remove them from the file system where `bind` put them there."""
        if self._packets is not None:
            self._packets.close(DRAIN_S)
        for each in (self._control, self._status, self._zap):
            if each is not None:
                each.close()
        self._context.term()
        for path in self._bound_paths:
            path.unlink(missing_ok=True)
        self._wake_in.close()
        self._wake_out.close()

    def _bind(self, kind: int, endpoint: str, options: Mapping[int, int]) -> tuple[zmq.Socket[bytes], str]:
        bound = bind(self._context, kind, endpoint, self._keys, options)
        path = socket_path(endpoint)
        if path is not None and path not in self._bound_paths:
            self._bound_paths.append(path)
        return bound, bound.getsockopt_string(zmq.LAST_ENDPOINT)

    def _patience_ms(self) -> int:
        """How long nothing has to be done but to wait."""
        now_ns = self._clock.monotonic_ns()
        due_ns = [now_ns + TICK_MS * 1_000_000, self._published_ns + int(HEARTBEAT_S * 1e9)]
        if self._conductor.session.loss_ns is not None:
            due_ns.append(self._conductor.session.loss_ns)
        return max((min(due_ns) - now_ns + 999_999) // 1_000_000, 0)

    def _let_in(self) -> None:
        """Answer those who are at the door."""
        for _ in range(MESSAGES_A_TURN):
            try:
                if self._zap is None:
                    return
                address, empty, *request = self._zap.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            answer = self.door.answer(request)
            if answer is not None:
                self._zap.send_multipart([address, empty, *answer])

    def _answer_waiting(self) -> None:
        assert self._control is not None
        for _ in range(MESSAGES_A_TURN):
            try:
                client, *parts = self._control.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if len(parts) == 2 and parts[0] == b"":
                reply = self.answer(parts[1], client)
            else:
                reply = Refusal.of(None, "malformed", "a request is two frames: an empty one, and one msgpack map")
            try:
                self._control.send_multipart([client, b"", encode(reply)], zmq.NOBLOCK)
            except zmq.ZMQError:  # EHOSTUNREACH: the client has gone; EAGAIN: it does not read
                self.undelivered_count += 1

    def _take_subscriptions(self, poller: zmq.Poller) -> bool:
        """Whether somebody new wants to know the status."""
        assert self._status is not None
        is_new = False
        for _ in range(MESSAGES_A_TURN):
            try:
                message = self._status.recv(zmq.NOBLOCK)
            except zmq.Again:
                break
            is_new |= message[:1] == b"\x01" and TOPIC.startswith(message[1:])
            self.strange_topic_count += not TOPIC.startswith(message[1:])
        if self.strange_topic_count >= MAX_STRANGE_TOPICS:
            poller.unregister(self._status)
            self._rebind_status()
            poller.register(self._status, zmq.POLLIN)
        return is_new

    def _rebind_status(self) -> None:
        """Drop every subscriber, and what libzmq keeps for it; those of good will connect again by themselves."""
        assert self._status is not None
        _log.warning("status socket made anew: too many subscriptions to nothing of ours")
        endpoint = self._status.getsockopt_string(zmq.LAST_ENDPOINT)
        self._status.unbind(endpoint)
        self._status.close(0)
        self.strange_topic_count = 0
        until_ns = self._clock.monotonic_ns() + int(REBIND_S * 1e9)
        while True:
            try:
                self._status, _ = self._bind(zmq.XPUB, endpoint, STATUS_OPTIONS)
                return
            except ReplayError:  # libzmq lets go of the endpoint in a thread of its own, which may be slow
                if self._clock.monotonic_ns() >= until_ns:
                    raise
                time.sleep(REBIND_PAUSE_S)

    def _publish(self) -> None:
        assert self._status is not None
        status = self._conductor.published_status()
        self._on_status(status)
        with suppress(zmq.Again):
            self._status.send_multipart([TOPIC, encode(status)], zmq.NOBLOCK)

    def _is_finished(self, deadline_ns: int | None) -> bool:
        if deadline_ns is None:
            return False
        return self._conductor.is_quiet or self._clock.monotonic_ns() >= deadline_ns

    def _wake(self) -> None:
        with suppress(OSError):  # full: the loop wakes anyway; closed: it has ended
            self._wake_in.send(b"\0")
