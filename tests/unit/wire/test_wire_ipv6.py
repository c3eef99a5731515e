"""IPv6 extension headers: where the walk ends, and what ends it early."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from nsstream.wire.ipv6 import MAX_EXTENSION_HEADERS

UDP = bytes.fromhex("d431 0035 0008 0000")


def ipv6(next_header: int, payload: bytes) -> bytes:
    addresses = bytes.fromhex("20010db8" + "00" * 11 + "01" + "20010db8" + "00" * 11 + "02")
    return struct.pack("!IHBB", 0x60000000, len(payload), next_header, 64) + addresses + payload


@pytest.mark.parametrize(
    ("first", "extension"),
    [
        (0, bytes.fromhex("11 00 0104 00000000")),
        (43, bytes.fromhex("11 02 0001 00000000") + bytes(16)),
        (60, bytes.fromhex("11 00 0104 00000000")),
        (51, bytes.fromhex("11 04 0000 00000100 00000001") + bytes(12)),
        (135, bytes.fromhex("11 00 0000 00000000")),
    ],
)
def test_extension_header_is_passed(
    first: int, extension: bytes, capture: Callable[..., bytes], read: Callable
) -> None:
    batch, _ = read(capture([ipv6(first, extension + UDP)], 101))
    assert batch.protocol_identifier[0] == 17
    assert batch.destination_transport_port[0] == 53
    assert batch.ip_header_length[0] == 40 + len(extension)


def test_fragment_header_fills_the_fragment_columns(capture: Callable[..., bytes], read: Callable) -> None:
    first = ipv6(44, bytes.fromhex("11 00 0001 deadbeef") + UDP)
    later = ipv6(44, bytes.fromhex("11 00 05a8 deadbeef") + UDP)
    batch, _ = read(capture([first, later], 101))
    assert batch.fragment_identification.tolist() == [0xDEADBEEF] * 2
    assert batch.fragment_offset.tolist() == [0, 0x05A8 >> 3]
    assert batch.fragment_flags.tolist() == [1, 0]
    assert batch.destination_transport_port.tolist() == [53, 0]
    assert batch.ip_header_length.tolist() == [48, 48]


def test_walk_ends_at_a_later_fragment(capture: Callable[..., bytes], read: Callable) -> None:
    later = ipv6(44, bytes.fromhex("3c 00 05a8 deadbeef") + b"\xff" * 8)
    batch, _ = read(capture([later], 101))
    assert batch.protocol_identifier[0] == 60
    assert batch.ip_header_length[0] == 48


@pytest.mark.parametrize("protocol", [50, 59, 139, 255])
def test_walk_ends_at_what_is_no_extension_header(protocol: int, capture: Callable[..., bytes], read: Callable) -> None:
    batch, _ = read(capture([ipv6(0, bytes([protocol, 0]) + bytes(6))], 101))
    assert batch.protocol_identifier[0] == protocol


def test_no_next_header_without_payload_is_a_row(capture: Callable[..., bytes], read: Callable) -> None:
    batch, _ = read(capture([ipv6(59, b"")], 101))
    assert batch.ip_total_length[0] == 40


def test_chain_is_bounded(fate_of: Callable[..., str]) -> None:
    def chain(n: int) -> bytes:
        return ipv6(60, (b"\x3c\0" + bytes(6)) * (n - 1) + b"\x11\0" + bytes(6) + UDP)

    assert fate_of(chain(MAX_EXTENSION_HEADERS), 101) == "kept"
    assert fate_of(chain(MAX_EXTENSION_HEADERS + 1), 101) == "extension_chain"


@pytest.mark.parametrize("payload", [b"\x11\x01" + bytes(6), b"\x11\0" + bytes(5)])
def test_extension_header_beyond_the_payload_is_malformed(payload: bytes, fate_of: Callable[..., str]) -> None:
    assert fate_of(ipv6(60, payload), 101) == "bad_extension_header"


def test_extension_header_may_be_cut_by_snaplen(fate_of: Callable[..., str]) -> None:
    assert fate_of(ipv6(60, b"\x11\x01" + bytes(14) + UDP), 101, 47) == "cut_by_snaplen"
    assert fate_of(ipv6(60, b"\x11\x01" + bytes(14) + UDP), 101, 56) == "cut_by_snaplen"
    assert fate_of(ipv6(60, b"\x11\x01" + bytes(14) + UDP), 101, 60) == "kept"
