"""Fuzz the walk of a TPACKET_V3 block with atheris: whatever its headers say, no octet outside of it is touched.

    python bench/fuzz/ring_fuzz.py [CORPUS] [--seconds N]

Needs the extra `fuzz`. The loops run as plain Python (NUMBA_DISABLE_JIT) over a ring whose every access is held to the
block in its middle: what would be a read or write beyond it in compiled code is an AssertionError here. libFuzzer holds
each input to 10 s and the process to 1 GiB. New inputs are kept in CORPUS, a temporary folder if none is named; a crash
leaves its input in the working directory and exits with a status other than 0. The corpus starts with made blocks and
with blocks of the frames of our own lab capture.

The first two octets of an input say the link type and the block's size. Held are, beside the fence: every frame that
the block claims, as far as so many fit, is a record or counted as broken; records lie within the block; `dissect` gives
each one fate, and it reads nothing outside either.
"""

from __future__ import annotations

import argparse
import os
import struct
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

os.environ["NUMBA_DISABLE_JIT"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

import atheris

with atheris.instrument_imports(include=["nsstream.wire"]):
    from nsstream.wire import RecordIndex, dissect
    from nsstream.wire.ring_block import max_frames, scan_block

import numpy as np
from lab_frames import lab_frames
from ring_blocks import DATAGRAM, FRAME, MACS, ring_block, ring_frame

from nsstream.wire.link import ETHERNET, LINUX_SLL, RAW

LINK_TYPES = [ETHERNET, LINUX_SLL, RAW]
SIZES = [4096, 48, 56, 120, 256, 1024]


class FencedRing(np.ndarray):
    """A ring in which only one stretch of octets may be read or written; views of it are fenced at the same place."""

    low = 0
    high = 0

    def __array_finalize__(self, parent: Any) -> None:
        self.low, self.high = getattr(parent, "low", 0), getattr(parent, "high", 0)

    def __getitem__(self, at: Any) -> Any:
        self.hold(at)
        return self.base_array()[at]

    def __setitem__(self, at: Any, value: Any) -> None:
        self.hold(at)
        self.base_array()[at] = value

    def base_array(self) -> np.ndarray:
        return self.view(np.ndarray)

    def hold(self, at: Any) -> None:
        assert isinstance(at, int | np.integer), f"an access by {at!r}"
        first, last = int(at) * self.itemsize, (int(at) + 1) * self.itemsize
        assert self.low <= first < last <= self.high, f"octets {first} to {last} of a block at {self.low}-{self.high}"


def check(octets: bytes) -> None:
    """Raise AssertionError where a law is broken or the fence is touched."""
    if len(octets) < 2:
        return
    link_type = LINK_TYPES[octets[0] % len(LINK_TYPES)]
    size = SIZES[octets[1] % len(SIZES)]
    content = octets[2 : 2 + size].ljust(size, b"\0")
    before = b"\xee" * size
    ring = np.frombuffer(before + content + before, np.uint8).copy().view(FencedRing)
    ring.low, ring.high = size, 2 * size
    index = RecordIndex.with_room_for(max_frames(size))
    count, broken = scan_block(ring, size, size, link_type, index, 0)
    claimed = struct.unpack_from("=I", content, 12)[0]
    assert count + broken == min(claimed, max_frames(size)), f"{count} and {broken} of {claimed} frames"
    start, captured = index.start[:count], index.captured_length[:count]
    assert (start >= ring.low).all() and (start + captured <= ring.high).all()  # noqa: PT018 - one law
    assert (index.original_length[:count] >= captured).all()
    _, fates = dissect(ring, index, count)
    assert fates.sum() == count


def seeds() -> list[bytes]:
    """Blocks that are right, or nearly, of every feature that the walk knows; and of real frames."""
    tagged = {"status": 0x50, "tci": 5, "tpid": 0x8100}
    blocks = [
        ring_block(),
        ring_block(ring_frame(FRAME), ring_frame(FRAME[:30], length=1514, next_offset=0)),
        ring_block(ring_frame(FRAME, **tagged), ring_frame(FRAME, status=0x10, tci=7), ring_frame(FRAME, status=8)),
        ring_block(ring_frame(MACS + bytes.fromhex("81000007") + FRAME[12:], mac=78, **tagged)),
        ring_block(ring_frame(DATAGRAM, mac=96, hardware_type=512), ring_frame(DATAGRAM, mac=96, **tagged)),
        ring_block(ring_frame(bytes.fromhex("00070800") + DATAGRAM, mac=96, **tagged)),
        ring_block(ring_frame(FRAME, mac=100, next_offset=0xFFFFFFF8), count=9),
        ring_block(ring_frame(FRAME, mac=100), first=4096 - 64, count=0xFFFFFFFF),
    ]
    frames = lab_frames(160)
    for at in range(0, len(frames), 16):
        part = [ring_frame(frame[:150], length=len(frame), status=0 if at % 32 else 0x10) for frame in frames[at:][:16]]
        blocks.append(ring_block(*part, block_bytes=4096)[:4096])
    return blocks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("corpus", type=Path, nargs="?", default=None)
    parser.add_argument("--seconds", type=int, default=180)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", RuntimeWarning)  # of 64-bit words that wrap, as they are meant to
    corpus = arguments.corpus or Path(tempfile.mkdtemp(prefix="ring_fuzz_"))
    corpus.mkdir(parents=True, exist_ok=True)
    for i, block in enumerate(seeds()):
        for k in range(len(LINK_TYPES)):
            (corpus / f"seed-{i}-{k}").write_bytes(bytes([k, 0]) + block)
    limits = ["-timeout=10", "-rss_limit_mb=1024", "-max_len=4098", f"-max_total_time={arguments.seconds}"]
    atheris.Setup([sys.argv[0], str(corpus), *limits], check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
