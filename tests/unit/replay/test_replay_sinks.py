import errno
import gzip
import lzma
import os
import struct
import threading

import numpy as np
import pytest
import zstandard

from nsstream.assemble.frames import Frames
from nsstream.errors import OutputError
from nsstream.replay.fifo_sink import FifoSink, FifoSinkSpec
from nsstream.replay.pcap_sink import PcapSink, PcapSinkSpec
from nsstream.replay.pipe_writer import PipeWriter
from nsstream.replay.sink import SinkContext
from nsstream.wire.pcap import pcap_header
from nsstream.wire.pcapng_writer import pcapng_header, write_packet_blocks

UNPACK = {"": bytes, ".gz": gzip.decompress, ".xz": lzma.decompress, ".zst": None}
FRAMES = Frames(np.array([1, 2_000_000_003], np.int64), np.array([0, 2, 5], np.int64), np.arange(5, dtype=np.uint8))
PCAP = (
    pcap_header()
    + struct.pack("<IIII", 0, 1, 2, 2) + bytes([0, 1])
    + struct.pack("<IIII", 2, 3, 3, 3) + bytes([2, 3, 4])
)  # fmt: skip


def sink_to(path, *, overwrite=False):
    return PcapSink(PcapSinkSpec(path=str(path), overwrite=overwrite), SinkContext())


def write_whole(sink):
    sink.open()
    sink.write(FRAMES.slice(0, 1))
    sink.write(FRAMES.slice(1, 2))
    sink.close()


def unpack(path):
    octets = path.read_bytes()
    if path.suffix == ".zst":
        return zstandard.ZstdDecompressor().decompressobj().decompress(octets)
    return UNPACK[path.suffix if path.suffix in UNPACK else ""](octets)


@pytest.mark.parametrize("compression", ["", ".gz", ".xz", ".zst"])
def test_a_pcap_holds_the_header_and_the_frames(tmp_path, compression):
    path = tmp_path / f"twin.pcap{compression}"
    write_whole(sink_to(path))
    assert unpack(path) == PCAP
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("compression", ["", ".gz", ".xz", ".zst"])
def test_a_pcapng_starts_with_a_section(tmp_path, compression):
    path = tmp_path / f"twin.pcapng{compression}"
    write_whole(sink_to(path))
    assert unpack(path).startswith(pcapng_header())


@pytest.mark.parametrize("name", ["twin.pcap.gz", "twin.pcap.xz", "twin.pcapng.zst"])
def test_the_same_frames_give_the_same_file(tmp_path, name):
    (tmp_path / "b").mkdir()
    write_whole(sink_to(tmp_path / name))
    write_whole(sink_to(tmp_path / "b" / name))
    assert (tmp_path / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_file_has_the_mode_that_the_umask_leaves(tmp_path):
    before = os.umask(0o027)
    try:
        write_whole(sink_to(tmp_path / "twin.pcap"))
    finally:
        os.umask(before)
    assert (tmp_path / "twin.pcap").stat().st_mode & 0o777 == 0o640


def test_nothing_is_there_under_its_name_before_close(tmp_path):
    sink = sink_to(tmp_path / "twin.pcap")
    sink.open()
    sink.write(FRAMES)
    assert not (tmp_path / "twin.pcap").exists()
    sink.abort()
    assert list(tmp_path.iterdir()) == []


def test_abort_may_come_at_any_time_and_twice(tmp_path):
    sink = sink_to(tmp_path / "twin.pcap")
    sink.abort()
    sink.open()
    sink.abort()
    sink.abort()
    write_whole(done := sink_to(tmp_path / "done.pcap"))
    done.abort()
    assert list(tmp_path.iterdir()) == [tmp_path / "done.pcap"]


def test_a_file_that_exists_is_not_overwritten(tmp_path):
    path = tmp_path / "twin.pcap"
    path.write_bytes(b"precious")
    with pytest.raises(OutputError, match="exists already"):
        sink_to(path).open()
    assert path.read_bytes() == b"precious"


def test_a_file_made_in_the_meantime_is_not_overwritten(tmp_path):
    path = tmp_path / "twin.pcap"
    sink = sink_to(path)
    sink.open()
    path.write_bytes(b"precious")
    with pytest.raises(OutputError, match="in the meantime"):
        sink.close()
    sink.abort()
    assert path.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_file_system_without_hard_links_will_do(tmp_path, monkeypatch, number):
    def link(source, target):
        raise OSError(number, os.strerror(number), source, None, target)

    monkeypatch.setattr(os, "link", link)
    write_whole(sink_to(tmp_path / "twin.pcap"))
    assert (tmp_path / "twin.pcap").read_bytes() == PCAP
    sink = sink_to(tmp_path / "other.pcap")
    sink.open()
    (tmp_path / "other.pcap").write_bytes(b"precious")
    with pytest.raises(OutputError, match="in the meantime"):
        sink.close()
    assert (tmp_path / "other.pcap").read_bytes() == b"precious"
    sink.abort()


def test_a_file_is_overwritten_where_that_was_asked_for(tmp_path):
    path = tmp_path / "twin.pcap"
    path.write_bytes(b"old")
    sink = sink_to(path, overwrite=True)
    sink.open()
    assert path.read_bytes() == b"old"
    sink.write(FRAMES)
    sink.close()
    assert path.read_bytes() == PCAP
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["twin", "twin.txt", "twin.gz", "twin.pcap.bz2", "twin.PCAP", ".pcap"])
def test_a_name_of_no_known_format_is_refused(tmp_path, name):
    with pytest.raises(OutputError, match=r"ends in \.pcap or \.pcapng"):
        sink_to(tmp_path / name)


