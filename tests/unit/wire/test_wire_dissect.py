"""IPv4, IPv6 and transports into columns: values by hand, and the reason for each frame that is not kept."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from nsstream.trace.fields import PACKET_FIELDS
from nsstream.wire import COLUMNS

ETHERNET_IPV4 = bytes.fromhex("020000000002 020000000001 0800")
ETHERNET_IPV6 = bytes.fromhex("020000000002 020000000001 86dd")
# 192.0.2.1:443 > 198.51.100.7:50000, SYN and ACK, sequence 0x01020304, acknowledgement 0x0a0b0c0d, window 0xfaf0, MSS
TCP_SYN_ACK = bytes.fromhex("01bb c350 01020304 0a0b0c0d 6012 faf0 0000 0000 020405b4")
IPV4_TCP = bytes.fromhex("45b8 002c 1c46 4000 3f06 0000 c0000201 c6336407") + TCP_SYN_ACK
UDP_DNS = bytes.fromhex("d431 0035 000c 0000 01020304")
IPV6_UDP = (
    bytes.fromhex("608abcde 000c 11 40")
    + bytes.fromhex("20010db8" + "00" * 11 + "01")
    + bytes.fromhex("20010db8" + "00" * 11 + "02")
    + UDP_DNS
)


def ipv4(protocol: int, payload: bytes, *, total_length: int | None = None, fragment: int = 0) -> bytes:
    total_length = 20 + len(payload) if total_length is None else total_length
    return (
        struct.pack("!BBHHHBBH", 0x45, 0, total_length, 7, fragment, 64, protocol, 0)
        + bytes.fromhex("c0000201c6336407")
        + payload
    )


def test_columns_are_those_of_the_trace() -> None:
    assert {name: (dtype, cell) for name, (dtype, cell) in COLUMNS.items()} == {
        name: (dtype.type, cell) for name, (dtype, cell, _) in PACKET_FIELDS.items()
    }
    assert list(COLUMNS) == list(PACKET_FIELDS)


def test_ipv4_tcp_fills_every_column(capture: Callable[..., bytes], read: Callable) -> None:
    batch, tally = read(capture([ETHERNET_IPV4 + IPV4_TCP]))
    assert tally.kept == 1
    row = {name: column[0].tolist() for name, column in batch.columns().items()}
    assert row == {
        "observation_time_ns": 1_700_000_000_000_000_000,
        "ip_version": 4,
        "source_address": list(bytes.fromhex("00" * 10 + "ffff c0000201")),
        "destination_address": list(bytes.fromhex("00" * 10 + "ffff c6336407")),
        "protocol_identifier": 6,
        "source_transport_port": 443,
        "destination_transport_port": 50000,
        "ip_total_length": 44,
        "ip_header_length": 20,
        "ip_class_of_service": 0xB8,
        "ip_ttl": 63,
        "flow_label_ipv6": 0,
        "fragment_identification": 0x1C46,
        "fragment_offset": 0,
        "fragment_flags": 2,
        "tcp_control_bits": 0x12,
        "tcp_sequence_number": 0x01020304,
        "tcp_acknowledgement_number": 0x0A0B0C0D,
        "tcp_window_size": 0xFAF0,
        "tcp_header_length": 24,
        "icmp_type": 0,
        "icmp_code": 0,
        "vlan_id": 0,
    }


def test_ipv6_udp_fills_every_column(capture: Callable[..., bytes], read: Callable) -> None:
    batch, _ = read(capture([ETHERNET_IPV6 + IPV6_UDP]))
    row = {name: column[0].tolist() for name, column in batch.columns().items()}
    zero = {name for name, value in row.items() if value == 0}
    assert zero == {
        "fragment_identification", "fragment_offset", "fragment_flags", "tcp_control_bits", "tcp_sequence_number",
        "tcp_acknowledgement_number", "tcp_window_size", "tcp_header_length", "icmp_type", "icmp_code", "vlan_id",
    }  # fmt: skip
    assert bytes(row["source_address"]) == bytes.fromhex("20010db8" + "00" * 11 + "01")
    assert bytes(row["destination_address"]) == bytes.fromhex("20010db8" + "00" * 11 + "02")
    assert (row["ip_version"], row["ip_ttl"], row["ip_class_of_service"]) == (6, 64, 0x08)
    assert (row["flow_label_ipv6"], row["ip_total_length"], row["ip_header_length"]) == (0xABCDE, 52, 40)
    assert (row["protocol_identifier"], row["source_transport_port"]) == (17, 54321)
    assert row["destination_transport_port"] == 53


def test_other_protocol_is_a_row_without_ports(capture: Callable[..., bytes], read: Callable) -> None:
    batch, _ = read(capture([ETHERNET_IPV4 + ipv4(47, b"\xff" * 8)]))
    assert batch.protocol_identifier[0] == 47
    assert batch.source_transport_port[0] == batch.destination_transport_port[0] == 0


def test_later_fragment_has_no_transport_columns(capture: Callable[..., bytes], read: Callable) -> None:
    batch, _ = read(capture([ETHERNET_IPV4 + ipv4(6, b"\xff" * 5, fragment=0x20B9)]))
    assert batch.fragment_offset[0] == 0xB9
    assert batch.fragment_flags[0] == 1
    assert batch.source_transport_port[0] == batch.tcp_control_bits[0] == batch.tcp_header_length[0] == 0


def test_options_move_the_transport_header(capture: Callable[..., bytes], read: Callable) -> None:
    header = bytearray(IPV4_TCP[:20])
    header[0] = 0x47
    header[2:4] = (52).to_bytes(2, "big")
    batch, _ = read(capture([ETHERNET_IPV4 + bytes(header) + b"\x01" * 8 + TCP_SYN_ACK]))
    assert batch.ip_header_length[0] == 28
    assert batch.source_transport_port[0] == 443


def test_ethernet_padding_does_not_count(capture: Callable[..., bytes], read: Callable) -> None:
    batch, _ = read(capture([(ETHERNET_IPV4 + IPV4_TCP).ljust(60, b"\0")]))
    assert batch.ip_total_length[0] == 44


def test_total_length_zero_means_the_length_on_the_wire(capture: Callable[..., bytes], read: Callable) -> None:
    offloaded = ipv4(6, TCP_SYN_ACK + bytes(30_000), total_length=0)
    batch, _ = read(capture([ETHERNET_IPV4 + offloaded], snaplen=96))
    assert batch.ip_total_length[0] == 20 + 24 + 30_000


def test_ipv6_payload_length_zero_means_the_length_on_the_wire(capture: Callable[..., bytes], read: Callable) -> None:
    offloaded = IPV6_UDP[:4] + b"\0\0\x06\x40" + IPV6_UDP[8:40] + TCP_SYN_ACK + bytes(70_000)
    batch, _ = read(capture([ETHERNET_IPV6 + offloaded], snaplen=96))
    assert batch.ip_total_length[0] == 40 + 24 + 70_000


def test_total_length_beyond_the_frame_is_kept(capture: Callable[..., bytes], read: Callable) -> None:
    batch, _ = read(capture([ETHERNET_IPV4 + ipv4(17, UDP_DNS, total_length=1500)]))
    assert batch.ip_total_length[0] == 1500


@pytest.mark.parametrize(
    ("frame", "needed"),
    [
        (ETHERNET_IPV4 + IPV4_TCP, 14 + 20 + 16),
        (ETHERNET_IPV4 + ipv4(17, UDP_DNS), 14 + 20 + 4),
        (ETHERNET_IPV4 + ipv4(132, bytes(20)), 14 + 20 + 4),
        (ETHERNET_IPV4 + ipv4(1, b"\x08\0" + bytes(6)), 14 + 20 + 2),
        (ETHERNET_IPV4 + ipv4(47, bytes(8)), 14 + 20),
        (ETHERNET_IPV4 + ipv4(17, UDP_DNS, fragment=0x0001), 14 + 20),
        (ETHERNET_IPV6 + IPV6_UDP, 14 + 40 + 4),
    ],
)
def test_row_is_kept_as_soon_as_its_headers_are_captured(
    frame: bytes, needed: int, fate_of: Callable[..., str]
) -> None:
    fates = [fate_of(frame, snaplen=snaplen) for snaplen in range(len(frame) + 1)]
    assert fates == ["cut_by_snaplen"] * needed + ["kept"] * (len(frame) + 1 - needed)


@pytest.mark.parametrize(
    ("reason", "frame"),
    [
        ("short_frame", b""),
        ("short_frame", ETHERNET_IPV4[:13]),
        ("short_frame", ETHERNET_IPV4),
        ("short_frame", ETHERNET_IPV4 + IPV4_TCP[:19]),
        ("short_frame", ETHERNET_IPV4 + b"\x46" + IPV4_TCP[1:22]),
        ("short_frame", ETHERNET_IPV4 + IPV4_TCP[:35]),
        ("short_frame", ETHERNET_IPV6 + IPV6_UDP[:39]),
        ("bad_ip_version", ETHERNET_IPV4 + b"\x55" + IPV4_TCP[1:]),
        ("bad_ip_version", ETHERNET_IPV4 + IPV6_UDP),
        ("bad_ip_version", ETHERNET_IPV6 + IPV4_TCP),
        ("bad_ip_header_length", ETHERNET_IPV4 + b"\x44" + IPV4_TCP[1:]),
        ("bad_ip_total_length", ETHERNET_IPV4 + ipv4(17, UDP_DNS, total_length=19)),
        ("bad_transport_length", ETHERNET_IPV4 + ipv4(6, TCP_SYN_ACK, total_length=39)),
        ("bad_transport_length", ETHERNET_IPV4 + ipv4(6, TCP_SYN_ACK, total_length=40)),
        ("bad_transport_length", ETHERNET_IPV4 + ipv4(6, TCP_SYN_ACK[:12] + b"\x40" + TCP_SYN_ACK[13:])),
        ("bad_transport_length", ETHERNET_IPV4 + ipv4(17, UDP_DNS, total_length=27)),
        ("bad_transport_length", ETHERNET_IPV4 + ipv4(132, bytes(11))),
        ("bad_transport_length", ETHERNET_IPV4 + ipv4(1, bytes(3))),
    ],
)
def test_malformed_frame_is_counted_by_reason(reason: str, frame: bytes, fate_of: Callable[..., str]) -> None:
    assert fate_of(frame) == reason


def test_tcp_options_may_go_on_in_the_next_fragment(fate_of: Callable[..., str]) -> None:
    assert fate_of(ETHERNET_IPV4 + ipv4(6, TCP_SYN_ACK[:20], fragment=0x2000)) == "kept"
