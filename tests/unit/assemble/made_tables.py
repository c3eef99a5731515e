"""Conversation tables made by hand and by chance, for the tests of `nsstream.assemble`."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nsstream.trace import ConversationTable, TcpEvent
from nsstream.trace.conversations import CONVERSATION_FIELDS, PACKET_COLUMNS
from nsstream.trace.fields import ACK, FIN, ICMP, ICMPV6, PSH, RST, SCTP, SYN, TCP, UDP

START_NS = 1_700_000_000_000_000_000
SERVICE_PORTS = (53, 80, 443, 22, 123, 67, 161, 137, 502, 20000, 5353, 1900, 514, 69, 546, 8080, 47808, 50001, 1024, 0)
PROTOCOLS = (2, 4, 41, 47, 50, 51, 88, 89, 103, 112, 255)


class Packet(NamedTuple):
    """A row of the packet columns; times are since `START_NS`."""

    time_us: int
    direction: int
    ip_total_length: int
    control: int = 0
    tcp_header_length: int = 0
    tcp_event: int = TcpEvent.FRESH
    ip_header_length: int = 20


def octets_of(address: str) -> np.ndarray:
    """Sixteen octets of an IPv4 or IPv6 address."""
    parsed = ipaddress.ip_address(address)
    return np.frombuffer(parsed.packed if parsed.version == 6 else b"\0" * 10 + b"\xff\xff" + parsed.packed, np.uint8)


def table_of(*conversations: tuple[dict[str, object], Sequence[Packet]]) -> ConversationTable:
    """A table of (conversation fields, packets); fields that are not named are those of a TCP connection to port 80."""
    plain = {
        "initiator_address": octets_of("10.0.0.1"),
        "responder_address": octets_of("10.0.0.2"),
        "ip_version": 4,
        "protocol_identifier": TCP,
        "initiator_port": 50_000,
        "responder_port": 80,
        "initiator_ttl": 64,
        "responder_ttl": 63,
        "responder_syn_ttl": 63,
        "is_open_at_end": 1,
    }
    columns = {k: np.zeros((len(conversations), *cell), dtype) for k, (dtype, cell) in CONVERSATION_FIELDS.items()}
    rows: list[tuple[int, ...]] = []
    offset = [0]
    for n, (given, packets) in enumerate(conversations):
        for name, value in (plain | given).items():
            columns[name][n] = octets_of(value) if isinstance(value, str) else value
        for p in packets:
            rows.append(
                (START_NS + p.time_us * 1000, p.direction, p.ip_total_length, p.ip_header_length, p.control,
                 p.tcp_header_length, p.tcp_event)
            )  # fmt: skip
        offset.append(len(rows))
    values = np.array(rows, np.int64).reshape(len(rows), len(PACKET_COLUMNS))
    columns |= {name: values[:, k].astype(dtype) for k, (name, dtype) in enumerate(PACKET_COLUMNS.items())}
    return ConversationTable(packet_offset=np.array(offset, np.int64), **columns)


def chance_table(seed: int, conversations: int = 12, has_events: bool = True) -> ConversationTable:
    """A table in which nothing is promised but the column types: lengths, flags and times are drawn freely."""
    rng = np.random.default_rng(seed)
    return table_of(*(_chance_conversation(rng, has_events) for _ in range(conversations)))


def _chance_conversation(rng: np.random.Generator, has_events: bool) -> tuple[dict[str, object], list[Packet]]:
    is_6 = rng.random() < 0.3
    protocol = int(rng.choice([TCP, TCP, TCP, UDP, UDP, ICMPV6 if is_6 else ICMP, SCTP, *rng.choice(PROTOCOLS, 1)]))
    network = "fd00::{:x}" if is_6 else "10.0.0.{}"
    groups = ("ff02::fb", "ff02::1:ff00:7", "ff02::16") if is_6 else ("224.0.0.22", "239.1.1.1", "255.255.255.255")
    responder = network.format(rng.integers(1, 6))
    if protocol != TCP and rng.random() < 0.2:
        responder = str(rng.choice(groups))
    fields = {
        "initiator_address": network.format(rng.integers(1, 6)),
        "responder_address": responder,
        "ip_version": 6 if is_6 else 4,
        "protocol_identifier": protocol,
        "initiator_port": int(rng.integers(49_152, 49_160)),
        "responder_port": int(rng.choice(SERVICE_PORTS)),
        "initiator_ttl": int(rng.integers(0, 256)),
        "responder_ttl": int(rng.integers(0, 256)),
        "initiator_class_of_service": int(rng.integers(0, 256)),
        "vlan_id": int(rng.choice([0, 0, 7, 4094])),
        "is_fragment": int(rng.random() < 0.05),
        "continues_from_before": int(rng.integers(0, 2)),
    }
    fields["responder_syn_ttl"] = fields["responder_ttl"] // 2
    count = int(rng.integers(1, 30))
    times = np.sort(rng.integers(0, 60_000_000, count))
    if rng.random() < 0.1:
        rng.shuffle(times)
    flags = [SYN, SYN | ACK, ACK, ACK, ACK | PSH, ACK | PSH, ACK | FIN, RST, RST | ACK, SYN | FIN, 0, FIN | PSH | 0x20]
    likely = rng.random() < 0.6
    packets = []
    for k in range(count):
        direction = int(rng.integers(0, 2))
        event = int(rng.integers(0, 5)) if has_events and rng.random() < 0.2 else 0
        control, header = 0, 0
        if protocol == TCP:
            header = int(rng.choice([20, 24, 28, 32, 36, 40, 44, 60]))
            control = int(rng.choice(flags))
            if likely:
                direction = k & 1 if k < 3 else direction
                control = (SYN, SYN | ACK, ACK)[k] if k < 3 else int(rng.choice([ACK, ACK | PSH, ACK | PSH]))
        elif protocol in (ICMP, ICMPV6):
            kinds = (1, 2, 3, 4, 128, 129, 130, 131, 132, 133, 134, 135, 136, 137, 143) if is_6 else range(20)
            control = int(rng.choice(kinds)) << 8 | int(rng.choice([0, 0, 1, 4]))
        ip_header = 40 if is_6 else 20
        length = ip_header + header + int(rng.choice([0, 0, 1, 8, 20, 48, 100, 333, 1400]))
        if rng.random() < 0.05:
            length, ip_header = int(rng.integers(0, 70_000)), int(rng.integers(0, 400))
        packets.append(Packet(int(times[k]), direction, length, control, header, event, ip_header))
    return fields, packets
