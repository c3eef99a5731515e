"""The replay server with recorded frames in place of a model: a real process, real sockets, files and threads.

The seed says how the stream behaves: its number of frames a chunk, so that tests choose how long a run takes.
"""

import sys
import threading
from collections.abc import Sequence

import numpy as np

from nsstream.assemble.frames import Frames
from nsstream.errors import StateError
from nsstream.replay.checkpoints import CheckpointInfo
from nsstream.replay.server import main
from nsstream.replay.stream import FrameBlock, FrameStream, RecordedStream

FRAME_BYTES = 60
SEED_THAT_FAILS = 13


class EndlessStream:
    """Gives the same frame again and again, a millisecond apart, and never ends."""

    def __init__(self, start_ns: int) -> None:
        self._next_ns = start_ns

    def read(self) -> FrameBlock:
        frames = some_frames(self._next_ns, 1000)
        self._next_ns += 1_000_000_000
        return FrameBlock(1, "endless", frames)

    def close(self) -> None:
        pass


class StuckStream:
    """Draws for ever."""

    def read(self) -> FrameBlock:
        threading.Event().wait()
        raise AssertionError

    def close(self) -> None:
        pass


def some_frames(start_ns: int, count: int) -> Frames:
    """Ethernet frames of an experimental type (IEEE 802 local experimental, 0x88b5), a millisecond apart."""
    times = start_ns + np.arange(count, dtype=np.int64) * 1_000_000
    frame = np.zeros(FRAME_BYTES, np.uint8)
    frame[:14] = np.frombuffer(bytes.fromhex("02000000000202000000000188b5"), np.uint8)
    return Frames(times, np.arange(count + 1, dtype=np.int64) * FRAME_BYTES, np.tile(frame, count))


def open_stream(checkpoints: Sequence[CheckpointInfo], seed: int, mtu: int) -> FrameStream:
    if seed == SEED_THAT_FAILS:
        raise StateError("model: the weights cannot be read")
    if checkpoints[0].id == "endless":
        return EndlessStream(checkpoints[0].start_ns)
    if checkpoints[0].id == "stuck":
        return StuckStream()
    return RecordedStream(
        [
            FrameBlock(i, checkpoint.id, some_frames(checkpoint.start_ns, seed), {"repaired": i})
            for i, checkpoint in enumerate(checkpoints, 1)
        ]
    )


if __name__ == "__main__":
    sys.exit(main(open_stream=open_stream))
