"""The rules of `capture.source`, held to the sources of NetFlow: over UDP, over TCP, and out of a capture file."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_netflow import data_set, ipfix, template_set, v5
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from scapy.utils import wrpcap

from nsstream.capture.contract import RULES, SourceCase, check_refusal
from nsstream.capture.netflow_replay import NetflowReplaySource
from nsstream.capture.netflow_tcp import NetflowTcpSource
from nsstream.capture.netflow_udp import NetflowUdpSource
from nsstream.capture.sockets import bind_socket
from nsstream.capture.source import Source
from nsstream.trace import FlowTable

FLOWS = 300
STEP = 20
ADDRESSES = np.array([[*bytes(10), 255, 255, *number.to_bytes(4, "big")] for number in range(FLOWS)], np.uint8)
EXPECTED = {
    "source_address": ADDRESSES,
    "octet_delta_count": np.arange(1, FLOWS + 1, dtype=np.uint64),
    "packet_delta_count": np.full(FLOWS, 3, np.uint64),
}


def v5_datagrams() -> list[bytes]:
    return [v5(first, STEP) for first in range(0, FLOWS, STEP)]


def ipfix_messages() -> list[bytes]:
    """The template comes third: what was sent before it waits."""
    messages = [ipfix(data_set(first, STEP)) for first in range(0, FLOWS, STEP)]
    return [*messages[:2], ipfix(template_set()), *messages[2:]]


def send_datagrams(make: Callable[[], list[bytes]]) -> Callable[[Source[FlowTable], Path], None]:
    def feed(source: Source[FlowTable], _: Path) -> None:
        assert isinstance(source, NetflowUdpSource)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for datagram in make():
                sender.sendto(datagram, source.listens_on)

    return feed


def send_stream(source: Source[FlowTable], _: Path) -> None:
    assert isinstance(source, NetflowTcpSource)
    with socket.create_connection(source.listens_on, timeout=300) as exporter:
        exporter.sendall(b"".join(ipfix_messages()))


def capture_of(directory: Path) -> Source[FlowTable]:
    path = directory / "exports.pcap"
    wrpcap(str(path), [Ether() / IP() / UDP(dport=2055) / Raw(datagram) for datagram in ipfix_messages()])
    return NetflowReplaySource(path, buffer_bytes=4096)


CASES = {
    "udp_v5": SourceCase(
        lambda _: NetflowUdpSource(port=0), EXPECTED, feed=send_datagrams(v5_datagrams), is_live=True, ends=False
    ),
    "udp_ipfix": SourceCase(
        lambda _: NetflowUdpSource(port=0), EXPECTED, feed=send_datagrams(ipfix_messages), is_live=True, ends=False
    ),
    "tcp": SourceCase(lambda _: NetflowTcpSource(port=0), EXPECTED, feed=send_stream, is_live=True, ends=False),
    "replay": SourceCase(capture_of, EXPECTED),
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_source_keeps_the_rules(case: SourceCase, rule: Callable[[SourceCase, Path], None], tmp_path: Path) -> None:
    rule(case, tmp_path)


@pytest.mark.parametrize(
    ("kind", "make"), [(socket.SOCK_DGRAM, NetflowUdpSource), (socket.SOCK_STREAM, NetflowTcpSource)]
)
def test_port_that_is_taken_is_refused_by_its_number(kind: socket.SocketKind, make: Any, tmp_path: Path) -> None:
    with bind_socket("127.0.0.1", 0, kind) as taken:
        port = taken.getsockname()[1]
        check_refusal(lambda _: make(port=port), tmp_path, f"port {port}")


def test_capture_that_is_missing_is_refused_by_its_name(tmp_path: Path) -> None:
    check_refusal(lambda directory: NetflowReplaySource(directory / "nowhere"), tmp_path, "nowhere")
