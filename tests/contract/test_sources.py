"""The published rules of sources, held to every source that the library has. A new one adds a case to CASES.

The tables are those of test_table_sources.py, which says more about them.
"""

from __future__ import annotations

import lzma
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_exports import data_set, ipfix, template_set
from test_table_sources import SOURCES as TABLES
from test_table_sources import STARTS_NS

from nsstream.capture import PcapFileSource, Source
from nsstream.capture.child import ChildSource
from nsstream.capture.contract import RULES, SourceCase, check_refusal, check_source
from nsstream.capture.live import LiveSource
from nsstream.capture.metered import MeteredSource
from nsstream.capture.netflow_tcp import NetflowTcpSource
from nsstream.capture.netflow_udp import NetflowUdpSource
from nsstream.capture.pipe import PipeSource
from nsstream.capture.shark import PysharkSource
from nsstream.capture.spool import SpoolSource
from nsstream.clock import SystemClock
from nsstream.counters import Tally
from nsstream.trace import PacketBatch
from nsstream.trace.metering import FlowMeter
from nsstream.wire import pcap_header, write_records

FRAME = bytes.fromhex(
    "020000000002 020000000001 0800 4500 001c 0001 0000 4011 0000 c0000201 c6336407 d431 0035 0008 0000"
)
PACKETS = 500
OFFSET = np.arange(PACKETS + 1, dtype=np.int64) * len(FRAME)
TIMES_NS = 1_700_000_000_000_000_000 + np.arange(PACKETS, dtype=np.int64)
CAPTURE = pcap_header() + write_records(TIMES_NS, OFFSET, np.frombuffer(FRAME * PACKETS, np.uint8))
EXPECTED = {
    "observation_time_ns": TIMES_NS,
    "source_transport_port": np.full(PACKETS, 0xD431, np.uint16),
    "ip_total_length": np.full(PACKETS, 28, np.uint32),
}

METERED_EXPECTED = {
    "packet_delta_count": np.full(1, PACKETS, np.uint64),
    "octet_delta_count": np.full(1, PACKETS * 28, np.uint64),
}


def written(directory: Path, octets: bytes = CAPTURE) -> Path:
    path = directory / "trace.pcap"
    path.write_bytes(octets)
    return path


def fifo(directory: Path) -> PipeSource:
    os.mkfifo(directory / "fifo")
    return PipeSource(directory / "fifo")


def feed_fifo(_: Any, directory: Path) -> None:
    with (directory / "fifo").open("wb") as writer:
        writer.write(CAPTURE)


def rotate(_: Any, directory: Path) -> None:
    """Five files: renamed into place, closed, and compressed."""
    records = [CAPTURE[24 + 100 * 58 * k : 24 + 100 * 58 * (k + 1)] for k in range(5)]
    for k, part in enumerate(records):
        octets = CAPTURE[:24] + part
        if k % 2:
            (directory / f".{k}").write_bytes(octets)
            (directory / f".{k}").rename(directory / f"{k}.pcap")
        else:
            (directory / f"{k}.pcap.xz").write_bytes(lzma.compress(octets))


def spool_from_before(directory: Path) -> SpoolSource:
    rotate(None, directory)
    for k, path in enumerate(sorted(directory.iterdir())):
        os.utime(path, (1000 + k, 1000 + k))
    return SpoolSource(directory, directory / "ledger.sqlite", follow=False)


FLOWS = 60
FLOW_EXPECTED = {
    "source_transport_port": np.arange(FLOWS, dtype=np.uint16) + 1000,
    "packet_delta_count": np.full(FLOWS, 3, np.uint64),
    "octet_delta_count": np.full(FLOWS, 300, np.uint64),
}


V5_HEADER = struct.Struct("!HHIIIIBBH")
V5_RECORD = struct.Struct("!4s4s4sHHIIIIHHBBBBHHBBH")
ADDRESSES = (b"\xc0\0\2\1", b"\xc6\x33\x64\2", bytes(4))


