"""Small captures that tests make for themselves, with scapy: TCP and UDP conversations over as long as asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scapy.layers.dns import DNS, DNSQR
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw
from scapy.utils import wrpcap

START_S = 1_500_000_000


def write_capture(path: Path, *, conversations: int = 200, spread_s: float = 90.0, seed: int = 1) -> Path:
    """A capture of web requests and DNS queries that start evenly over `spread_s` seconds."""
    rng = np.random.default_rng(seed)
    packets: list[Packet] = []
    for at in range(conversations):
        begin_s = START_S + spread_s * at / conversations
        client, server = f"192.0.2.{1 + at % 7}", f"198.51.100.{1 + at % 5}"
        port = 40_000 + at
        made = _query(client, port, at) if at % 3 == 0 else _request(client, server, port, int(rng.integers(1, 5)))
        for number, packet in enumerate(made):
            packet.time = begin_s + 0.01 * number
            packets.append(packet)
    packets.sort(key=lambda packet: packet.time)
    wrpcap(str(path), packets)
    return path


def write_capture_without_ip(path: Path, *, count: int = 5) -> Path:
    """A capture of ARP requests."""
    wrpcap(str(path), [Ether(src="02:00:00:00:00:01", dst="ff:ff:ff:ff:ff:ff") / ARP() for _ in range(count)])
    return path


def _link() -> Ether:
    return Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")


def _query(client: str, port: int, number: int) -> Iterator[Packet]:
    name = DNSQR(qname=f"host{number}.example")
    yield _link() / IP(src=client, dst="192.0.2.53") / UDP(sport=port, dport=53) / DNS(id=number, qd=name)
    yield _link() / IP(src="192.0.2.53", dst=client) / UDP(sport=53, dport=port) / DNS(id=number, qr=1, qd=name)


def _request(client: str, server: str, port: int, segments: int) -> Iterator[Packet]:
    def up(flags: str, seq: int, ack: int, body: bytes = b"") -> Packet:
        return (
            _link() / IP(src=client, dst=server) / TCP(sport=port, dport=80, flags=flags, seq=seq, ack=ack) / Raw(body)
        )

    def down(flags: str, seq: int, ack: int, body: bytes = b"") -> Packet:
        return (
            _link() / IP(src=server, dst=client) / TCP(sport=80, dport=port, flags=flags, seq=seq, ack=ack) / Raw(body)
        )

    yield up("S", 1000, 0)
    yield down("SA", 5000, 1001)
    yield up("A", 1001, 5001)
    yield up("PA", 1001, 5001, b"GET / HTTP/1.1\r\n\r\n")
    seq = 5001
    for _ in range(segments):
        yield down("A", seq, 1019, bytes(1000))
        seq += 1000
    yield up("A", 1019, seq)
    yield down("FA", seq, 1019)
    yield up("FA", 1019, seq + 1)
    yield down("A", seq + 1, 1020)
