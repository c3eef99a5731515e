"""PipeSource over real FIFOs and pipes: idle, fed, cut, ended; and what it refuses."""

from __future__ import annotations

import gzip
import os
import pty
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from nsstream.capture.pipe import PipeSource
from nsstream.errors import InputError
from nsstream.trace import PacketBatch
from nsstream.wire import pcap_header, write_records

FRAME = bytes.fromhex(
    "020000000002 020000000001 0800 4500 001c 0001 0000 4011 0000 c0000201 c6336407 d431 0035 0008 0000"
)
START_NS = 1_700_000_000_000_000_000
RECORD_BYTES = 16 + len(FRAME)


def capture_of(count: int) -> bytes:
    offset = np.arange(count + 1, dtype=np.int64) * len(FRAME)
    times_ns = START_NS + np.arange(count, dtype=np.int64)
    return pcap_header() + write_records(times_ns, offset, np.frombuffer(FRAME * count, np.uint8))


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Reading and writing end; the test may close the writing one."""
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)
    try:
        os.close(writing)
    except OSError:
        return


def rows_of(source: PipeSource) -> PacketBatch:
    """All rows to the end, the tally checked on the way."""
    batches = []
    while (batch := source.read_batch()) is not None:
        batches.append(batch)
        source.tally.check()
        assert source.tally.kept == sum(map(len, batches))
    return PacketBatch.concatenate(batches)


def test_fifo_without_a_writer_is_idle_then_read_then_at_its_end(fifo: Path) -> None:
    source = PipeSource(fifo)
    source.open()  # nobody writes yet
    assert len(source.read_batch() or []) == 0
    assert len(source.read_batch() or []) == 0
    writer = fifo.open("wb", buffering=0)
    assert source.read_batch() is not None  # somebody has come, and not written
    writer.write(capture_of(3))
    batch = source.read_batch()
    assert batch is not None
    assert len(batch) == 3
    assert source.read_batch() is not None
    writer.close()
    assert source.read_batch() is None
    assert source.read_batch() is None
    source.close()
    assert (source.tally.offered, source.tally.kept) == (3, 3)


def test_a_record_in_two_writes_waits_for_the_second(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    octets = capture_of(1)
    source = PipeSource(reading)
    source.open()
    os.write(writing, octets[:-1])
    assert len(source.read_batch() or []) == 0
    os.write(writing, octets[-1:])
    assert len(source.read_batch() or []) == 1
    source.close()


@pytest.mark.parametrize("cut", [1, 16, RECORD_BYTES - 1])
def test_stream_cut_in_a_record_counts_it_and_ends(pipe: tuple[int, int], cut: int) -> None:
    reading, writing = pipe
    os.write(writing, capture_of(3)[:-cut])
    os.close(writing)
    source = PipeSource(reading)
    source.open()
    assert len(rows_of(source)) == 2
    assert source.tally.as_dict() | {"kept": 2, "offered": 3, "malformed": {"cut_record": 1}} == source.tally.as_dict()
    assert source.read_batch() is None


def test_large_stream_comes_whole_and_in_order(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    octets = capture_of(100_000)

    def write() -> None:
        with os.fdopen(writing, "wb") as file:
            file.write(octets)

    writer = threading.Thread(target=write)
    source = PipeSource(reading, buffer_bytes=1 << 16)
    source.open()
    writer.start()
    rows = rows_of(source)
    writer.join()
    np.testing.assert_array_equal(rows.observation_time_ns, START_NS + np.arange(100_000))


def test_given_descriptor_stays_open_with_its_flags(pipe: tuple[int, int]) -> None:
    reading, _ = pipe
    flags = os.get_blocking(reading)
    source = PipeSource(reading)
    source.open()
    source.close()
    assert os.get_blocking(reading) == flags


def test_standard_input_is_read(tmp_path: Path) -> None:
    path = tmp_path / "trace.pcap"
    path.write_bytes(capture_of(5))
    before = os.dup(0)
    try:
        with path.open("rb") as file:
            os.dup2(file.fileno(), 0)
        source = PipeSource("-")
        source.open()
        assert len(rows_of(source)) == 5
        source.close()
        os.fstat(0)
    finally:
        os.dup2(before, 0)
        os.close(before)


def test_packets_before_a_corrupt_record_are_given(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    os.write(writing, capture_of(3) + struct.pack("<IIII", 0, 0, 2**31, 2**31))
    source = PipeSource(reading)
    source.open()
    assert len(source.read_batch() or []) == 3
    os.close(writing)
    with pytest.raises(InputError, match=r"^descriptor \d+: corrupt at octet \d+, after 3 whole records"):
        source.read_batch()
    assert source.tally.kept == 3
    source.tally.check()


def error_of(source: PipeSource) -> str:
    def use() -> None:
        source.open()
        source.read_batch()

    with pytest.raises(InputError) as caught:
        use()
    source.close()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_pipe_is_refused(tmp_path: Path) -> None:
    assert error_of(PipeSource(tmp_path / "none")) == f"{tmp_path / 'none'}: cannot be read: No such file or directory"


def test_closed_descriptor_is_refused() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    os.close(writing)
    assert "Bad file descriptor" in error_of(PipeSource(reading))


def test_directory_is_refused(tmp_path: Path) -> None:
    assert error_of(PipeSource(tmp_path)) == f"{tmp_path}: is a directory"


def test_terminal_is_refused() -> None:
    ours, theirs = pty.openpty()
    try:
        assert "is a terminal" in error_of(PipeSource(theirs))
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize(
    ("octets", "complaint"),
    [
        (b"", "empty: not even a file header"),
        (pcap_header()[:10], "cut in its file header, after 10 octets"),
        (b"GIF89a", "neither pcap nor pcapng: starts with the octets 47 49 46 38"),
        (gzip.compress(b"capture", mtime=0), "it is compressed: put `zcat` in front"),
        (pcap_header(105), "link type 105 (IEEE 802.11) is not supported"),
    ],
)
def test_stream_that_is_no_capture_is_refused(pipe: tuple[int, int], octets: bytes, complaint: str) -> None:
    reading, writing = pipe
    os.write(writing, octets)
    os.close(writing)
    assert complaint in error_of(PipeSource(reading))


def test_reading_before_opening_is_a_bug() -> None:
    with pytest.raises(RuntimeError, match="before open"):
        PipeSource(0).read_batch()
