"""Conductor: carries commands out on one player at a time. No sockets: octets in, a reply out.

Promises: any octets from any client get one reply, and nothing is raised; no command waits for work that takes long.
Which command is allowed when is `session`'s matter, playing is `player`'s, the sockets are `control`'s.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from nsstream.clock import Clock
from nsstream.errors import InputError, NsstreamError, OutputError
from nsstream.replay.checkpoints import read_checkpoint, read_checkpoints
from nsstream.replay.codec import BadMessageError, decode_command
from nsstream.replay.drawing import CannotError
from nsstream.replay.endpoint import Plane
from nsstream.replay.feed import LEASE_S, FullError, PacketFeed
from nsstream.replay.framing import Framing
from nsstream.replay.messages import (
    MAX_ID,
    Accepted,
    AnyCommand,
    AnyReply,
    GetStatus,
    Hello,
    ListModels,
    ModelInfo,
    Models,
    Pause,
    Refusal,
    Resume,
    Seek,
    SetLoop,
    SetRate,
    Start,
    Status,
    Stop,
    Subscribe,
    SubscriberStatus,
    Subscription,
    fit_sentence,
)
from nsstream.replay.player import Player, Progress
from nsstream.replay.process_memory import ProcessMemory
from nsstream.replay.registry import make_sink
from nsstream.replay.replies import fit_counts, welcome
from nsstream.replay.run_models import RunModels
from nsstream.replay.safety import SendingRules
from nsstream.replay.scenario import ModelSpec, ModelsSpec, Scenario, StreamSpec, check_agreement
from nsstream.replay.session import Controller, NotAllowedError, Session
from nsstream.replay.sink import SinkContext
from nsstream.replay.stream import FrameStream
from nsstream.replay.streams.flow_models import check_flows_agree

_log = logging.getLogger(__name__)


class OpenStream(Protocol):
    """Makes a run's stream; called in a thread of the run."""

    def __call__(
        self,
        spec: StreamSpec,
        scenario: Scenario,
        *,
        loop: int | None,
        seed: int,
        framing: Framing,
        stopped: threading.Event,
    ) -> FrameStream:
        """The frames of a run, which is to end when `stopped` is set; raises NsstreamError."""
        ...


