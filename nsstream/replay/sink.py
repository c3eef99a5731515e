"""Sink: where frames go, as the player sees it.

Rules for a sink:

- It is inert until `open`, which gives it what it needs or raises OutputError; then `write` any number of times; then
  exactly one of `close`, which makes the output whole, or `abort`, which undoes it and never raises. `abort` may come
  at any time, also unopened, behind a failure of any of the others, and twice.
- Whatever waits (for a reader, a child, a full socket) asks `SinkContext.is_stopped` every `POLL_INTERVAL_S` at least,
  and raises OutputError once it says yes.
- `counters` adds up before and after every call, by one law: where there are names ``x`` and ``x_...``, the count of
  ``x`` is the sum of those. Other threads read it between calls (`Player.counters`). ``frames`` is what `write` was
  given, and has parts that say what became of them: ``frames_written``, ``frames_failed``, ``frames_undone``.
- A sink that can say before it is opened that its output is not possible has `check`, which `registry.make_sink` calls;
  one that cannot write frames of any time has `check_time`, which is asked where it is known when a run begins. One
  that paces itself has `write_due`; one that takes flows as well has `write_flows`; one whose output depends on
  time that passes without a frame has `tick`.

A sink of one's own is a class of ``(spec, context)`` with the class attribute `spec_type`, registered as an entry point
of the group ``nsstream.replay`` (see `registry`); `contract` holds it to these rules.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict

from nsstream.clock import Clock, SystemClock
from nsstream.errors import OutputError
from nsstream.replay.safety import SendingRules

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from nsstream.assemble.frames import Frames
    from nsstream.replay.feed import PacketFeed
    from nsstream.trace import FlowTable

POLL_INTERVAL_S: Final = 0.05


class SinkSpec(BaseModel):
    """What a client says of a sink; a subclass adds ``kind: Literal[...]`` and fields with limits."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")
    kind: str


def _never() -> bool:
    return False


class DrawnModels(Protocol):
    """The models that frames are drawn of; asked by the thread that writes."""

    def drawn(self, model_id: str) -> None:
        """Take in that frames of a model are written."""
        ...

    def promise(self) -> Mapping[str, Any] | None:
        """What they promise together (`privacy.promise`), None where none of them is private."""
        ...


class _NoModels:
    def drawn(self, model_id: str) -> None:
        pass

    def promise(self) -> None:
        return None


@dataclass(frozen=True, slots=True)
class SinkContext:
    """What a sink is told of the run that it is made for.

    Args:
        is_stopped: whether the run was told to stop; asked while a sink waits.
        clock: where the sink gets its time from.
        feed: the server's subscribers of packets; None: the sink is made outside of a server.
        origin: gives the chunk (1 for the first) and the model's id of the frames that `write` gets.
        rules: which interfaces may be sent on, and how fast; a sink that sends holds itself to them.
        models: what is drawn, for a sink that writes files and puts beside them what private models promise
            (`promise_file`).
    """

    is_stopped: Callable[[], bool] = _never
    clock: Clock = field(default_factory=SystemClock)
    feed: PacketFeed | None = None
    origin: Callable[[], tuple[int, str]] = lambda: (0, "")
    rules: SendingRules = field(default_factory=SendingRules)
    models: DrawnModels = field(default_factory=_NoModels)


class Sink(Protocol):
    """Takes frames in the order of their times."""

    @property
    def counters(self) -> Mapping[str, int]:
        """What became of what was given so far."""
        ...

    def open(self) -> None:
        """Take hold of the output; raises OutputError."""
        ...

    def write(self, frames: Frames) -> None:
        """Add frames to the output; raises OutputError."""
        ...

    def close(self) -> None:
        """Make the output whole; raises OutputError."""
        ...

    def abort(self) -> None:
        """Undo the output as far as it can be undone; never raises."""
        ...


@runtime_checkable
class ChecksOutput(Protocol):
    """What a sink is, too, that can tell before `open` that its output is not possible."""

    def check(self) -> None:
        """Raise OutputError if the output could not be made now; leaves nothing behind."""
        ...


@runtime_checkable
class ChecksTime(Protocol):
    """What a sink is, too, that cannot write frames of any time."""

    def check_time(self, time_ns: int) -> None:
        """Raise OutputError if a frame of this time of the twin cannot be written."""
        ...


@runtime_checkable
class PacesItself(Protocol):
    """What a sink is, too, that waits until its frames are due."""

    def write_due(self, frames: Frames, due_ns: NDArray[np.int64]) -> None:
        """Send each frame at its time of CLOCK_MONOTONIC, 0 for at once; raises OutputError."""
        ...


@runtime_checkable
class TakesFlows(Protocol):
    """What a sink is, too, that takes records of flows without frames."""

    def write_flows(self, table: FlowTable) -> None:
        """Add flows to the output; raises OutputError."""
        ...


@runtime_checkable
class Ticks(Protocol):
    """What a sink is, too, whose output depends on time that passes without a frame."""

    def tick(self, twin_now_ns: int) -> None:
        """Do what is due: no frame before this time of the twin will come; raises OutputError.

        Called between `open` and `close`, some times a second while frames are waited for.
        """
        ...


def check_counters(counters: Mapping[str, int]) -> None:
    """Raise AssertionError if the counters of a sink do not add up."""
    for name, count in counters.items():
        parts = {part: n for part, n in counters.items() if part.startswith(name + "_")}
        if count < 0 or (parts and sum(parts.values()) != count):
            raise AssertionError(f"counters do not add up: {name} is {count}, its parts are {parts}")


def output_error(path: Path | str, err: OSError) -> OutputError:
    """The system's error about a path as one sentence."""
    reason = {
        errno.ENOSPC: "no space is left on the device",
        errno.EDQUOT: "the disk quota is used up",
        errno.EEXIST: "was made by somebody else in the meantime, and is not overwritten",
        errno.EPIPE: "the reader has gone",
    }.get(err.errno or 0, (err.strerror or str(err)).lower())
    return OutputError(f"{path}: {reason}")