def test_a_directory_that_is_not_there_is_said_to_be_missing(tmp_path):
    with pytest.raises(OutputError, match="directory does not exist"):
        sink_to(tmp_path / "none" / "twin.pcap").check()


def test_a_directory_in_place_of_the_file_is_not_replaced(tmp_path):
    (tmp_path / "twin.pcap").mkdir()
    with pytest.raises(OutputError, match="not a regular file"):
        sink_to(tmp_path / "twin.pcap", overwrite=True).check()


def test_a_directory_where_no_file_can_be_made_is_one_sentence():
    with pytest.raises(OutputError, match=r"^/proc/twin\.pcap: "):
        sink_to("/proc/twin.pcap").open()


def test_a_fifo_carries_a_pcap_to_its_reader(tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    read = []
    reader = threading.Thread(target=lambda: read.append(path.read_bytes()))
    reader.start()
    sink = FifoSink(FifoSinkSpec(path=str(path)), SinkContext())
    write_whole(sink)
    reader.join()
    assert read == [PCAP]


def test_a_fifo_without_a_reader_is_given_up_on_stop(tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    asked = iter([False, False, True])
    with pytest.raises(OutputError, match="before a reader came"):
        FifoSink(FifoSinkSpec(path=str(path)), SinkContext(lambda: next(asked))).open()


def test_a_fifo_whose_reader_stalls_is_given_up_on_stop(tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    asked = iter([False] * 5 + [True] * 9)
    sink = FifoSink(FifoSinkSpec(path=str(path)), SinkContext(lambda: next(asked)))
    sink.open()
    octets = 200_000  # more than a pipe holds
    long = Frames(np.array([1], np.int64), np.array([0, octets], np.int64), np.zeros(octets, np.uint8))
    with pytest.raises(OutputError, match="while the reader was slow"):
        sink.write(long)
    sink.abort()
    os.close(reader)


def test_a_fifo_whose_reader_goes_is_an_error(tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    sink = FifoSink(FifoSinkSpec(path=str(path)), SinkContext())
    sink.open()
    os.close(reader)
    with pytest.raises(OutputError, match="the reader has gone"):
        sink.write(FRAMES)
    sink.abort()


def test_what_is_no_fifo_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="is not a FIFO"):
        FifoSink(FifoSinkSpec(path=str(tmp_path / "file")), SinkContext()).check()
    with pytest.raises(OutputError, match="no such file"):
        FifoSink(FifoSinkSpec(path=str(tmp_path / "none")), SinkContext()).check()


LATE = Frames(np.array([1, 1 << 32]) * 10**9, FRAMES.offset, FRAMES.octets)


def test_a_file_has_no_frame_of_a_time_that_its_format_does_not_have(tmp_path):
    sink = sink_to(tmp_path / "twin.pcap")
    sink.check_time((1 << 32) * 10**9 - 1)
    with pytest.raises(OutputError, match=r"write a \.pcapng"):
        sink.check_time((1 << 32) * 10**9)
    sink.open()
    with pytest.raises(OutputError, match=r"write a \.pcapng"):
        sink.write(LATE)
    sink.abort()
    assert sink.counters["frames"] == sink.counters["frames_undone"] == 2
    assert list(tmp_path.iterdir()) == []
    other = sink_to(tmp_path / "twin.pcapng")
    other.check_time((1 << 32) * 10**9)
    other.open()
    other.write(LATE)
    other.close()
    written = write_packet_blocks(LATE.observation_time_ns, LATE.offset, LATE.octets)
    assert (tmp_path / "twin.pcapng").read_bytes() == pcapng_header() + written


def test_a_frame_of_a_time_that_a_pcap_does_not_have_is_counted_as_failed():
    reader, writer = os.pipe()
    pipe = PipeWriter("pipe", lambda: False)
    pipe.begin(writer)
    pipe.write(LATE.slice(0, 1))
    with pytest.raises(OutputError, match="no times after 7 February 2106"):
        pipe.write(LATE.slice(1, 2))
    pipe.end()
    os.close(reader)
    assert pipe.counters == {"frames": 2, "frames_written": 1, "frames_failed": 1, "octets": 2}


def test_a_stop_leaves_whole_records_to_a_reader_who_reads():
    answers = iter([False] * 3)  # for the header, and for two steps of the frames
    pipe = PipeWriter("pipe", lambda: next(answers, True))
    reader, writer = os.pipe()
    pipe.begin(writer)
    size = 3000
    with pytest.raises(OutputError, match="stopped"):
        pipe.write(Frames(np.arange(10), np.arange(11) * size, np.zeros(10 * size, np.uint8)))
    pipe.end()
    with os.fdopen(reader, "rb") as came:
        octets = came.read()
    assert len(octets) == len(pcap_header()) + 3 * (16 + size)
    assert pipe.counters == {"frames": 10, "frames_written": 3, "frames_failed": 7, "octets": 3 * size}
