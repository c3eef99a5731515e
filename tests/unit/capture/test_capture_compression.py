"""Compressed files are known by their octets, read to the last one, and a cut is never taken for the end."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zstandard

from nsstream.capture.compression import STREAM_ERRORS, open_decompressed

OCTETS = np.random.default_rng(0).integers(0, 256, 400_000, np.uint8).tobytes() + bytes(300_000)
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": lambda octets: bz2.compress(octets, 1),  # blocks of 100 kB
    "xz": lzma.compress,
    "zstd": zstandard.compress,
}


def read_into(octets: bytearray, path: Path) -> None:
    reader = open_decompressed(path)
    buffer = memoryview(bytearray(10_000))
    try:
        while count := reader.readinto1(buffer):
            octets += buffer[:count]
    finally:
        reader.close()


def read_all(path: Path) -> bytes:
    octets = bytearray()
    read_into(octets, path)
    return bytes(octets)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a file without suffix"


def test_plain_file_is_given_as_it_is(path: Path) -> None:
    path.write_bytes(OCTETS)
    assert read_all(path) == OCTETS


@pytest.mark.parametrize("octets", [b"", b"\x1f", b"BZ", b"\xfd7z", b"\x28\xb5\x2f"])
def test_file_shorter_than_a_magic_number_is_plain(octets: bytes, path: Path) -> None:
    path.write_bytes(octets)
    assert read_all(path) == octets


@pytest.mark.parametrize("kind", COMPRESSORS)
def test_compressed_file_is_decompressed(kind: str, path: Path) -> None:
    path.write_bytes(COMPRESSORS[kind](OCTETS))
    assert read_all(path) == OCTETS


@pytest.mark.parametrize("kind", COMPRESSORS)
def test_streams_one_after_another_are_one(kind: str, path: Path) -> None:
    path.write_bytes(COMPRESSORS[kind](OCTETS) + COMPRESSORS[kind](b"") + COMPRESSORS[kind](b"the end"))
    assert read_all(path) == OCTETS + b"the end"


@pytest.mark.parametrize("kind", COMPRESSORS)
@pytest.mark.parametrize("cut", [1, 5, 10_000])
def test_cut_stream_gives_what_it_holds_and_then_eof_error(kind: str, cut: int, path: Path) -> None:
    path.write_bytes(COMPRESSORS[kind](OCTETS)[:-cut])
    octets = bytearray()
    with pytest.raises(EOFError):
        read_into(octets, path)
    assert OCTETS.startswith(octets)
    assert len(octets) > 0


@pytest.mark.parametrize("kind", COMPRESSORS)
def test_corrupt_stream_raises_a_stream_error(kind: str, path: Path) -> None:
    compressed = bytearray(COMPRESSORS[kind](OCTETS))
    compressed[6:12] = b"\xff" * 6
    path.write_bytes(compressed)
    with pytest.raises(STREAM_ERRORS):
        read_all(path)


def test_zstd_bomb_is_read_in_bounded_memory(path: Path) -> None:
    frame = zstandard.ZstdCompressor(level=19).compress(bytes(64 << 20))
    path.write_bytes(frame)
    assert len(frame) < 8192
    reader = open_decompressed(path)
    buffer = memoryview(bytearray(1 << 20))
    total = 0
    while count := reader.readinto1(buffer):
        total += count
    reader.close()
    assert total == 64 << 20