class Conductor:
    """The state of a replay server.

    Args:
        open_stream: see `OpenStream`.
        clock: paces and times runs.
        on_change: called from any thread when a run has ended.
        feed: the subscribers of packets.
        model_directories: whose models are listed.
        rules: where runs may send, and how fast.
        memory: the process's, told of runs; None: it is left as it is.
    """

    def __init__(
        self,
        open_stream: OpenStream,
        clock: Clock,
        on_change: Callable[[], None],
        feed: PacketFeed,
        model_directories: Sequence[Path] = (),
        rules: SendingRules | None = None,
        memory: ProcessMemory | None = None,
    ) -> None:
        self._open_stream = open_stream
        self._clock = clock
        self._on_change = on_change
        self._feed = feed
        self._rules = rules or SendingRules()
        self._model_directories = model_directories
        self._memory = memory
        self._player: Player | None = None
        self._pass_chunks: int | None = 0  # of one pass; None: not known, or there are none
        self._chunk_count: int | None = 0
        self._reply_sequence = 0
        self._published_sequence = 0
        self._loss: str | None = None
        self.endpoints: dict[Plane, str] = {}
        self.session = Session()

    @property
    def is_quiet(self) -> bool:
        """Whether no thread of a run is left."""
        return self._player is None or self._player.outcome is not None

    def answer(self, octets: bytes, client: bytes = b"") -> AnyReply:
        """The reply to a client's message; carries the command out. Raises nothing, whatever the octets."""
        try:
            command = decode_command(octets)
        except BadMessageError as err:
            return Refusal.of(err.request_id, err.code, str(err))
        try:
            self.session = self.session.after_word(client, self._clock.monotonic_ns())
            return self._obey(command, client)
        except NotAllowedError as err:
            return Refusal.of(command.id, err.code, str(err))
        except Exception as err:  # the boundary of one client's command: the others are served on
            _log.exception("command failed type=%s", command.type)
            return Refusal.of(command.id, "internal", f"an error inside nsstream: {type(err).__name__}: {err}")

    def observe(self) -> bool:
        """Take in what became of the run and of its controller; whether that changed the state."""
        before = self.session
        player = self._player
        if player is not None and self._memory is not None:
            self._memory.look(has_written=player.progress.packets_written > 0 or player.outcome is not None)
        if player is not None and player.outcome is not None and before.is_busy:
            self.session = before.after_outcome(player.outcome)
            _log.info("run ended outcome=%s run=%d", player.outcome, before.run)
        self.session = self.session.after_time(self._clock.monotonic_ns())
        if player is not None and self.session.state == "stopping" and before.state in ("running", "paused"):
            silent_s = (before.controller.timeout_ns or 0) * 1e-9 if before.controller is not None else 0.0
            self._loss = f"stopped, since the client that started the run said nothing for {silent_s:g} s"
            _log.warning("controller lost run=%d", before.run)
            player.stop()
        return self.session.state != before.state

    def end(self) -> None:
        """End the run, and take no other."""
        self.session = self.session.after_command("shutdown")
        if self._player is not None:
            self._player.stop()

    def published_status(self) -> Status:
        """A status for all subscribers; its sequence rises by one."""
        self._published_sequence += 1
        return self._status(None, self._published_sequence)

    def _obey(self, command: AnyCommand, client: bytes) -> AnyReply:
        if isinstance(command, Hello):
            return welcome(command)
        if isinstance(command, GetStatus):
            self.observe()
            self._reply_sequence += 1
            return self._status(command.id, self._reply_sequence)
        if isinstance(command, ListModels):
            return self._list_models(command)
        if isinstance(command, Subscribe):
            return self._subscribe(command)
        self.observe()
        after = self.session.after_command(command.type, client)
        if isinstance(command, Start):
            refusal = self._start(command)
            if refusal is not None:
                return refusal
            timeout_s = command.controller_timeout_s
            timeout_ns = None if timeout_s is None else int(timeout_s * 1e9)
            after = after.under(Controller(client, command.is_exclusive, timeout_ns, self._clock.monotonic_ns()))
        elif self._player is not None:
            try:
                _steer(self._player, command)
            except CannotError as err:
                return Refusal.of(command.id, "state", str(err))
            if isinstance(command, SetLoop):
                self._count_chunks(command.loop)
        self.session = after
        _log.info("command accepted type=%s state=%s run=%d", command.type, after.state, after.run)
        return Accepted(id=command.id, state=after.state, run=after.run)

    def _start(self, command: Start) -> Refusal | None:
        stream = command.stream
        try:
            check_agreement(stream, command.scenario, command.loop)
        except ValueError as err:
            return Refusal.of(command.id, "invalid", str(err))
        try:
            models = stream.models if isinstance(stream, ModelsSpec) else []
            if isinstance(stream, ModelSpec):
                models = [stream.model]
            checkpoints = read_checkpoints(models)
        except InputError as err:
            return Refusal.of(command.id, "model", str(err))
        draws_flows = any(checkpoint.is_of_flows for checkpoint in checkpoints)
        self._feed.run = self.session.run + 1
        try:
            framing = Framing.of(stream, command.mtu, command.payload, command.oversize, command.testbed)
            if draws_flows:
                check_flows_agree(command.scenario, framing)
            player = self._make_player(command, framing)
            if checkpoints and command.scenario.start_ns is None:
                player.check_time(checkpoints[0].start_ns)
        except InputError as err:
            return Refusal.of(command.id, "invalid", str(err))
        except OutputError as err:
            return Refusal.of(command.id, "sink", str(err))
        if draws_flows and not player.takes_flows:
            return Refusal.of(
                command.id, "sink", f"{command.sink['kind']}: takes frames, and a model of flows draws none"
            )
        if self._memory is not None:
            self._memory.begin(f"{stream.kind} {command.sink['kind']}")
        player.start()
        self._player = player
        self._loss = None
        self._pass_chunks = len(stream.models) if isinstance(stream, ModelsSpec) else None
        self._count_chunks(command.loop)
        return None

    def _count_chunks(self, loop: int | None) -> None:
        """How many chunks the run has in so many passes, as far as the protocol can say it."""
        is_known = self._pass_chunks is not None and loop is not None
        self._chunk_count = min((self._pass_chunks or 0) * (loop or 0), MAX_ID) if is_known else None

    def _make_player(self, command: Start, framing: Framing) -> Player:
        models = RunModels(command.stream, command.scenario)
        stopped = threading.Event()
        made: list[weakref.ref[Player]] = []  # weak, so that a run is in no cycle, and is gone when it is let go of

        def origin() -> tuple[int, str]:
            player = made[0]()
            return (0, "") if player is None else (player.progress.chunk, player.progress.model_id or "")

        player = Player(
            lambda: self._open_stream(
                command.stream,
                command.scenario,
                loop=command.loop,
                seed=command.seed,
                framing=framing,
                stopped=stopped,
            ),
            lambda is_stopped: make_sink(
                command.sink, SinkContext(is_stopped, self._clock, self._feed, origin, self._rules, models)
            ),
            command.rate,
            self._clock,
            self._on_change,
            stopped,
        )
        made.append(weakref.ref(player))
        return player

    def _subscribe(self, command: Subscribe) -> Subscription | Refusal:
        endpoint = self.endpoints[command.to]
        if command.to == "status":
            return Subscription(
                id=command.id, endpoint=endpoint, token=None, next_seq=self._published_sequence + 1,
                packets_before=0, lease_s=0.0,
            )  # fmt: skip
        try:
            token, next_seq, packets_before = self._feed.subscribe(command.name)
        except FullError as err:
            return Refusal.of(command.id, "limit", str(err))
        return Subscription(
            id=command.id, endpoint=endpoint, token=token, next_seq=next_seq, packets_before=packets_before,
            lease_s=LEASE_S,
        )  # fmt: skip

    def _list_models(self, command: ListModels) -> Models:
        """One reply's worth: only its own manifests are read, so that no list is too long for the loop."""
        directories: list[Path] = []
        for directory in self._model_directories:
            try:
                directories += sorted(path for path in directory.iterdir() if path.is_dir())
            except OSError as err:
                _log.warning("models cannot be listed directory=%s reason=%s", directory, err.strerror)
        models, unreadable = [], 0
        for path in directories[command.first : command.first + command.count]:
            try:
                found = read_checkpoint(path)
            except NsstreamError:
                unreadable += 1
            else:
                models.append(ModelInfo(id=found.id, directory=str(path), start_ns=found.start_ns, end_ns=found.end_ns))
        return Models(id=command.id, total=len(directories), models=models, unreadable=unreadable)

    def _status(self, request_id: int | None, sequence: int) -> Status:
        player, session = self._player, self.session
        done = Progress() if player is None else player.progress
        elapsed_s = 0.0 if player is None else player.elapsed_ns * 1e-9
        has_written = done.packets_written > 0
        error = done.error or self._loss
        return Status(
            id=request_id,
            sequence=sequence,
            state=session.state,
            run=session.run,
            model_id=done.model_id,
            chunk=done.chunk,
            chunk_count=self._chunk_count,
            packets_written=done.packets_written,
            octets_written=done.octets_written,
            twin_start_ns=done.twin_start_ns if has_written else None,
            twin_now_ns=done.twin_end_ns if has_written else None,
            twin_time_s=max(done.twin_end_ns - done.twin_start_ns, 0) * 1e-9,
            packets_per_s=done.packets_written / elapsed_s if elapsed_s > 0 else 0.0,
            packets_drawn_ahead=0 if player is None else player.packets_drawn_ahead,
            rate="max" if player is None else player.rate,
            late_s=0.0 if player is None else player.late_s,
            tally=fit_counts(done.tally if player is None else {**done.tally, **player.stream_counters}),
            counters={} if player is None else fit_counts(player.counters),
            subscribers=[
                SubscriberStatus(name=s.name, offered=s.offered, confirmed=s.confirmed, missed=s.missed)
                for s in self._feed.subscribers
            ],
            error=None if error is None else fit_sentence(error),
        )


def _steer(player: Player, command: AnyCommand) -> None:
    if isinstance(command, Stop):
        player.stop()
    elif isinstance(command, Pause):
        player.pause()
    elif isinstance(command, Resume):
        player.resume()
    elif isinstance(command, SetRate):
        player.set_rate(command.rate)
    elif isinstance(command, Seek):
        player.seek(command.twin_time_ns)
    elif isinstance(command, SetLoop):
        player.set_loop(command.loop)
