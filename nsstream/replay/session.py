"""Who may command what when: the life of a replay server as a pure state machine. No sockets, no threads, no clock.

Rule 1: everything that decides whether a command is allowed, and what state follows, lives in this file.
Rule 2: commands come from clients, outcomes from the run itself, the loss of a controller from time; nothing else moves
the state.

              ┌──pause──> paused
              │ <─resume─── │ │
    idle ──start──> running ──┼──done──> done         start leads from idle, done, failed and stopped to running
                      │       └─failed─> failed
                     stop, or the controller is lost (from paused, too)
                      v
                   stopping ──any outcome──> stopped
    any ──shutdown──> closing                         closing is left by nobody: the server ends

`hello`, `status`, `models` and `subscribe` are allowed always and change nothing. `stop`, `pause`, `resume` and
`shutdown` may be repeated. A stop that comes after the output was put in place has come too late: the outcome is then
done. A run's controller is the client that started it. Where it said so, nobody else may pause, resume, rate, seek or
loop, but everybody may stop; and where it said so, the run stops once it has been silent for too long.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

from nsstream.replay.messages import RefusalCode, State

CommandType = Literal[
    "hello", "start", "stop", "pause", "resume", "rate", "seek", "loop", "status", "models", "subscribe", "shutdown"
]
Outcome = Literal["done", "failed", "stopped"]

ASKING: Final[frozenset[CommandType]] = frozenset({"hello", "status", "models", "subscribe"})
STEERING: Final[frozenset[CommandType]] = frozenset({"pause", "resume", "rate", "seek", "loop"})

_AFTER_COMMAND: Final[dict[tuple[State, CommandType], State]] = {
    ("idle", "start"): "running",
    ("done", "start"): "running",
    ("failed", "start"): "running",
    ("stopped", "start"): "running",
    ("running", "stop"): "stopping",
    ("paused", "stop"): "stopping",
    ("stopping", "stop"): "stopping",
    ("running", "pause"): "paused",
    ("paused", "pause"): "paused",
    ("running", "resume"): "running",
    ("paused", "resume"): "running",
    **{(state, command): state for state in ("running", "paused") for command in ("rate", "seek", "loop")},
}
_BUSY: Final = "a run is going on: stop it, or wait until it is done, before the next start"
_REFUSED: Final[dict[tuple[State, CommandType], str]] = {
    ("running", "start"): _BUSY,
    ("paused", "start"): _BUSY,
    ("stopping", "start"): "the run before is still being stopped: ask for the status until it is",
    ("closing", "start"): "the server is shutting down",
    ("closing", "stop"): "the server is shutting down, and stops its run itself",
}
NOT_YOURS: Final = "the client that started this run commands it alone; others may stop it"


class NotAllowedError(Exception):
    """The command is refused now; the message is the refusal's sentence. Attribute code: of the refusal."""

    def __init__(self, code: RefusalCode, sentence: str) -> None:
        super().__init__(sentence)
        self.code: RefusalCode = code


@dataclass(frozen=True, slots=True)
class Controller:
    """The client that started the run, and what it asked for."""

    client: bytes
    is_exclusive: bool
    timeout_ns: int | None  # None: the run outlives it
    heard_ns: int  # when it last said something valid


@dataclass(frozen=True, slots=True)
class Session:
    """The state of a server, the number of runs started, and who started the newest."""

    state: State = "idle"
    run: int = 0
    controller: Controller | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a run is going on or being stopped."""
        return self.state in ("running", "paused", "stopping")

    def after_command(self, command: CommandType, client: bytes = b"") -> Session:
        """The session once a client's command is accepted; raises NotAllowedError."""
        if command in ASKING:
            return self
        if command == "shutdown":
            return replace(self, state="closing")
        state = _AFTER_COMMAND.get((self.state, command))
        if state is None:
            what = "stop" if command == "stop" else f"{command} now"
            sentence = _REFUSED.get((self.state, command), f"there is nothing to {what}: no run is going on")
            raise NotAllowedError("state", sentence)
        controller = self.controller
        if command in STEERING and controller is not None and controller.is_exclusive and controller.client != client:
            raise NotAllowedError("controller", NOT_YOURS)
        return replace(self, state=state, run=self.run + 1 if command == "start" else self.run)

    def under(self, controller: Controller) -> Session:
        """The session whose newest run this controller started."""
        return replace(self, controller=controller)

    def after_word(self, client: bytes, now_ns: int) -> Session:
        """The session once a client has said something valid."""
        controller = self.controller
        if controller is None or controller.timeout_ns is None or controller.client != client:
            return self
        return replace(self, controller=replace(controller, heard_ns=now_ns))

    @property
    def loss_ns(self) -> int | None:
        """When the controller counts as lost if it says nothing until then; None: never, or it does not matter."""
        if self.state not in ("running", "paused") or self.controller is None or self.controller.timeout_ns is None:
            return None
        return self.controller.heard_ns + self.controller.timeout_ns

    def after_time(self, now_ns: int) -> Session:
        """The session at a time: stopping, if the controller is lost by then."""
        is_lost = self.loss_ns is not None and now_ns >= self.loss_ns
        return replace(self, state="stopping") if is_lost else self

    def after_outcome(self, outcome: Outcome) -> Session:
        """The session once its run has ended; raises ValueError if none was going on."""
        if self.state == "closing":
            return self
        if not self.is_busy:
            raise ValueError(f"an outcome needs a run, but the session is {self.state}: got {outcome!r}")
        return replace(self, state=outcome)
