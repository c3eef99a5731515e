"""Packets to score: request and reply over TCP and UDP between a few hosts, drawn from a generator."""

from collections.abc import Callable

import numpy as np
import pytest

from nsstream.trace import PacketBatch
from nsstream.trace.fields import ACK, TCP, UDP

MakePackets = Callable[..., PacketBatch]


@pytest.fixture
def make_packets() -> MakePackets:
    return _make_packets


def _make_packets(seed: int, conversation_count: int = 200, *, first_size: int = 60, port: int = 443) -> PacketBatch:
    rng = np.random.default_rng(seed)
    rows: list[tuple[int, int, int, int, int, int, int]] = []
    for _ in range(conversation_count):
        client, client_port = int(rng.integers(1, 20)), int(rng.integers(32768, 61000))
        server, is_tcp = int(rng.integers(100, 104)), rng.random() < 0.7
        protocol, server_port = (TCP, port) if is_tcp else (UDP, 53)
        at_ns = int(rng.integers(0, 60_000_000_000))
        for i in range(int(rng.integers(2, 12))):
            ends = (client, server, client_port, server_port)
            ends = ends if i % 2 == 0 else (server, client, server_port, client_port)
            size = first_size if i == 0 else int(rng.choice([52, 120, 1500]))
            rows.append((at_ns, *ends, protocol, size))
            at_ns += int(rng.exponential(5e6)) + 1
    return packets_of(rows)


def packets_of(rows: list[tuple[int, int, int, int, int, int, int]]) -> PacketBatch:
    """A batch from (time ns, last octets of both addresses, both ports, protocol, size) a packet."""
    rows = sorted(rows)
    columns = {k: v.copy() for k, v in PacketBatch.empty(len(rows)).columns().items()}
    time_ns, source, destination, source_port, destination_port, protocol, size = np.array(rows).T
    columns["observation_time_ns"] = time_ns.astype(np.int64) + 1_700_000_000_000_000_000
    for name, last in (("source_address", source), ("destination_address", destination)):
        columns[name][:, 10:] = (255, 255, 10, 0, 0, 0)
        columns[name][:, 15] = last
    columns["ip_version"][:] = 4
    columns["protocol_identifier"][:] = protocol
    columns["source_transport_port"][:] = source_port
    columns["destination_transport_port"][:] = destination_port
    columns["ip_total_length"][:] = size
    columns["ip_header_length"][:] = 20
    columns["ip_ttl"][:] = 64
    columns["tcp_control_bits"][:] = np.where(protocol == TCP, ACK, 0)
    return PacketBatch.from_columns(columns)


@pytest.fixture(scope="session")
def make_varied() -> MakePackets:
    return _make_varied


def _make_varied(seed: int, conversation_count: int = 400) -> PacketBatch:
    """Conversations of one kind whose sizes and gaps hardly ever come twice; busy hosts and quiet ones."""
    rng = np.random.default_rng(seed)
    rows: list[tuple[int, int, int, int, int, int, int]] = []
    for _ in range(conversation_count):
        client = 1 + int(40 * rng.random() ** 2)
        server, port = ((100, 443), (101, 80), (102, 53), (103, 22))[int(rng.integers(4))]
        ends = (client, server, int(rng.integers(32768, 61000)), port)
        at_ns = int(rng.integers(0, 60_000_000_000))
        for i in range(int(rng.integers(8, 30))):
            turned = ends if i % 2 == 0 else (ends[1], ends[0], ends[3], ends[2])
            rows.append((at_ns, *turned, UDP if port == 53 else TCP, int(rng.integers(40, 1500))))
            at_ns += int(rng.lognormal(2, 1.5) * 1e6) + 1
        if rng.random() < 0.2:
            rows.append((at_ns, client, 110, int(rng.integers(32768, 61000)), 123, UDP, 76))
    return packets_of(rows)
