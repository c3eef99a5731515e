"""Which command is allowed when: the life of a replay server as a pure state machine. No sockets, no threads.

Rule 1: everything that decides whether a command is allowed, and what state follows, lives in this file.
Rule 2: commands come from clients, outcomes from the run itself; nothing else moves the state.

    idle ──start──> running ──done──> done
                      │  └───failed─> failed      start leads from idle, done, failed and stopped to running
                     stop
                      v
                   stopping ──any outcome──> stopped
    any ──shutdown──> closing                     closing is left by nobody: the server ends

`hello` and `status` are allowed always and change nothing. `stop` and `shutdown` may be repeated. A stop that comes
after the output was put in place has come too late: the outcome is then done.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

from nsstream.replay.messages import State

CommandType = Literal["hello", "start", "stop", "status", "shutdown"]
Outcome = Literal["done", "failed", "stopped"]

_AFTER_COMMAND: Final[dict[tuple[State, CommandType], State]] = {
    ("idle", "start"): "running",
    ("done", "start"): "running",
    ("failed", "start"): "running",
    ("stopped", "start"): "running",
    ("running", "stop"): "stopping",
    ("stopping", "stop"): "stopping",
}
_REFUSED: Final[dict[tuple[State, CommandType], str]] = {
    ("running", "start"): "a run is going on: stop it, or wait until it is done, before the next start",
    ("stopping", "start"): "the run before is still being stopped: ask for the status until it is",
    ("closing", "start"): "the server is shutting down",
    ("closing", "stop"): "the server is shutting down, and stops its run itself",
}
NOTHING_RUNS: Final = "there is nothing to stop: no run is going on"


class NotAllowedError(Exception):
    """The command is refused in this state; the message is the refusal's sentence."""


@dataclass(frozen=True, slots=True)
class Session:
    """The state of a server, and the number of runs started."""

    state: State = "idle"
    run: int = 0

    @property
    def is_busy(self) -> bool:
        """Whether a run is going on or being stopped."""
        return self.state in ("running", "stopping")

    def after_command(self, command: CommandType) -> Session:
        """The session once the command is accepted; raises NotAllowedError."""
        if command in ("hello", "status"):
            return self
        if command == "shutdown":
            return replace(self, state="closing")
        state = _AFTER_COMMAND.get((self.state, command))
        if state is None:
            raise NotAllowedError(_REFUSED.get((self.state, command), NOTHING_RUNS))
        return Session(state, self.run + 1 if command == "start" else self.run)

    def after_outcome(self, outcome: Outcome) -> Session:
        """The session once its run has ended; raises ValueError if none was going on."""
        if self.state == "closing":
            return self
        if not self.is_busy:
            raise ValueError(f"an outcome needs a run, but the session is {self.state}: got {outcome!r}")
        return replace(self, state=outcome)
