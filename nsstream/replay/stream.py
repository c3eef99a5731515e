"""FrameStream: the frames of a twin, block after block, in one line of time; drawn from checkpoints, or recorded.

Promises: times rise strictly within a block and from one block to the next. A frame that a chunk's conversations spill
past the start of the next chunk waits for that chunk, and is merged in where its time is. torch is loaded by
`DrawnStream` alone, and only once it is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.assemble.frames import Frames
from nsstream.counters import Tally
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


class DrawnStream:
    """Conversations drawn from one checkpoint after another, and assembled.

    Args:
        checkpoints: in order of their chunks, at least one.
        seed: of everything that is chance in this stream; the same seed gives the same frames (on a CPU).
        mtu: the longest IP datagram in octets.
    """

    def __init__(self, checkpoints: Sequence[CheckpointInfo], seed: int, mtu: int) -> None:
        from nsstream.assemble import Assembler
        from nsstream.draw import Drawer

        drawer = Drawer(seed)
        self._draw: Callable[[Path], ConversationTable] = drawer.draw
        self._assembler = Assembler(np.random.default_rng([seed, 1]), mtu=mtu)
        self._checkpoints = checkpoints
        self._next = 0
        self._merger = Merger()

    def read(self) -> FrameBlock | None:
        """Draw and assemble the next chunk; takes seconds."""
        if self._next == len(self._checkpoints):
            return None
        checkpoint = self._checkpoints[self._next]
        self._next += 1
        fresh = self._assembler.assemble(self._draw(checkpoint.directory))
        is_last = self._next == len(self._checkpoints)
        until_ns = None if is_last else self._checkpoints[self._next].start_ns
        frames = self._merger.push(fresh, until_ns)
        tally = flatten_tally(self._assembler.tally)
        tally["replay_times_moved"] = self._merger.moved_count
        return FrameBlock(self._next, checkpoint.id, frames, tally)


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
        times = np.concatenate([before.observation_time_ns, after.observation_time_ns])
        order = np.argsort(times, kind="stable")
        starts = np.concatenate([before.offset[:-1], after.offset[:-1] + before.offset[-1]])
        lengths = np.concatenate([np.diff(before.offset), np.diff(after.offset)])[order]
        offset = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        octets = _gather(np.concatenate([before.octets, after.octets]), starts[order], offset)
        return Frames(self._make_rise(times[order]), offset, octets)

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


def flatten_tally(tally: Tally | Mapping[str, int]) -> dict[str, int]:
    """A tally as counts by name; reasons of a `Tally` get their fate in front, zeros are left out."""
    if not isinstance(tally, Tally):
        return {name: int(count) for name, count in tally.items()}
    flat: dict[str, int] = {}
    for name, value in tally.as_dict().items():
        if isinstance(value, dict):
            flat.update({f"{name}.{reason}": int(count) for reason, count in value.items()})
        elif isinstance(value, int) and value:
            flat[name] = value
    return flat


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
