"""Real exporters feed a source of ours and nfcapd with the same exports: flows, packets and octets must be the same."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from exporters import Flow, flows_of, flows_of_nfcapd, inlet_in, namespace_with_veth, read_all, run, teed
from made_captures import write_capture
from nfdump_tools import DEADLINE_S, NEEDS_NFDUMP, collect, wait_until

from nsstream.capture import read_trace
from nsstream.capture.netflow_tcp import NetflowTcpSource
from nsstream.capture.netflow_udp import NetflowUdpSource
from nsstream.capture.sockets import bind_socket
from nsstream.trace import FlowTable

pytestmark = NEEDS_NFDUMP
VERSIONS = [5, 9, 10]


def needs(tool: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(tool) is None, reason=f"{tool} is not installed")


NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_capture(tmp_path_factory.mktemp("capture") / "made.pcap", conversations=300)


@pytest.fixture
def source() -> Iterator[NetflowUdpSource]:
    source = NetflowUdpSource(port=0)
    source.open()
    yield source
    source.close()


def loopback_inlet() -> socket.socket:
    return bind_socket("127.0.0.1", 0, socket.SOCK_DGRAM)


def assert_same(ours: FlowTable, theirs: dict[Flow, int], source: NetflowUdpSource) -> None:
    assert flows_of(ours) == theirs
    assert source.tally.kept == len(ours) > 0
    assert sum(source.tally.malformed.values()) == source.tally.parked == sum(source.tally.dropped.values()) == 0


@needs("softflowd")
@pytest.mark.parametrize("version", VERSIONS)
def test_softflowd_gives_us_what_it_gives_nfcapd(
    tmp_path: Path, capture: Path, source: NetflowUdpSource, version: int
) -> None:
    with teed(tmp_path, source, loopback_inlet()) as tee:
        places = ["-p", str(tmp_path / "pid"), "-c", "none"]
        run("softflowd", "-r", str(capture), "-n", f"127.0.0.1:{tee.port}", "-v", str(version), "-d", *places)
        ours = read_all(source, tee)
    assert_same(ours, flows_of_nfcapd(tmp_path), source)
    assert int(ours.packet_delta_count.sum()) == read_trace(capture)[1].kept


@needs("pmacctd")
@pytest.mark.parametrize("version", VERSIONS)
def test_pmacctd_gives_us_what_it_gives_nfcapd(
    tmp_path: Path, capture: Path, source: NetflowUdpSource, version: int
) -> None:
    configuration = tmp_path / "pmacctd.conf"
    with teed(tmp_path, source, loopback_inlet()) as tee:
        configuration.write_text(
            f"daemonize: false\npcap_savefile: {capture}\nplugins: nfprobe\n"
            f"nfprobe_receiver: 127.0.0.1:{tee.port}\nnfprobe_version: {version}\n"
            "aggregate: src_host,dst_host,src_port,dst_port,proto,tos,tcpflags\n"
        )
        # 1 where its exporting process, told to end, has ended before it listened: what was exported is counted below.
        run("pmacctd", "-f", str(configuration), statuses=(0, 1))
        ours = read_all(source, tee)
    assert_same(ours, flows_of_nfcapd(tmp_path), source)
    assert int(ours.packet_delta_count.sum()) == read_trace(capture)[1].kept


@needs("softflowd")
@needs("nfreplay")
@pytest.mark.parametrize("version", [5, 9])
def test_nfreplay_gives_us_what_it_gives_nfcapd(
    tmp_path: Path, capture: Path, source: NetflowUdpSource, version: int
) -> None:
    collected = collect(capture, tmp_path / "collected", 9)
    with teed(tmp_path, source, loopback_inlet()) as tee:
        run("nfreplay", "-r", str(collected), "-H", "127.0.0.1", "-p", str(tee.port), "-v", str(version))
        ours = read_all(source, tee)
    assert_same(ours, flows_of_nfcapd(tmp_path), source)
    assert int(ours.packet_delta_count.sum()) == read_trace(capture)[1].kept


@pytest.mark.root
@NEEDS_ROOT
@needs("softflowd")
@needs("tcpreplay")
@pytest.mark.parametrize("version", VERSIONS)
def test_softflowd_on_an_interface_gives_us_what_it_gives_nfcapd(
    tmp_path: Path, capture: Path, source: NetflowUdpSource, version: int
) -> None:
    control = str(tmp_path / "control")
    with namespace_with_veth() as name, teed(tmp_path, source, inlet_in(name)) as tee:
        exporter = start(
            name, "softflowd", "-i", "rx", "-n", f"127.0.0.1:{tee.port}", "-v", str(version), "-d",
            "-t", "expint=1", "-t", "maxlife=2", "-p", str(tmp_path / "pid"), "-c", control,
        )  # fmt: skip
        try:
            wait_until(lambda: Path(control).exists() and is_capturing(name))
            run("ip", "netns", "exec", name, "tcpreplay", "-q", "-i", "tx", "--pps=2000", str(capture))
            wait_until(lambda: len(tee.datagrams) > 0)
            run("softflowctl", "-c", control, "shutdown")
            exporter.wait(DEADLINE_S)
            ours = read_all(source, tee)
        finally:
            stop(exporter)
    assert_same(ours, flows_of_nfcapd(tmp_path), source)
    # What libpcap had not handed over yet when it was told to stop, softflowd has not counted.
    assert 0 < int(ours.packet_delta_count.sum()) <= read_trace(capture)[1].kept


@pytest.mark.root
@NEEDS_ROOT
@needs("fprobe")
@needs("tcpreplay")
def test_fprobe_gives_us_what_it_gives_nfcapd(tmp_path: Path, capture: Path, source: NetflowUdpSource) -> None:
    timers = ["-s", "1", "-d", "1", "-e", "2"]
    with namespace_with_veth() as name, teed(tmp_path, source, inlet_in(name)) as tee:
        exporter = start(name, "fprobe", "-i", "rx", "-n", "5", *timers, "-l", "2", f"127.0.0.1:{tee.port}")
        try:
            wait_until(lambda: is_capturing(name))
            run("ip", "netns", "exec", name, "tcpreplay", "-q", "-i", "tx", "--pps=2000", str(capture))
            wait_until(lambda: len(tee.datagrams) > 0)
            stop(exporter)  # it exports what it holds
            ours = read_all(source, tee)
        finally:
            stop(exporter)
    assert_same(ours, flows_of_nfcapd(tmp_path), source)
    assert 0 < int(ours.packet_delta_count.sum()) <= read_trace(capture)[1].kept


@needs("softflowd")
def test_softflowd_over_tcp_gives_us_what_it_gives_over_udp(
    tmp_path: Path, capture: Path, source: NetflowUdpSource
) -> None:
    tcp = NetflowTcpSource(port=0)
    tcp.open()
    command = ["softflowd", "-r", str(capture), "-v", "10", "-d", "-p", str(tmp_path / "pid"), "-c", "none"]
    with teed(tmp_path, source, loopback_inlet()) as tee:
        run(*command, "-n", f"127.0.0.1:{tee.port}")
        by_udp = read_all(source, tee)
    run(*command, "-P", "tcp", "-n", f"127.0.0.1:{tcp.listens_on[1]}")
    tables = []
    wait_until(lambda: tables.append(tcp.read_batch()) or tcp.sessions.ended == 1)
    assert flows_of(FlowTable.concatenate([table for table in tables if table is not None])) == flows_of(by_udp)
    assert tcp.tally.offered == tcp.tally.kept == len(by_udp) > 0
    tcp.close()


def start(namespace: str, *command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["ip", "netns", "exec", namespace, *command], stdout=subprocess.DEVNULL)


def stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        process.wait(DEADLINE_S)


def is_capturing(namespace: str) -> bool:
    """Whether somebody has a packet socket in the namespace."""
    return len(run("ip", "netns", "exec", namespace, "cat", "/proc/net/packet").splitlines()) > 1
