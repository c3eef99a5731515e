"""LZO and LZ4 blocks by hand, from the descriptions of their formats; blocks of nfdump's own are in integration."""

from __future__ import annotations

import numpy as np
import pytest

from nsstream.errors import WireError
from nsstream.wire.lz4 import lz4_decompress
from nsstream.wire.lzo import lzo1x_decompress

END = b"\x11\0\0"
LZO = {
    "literals first": (b"\x15abcd" + END, b"abcd"),
    "one literal first": (b"\x12a" + END, b"a"),
    "a long run": (b"\x00\x00\x01" + b"x" * 274 + END, b"x" * 274),
    "two octets from near": (b"\x13ab\x04\x00" + END, b"abab"),  # state 2: distance 2
    "three octets from afar": (
        b"\0" + bytes(7) + bytes([2049 - 18 - 7 * 255]) + b"abc" + b"y" * 2046 + b"\x00\x00" + END,
        b"abc" + b"y" * 2046 + b"abc",
    ),
    "overlap": (b"\x12a\x21\x00\x00" + END, b"aaaa"),
    "long match": (b"\x12a\x20\x00\x01\x00\x00" + END, b"a" * (1 + 2 + 31 + 255 + 1)),
    "short match with literals": (b"\x14abc\x49\x00z" + END, b"abcabcz"),
    "middle match": (b"\x14abc\xe8\x00" + END, b"abcabcabcab"),
}
LZ4 = {
    "literals": (b"\x40abcd", b"abcd"),
    "long run": (b"\xf0\xff\x04" + b"x" * 274, b"x" * 274),
    "overlap": (b"\x10a\x01\x00\x10z", b"aaaaaz"),
    "long match": (b"\x1fa\x01\x00\xff\x00\x10z", b"a" * (1 + 4 + 15 + 255) + b"z"),
}


@pytest.mark.parametrize("name", LZO)
def test_lzo_instruction(name: str) -> None:
    block, expected = LZO[name]
    out = np.zeros(5000, np.uint8)
    assert out[: lzo1x_decompress(np.frombuffer(block, np.uint8), out)].tobytes() == expected


@pytest.mark.parametrize("name", LZ4)
def test_lz4_sequence(name: str) -> None:
    block, expected = LZ4[name]
    out = np.zeros(5000, np.uint8)
    assert out[: lz4_decompress(np.frombuffer(block, np.uint8), out)].tobytes() == expected


@pytest.mark.parametrize("block", [b"", b"\x15ab", b"\x12a\x29\x04\x00" + END, b"\x00", b"\x15abcd", b"\x00\x00" * 9])
def test_corrupt_lzo_is_refused(block: bytes) -> None:
    with pytest.raises(WireError, match="corrupt LZO"):
        lzo1x_decompress(np.frombuffer(block, np.uint8), np.zeros(100, np.uint8))


@pytest.mark.parametrize(
    "block", [b"", b"\x40ab", b"\x10a\x02\x00", b"\x10a\x00\x00", b"\x10a\x01", b"\xf0\xff", b"\x1fa\x01\x00\xff"]
)
def test_corrupt_lz4_is_refused(block: bytes) -> None:
    with pytest.raises(WireError, match="corrupt LZ4"):
        lz4_decompress(np.frombuffer(block, np.uint8), np.zeros(100, np.uint8))


def test_more_than_there_is_room_for_is_refused() -> None:
    lzo, lz4 = LZO["long match"][0], LZ4["long match"][0]
    with pytest.raises(WireError):
        lzo1x_decompress(np.frombuffer(lzo, np.uint8), np.zeros(100, np.uint8))
    with pytest.raises(WireError):
        lz4_decompress(np.frombuffer(lz4, np.uint8), np.zeros(100, np.uint8))
