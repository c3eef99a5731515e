"""The law of a ring's block: whatever its headers say, the compiled walk touches no octet outside of it.

The compiled loops check no index, so the block ends where memory does: in front of it and behind it are pages that may
not be touched. An access there is a SIGSEGV, which ends the run; `bench/fuzz/ring_fuzz.py` says which access it is.
"""

from __future__ import annotations

import signal
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fenced_memory import PAGE, fenced_page
from hypothesis import example, given
from hypothesis import strategies as st
from ring_blocks import DATAGRAM, FRAME, ring_block, ring_frame

from nsstream.wire import RecordIndex, dissect
from nsstream.wire.link import ETHERNET, LINUX_SLL, RAW
from nsstream.wire.ring_block import max_frames, scan_block

TESTS = Path(__file__).resolve().parents[1]
FRAMES = [b"", FRAME, FRAME[:13], FRAME[:33], DATAGRAM, FRAME[:12] + b"\x86\xdd\x60" + bytes(30), FRAME * 5]
words = st.integers(0, 300) | st.sampled_from([PAGE - 8, PAGE, PAGE + 8, 0xFFF8, 0xFFFFFFF8, 2**31, 2**32 - 1])
link_types = st.sampled_from([ETHERNET, RAW, LINUX_SLL])


@pytest.fixture(scope="module")
def fenced() -> np.ndarray:
    return fenced_page()


@st.composite
def lying_blocks(draw: st.DrawFn) -> bytes:
    """Frames of which each offset and length may be true or not, at the front of the block or up to its end."""
    frames = []
    for frame in draw(st.lists(st.sampled_from(FRAMES), max_size=6)):
        made = bytearray(ring_frame(frame, mac=draw(st.sampled_from([68, 82, 96])), status=draw(st.integers(0, 255))))
        for offset, code in ((0, "=I"), (12, "=I"), (16, "=I"), (24, "=H")):  # tp_next_offset, snaplen, len, mac
            if draw(st.integers(0, 3)) == 0:
                struct.pack_into(code, made, offset, draw(words) & (0xFFFF if code == "=H" else 0xFFFFFFFF))
        frames.append(bytes(made))
    count = draw(st.none() | words)
    block = ring_block(*frames, count=count, block_bytes=PAGE)[:PAGE]
    if draw(st.booleans()):
        return block
    last = b"".join(frames)[-(PAGE - 48) :]  # the frames lie against the end
    first = draw(st.just(PAGE - len(last)) | words)
    return (
        ring_block(count=len(frames) if count is None else count, first=first)[:48].ljust(PAGE - len(last), b"\0")
        + last
    )


def against_the_end(frame: bytes) -> bytes:
    """A block whose last octets are one true frame."""
    return ring_block(count=1, first=PAGE - len(frame), block_bytes=PAGE)[: PAGE - len(frame)] + frame


@example(block=against_the_end(ring_frame(b"", mac=96, status=0x10)), link_type=LINUX_SLL)  # where is its inner tag?
@example(block=against_the_end(ring_frame(FRAME[:14], mac=82, status=0x10)), link_type=ETHERNET)
@given(block=lying_blocks() | st.binary(max_size=PAGE), link_type=link_types)
def test_walk_of_any_block_touches_nothing_outside(fenced: np.ndarray, block: bytes, link_type: int) -> None:
    fenced[:] = np.frombuffer(block.ljust(PAGE, b"\0"), np.uint8)
    index = RecordIndex.with_room_for(max_frames(PAGE))
    count, broken = scan_block(fenced, 0, PAGE, link_type, index, 0)
    claimed = int(np.frombuffer(block[12:16].ljust(4, b"\0"), np.uint32)[0])
    assert count + broken == min(claimed, max_frames(PAGE))
    assert (index.start[:count] >= 48).all()
    assert (index.start[:count] + index.captured_length[:count] <= PAGE).all()
    _, fates = dissect(fenced, index, count)
    assert fates.sum() == count


@pytest.mark.parametrize("at", [-1, PAGE])
def test_fence_is_there(at: int) -> None:
    """The law above means something only if a touch of the next page is not survived."""
    code = (
        f"import sys; sys.path[:0] = [{str(TESTS)!r}]\n"
        "from fenced_memory import fenced_page\n"
        "import ctypes; page = fenced_page()\n"
        f"print(page[0], flush=True); ctypes.c_ubyte.from_address(page.ctypes.data + {at}).value"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert (done.stdout, done.returncode) == (b"0\n", -signal.SIGSEGV)
