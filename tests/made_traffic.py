"""Packets made by hand, and a minute of traffic made by chance: connections, queries, echoes, over IPv4 and IPv6."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any

import numpy as np

from nsstream.encode.encoding import sort_by_start
from nsstream.trace import ConversationTable, PacketBatch
from nsstream.trace.fields import ACK, FIN, ICMP, ICMPV6, PSH, SYN, TCP, UDP
from nsstream.trace.grouping import OpenConversations, group_conversations

MS = 1_000_000
MINUTE_NS = 60_000 * MS
START_NS = 28_000_000 * MINUTE_NS  # a whole minute, so that chunks of a minute begin there
CLIENT, SERVER = ("192.0.2.1", 40_000), ("198.51.100.2", 80)

Row = dict[str, Any]


def octets_of(address: str) -> np.ndarray:
    """Sixteen octets of an address; IPv4 as ::ffff:a.b.c.d."""
    parsed = ipaddress.ip_address(address)
    packed = parsed.packed if parsed.version == 6 else bytes(10) + b"\xff\xff" + parsed.packed
    return np.frombuffer(packed, np.uint8)


def packet(
    time_ms: float,
    source: tuple[str, int] = CLIENT,
    destination: tuple[str, int] = SERVER,
    protocol: int = UDP,
    octets: int = 0,
    **fields: Any,
) -> Row:
    """One packet with `octets` of payload, `time_ms` after `START_NS`; fields by the names of `PACKET_FIELDS`."""
    is_6 = ":" in source[0]
    header = 40 if is_6 else 20
    transport = {TCP: 20, UDP: 8}.get(protocol, 8)
    return {
        "observation_time_ns": START_NS + int(time_ms * MS),
        "ip_version": 6 if is_6 else 4,
        "source_address": octets_of(source[0]),
        "destination_address": octets_of(destination[0]),
        "protocol_identifier": protocol,
        "source_transport_port": source[1],
        "destination_transport_port": destination[1],
        "ip_header_length": header,
        "ip_total_length": header + transport + octets,
        "tcp_header_length": 20 if protocol == TCP else 0,
        "ip_ttl": 64,
    } | fields


def tcp(
    time_ms: float,
    flags: int,
    seq: int = 0,
    ack: int = 0,
    octets: int = 0,
    window: int = 1000,
    ends: tuple[tuple[str, int], tuple[str, int]] = (CLIENT, SERVER),
    **fields: Any,
) -> Row:
    """One segment from the first of `ends` to the second."""
    known = {"tcp_sequence_number": seq % 2**32, "tcp_acknowledgement_number": ack % 2**32, "tcp_window_size": window}
    return packet(time_ms, *ends, TCP, octets, tcp_control_bits=flags, **known, **fields)


def back(
    time_ms: float, flags: int, seq: int = 0, ack: int = 0, octets: int = 0, window: int = 1000, **fields: Any
) -> Row:
    """One segment from the server to the client."""
    return tcp(time_ms, flags, seq, ack, octets, window, ends=(SERVER, CLIENT), **fields)


def batch_of(rows: Iterable[Row]) -> PacketBatch:
    """These packets in this order."""
    rows = list(rows)
    columns = {name: column.copy() for name, column in PacketBatch.empty(len(rows)).columns().items()}
    for i, row in enumerate(rows):
        for name, value in row.items():
            columns[name][i] = value
    return PacketBatch.from_columns(columns)


def connection(
    time_ms: float, client: tuple[str, int], server: tuple[str, int], segments: int, *, is_closed: bool = True
) -> list[Row]:
    """A lawful connection: handshake, a request, `segments` of answer each acknowledged, a close if it is closed."""
    up, down = (client, server), (server, client)
    rows = [
        tcp(time_ms, SYN, 99, ends=up),
        tcp(time_ms + 1, SYN | ACK, 499, 100, ends=down),
        tcp(time_ms + 2, ACK, 100, 500, ends=up),
        tcp(time_ms + 3, ACK | PSH, 100, 500, octets=80, ends=up),
    ]
    at, seq = time_ms + 5, 500
    for _ in range(segments):
        rows.append(tcp(at, ACK | PSH, seq, 180, octets=600, ends=down))
        seq += 600
        rows.append(tcp(at + 1, ACK, 180, seq, ends=up))
        at += 3
    if is_closed:
        rows += [
            tcp(at, FIN | ACK, 180, seq, ends=up),
            tcp(at + 1, FIN | ACK, seq, 181, ends=down),
            tcp(at + 2, ACK, 181, seq + 1, ends=up),
        ]
    return rows


def made_packets(seed: int = 1, count: int = 48, minute: int = 0) -> PacketBatch:
    """A minute of `count` conversations, in time order: web (one in twelve long and left open), names, echoes, IPv6."""
    rng = np.random.default_rng((seed, minute))
    rows: list[Row] = []
    for i in range(count):
        at = minute * 60_000 + 59_000 * i / count + float(rng.random())
        client = f"192.0.2.{1 + 3 * minute + int(rng.integers(6))}"  # hosts come and go with the minutes
        port = 33_000 + int(rng.integers(20_000))
        if i % 12 == 5:
            rows += connection(at, (client, port), ("198.51.100.9", 443), 25, is_closed=False)
        elif i % 3 == 0:
            server = (f"198.51.100.{1 + int(rng.integers(3))}", int(rng.choice([80, 443])))
            rows += connection(at, (client, port), server, int(rng.integers(1, 6)))
        elif i % 3 == 1:
            ends = (client, port), ("192.0.2.53", 53)
            rows += [packet(at, *ends, octets=30), packet(at + 7, *ends[::-1], octets=90, ip_ttl=60)]
        elif i % 2:
            ends = ("2001:db8::1", port), (f"2001:db8:1::{1 + int(rng.integers(3))}", 53)
            rows += [packet(at, *ends, octets=40), packet(at + 9, *ends[::-1], octets=120, ip_ttl=58)]
        else:
            ends = (client, 0), ("198.51.100.1", 0)
            rows += [packet(at, *ends, ICMP, 56, icmp_type=8), packet(at + 5, *ends[::-1], ICMP, 56, icmp_type=0)]
    rows.append(packet(minute * 60_000 + 30_000, ("fe80::1", 0), ("ff02::1", 0), ICMPV6, 24, icmp_type=134))
    return batch_of(sorted(rows, key=lambda row: row["observation_time_ns"]))


def made_table(
    seed: int = 1, count: int = 48, minute: int = 0, before: OpenConversations | None = None
) -> ConversationTable:
    """`made_packets` as conversations in order of start."""
    return sort_by_start(group_conversations(made_packets(seed, count, minute), before)[0])
