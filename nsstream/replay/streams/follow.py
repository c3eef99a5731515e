"""FollowPlan: the newest promoted model of a directory, asked for at every chunk boundary.

Promises: a turn takes the model that is promoted when the turn is planned; times go on without a gap, whatever chunk a
model was trained on; a promoted model that cannot be used is counted, and the one before goes on. See
`model.promotion` for the mark.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Final

from nsstream.capture.inotify import DirectoryWatch
from nsstream.clock import Clock
from nsstream.errors import InputError, NsstreamError, StateError
from nsstream.model.promotion import read_promoted
from nsstream.replay.checkpoints import CheckpointInfo, read_checkpoint
from nsstream.replay.streams.plan import Turn

WAIT_S: Final = 0.2  # how soon a mark is seen where the kernel does not tell, and a stop where it does


class FollowPlan:
    """Turns of promoted models, without end.

    Args:
        directory: of the checkpoints and the mark.
        wait_s: how long to wait for the first mark.
        clock: measures that.
        pause: waits for so many seconds; True: told to stop. ``threading.Event.wait`` is one.

    Attributes:
        tally: `models_refused`, promoted but of no use; `models_switched`.

    Raises InputError where nothing is promoted in time, StateError or InputError where the first model is of no use.
    """

    def __init__(self, directory: Path, wait_s: float, clock: Clock, pause: Callable[[float], bool]) -> None:
        self.tally: Counter[str] = Counter()
        self._directory = directory
        self._refused: set[Path] = set()
        self._now = self._wait_for_the_first(wait_s, clock, pause)
        self._before: CheckpointInfo | None = None
        self._number = 0
        self.origin_ns = self._now.start_ns
        self.is_of_flows = self._now.is_of_flows
        self._end_ns = self.origin_ns

    @property
    def length_ns(self) -> int:
        """How long a chunk of the present model is."""
        return self._now.end_ns - self._now.start_ns

    def next(self) -> Turn:
        """The next turn, of the model that is promoted now."""
        self._look()
        turn = self._turn()
        self._end_ns = turn.end_ns
        self._number += 1
        return turn

    def instead(self, turn: Turn, err: NsstreamError) -> Turn:
        """The turn by the model before, or by the one that was promoted in the meantime."""
        failed = turn.checkpoint
        self._refuse(failed.directory)
        if self._before is not None and self._before.directory not in self._refused:
            self._now = self._before
        self._before = None
        self._look()
        if self._now.directory == failed.directory:
            raise err
        self._end_ns = turn.start_ns + self.length_ns
        shift_ns = turn.start_ns - self._now.start_ns
        return replace(turn, checkpoint=self._now, end_ns=self._end_ns, shift_ns=shift_ns)

    def check_seek(self, time_ns: int) -> None:
        """Raise InputError if the time is before the stream's start."""
        if time_ns < self.origin_ns:
            raise InputError("seek: the time lies before the stream's first chunk")

    def seek(self, time_ns: int) -> None:
        """Go on at this time, on a boundary of chunks of the present length, and with turns of new numbers."""
        steps = (time_ns - self._end_ns) // self.length_ns
        self._end_ns = max(self._end_ns + steps * self.length_ns, self.origin_ns)

    def check_loop(self) -> None:
        """There are none."""
        raise InputError("loop: this stream has no end, and no passes")

    def set_loop(self, passes: int | None) -> None:
        """There are none."""
        self.check_loop()

    def _turn(self) -> Turn:
        start_ns = self._end_ns
        end_ns = start_ns + self.length_ns
        return Turn(self._number, self._now, start_ns, end_ns, start_ns - self._now.start_ns)

    def _look(self) -> None:
        """Take what is promoted, if it is new and can be read."""
        try:
            promoted = read_promoted(self._directory)
            if promoted is None or promoted == self._now.directory or promoted in self._refused:
                return
        except StateError:
            self._refuse(self._directory)
            return
        try:
            found = read_checkpoint(promoted)
        except InputError:
            self._refuse(promoted)
            return
        if found.is_of_flows != self.is_of_flows:
            self._refuse(promoted)
            return
        self._before, self._now = self._now, found
        self._refused.clear()
        self.tally["models_switched"] += 1

    def _refuse(self, directory: Path) -> None:
        if directory not in self._refused:
            self._refused.add(directory)
            self.tally["models_refused"] += 1

    def _wait_for_the_first(self, wait_s: float, clock: Clock, pause: Callable[[float], bool]) -> CheckpointInfo:
        deadline_ns = clock.monotonic_ns() + int(wait_s * 1e9)
        try:
            watch = DirectoryWatch(self._directory)
        except OSError as err:
            if not self._directory.is_dir():
                raise InputError(f"{self._directory}: is not a directory of models") from err
            return self._poll(deadline_ns, clock, pause)
        with closing(watch):
            # read() waits until something happens in the directory; the pause of 0 s only asks for a stop.
            return self._poll(deadline_ns, clock, lambda s: (watch.read(s), pause(0))[1])

    def _poll(self, deadline_ns: int, clock: Clock, pause: Callable[[float], bool]) -> CheckpointInfo:
        while (promoted := read_promoted(self._directory)) is None:
            left_s = (deadline_ns - clock.monotonic_ns()) * 1e-9
            if left_s <= 0 or pause(min(left_s, WAIT_S)):
                raise InputError(f"{self._directory}: no model is promoted there yet")
        return read_checkpoint(promoted)
