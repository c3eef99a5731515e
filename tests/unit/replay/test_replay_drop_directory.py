"""A directory that `suricata -r DIR --pcap-file-continuous` polls gets each file once, whole, and nothing else.

Suricata takes every regular file, hidden or not, whose time of change is from the end of its last look to `delay`
seconds ago (its source-pcap-file-directory-helper); it is in none of our machines, so `Poller` does the same.
"""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from nsstream.assemble.frames import Frames
from nsstream.capture import read_trace
from nsstream.errors import OutputError
from nsstream.replay.pcap_sink import PcapSink, PcapSinkSpec
from nsstream.replay.sink import SinkContext

START_NS = 1_700_000_000 * 10**9
FRAME = bytes.fromhex("020000000002 020000000001 0800 4500001c000100004011 0000 c0000201 c6336407 d431003500080000")
DELAY_S = 0.05  # by default it is 30
DEADLINE_S = 300.0


def frames_at(first, count):
    times = START_NS + np.arange(first, first + count) * 10**9
    return Frames(times, np.arange(count + 1) * len(FRAME), np.frombuffer(FRAME * count, np.uint8).copy())


class Poller:
    def __init__(self, directory):
        self.directory = directory
        self.newer_s = 0.0
        self.names = []
        self.times_ns = []

    def look(self):
        """What a look takes; the next one begins where it ends."""
        older_s = time.time() - DELAY_S
        found = [entry for entry in os.scandir(self.directory) if entry.is_file(follow_symlinks=False)]
        taken = sorted((e.stat().st_mtime, e.path) for e in found if self.newer_s <= e.stat().st_mtime < older_s)
        for _, path in taken:
            self.names.append(Path(path).name)
            self.times_ns += read_trace(path)[0].observation_time_ns.tolist()
        self.newer_s = older_s if taken else self.newer_s


def test_each_file_is_taken_once_and_whole(tmp_path):
    drop, parts = tmp_path / "drop", tmp_path / "parts"
    drop.mkdir()
    parts.mkdir()
    spec = PcapSinkSpec(path=str(drop / "twin.pcap"), rotate_s=10, parts_in=str(parts))
    sink = PcapSink(spec, SinkContext())
    poller = Poller(drop)
    sink.open()
    now_s = time.time()
    for first in range(0, 60, 4):
        sink.write(frames_at(first, 4))
        for part in parts.iterdir():  # as if nothing had been written for long
            os.utime(part, (now_s - 1000, now_s - 1000))
        poller.look()
    assert len(list(parts.iterdir())) == 1
    sink.close()
    until_s = time.monotonic() + DEADLINE_S
    while len(poller.names) < len(list(drop.iterdir())) and time.monotonic() < until_s:
        poller.look()
    assert poller.names == sorted(path.name for path in drop.iterdir())
    assert len(poller.names) == 6
    assert poller.times_ns == frames_at(0, 60).observation_time_ns.tolist()
    assert not list(parts.iterdir())


def test_stopped_run_leaves_nothing_half_in_the_directory(tmp_path):
    drop, parts = tmp_path / "drop", tmp_path / "parts"
    drop.mkdir()
    parts.mkdir()
    sink = PcapSink(PcapSinkSpec(path=str(drop / "twin.pcap"), rotate_s=10, parts_in=str(parts)), SinkContext())
    sink.open()
    sink.write(frames_at(0, 25))
    sink.abort()
    assert [len(read_trace(path)[0]) for path in sorted(drop.iterdir())] == [10, 10]
    assert not list(parts.iterdir())
    assert sink.counters["frames_undone"] == 5


def test_directory_of_another_file_system_is_refused(tmp_path):
    other = "/dev/shm"
    if Path(other).stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs two file systems")
    for fields in ({"rotate_s": 10}, {}):
        sink = PcapSink(PcapSinkSpec(path=str(tmp_path / "twin.pcap"), parts_in=other, **fields), SinkContext())
        with pytest.raises(OutputError, match="is not on the file system"):
            sink.check()
    sink = PcapSink(PcapSinkSpec(path=str(tmp_path / "twin.pcap"), parts_in=str(tmp_path / "nowhere")), SinkContext())
    with pytest.raises(OutputError, match="does not exist"):
        sink.check()
