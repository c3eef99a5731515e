"""ControlServer: a control socket whose loop never waits for work, and one player at a time.

Promises: every message that comes behind a request envelope gets one reply, whatever its octets are; a client that
does not read its replies loses them, and stalls nobody; when the server ends it stops the run first, whose output is
then undone. Which command is allowed when is `session`'s matter, playing is `player`'s, the process is `server`'s.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import zmq

import nsstream
from nsstream.clock import Clock
from nsstream.errors import InputError, OutputError, ReplayError
from nsstream.replay.checkpoints import CheckpointInfo, read_checkpoints
from nsstream.replay.codec import BadMessageError, decode_command, encode
from nsstream.replay.endpoint import check_endpoint, check_socket_path_is_free, socket_path
from nsstream.replay.messages import (
    MAX_MAP_LENGTH,
    MAX_MESSAGE_BYTES,
    MIN_PROTOCOL_VERSION,
    PROTOCOL_VERSION,
    Accepted,
    AnyCommand,
    AnyReply,
    GetStatus,
    Hello,
    Refusal,
    Start,
    Status,
    Stop,
    Welcome,
    fit_sentence,
)
from nsstream.replay.player import Player, Progress
from nsstream.replay.registry import make_sink
from nsstream.replay.safety import SendingRules
from nsstream.replay.session import NotAllowedError, Session
from nsstream.replay.sink import SinkContext
from nsstream.replay.stream import FrameStream

TICK_MS: Final = 250  # how soon the parent's death is seen
MESSAGES_A_TURN: Final = 64  # taken from clients before signals and the player are looked at again
CLOSE_TIMEOUT_S: Final = 5.0  # how long a draw in hand may take at the end
LINGER_MS: Final = 500  # how long the reply to `shutdown` may take to leave

OpenStream = Callable[[Sequence[CheckpointInfo], int, int], FrameStream]

_log = logging.getLogger(__name__)


class ControlServer:
    """Serves one control socket.

    Args:
        endpoint: see `endpoint.check_endpoint`; a port of ``*`` is chosen by the system.
        open_stream: makes a run's stream from checkpoints, seed and mtu; called in a thread of the run.
        clock: paces and times runs.
        is_orphaned: asked every TICK_MS; True ends the server.
        rules: where runs may send, and how fast.
    """

    def __init__(
        self,
        endpoint: str,
        open_stream: OpenStream,
        clock: Clock,
        is_orphaned: Callable[[], bool] = lambda: False,
        rules: SendingRules | None = None,
    ) -> None:
        self._endpoint = check_endpoint(endpoint)
        self._open_stream = open_stream
        self._clock = clock
        self._is_orphaned = is_orphaned
        self._rules = rules or SendingRules()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._bound_path: Path | None = None
        self._session = Session()
        self._player: Player | None = None
        self._chunk_count = 0
        self._sequence = 0
        self._is_asked_to_end = False
        self.undelivered_count = 0  # replies that their client did not take

    def bind(self) -> str:
        """Take the endpoint; gives it with the port that was chosen. Raises ReplayError."""
        for option, value in (
            (zmq.LINGER, LINGER_MS),
            (zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES),
            (zmq.RCVHWM, MESSAGES_A_TURN),
            (zmq.SNDHWM, MESSAGES_A_TURN),
            (zmq.ROUTER_MANDATORY, 1),  # so that an undelivered reply is counted, not dropped unseen
        ):
            self._socket.setsockopt(option, value)
        path = socket_path(self._endpoint)
        if path is not None:
            check_socket_path_is_free(path)  # libzmq would unlink whatever is there
        umask = os.umask(0o117)  # the socket is 0660 from its first moment on
        try:
            self._socket.bind(self._endpoint)
        except zmq.ZMQError as err:
            raise ReplayError(f"{self._endpoint}: cannot listen here: {err.strerror.lower()}") from err
        finally:
            os.umask(umask)
        self._bound_path = path
        return self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def request_end(self) -> None:
        """Ask `serve` to end; may be called from a signal handler or another thread."""
        self._is_asked_to_end = True
        self._wake()

    def serve(self) -> bool:
        """Serve until asked to end. False: a draw was still going on at the end, and its thread is left behind."""
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._wake_out.fileno(), zmq.POLLIN)
        deadline_ns: int | None = None
        while not self._is_finished(deadline_ns):
            poller.poll(TICK_MS)
            with suppress(BlockingIOError):
                self._wake_out.recv(4096)
            self._answer_waiting()
            self._observe_player()
            if self._is_asked_to_end or self._is_orphaned():
                self._session = self._session.after_command("shutdown")
            if self._session.state == "closing" and deadline_ns is None:
                deadline_ns = self._clock.monotonic_ns() + int(CLOSE_TIMEOUT_S * 1e9)
                if self._player is not None:
                    self._player.stop()
        return self._player is None or self._player.outcome is not None

    def close(self) -> None:
        """Let go of the socket, and remove it from the file system where `bind` put it there."""
        self._socket.close()
        self._context.term()
        if self._bound_path is not None:
            self._bound_path.unlink(missing_ok=True)
        self._wake_in.close()
        self._wake_out.close()

    def answer(self, octets: bytes) -> AnyReply:
        """The reply to a message; carries the command out. Raises nothing, whatever the octets."""
        try:
            command = decode_command(octets)
        except BadMessageError as err:
            return Refusal.of(err.request_id, err.code, str(err))
        try:
            return self._obey(command)
        except NotAllowedError as err:
            return Refusal.of(command.id, "state", str(err))
        except Exception as err:  # the boundary of one client's command: the others are served on
            _log.exception("command failed type=%s", command.type)
            return Refusal.of(command.id, "internal", f"an error inside nsstream: {type(err).__name__}: {err}")

    def _obey(self, command: AnyCommand) -> AnyReply:
        if isinstance(command, Hello):
            return _welcome(command)
        if isinstance(command, GetStatus):
            return self._status(command.id)
        after = self._session.after_command(command.type)
        if isinstance(command, Start):
            refusal = self._start(command)
            if refusal is not None:
                return refusal
        elif isinstance(command, Stop) and self._player is not None:
            self._player.stop()
        self._session = after
        _log.info("command accepted type=%s state=%s run=%d", command.type, after.state, after.run)
        return Accepted(id=command.id, state=after.state, run=after.run)

    def _start(self, command: Start) -> Refusal | None:
        try:
            checkpoints = read_checkpoints(command.models)
        except InputError as err:
            return Refusal.of(command.id, "model", str(err))
        try:
            player = Player(
                lambda: self._open_stream(checkpoints, command.seed, command.mtu),
                lambda is_stopped: make_sink(command.sink, SinkContext(is_stopped, self._clock, self._rules)),
                None if command.rate == "max" else command.rate,
                self._clock,
                self._wake,
            )
        except InputError as err:
            return Refusal.of(command.id, "invalid", str(err))
        except OutputError as err:
            return Refusal.of(command.id, "sink", str(err))
        player.start()
        self._player = player
        self._chunk_count = len(checkpoints)
        return None

    def _status(self, request_id: int) -> Status:
        self._observe_player()
        self._sequence += 1
        player, session = self._player, self._session
        done = Progress() if player is None else player.progress
        elapsed_s = 0.0 if player is None else player.elapsed_ns * 1e-9
        return Status(
            id=request_id,
            sequence=self._sequence,
            state=session.state,
            run=session.run,
            model_id=done.model_id,
            chunk=done.chunk,
            chunk_count=self._chunk_count,
            packets_written=done.packets_written,
            octets_written=done.octets_written,
            twin_time_s=(done.twin_end_ns - done.twin_start_ns) * 1e-9,
            packets_per_s=done.packets_written / elapsed_s if elapsed_s > 0 else 0.0,
            packets_drawn_ahead=0 if player is None else player.packets_drawn_ahead,
            tally={name[:100]: count for name, count in sorted(done.tally.items())[:MAX_MAP_LENGTH]},
            error=None if done.error is None else fit_sentence(done.error),
        )

    def _answer_waiting(self) -> None:
        for _ in range(MESSAGES_A_TURN):
            try:
                identity, *parts = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if len(parts) == 2 and parts[0] == b"":
                reply = self.answer(parts[1])
            else:
                reply = Refusal.of(None, "malformed", "a request is two frames: an empty one, and one msgpack map")
            try:
                self._socket.send_multipart([identity, b"", encode(reply)], zmq.NOBLOCK)
            except zmq.ZMQError:  # EHOSTUNREACH: the client has gone; EAGAIN: it does not read
                self.undelivered_count += 1

    def _observe_player(self) -> None:
        if self._player is not None and self._player.outcome is not None and self._session.is_busy:
            self._session = self._session.after_outcome(self._player.outcome)
            _log.info("run ended outcome=%s run=%d", self._player.outcome, self._session.run)

    def _is_finished(self, deadline_ns: int | None) -> bool:
        if deadline_ns is None:
            return False
        is_idle = self._player is None or self._player.outcome is not None
        return is_idle or self._clock.monotonic_ns() >= deadline_ns

    def _wake(self) -> None:
        with suppress(OSError):  # full: the loop wakes anyway; closed: it has ended
            self._wake_in.send(b"\0")


def _welcome(command: Hello) -> Welcome | Refusal:
    version = min(command.max_version, PROTOCOL_VERSION)
    if version < max(command.min_version, MIN_PROTOCOL_VERSION):
        return Refusal.of(
            command.id,
            "version",
            f"this server speaks protocol versions {MIN_PROTOCOL_VERSION} to {PROTOCOL_VERSION}, "
            f"the client {command.min_version} to {command.max_version}",
        )
    return Welcome(id=command.id, version=version, server=f"nsstream {nsstream.__version__}")
