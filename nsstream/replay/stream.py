"""FrameStream: the frames of a twin, block after block, in one line of time; and `open_stream`, which makes one.

Promises: times rise strictly within a block and from one block to the next, but for a seek. A frame that a chunk's
conversations spill past the start of the next chunk waits for that chunk, and is merged in where its time is. torch is
loaded by `open_stream` alone, and only once it is called for models.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.assemble import Frames
from nsstream.clock import Clock, SystemClock
from nsstream.replay.flow_rows import FlowBlock

if TYPE_CHECKING:
    from nsstream.replay.framing import Framing
    from nsstream.replay.scenario import Scenario, StreamSpec

BLOCK_PACKETS: Final = 8192
BLOCK_OCTETS: Final = 1 << 22


@dataclass(frozen=True, slots=True)
class FrameBlock:
    """Frames of one chunk, at most `BLOCK_PACKETS` of them or `BLOCK_OCTETS`, and what is known of them."""

    chunk: int  # 1 for the first
    model_id: str
    frames: Frames
    tally: Mapping[str, int] = field(default_factory=dict)  # repairs, drops and additions so far, by name
    is_attack: NDArray[np.bool_] | None = None  # (m,), which frames are of an attack; None: none is
    seek_count: int = 0  # seeks before this block: a player drops those of a lower count

    @property
    def rows(self) -> Frames:
        """The frames, by the name that a block of flow records has as well."""
        return self.frames


Block = FrameBlock | FlowBlock


class FrameStream(Protocol):
    """Where a player gets its frames from; read by one thread.

    A stream may have more: `check_seek` and `seek`, `check_loop` and `set_loop` (see `drawing`), and `counters`, which
    tells by name how it keeps up. Those of `open_stream` have all of them, for any thread.
    """

    def read(self) -> Block | None:
        """The next block, None at the end; raises NsstreamError. May take seconds."""
        ...

    def close(self) -> None:
        """Let go of everything. May be repeated."""
        ...


class OpenedStream(FrameStream, Protocol):
    """What `open_stream` gives; commanded from any thread."""

    def check_seek(self, twin_time_ns: int) -> None:
        """Raise InputError if the stream has no such time."""
        ...

    def seek(self, twin_time_ns: int) -> None:
        """Go on at this time of the twin, forward or back; raises InputError as `check_seek`.

        What was open there does not go on, and `seek_count` of the blocks rises by one.
        """
        ...

    def check_loop(self) -> None:
        """Raise InputError if the stream has no passes."""
        ...

    def set_loop(self, passes: int | None) -> None:
        """End after so many passes in all, None: never; raises InputError as `check_loop`."""
        ...

    def counters(self) -> Mapping[str, int]:
        """How the stream keeps up, by name."""
        ...


class RecordedStream:
    """Blocks that were made before."""

    def __init__(self, blocks: Sequence[FrameBlock]) -> None:
        self._blocks = iter(blocks)

    def read(self) -> FrameBlock | None:
        """The next block, None at the end."""
        return next(self._blocks, None)

    def close(self) -> None:
        """Nothing is held."""


def open_stream(
    spec: StreamSpec,
    scenario: Scenario,
    seed: int,
    framing: Framing,
    *,
    loop: int | None = 1,
    clock: Clock | None = None,
    stopped: threading.Event | None = None,
    starts_soon: bool = False,
) -> OpenedStream:
    """Make the stream that a specification describes, drawn ahead in a thread of its own until it is closed.

    Args:
        spec: where frames come from.
        scenario: what is made of them.
        seed: 0 to 2**63 - 1; the same seed gives the same frames (on a CPU; `follow`: for the same promotions).
        framing: how the frames are made.
        loop: passes over `models` or `recorded`, None without end; other kinds have no end.
        clock: measures waiting; the system's if None.
        stopped: when set, opening and reading end early, as `close` would end them.
        starts_soon: draw each conversation of the first chunk once, whatever the scenario's candidates are, so that its
            frames come many times sooner.

    Raises InputError or StateError if the models or the file cannot be used, or the parts do not go together. May take
    seconds, and of kind `follow` as long as `wait_s`.
    """
    from nsstream.replay.streams.opening import open_parts

    return open_parts(
        spec, scenario, seed, framing, loop, clock or SystemClock(), stopped or threading.Event(),
        starts_soon=starts_soon,
    )  # fmt: skip


def cut_points(frames: Frames) -> Iterator[tuple[int, int]]:
    """Where frames are cut into blocks: pairs of first and one past the last."""
    at = 0
    while at < len(frames):
        full = int(np.searchsorted(frames.offset, frames.offset[at] + BLOCK_OCTETS, side="right")) - 1
        end = min(max(full, at + 1), at + BLOCK_PACKETS, len(frames))
        yield at, end
        at = end


class Merger:
    """Merges frames that come chunk by chunk into one line of time.

    `moved_count`: frames whose time was moved on, by the least that makes it later than that of the frame before.
    """

    def __init__(self) -> None:
        self.moved_count = 0
        self._held = no_frames()
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
        risen, moved_count = make_rise(times, self._last_ns)
        self.moved_count += moved_count
        return risen


def make_rise(times: NDArray[np.int64], last_ns: int | None) -> tuple[NDArray[np.int64], int]:
    """Times (m,), sorted, moved on by the least that makes them rise strictly, from behind `last_ns`; how many were."""
    if len(times) == 0:
        return times, 0
    rank = np.arange(len(times))
    level = times - rank  # never falls just where times rise strictly
    if last_ns is not None:
        level[0] = max(int(level[0]), last_ns + 1)
    risen: NDArray[np.int64] = np.maximum.accumulate(level) + rank
    return risen, int(np.count_nonzero(risen != times))


def take_frames(frames: Frames, rows: NDArray[np.int64]) -> Frames:
    """The frames at these rising indices."""
    lengths = np.diff(frames.offset)[rows]
    offset = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    octets = _gather(frames.octets, frames.offset[rows], offset)
    return Frames(frames.observation_time_ns[rows], offset, octets, frames.side[rows])


def no_frames() -> Frames:
    """None."""
    return Frames(np.empty(0, np.int64), np.zeros(1, np.int64), np.empty(0, np.uint8))


@njit(cache=True, nogil=True)
def _gather(octets: NDArray[np.uint8], starts: NDArray[np.int64], offset: NDArray[np.int64]) -> NDArray[np.uint8]:
    out = np.empty(offset[-1], np.uint8)
    for i in range(len(starts)):
        start = starts[i]
        for k in range(offset[i + 1] - offset[i]):
            out[offset[i] + k] = octets[start + k]
    return out
