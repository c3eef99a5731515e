"""Twins as scapy's and pyshark's packets, and both feeding an ingest: frame by frame what was there."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nsstream_plugins.lab import LAB
from nsstream_plugins.notebook import FrameFeed, frames
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.sendrecv import sniff
from scapy.utils import EDecimal, rdpcap

from nsstream.chunk import ChunkStore
from nsstream.errors import InputError, OutputError
from nsstream.wire import PcapReader

COUNT = 300
PATIENCE_S = 300.0


@pytest.fixture(scope="module")
def capture(tmp_path_factory) -> Path:
    whole = tmp_path_factory.mktemp("notebook") / "whole.pcap"
    whole.write_bytes(subprocess.run(["xz", "-dc", str(LAB)], capture_output=True, check=True).stdout)
    cut = whole.with_name("cut.pcap")
    subprocess.run(["editcap", "-F", "nsecpcap", "-r", whole, cut, f"1-{COUNT}"], check=True)
    return cut


def ingested(fifo: Path, state: Path, feed) -> list[int]:
    """What an ingest keeps of what `feed` writes into a FIFO: the times of its packets."""
    os.mkfifo(fifo)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    command = [sys.executable, "-P", "-m", "nsstream_daemon", "ingest", f"fifo:{fifo}", "--state", str(state)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)
    feed()
    _, said = child.communicate(timeout=PATIENCE_S)
    assert child.returncode == 0, said
    store = ChunkStore(state / "chunks")
    times = [store.read(info.path).packets.observation_time_ns for info in store.list()]
    return sorted(np.concatenate(times).tolist())


def times_of(capture: Path) -> list[int]:
    return sorted(PcapReader().feed(capture.read_bytes())["observation_time_ns"].tolist())


def test_a_recording_as_scapys_packets_is_the_recording(capture):
    from nsstream_plugins.scapy import twins

    theirs = rdpcap(str(capture))
    ours = list(twins(capture))
    assert [bytes(packet)[:18] for packet in ours] == [bytes(packet)[:18] for packet in theirs]
    assert [len(packet) for packet in ours] == [packet.wirelen for packet in theirs]  # what a snaplen cut is filled up
    assert [packet.time for packet in ours] == [packet.time for packet in theirs]
    names = list(twins(capture, services=["udp/53"], count=3))
    assert [53 in (packet[UDP].sport, packet[UDP].dport) for packet in names] == [True] * 3
    assert all(TCP not in packet for packet in names)
    bundled = twins()
    assert IP in next(packet for packet in bundled if IP in packet)
    bundled.close()


def test_a_sniff_of_scapys_feeds_an_ingest(capture, tmp_path):
    from nsstream_plugins.scapy import Feed

    def feed() -> None:
        with Feed(tmp_path / "fifo") as to:
            sniff(offline=str(capture), prn=to, store=False)
            assert to.count == COUNT
            with pytest.raises(InputError, match="link type"):
                to(IP() / UDP())
            with pytest.raises(InputError, match="link type 1 takes no frame of link type 101"):
                to.write(0, b"x" * 20, link_type=101)

    assert ingested(tmp_path / "fifo", tmp_path / "state", feed) == times_of(capture)


@pytest.fixture
def pysharks_loop() -> Iterator[None]:
    """The event loop that pyshark's captures take, and leave open."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    asyncio.set_child_watcher(None)
    asyncio.set_event_loop(None)
    loop.close()


def test_pyshark_gives_twins_also_where_an_event_loop_runs(capture):
    pytest.importorskip("pyshark")
    from nsstream_plugins.pyshark import twins

    async def in_a_notebook() -> list[Any]:
        return list(twins(capture, count=COUNT, display_filter="dns"))

    with_dns = asyncio.run(in_a_notebook())
    assert with_dns
    assert all(packet.highest_layer == "DNS" for packet in with_dns)
    some = twins(capture, count=COUNT)
    assert next(some).eth.type is not None
    some.close()
    with pytest.raises(InputError, match=r"tshark: .*nonsense"):
        list(twins(capture, count=3, display_filter="nonsense"))


@pytest.mark.usefixtures("pysharks_loop")
def test_a_capture_of_pysharks_feeds_an_ingest(capture, tmp_path):
    pyshark = pytest.importorskip("pyshark")
    from nsstream_plugins.pyshark import feed_from

    source = pyshark.FileCapture(str(capture), include_raw=True, use_json=True, keep_packets=False)

    def feed() -> None:
        assert feed_from(source, tmp_path / "fifo") == COUNT
        source.close()

    assert ingested(tmp_path / "fifo", tmp_path / "state", feed) == times_of(capture)
    bare = pyshark.FileCapture(str(capture), keep_packets=False)
    with pytest.raises(InputError, match="include_raw=True"):
        feed_from(bare, tmp_path / "other.pcap")
    bare.close()


def test_a_feed_cuts_what_is_not_kept_and_says_when_its_reader_goes(tmp_path):
    from nsstream_plugins.scapy import Feed

    packet = Ether() / IP(dst="192.0.2.1") / UDP() / bytes(1000)
    packet.time = EDecimal("1700000000.123456789")
    with Feed(tmp_path / "new.pcap", snaplen=100) as feed:
        feed(packet)
    read = rdpcap(str(tmp_path / "new.pcap"))
    assert (len(read), len(bytes(read[0])), read[0].wirelen) == (1, 100, 1042)
    assert read[0].time == packet.time
    with pytest.raises(OutputError, match="file exists"):
        FrameFeed(tmp_path / "new.pcap")
    with pytest.raises(InputError, match="snaplen"):
        FrameFeed(tmp_path / "x.pcap", snaplen=3)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    opened = threading.Thread(target=lambda: os.close(os.open(fifo, os.O_RDONLY)))
    opened.start()
    with FrameFeed(fifo) as gone:
        opened.join()
        with pytest.raises(OutputError, match="nobody reads it any more"):
            gone.write(0, bytes(60))


def test_what_is_no_twin_is_refused(capture, tmp_path):
    with pytest.raises(InputError):
        next(frames(tmp_path / "none.pcap"))
    with pytest.raises(InputError, match="one capture, or directories of models"):
        next(frames([capture, capture]))
    with pytest.raises(InputError):
        next(frames(tmp_path))
