"""The replay server with made frames in place of a model: a real process, real sockets, files and threads.

The seed says how many frames a chunk has, and the first model's id how the stream behaves, so that tests choose how
long a run takes.
"""

import sys
import threading

import numpy as np

from nsstream.assemble.frames import Frames
from nsstream.errors import StateError
from nsstream.replay.checkpoints import read_checkpoints
from nsstream.replay.server import main
from nsstream.replay.stream import FrameBlock, FrameStream, RecordedStream

FRAME_BYTES = 60
SEED_THAT_FAILS = 13


class EndlessStream:
    """A frame each millisecond, without an end; each says in its last 8 octets which it is."""

    def __init__(self, start_ns: int, frame_bytes: int = FRAME_BYTES) -> None:
        self._next_ns = start_ns
        self._frame_bytes = frame_bytes

    def read(self) -> FrameBlock:
        frames = some_frames(self._next_ns, 1000, self._frame_bytes)
        self._next_ns += 1_000_000_000
        return FrameBlock(1, "endless", frames)

    def check_seek(self, twin_time_ns: int) -> None:
        pass

    def seek(self, twin_time_ns: int) -> None:
        self._next_ns = twin_time_ns

    def close(self) -> None:
        pass


class LoopedStream:
    """A chunk of frames, again and again, each pass behind the one before."""

    def __init__(self, start_ns: int, count: int, loop: int | None) -> None:
        self._start_ns = start_ns
        self._count = count
        self._loop = loop
        self._done_count = 0

    def read(self) -> FrameBlock | None:
        if self._loop is not None and self._done_count >= self._loop:
            return None
        self._done_count += 1
        start_ns = self._start_ns + self._done_count * self._count * 1_000_000
        return FrameBlock(self._done_count, "looped", some_frames(start_ns, self._count))

    def check_loop(self) -> None:
        pass

    def set_loop(self, loop: int | None) -> None:
        self._loop = loop

    def close(self) -> None:
        pass


class StuckStream:
    """Draws for ever."""

    def read(self) -> FrameBlock:
        threading.Event().wait()
        raise AssertionError

    def close(self) -> None:
        pass


def some_frames(start_ns: int, count: int, frame_bytes: int = FRAME_BYTES) -> Frames:
    """Ethernet frames of an experimental type (IEEE 802 local experimental, 0x88b5), a millisecond apart."""
    times = start_ns + np.arange(count, dtype=np.int64) * 1_000_000
    octets = np.zeros((count, frame_bytes), np.uint8)
    octets[:, :14] = np.frombuffer(bytes.fromhex("02000000000202000000000188b5"), np.uint8)
    octets[:, -8:] = times.astype("<i8").view(np.uint8).reshape(-1, 8)
    return Frames(times, np.arange(count + 1, dtype=np.int64) * frame_bytes, octets.reshape(-1))


def open_stream(spec, scenario, *, loop, seed, framing, stopped) -> FrameStream:
    if seed == SEED_THAT_FAILS:
        raise StateError("model: the weights cannot be read")
    checkpoints = read_checkpoints(spec.models)
    start_ns = checkpoints[0].start_ns
    match checkpoints[0].id:
        case "endless":
            return EndlessStream(start_ns)
        case "fat":
            return EndlessStream(start_ns, 1500)
        case "looped":
            return LoopedStream(start_ns, seed, loop)
        case "stuck":
            return StuckStream()
    return RecordedStream(
        [
            FrameBlock(i, checkpoint.id, some_frames(checkpoint.start_ns, seed), {"repaired": i})
            for i, checkpoint in enumerate(checkpoints, 1)
        ]
    )


if __name__ == "__main__":
    sys.exit(main(open_stream=open_stream))
