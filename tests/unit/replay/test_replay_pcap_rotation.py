"""Captures rotated by time and size: every frame is in one file, in order; whole files stay, the last one is undone."""

import gzip
import subprocess

import numpy as np
import pytest

from nsstream.assemble.frames import Frames
from nsstream.capture import read_trace
from nsstream.errors import OutputError
from nsstream.replay.pcap_sink import PcapSink, PcapSinkSpec
from nsstream.replay.sink import SinkContext, check_counters
from nsstream.wire.pcap import pcap_header, write_records

START_NS = 1_700_000_000 * 10**9
FRAME = bytes.fromhex("020000000002 020000000001 0800 4500001c000100004011 0000 c0000201 c6336407 d431003500080000")


def frames_at(*seconds):
    times = START_NS + (np.array(seconds) * 1e9).astype(np.int64)
    return Frames(times, np.arange(len(times) + 1) * len(FRAME), np.frombuffer(FRAME * len(times), np.uint8).copy())


def play(path, frames, size, **fields):
    sink = PcapSink(PcapSinkSpec(path=str(path), **fields), SinkContext())
    sink.open()
    for start in range(0, len(frames), size):
        sink.write(frames.slice(start, start + size))
        check_counters(sink.counters)
    sink.close()
    check_counters(sink.counters)
    return sink


def read_all(directory):
    return np.concatenate([read_trace(path)[0].observation_time_ns for path in sorted(directory.iterdir())])


@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_file_holds_the_frames_of_its_interval(tmp_path, size):
    frames = frames_at(0, 9.999999999, 10, 10.5, 39, 40, 59)  # START_NS is a multiple of 10 s
    sink = play(tmp_path / "twin.pcap", frames, size, rotate_s=10)
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "twin_00001_20231114221320.pcap",
        "twin_00002_20231114221330.pcap",
        "twin_00003_20231114221359.pcap",
        "twin_00004_20231114221400.pcap",
        "twin_00005_20231114221419.pcap",
    ]
    assert sink.counters["files"] == 5
    assert read_all(tmp_path).tolist() == frames.observation_time_ns.tolist()
    counts = [len(read_trace(path)[0]) for path in sorted(tmp_path.iterdir())]
    assert counts == [2, 2, 1, 1, 1]


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("name", ["twin.pcap", "twin.pcapng"])
def test_a_file_has_no_more_octets_than_it_may(tmp_path, size, name):
    frames = frames_at(*range(200))
    play(tmp_path / name, frames, size, rotate_bytes=1024)
    assert all(path.stat().st_size <= 1024 for path in tmp_path.iterdir())
    assert len(list(tmp_path.iterdir())) <= 20
    assert read_all(tmp_path).tolist() == frames.observation_time_ns.tolist()


def test_a_frame_larger_than_a_file_may_be_is_a_file_of_its_own(tmp_path):
    octets = np.zeros(5000, np.uint8)
    frames = Frames(START_NS + np.arange(2), np.array([0, 2500, 5000]), octets)
    play(tmp_path / "twin.pcap", frames, 2, rotate_bytes=1024)
    assert [path.stat().st_size for path in tmp_path.iterdir()] == [24 + 16 + 2500] * 2


def test_size_and_time_rotate_together_and_compressed_files_are_whole(tmp_path):
    frames = frames_at(*(np.arange(300) / 10))
    play(tmp_path / "twin.pcap.gz", frames, 50, rotate_bytes=2048, rotate_s=10)
    octets = b"".join(gzip.decompress(path.read_bytes())[24:] for path in sorted(tmp_path.iterdir()))
    assert pcap_header() + octets == pcap_header() + write_records(
        frames.observation_time_ns, frames.offset, frames.octets
    )


def test_an_abort_keeps_the_files_that_are_whole(tmp_path):
    sink = PcapSink(PcapSinkSpec(path=str(tmp_path / "twin.pcap"), rotate_s=10), SinkContext())
    sink.open()
    sink.write(frames_at(0, 1, 11, 12, 13))
    sink.abort()
    check_counters(sink.counters)
    assert (sink.counters["frames_written"], sink.counters["frames_undone"]) == (2, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["twin_00001_20231114221320.pcap"]


def test_a_file_of_the_row_that_exists_is_not_overwritten(tmp_path):
    (tmp_path / "twin_00001_20231114221320.pcap").write_text("precious")
    sink = PcapSink(PcapSinkSpec(path=str(tmp_path / "twin.pcap"), rotate_s=10), SinkContext())
    sink.open()
    with pytest.raises(OutputError, match="exists already"):
        sink.write(frames_at(0))
    sink.abort()


@pytest.mark.root
def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], check=True)
    try:
        sink = PcapSink(PcapSinkSpec(path=str(tmp_path / "twin.pcap")), SinkContext())
        sink.open()
        with pytest.raises(OutputError, match=r"twin\.pcap: no space is left on the device"):
            sink.write(frames_at(*range(5000)))
        check_counters(sink.counters)
        sink.abort()
        check_counters(sink.counters)
        assert sink.counters["frames_undone"] == 5000
        assert list(tmp_path.iterdir()) == []
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
