"""DrawnStream: conversations of models, assembled and merged by time across flows, chunks, parts and an attack.

One line of chunks sets the pace: chunk after chunk of it is drawn; what the other lines and the attack have in the same
time is added; batches of conversations are assembled, and frames given out once none can come before them. At most a
chunk's conversations and two batches' frames are in memory, besides the frames of conversations that last longer.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.assemble import Assembler, Frames
from nsstream.replay.framing import Framing
from nsstream.replay.stream import FrameBlock, Merger, cut_points, no_frames
from nsstream.replay.streams.batches import split
from nsstream.replay.streams.blend import Blend
from nsstream.replay.streams.line import DrawsChunks, Line, at_twin_time
from nsstream.replay.streams.plan import Turn
from nsstream.replay.streams.timeline import Timeline
from nsstream.trace import ConversationTable

_ATTACK: Final = 2  # rides in `Frames.side` while frames wait to be merged
_BEFORE_ALL: Final = -(1 << 62)


class DrawnStream:
    """Frames of models; ends where the first line ends.

    Args:
        lines: the first sets the pace; the others have no end, and plans that start where its plan does.
        drawer: of all lines.
        timeline: from the plans' time to the twin's.
        seed: of the assembler's chance.
        framing: how the frames are made; its testbed is not this stream's matter.
        blend: an attack to blend in.
        tallies: more counts to tell, which others keep.
    """

    def __init__(
        self,
        lines: Sequence[Line],
        drawer: DrawsChunks,
        timeline: Timeline,
        seed: int,
        framing: Framing,
        blend: Blend | None = None,
        tallies: Sequence[Counter[str]] = (),
    ) -> None:
        self._pace, *self._others = lines
        self._drawer = drawer
        self._timeline = timeline
        self._seed = seed
        self._framing = framing
        self._blend = blend
        self._more = [*tallies, *(line.tally for line in lines), *([blend.tally, blend.line.tally] if blend else [])]
        self._tally: Counter[str] = Counter()  # of assemblers and mergers that have gone, and of frames given out
        self._seek_count = 0
        self._turn: Turn | None = None  # whose frames are made
        self._since_ns = 0  # in the plan's time: what starts before this was taken from the other lines
        self._from_ns: int | None = None  # what is before this was sought past
        self._has_ended = False
        self._begin()

    def read(self) -> FrameBlock | None:
        """The next block; draws a chunk where need be, which takes seconds."""
        while not self._ready:
            if self._has_ended:
                return None
            if self._batches:
                until_ns, table = self._batches.popleft()
                self._assemble(until_ns, table)
            elif (drawn := self._pace.next()) is not None:
                turn, table = drawn
                self._turn, self._since_ns = turn, turn.start_ns
                self._batches.extend(split(table, turn.end_ns))
            else:
                self._has_ended = True
                self._give(self._merger.push(no_frames(), None))
        return self._ready.popleft()

    def check_seek(self, twin_time_ns: int) -> None:
        """Raise InputError if the stream has no such time."""
        self._pace.plan.check_seek(self._timeline.model_ns(twin_time_ns))

    def seek(self, twin_time_ns: int) -> None:
        """Go on at this time: with the chunk that holds it, of which what is before goes."""
        time_ns = self._timeline.model_ns(twin_time_ns)
        self._pace.plan.check_seek(time_ns)
        for line in (self._pace, *self._others):
            line.seek(time_ns)
        if self._blend is not None:
            self._blend.seek(time_ns)
        self._drawer.forget()
        self._tally.update(self._assembler.tally)
        self._tally["replay_times_moved"] += self._merger.moved_count
        self._seek_count += 1
        self._begin()
        self._from_ns = twin_time_ns
        self._has_ended = False

    def check_loop(self) -> None:
        """Raise InputError if the stream has no passes."""
        self._pace.plan.check_loop()

    def set_loop(self, passes: int | None) -> None:
        """End after so many passes in all; a stream that has ended may go on."""
        self._pace.plan.set_loop(passes)
        self._has_ended = False

    def close(self) -> None:
        """Nothing is held that needs to be let go."""

    def _begin(self) -> None:
        framing = self._framing
        self._assembler = Assembler(
            np.random.default_rng([self._seed, 1, self._seek_count]),
            mtu=framing.mtu,
            payload=framing.payload,
            oversize=framing.oversize,
        )
        self._merger = Merger()
        self._batches: deque[tuple[int, ConversationTable]] = deque()
        self._ready: deque[FrameBlock] = deque()

    def _assemble(self, until_ns: int, table: ConversationTable) -> None:
        """Make the frames of a batch, and give out what comes before `until_ns` (of the plan)."""
        parts = [table, *(line.take(until_ns) for line in self._others)]
        table = ConversationTable.concatenate([part for part in parts if len(part)])
        frames = self._frames(table)
        if self._blend is not None:
            attack = self._frames(self._blend.take(self._since_ns, until_ns, len(frames)))
            self._blend.settle(len(attack))
            self._merger.push(replace(attack, side=attack.side | np.uint8(_ATTACK)), _BEFORE_ALL)
        self._since_ns = until_ns
        self._give(self._merger.push(frames, self._timeline.twin_ns(until_ns)))

    def _frames(self, table: ConversationTable) -> Frames:
        return self._assembler.assemble(at_twin_time(table, self._timeline)) if len(table) else no_frames()

    def _give(self, frames: Frames) -> None:
        """Put frames where `read` takes them, in blocks."""
        if self._from_ns is not None:
            skipped = int(np.searchsorted(frames.observation_time_ns, self._from_ns))
            self._tally["packets_sought_past"] += skipped
            frames = frames.slice(skipped, len(frames))
        if self._turn is None:
            return
        tally = Counter(self._tally)
        for more in (*self._more, self._assembler.tally):
            tally.update(more)
        tally["replay_times_moved"] += self._merger.moved_count
        for first, end in cut_points(frames):
            piece, is_attack = _without_marks(frames.slice(first, end), has_marks=self._blend is not None)
            if is_attack is not None:
                self._tally["attack_packets"] += int(np.count_nonzero(is_attack))
                tally["attack_packets"] = self._tally["attack_packets"]
            told = {name: count for name, count in tally.items() if count}
            self._ready.append(
                FrameBlock(self._turn.number + 1, self._turn.checkpoint.id, piece, told, is_attack, self._seek_count)
            )


def _without_marks(frames: Frames, *, has_marks: bool) -> tuple[Frames, NDArray[np.bool_] | None]:
    """The frames with their sides alone, and which are marked as an attack's."""
    if not has_marks:
        return frames, None
    return replace(frames, side=frames.side & np.uint8(1)), frames.side >= _ATTACK
