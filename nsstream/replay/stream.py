"""FrameStream: the frames of a twin, block after block, in one line of time; drawn from checkpoints, or recorded.

Promises: times rise strictly within a block and from one block to the next. A frame that a chunk's conversations spill
past the start of the next chunk waits for that chunk, and is merged in where its time is. torch is loaded by
`draw_stream` alone, and only once it is called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.assemble import Assembler, Frames
from nsstream.replay.checkpoints import CheckpointInfo

if TYPE_CHECKING:
    from nsstream.trace import ConversationTable


@dataclass(frozen=True, slots=True)
class FrameBlock:
    """The frames of one chunk's interval, and what is known once they are made."""

    chunk: int  # 1 for the first
    model_id: str
    frames: Frames
    tally: Mapping[str, int] = field(default_factory=dict)  # repairs and drops so far, by name


class FrameStream(Protocol):
    """Where a player gets its frames from; read by one thread."""

    def read(self) -> FrameBlock | None:
        """The next block, None at the end; raises NsstreamError."""
        ...


class RecordedStream:
    """Blocks that were made before."""

    def __init__(self, blocks: Sequence[FrameBlock]) -> None:
        self._blocks = iter(blocks)

    def read(self) -> FrameBlock | None:
        """The next block, None at the end."""
        return next(self._blocks, None)


class AssembledStream:
    """Conversations of one checkpoint after another, assembled.

    Args:
        draw: gives the conversations of the checkpoint in a directory; called once for each, in order.
        checkpoints: in order of their chunks, at least one.
        seed: of the assembler's chance; the same seed and conversations give the same frames.
        mtu: the longest IP datagram in octets.
    """

    def __init__(
        self, draw: Callable[[Path], ConversationTable], checkpoints: Sequence[CheckpointInfo], seed: int, mtu: int
    ) -> None:
        self._draw = draw
        self._assembler = Assembler(np.random.default_rng([seed, 1]), mtu=mtu)
        self._checkpoints = checkpoints
        self._read_count = 0
        self._merger = Merger()

    def read(self) -> FrameBlock | None:
        """Draw and assemble the next chunk; takes seconds."""
        if self._read_count == len(self._checkpoints):
            return None
        checkpoint, *later = self._checkpoints[self._read_count :]
        self._read_count += 1
        fresh = self._assembler.assemble(self._draw(checkpoint.directory))
        frames = self._merger.push(fresh, later[0].start_ns if later else None)
        tally = {**self._assembler.tally, "replay_times_moved": self._merger.moved_count}
        return FrameBlock(self._read_count, checkpoint.id, frames, {k: n for k, n in tally.items() if n})


def draw_stream(checkpoints: Sequence[CheckpointInfo], seed: int, mtu: int) -> FrameStream:
    """Frames drawn from models; the same seed gives the same frames (on a CPU). Loads torch."""
    from nsstream.draw import Drawer

    return AssembledStream(Drawer(seed).draw, checkpoints, seed, mtu)


class Merger:
    """Merges frames that come chunk by chunk into one line of time.

    `moved_count`: frames whose time was moved on, by the least that makes it later than that of the frame before.
    """

    def __init__(self) -> None:
        self.moved_count = 0
        self._held = _no_frames()
        self._last_ns: int | None = None

    def push(self, frames: Frames, until_ns: int | None) -> Frames:
        """Add frames, and get all that are known to come next.

        Args:
            frames: of the next chunk.
            until_ns: no frame of a later chunk is expected before this; None: there is no later chunk.
        """
        merged = self._merge(self._held, frames)
        times = merged.observation_time_ns
        ready = len(times) if until_ns is None else int(np.searchsorted(times, until_ns))
        self._held = merged.slice(ready, len(times))
        if ready:
            self._last_ns = int(times[ready - 1])
        return merged.slice(0, ready)

    def _merge(self, before: Frames, after: Frames) -> Frames:
        """All frames of both by time; of equal times, those of `before` first."""
        is_in_order = len(after) == 0 or self._last_ns is None or after.observation_time_ns[0] > self._last_ns
        if len(before) == 0 and is_in_order:
            return after
        times = np.concatenate([before.observation_time_ns, after.observation_time_ns])
        order = np.argsort(times, kind="stable")
        starts = np.concatenate([before.offset[:-1], after.offset[:-1] + before.offset[-1]])
        lengths = np.concatenate([np.diff(before.offset), np.diff(after.offset)])[order]
        offset = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        octets = _gather(np.concatenate([before.octets, after.octets]), starts[order], offset)
        side = np.concatenate([before.side, after.side])[order]
        return Frames(self._make_rise(times[order]), offset, octets, side)

    def _make_rise(self, times: NDArray[np.int64]) -> NDArray[np.int64]:
        if len(times) == 0:
            return times
        rank = np.arange(len(times))
        level = times - rank  # never falls just where times rise strictly
        if self._last_ns is not None:
            level[0] = max(int(level[0]), self._last_ns + 1)
        risen: NDArray[np.int64] = np.maximum.accumulate(level) + rank
        self.moved_count += int(np.count_nonzero(risen != times))
        return risen


def _no_frames() -> Frames:
    return Frames(np.empty(0, np.int64), np.zeros(1, np.int64), np.empty(0, np.uint8))


@njit(cache=True, nogil=True)
def _gather(octets: NDArray[np.uint8], starts: NDArray[np.int64], offset: NDArray[np.int64]) -> NDArray[np.uint8]:
    out = np.empty(offset[-1], np.uint8)
    for i in range(len(starts)):
        start = starts[i]
        for k in range(offset[i + 1] - offset[i]):
            out[offset[i] + k] = octets[start + k]
    return out
