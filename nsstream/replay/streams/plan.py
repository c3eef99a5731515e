"""Plan: which model's chunk comes next, and when. No drawing, no torch.

A plan is a line of turns, numbered from 0 and never ending unless its passes do. Where a turn lies and which model it
takes follow from its number alone in a `SequencePlan`; a `FollowPlan` (`follow`) asks what is promoted now.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from nsstream.errors import InputError, NsstreamError
from nsstream.replay.checkpoints import CheckpointInfo


@dataclass(frozen=True, slots=True)
class Turn:
    """A chunk that is to be drawn: [start_ns, end_ns) of the line, from a model of [start_ns - shift_ns, ...)."""

    number: int
    checkpoint: CheckpointInfo
    start_ns: int
    end_ns: int
    shift_ns: int


class Plan(Protocol):
    """Gives turns in their order; of one thread, but for what checks."""

    origin_ns: int  # where turn 0 starts
    is_of_flows: bool  # its models draw records of flows, not packets

    def next(self) -> Turn | None:
        """The next turn; None at the end. May wait; raises NsstreamError."""
        ...

    def instead(self, turn: Turn, err: NsstreamError) -> Turn:
        """The same turn of another model, since this one's could not be loaded; raises `err` if there is none."""
        ...

    def check_seek(self, time_ns: int) -> None:
        """Raise InputError if no turn will hold this time, or none after it."""
        ...

    def seek(self, time_ns: int) -> None:
        """Go on with the turn that holds this time, or with the first one after it."""
        ...

    def check_loop(self) -> None:
        """Raise InputError where there are no passes."""
        ...

    def set_loop(self, passes: int | None) -> None:
        """End after so many passes in all, None: never; raises InputError where there are none."""
        ...


class SequencePlan:
    """Models one after another, again and again.

    Args:
        checkpoints: in order of their chunks, which do not overlap; at least one.
        gaps: whether what lies between two chunks stays (``kept``) or not (``squeezed``).
        passes: how often, at least once; None: without end. A pass follows at once where the last one's end is.
        has_passes: False for a line that cannot be told how often.
        origin_ns: where to begin; None: at the first chunk's own time.
    """

    def __init__(
        self,
        checkpoints: Sequence[CheckpointInfo],
        *,
        gaps: Literal["kept", "squeezed"] = "kept",
        passes: int | None = 1,
        has_passes: bool = True,
        origin_ns: int | None = None,
    ) -> None:
        lengths = [c.end_ns - c.start_ns for c in checkpoints]
        if gaps == "kept":
            self._starts = [c.start_ns - checkpoints[0].start_ns for c in checkpoints]
        else:
            self._starts = list(itertools.accumulate(lengths, initial=0))[:-1]
        self._ends = [start + length for start, length in zip(self._starts, lengths, strict=True)]
        self._checkpoints = checkpoints
        self._passes = passes
        self._has_passes = has_passes
        self._number = 0
        self.origin_ns = checkpoints[0].start_ns if origin_ns is None else origin_ns
        self.is_of_flows = checkpoints[0].is_of_flows

    def next(self) -> Turn | None:
        """The next turn; None after the last pass."""
        which, place = divmod(self._number, len(self._checkpoints))
        if self._passes is not None and which >= self._passes:
            return None
        checkpoint = self._checkpoints[place]
        base = self.origin_ns + which * self._ends[-1]
        start_ns = base + self._starts[place]
        turn = Turn(self._number, checkpoint, start_ns, base + self._ends[place], start_ns - checkpoint.start_ns)
        self._number += 1
        return turn

    def instead(self, turn: Turn, err: NsstreamError) -> Turn:
        """There is no other model."""
        raise err

    def check_seek(self, time_ns: int) -> None:
        """Raise InputError if the time is before the first turn, or after the last."""
        self._find(time_ns)

    def seek(self, time_ns: int) -> None:
        """Go on with the turn that holds this time."""
        self._number = self._find(time_ns)

    def check_loop(self) -> None:
        """Raise InputError if this is a line that cannot be told how often."""
        if not self._has_passes:
            raise InputError("loop: this stream has no end, and no passes")

    def set_loop(self, passes: int | None) -> None:
        """End after so many passes in all."""
        self.check_loop()
        self._passes = passes

    def _find(self, time_ns: int) -> int:
        if time_ns < self.origin_ns:
            raise InputError("seek: the time lies before the stream's first chunk")
        which, since = divmod(time_ns - self.origin_ns, self._ends[-1])
        if self._passes is not None and which >= self._passes:
            raise InputError("seek: the time lies behind the stream's last chunk")
        place = next(i for i, end in enumerate(self._ends) if since < end)
        return which * len(self._checkpoints) + place