def feed_netflow_v5(source: Any, _: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for first in range(0, FLOWS, 20):
            octets = V5_HEADER.pack(5, 20, 60_000, SystemClock().wall_ns() // 10**9, 0, first, 0, 0, 0)
            for port in range(1000 + first, 1020 + first):
                counts_and_times = (3, 300, 50_000, 55_000)
                octets += V5_RECORD.pack(*ADDRESSES, 1, 2, *counts_and_times, port, 443, 0, 0x18, 6, 0, 0, 0, 24, 24, 0)
            sender.sendto(octets, source.listens_on)


def feed_ipfix(source: Any, _: Path) -> None:
    records = [struct.pack("!4s4sHII", *ADDRESSES[:2], port, 3, 300) for port in range(1000, 1000 + FLOWS)]
    now_s = SystemClock().wall_ns() // 10**9
    fields = [(8, 4), (12, 4), (7, 2), (2, 4), (1, 4)]
    messages = [ipfix(template_set(10, 256, fields), now_s=now_s), ipfix(data_set(256, *records), now_s=now_s)]
    with socket.create_connection(source.listens_on) as exporter:
        exporter.sendall(b"".join(messages))


LIVE_PORT = 47_211
LIVE_EXPECTED = {
    "source_transport_port": np.arange(40, dtype=np.uint16) + 48_000,
    "destination_transport_port": np.full(40, LIVE_PORT, np.uint16),
}


def feed_loopback(*_: Any) -> None:
    for port in LIVE_EXPECTED["source_transport_port"].tolist():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sender.bind(("127.0.0.1", port))
            sender.sendto(b"", ("127.0.0.1", LIVE_PORT))


CASES = {
    "pcap file": SourceCase(lambda d: PcapFileSource(written(d), buffer_bytes=4096), EXPECTED),
    "pcap file in xz": SourceCase(lambda d: PcapFileSource(written(d, lzma.compress(CAPTURE))), EXPECTED),
    "regular file as a pipe": SourceCase(lambda d: PipeSource(written(d), buffer_bytes=4096), EXPECTED, is_live=True),
    "fifo": SourceCase(fifo, EXPECTED, feed=feed_fifo, is_live=True),
    "child": SourceCase(lambda d: ChildSource(["cat", str(written(d))]), EXPECTED, is_live=True),
    "spool": SourceCase(SpoolSource, EXPECTED, feed=rotate, is_live=True, ends=False),
    "spool, polled": SourceCase(
        lambda d: SpoolSource(d, is_polled=True), EXPECTED, feed=rotate, is_live=True, ends=False
    ),
    "spool from before": SourceCase(spool_from_before, EXPECTED, is_live=True),
    "pyshark": SourceCase(lambda d: PysharkSource(written(d)), EXPECTED),
    "metered file": SourceCase(
        lambda d: MeteredSource(PcapFileSource(written(d), buffer_bytes=4096), FlowMeter()),
        METERED_EXPECTED,
        is_live=True,  # no flow may end for a while, of a file's packets too
    ),
    "NetFlow over UDP": SourceCase(
        lambda _: NetflowUdpSource(port=0), FLOW_EXPECTED, feed=feed_netflow_v5, is_live=True, ends=False
    ),
    "IPFIX over TCP": SourceCase(
        lambda _: NetflowTcpSource(port=0), FLOW_EXPECTED, feed=feed_ipfix, is_live=True, ends=False
    ),
    "ring": SourceCase(
        lambda _: LiveSource("lo", capture_filter=f"udp dst port {LIVE_PORT}"),
        LIVE_EXPECTED,
        feed=feed_loopback,
        is_live=True,
        ends=False,
    ),
} | {
    f"table: {make.__name__}": SourceCase(make, {"flow_start_ns": STARTS_NS, "flow_end_ns": STARTS_NS + 5_000_000})
    for make in TABLES
}
NEEDS_ROOT = {"ring"}
REFUSALS: dict[str, tuple[Callable[[Path], Source[Any]], str]] = {
    "pcap file": (lambda d: PcapFileSource(d / "nowhere.pcap"), "nowhere.pcap"),
    "pipe": (lambda d: PipeSource(d / "nowhere"), "nowhere"),
    "child": (lambda _: ChildSource(["nsstream-no-such-tool"]), "nsstream-no-such-tool"),
    "spool": (lambda d: SpoolSource(d / "nowhere"), "nowhere"),
    "pyshark": (lambda d: PysharkSource(d / "nowhere.pcap"), "nowhere.pcap"),
    "live": (lambda _: LiveSource("nsx-nowhere"), "nsx-nowhere"),
    "NetFlow over UDP": (lambda _: NetflowUdpSource("203.0.113.1"), "203.0.113.1"),
    "IPFIX over TCP": (lambda _: NetflowTcpSource("203.0.113.1"), "203.0.113.1"),
}


@pytest.fixture(
    params=[
        pytest.param(case, id=name, marks=[pytest.mark.root] if name in NEEDS_ROOT else [])
        for name, case in CASES.items()
    ]
)
def case(request: pytest.FixtureRequest) -> SourceCase:
    chosen: SourceCase = request.param
    if request.node.callspec.id.startswith("pyshark") and shutil.which("tshark") is None:
        pytest.skip("needs tshark")
    if request.node.get_closest_marker("root") and os.geteuid():
        pytest.skip("needs root")
    return chosen


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_source_keeps_the_rule(rule: Callable[[SourceCase, Path], None], case: SourceCase, tmp_path: Path) -> None:
    rule(case, tmp_path)


@pytest.mark.parametrize(("make", "mention"), REFUSALS.values(), ids=REFUSALS.keys())
def test_source_that_cannot_be_opened_says_so_in_one_sentence(
    make: Callable[[Path], Source[Any]], mention: str, tmp_path: Path
) -> None:
    check_refusal(make, tmp_path, mention)


class Bad(PcapFileSource):
    """A source that breaks one rule, to see that the contract notices."""


class Counting(Bad):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.tally = Tally(offered=1)


class Losing(Bad):
    def read_batch(self) -> PacketBatch | None:
        batch = super().read_batch()
        return batch if batch is None else batch.take(slice(1, None))


class Changing(Bad):
    def read_batch(self) -> PacketBatch | None:
        batch = super().read_batch()
        return batch if batch is None else batch.take(np.arange(len(batch))[::-1])


class Coming(Bad):
    def read_batch(self) -> PacketBatch | None:
        return super().read_batch() or PacketBatch.empty(1)


class Idling(Bad):
    turn = 0

    def read_batch(self) -> PacketBatch | None:
        self.turn += 1
        return PacketBatch.empty() if self.turn == 1 else super().read_batch()


class Miscounting(Bad):
    def read_batch(self) -> PacketBatch | None:
        batch = super().read_batch()
        self.tally.kept += 1
        return batch


class Leaking(Bad):
    kept: list[Any] = []  # noqa: RUF012 - leaking is its purpose

    def open(self) -> None:
        super().open()
        self.kept.append(self._path.open("rb"))


class Spinning(Bad):
    started: list[threading.Event] = []  # noqa: RUF012

    def open(self) -> None:
        super().open()
        self.started.append(threading.Event())
        threading.Thread(target=self.started[-1].wait).start()


@pytest.fixture
def tidy() -> Iterator[None]:
    """Ends what the bad sources left, as they do not."""
    yield
    for file in Leaking.kept:
        file.close()
    for event in Spinning.started:
        event.set()
    Leaking.kept.clear()
    Spinning.started.clear()


@pytest.mark.usefixtures("tidy")
@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        (Counting, "a new source has counted nothing"),
        (Losing, "500 rows expected, 499 came|rows were given, the tally says"),
        (Changing, "row 0: observation_time_ns must be"),
        (Coming, "500 rows and no end|None behind the end|rows expected"),
        (Idling, "a batch of a source that is not live has rows"),
        (Miscounting, "tally does not add up|rows were given, the tally says"),
        (Leaking, "nothing left open"),
        (Spinning, "nothing left open"),
    ],
)
def test_contract_notices_a_source_that_breaks_it(
    bad: type[PcapFileSource], complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nsstream.capture.contract.DEADLINE_S", 0.5)
    case = SourceCase(lambda d: bad(written(d)), EXPECTED)
    with pytest.raises(AssertionError, match=complaint):
        check_source(case, tmp_path)


def test_contract_notices_a_refusal_that_does_not_come(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="open raised no InputError"):
        check_refusal(lambda d: PcapFileSource(written(d)), tmp_path, "trace.pcap")
    with pytest.raises(AssertionError, match="a sentence about 'elsewhere' expected"):
        check_refusal(lambda d: PcapFileSource(d / "nowhere"), tmp_path, "elsewhere")


def test_contract_notices_a_live_source_that_is_not_idle(tmp_path: Path) -> None:
    case = replace(CASES["fifo"], make=lambda d: PipeSource(written(d)))
    with pytest.raises(AssertionError, match="an empty batch where nothing came"):
        check_source(replace(case, feed=lambda *_: None), tmp_path)


def test_contract_needs_no_test_framework() -> None:
    code = "import sys, nsstream.capture.contract; assert not {'pytest', 'hypothesis', '_pytest'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
