"""pcapng: blocks made by hand, in both byte orders; sections, interfaces, resolutions, and what is refused."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from scapy.utils import RawPcapReader

from nsstream.errors import WireError
from nsstream.wire import PcapReader

IPV4 = bytes.fromhex("4500 001c 0001 0000 4011 0000 c0000201 c6336407 d431 0035 0008 0000")
ETHERNET = bytes.fromhex("020000000002 020000000001 0800") + IPV4
TICKS = 1_700_000_000_123_456_789


def block(block_type: int, body: bytes, order: str = "<") -> bytes:
    length = 12 + len(body)
    return struct.pack(order + "II", block_type, length) + body + struct.pack(order + "I", length)


def padded(octets: bytes) -> bytes:
    return octets + bytes(-len(octets) % 4)


def options(order: str, *pairs: tuple[int, bytes]) -> bytes:
    return b"".join(struct.pack(order + "HH", code, len(value)) + padded(value) for code, value in [*pairs, (0, b"")])


def section(order: str = "<") -> bytes:
    return block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1), order)


def interface(link_type: int = 101, *pairs: tuple[int, bytes], order: str = "<", snaplen: int = 0) -> bytes:
    return block(1, struct.pack(order + "HHI", link_type, 0, snaplen) + options(order, *pairs), order)


def enhanced(frame: bytes, ticks: int = 0, *, interface_id: int = 0, original: int = 0, order: str = "<") -> bytes:
    head = struct.pack(
        order + "IIIII", interface_id, ticks >> 32, ticks & 0xFFFFFFFF, len(frame), original or len(frame)
    )
    return block(6, head + padded(frame), order)


@pytest.mark.parametrize("order", ["<", ">"])
def test_enhanced_packet_is_read_in_either_byte_order(order: str, read: Callable) -> None:
    octets = section(order) + interface(order=order) + enhanced(IPV4, TICKS // 1000, order=order)
    batch, tally = read(octets)
    assert tally.kept == 1
    assert batch.observation_time_ns[0] == TICKS // 1000 * 1000
    assert batch.destination_transport_port[0] == 53


@pytest.mark.parametrize(
    ("if_tsresol", "ticks", "expected_ns"),
    [
        (0, 1_700_000_000, 1_700_000_000_000_000_000),
        (3, 1_700_000_000_123, 1_700_000_000_123_000_000),
        (6, 1_700_000_000_123_456, 1_700_000_000_123_456_000),
        (9, TICKS, TICKS),
        (10, TICKS * 10 + 9, TICKS),
        (12, 2**63 + 999, (2**63 + 999) // 1000),
        (27, 2**64 - 1, 18),
        (0x80, 1_700_000_000, 1_700_000_000_000_000_000),
        (0x80 | 10, (1_700_000_000 << 10) | 512, 1_700_000_000_500_000_000),
        (0x80 | 32, (1_700_000_000 << 32) | 1, 1_700_000_000_000_000_000),
        (0x80 | 32, (1_700_000_000 << 32) | (2**32 - 1), 1_700_000_000_999_999_999),
        (0x80 | 34, 2**64 - 1, 1_073_741_823_999_999_999),
        (0x80 | 60, 3 << 59, 1_500_000_000),
        (0x80 | 64, 2**63, 500_000_000),
        (0x80 | 127, 2**64 - 1, 0),
    ],
)
def test_resolution_is_a_power_of_10_or_2(if_tsresol: int, ticks: int, expected_ns: int, read: Callable) -> None:
    batch, _ = read(section() + interface(101, (9, bytes([if_tsresol]))) + enhanced(IPV4, ticks))
    assert batch.observation_time_ns.tolist() == [expected_ns]


def test_offset_is_added(read: Callable) -> None:
    forth = interface(101, (9, b"\x09"), (14, struct.pack("<q", 1_700_000_000)))
    back = interface(101, (9, b"\x09"), (14, struct.pack("<q", -1)))
    packets = enhanced(IPV4, 5) + enhanced(IPV4, 10**9, interface_id=1)
    assert read(section() + forth + back + packets)[0].observation_time_ns.tolist() == [1_700_000_000_000_000_005, 0]


@pytest.mark.parametrize(
    ("pairs", "ticks"),
    [
        ([(9, b"\x00")], 2**40),
        ([(9, b"\x06")], 2**64 - 1),
        ([(9, b"\x80")], 2**40),
        ([(9, b"\x1c")], 1),
        ([(9, b"\x09"), (14, struct.pack("<q", -1))], 1),
        ([(9, b"\x09"), (14, struct.pack("<q", 9_223_372_036))], 2**62),
        ([(9, b"\x09"), (14, struct.pack("<q", 2**62))], 1),
        ([(9, b"\x09"), (14, struct.pack("<q", -(2**63)))], 1),
    ],
)
def test_time_that_no_column_can_hold_is_counted(pairs: list[tuple[int, bytes]], ticks: int, read: Callable) -> None:
    _, tally = read(section() + interface(101, *pairs) + enhanced(IPV4, ticks))
    assert tally.malformed == {"bad_time": 1}


def test_options_that_are_cut_or_of_wrong_length_are_passed_over(read: Callable) -> None:
    odd = [(9, b""), (14, b"\0\0\0"), (2, b"eth0")]
    cut = block(1, struct.pack("<HHI", 101, 0, 0) + struct.pack("<HH", 9, 400))
    batch, _ = read(section() + interface(101, *odd) + cut + enhanced(IPV4, 7) + enhanced(IPV4, 8, interface_id=1))
    assert batch.observation_time_ns.tolist() == [7000, 8000]


def test_interfaces_and_sections_keep_their_own_link_types(read: Callable) -> None:
    first = section() + interface(101) + interface(1) + enhanced(ETHERNET, 1, interface_id=1) + enhanced(IPV4, 2)
    second = section(">") + interface(1, order=">") + enhanced(ETHERNET, 3, order=">")
    batch, tally = read(first + second)
    assert batch.observation_time_ns.tolist() == [1000, 2000, 3000]
    assert tally.kept == 3


def test_packets_of_an_unsupported_link_type_are_counted(read: Callable) -> None:
    octets = section() + interface(101) + interface(105) + enhanced(IPV4) + enhanced(IPV4, interface_id=1)
    _, tally = read(octets)
    assert (tally.kept, dict(tally.unsupported)) == (1, {"link_type": 1})


def test_simple_packets_are_counted_since_they_have_no_time(read: Callable) -> None:
    simple = block(3, struct.pack("<I", len(IPV4)) + IPV4)
    assert read(section() + interface(snaplen=20) + simple)[1].unsupported == {"no_time": 1}


@pytest.mark.parametrize("order", ["<", ">"])
def test_obsolete_packet_block_is_read(order: str, read: Callable) -> None:
    body = struct.pack(order + "HHIIII", 1, 9, 0, 5, len(IPV4), 1500) + IPV4
    octets = section(order) + interface(1, order=order) + interface(101, order=order) + block(2, body, order)
    batch, _ = read(octets)
    assert batch.observation_time_ns.tolist() == [5000]


def test_other_blocks_are_skipped(read: Callable) -> None:
    others = block(4, bytes(8)) + block(10, bytes(100)) + block(0xBAD, bytes(4)) + block(0x40000BAD, b"")
    assert read(section() + others + interface() + others + enhanced(IPV4))[1].offered == 1


def test_drops_of_the_capture_tool_are_told(read: Callable) -> None:
    def statistics(interface_id: int, dropped: int) -> bytes:
        return block(5, struct.pack("<III", interface_id, 0, 0) + options("<", (5, struct.pack("<Q", dropped))))

    one = section() + interface() + interface() + statistics(0, 3) + statistics(0, 5) + statistics(1, 1)
    two = section() + interface() + statistics(0, 10) + statistics(7, 1000)
    assert read(one + two)[1].dropped == {"tool": 16}


HEAD = section() + interface()


@pytest.mark.parametrize(
    ("complaint", "octets"),
    [
        ("byte-order magic", block(0x0A0D0D0A, bytes(16))),
        ("version must be 1, got 2.0", block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 2, 0, -1))),
        ("not a multiple of 4", struct.pack("<III", 0x0A0D0D0A, 24, 0x1A2B3C4D) + bytes(12)),
        ("not a multiple of 4", HEAD + struct.pack("<II", 6, 13) + bytes(5)),
        ("not a multiple of 4", HEAD + struct.pack("<II", 6, 8) + bytes(8)),
        ("not a multiple of 4", HEAD + struct.pack("<II", 6, 2**24 + 4) + bytes(8)),
        ("not a multiple of 4", HEAD + struct.pack("<II", 1, 2**24 + 4) + bytes(8)),
        ("not a multiple of 4", HEAD + block(6, bytes(16))),
        ("not a multiple of 4", HEAD + block(3, b"")),
        ("two lengths differ", HEAD + enhanced(IPV4)[:-4] + bytes(4)),
        ("two lengths differ", HEAD + interface()[:-4] + bytes(4)),
        ("interface that was not described", HEAD + enhanced(IPV4, interface_id=1)),
        ("interface that was not described", section() + block(3, struct.pack("<I", 0))),
        ("more captured octets", HEAD + block(6, struct.pack("<IIIII", 0, 0, 0, 29, 29) + IPV4)),
        ("more than 4096 interfaces", section() + interface() * 4097),
        ("shorter than 20", section() + block(1, bytes(4))),
        ("shorter than 24", HEAD + block(5, bytes(8))),
    ],
)
def test_corrupt_block_is_refused(complaint: str, octets: bytes) -> None:
    with pytest.raises(WireError, match=complaint):
        PcapReader().feed(octets)


def test_error_tells_the_offset_and_the_whole_records_before() -> None:
    reader = PcapReader()
    assert len(reader.feed(HEAD + enhanced(IPV4) + struct.pack("<II", 6, 9) + bytes(4))["ip_ttl"]) == 1
    with pytest.raises(WireError, match="corrupt at octet 112, after 1 whole records"):
        reader.finish()


def test_block_larger_than_the_buffer_is_read() -> None:
    reader = PcapReader(64)
    octets = HEAD + block(0x0BAD, bytes(100_000)) + enhanced(IPV4)
    kept = sum(len(reader.feed(octets[i : i + 1000])["ip_ttl"]) for i in range(0, len(octets), 1000))
    assert kept == 1


def test_what_editcap_writes_is_read_as_scapy_reads_it(
    tmp_path: Path, capture: Callable[..., bytes], read: Callable
) -> None:
    classic, modern = tmp_path / "in.pcap", tmp_path / "out.pcapng"
    classic.write_bytes(capture([ETHERNET, ETHERNET + b"\1", ETHERNET + b"\1\2"]))
    subprocess.run(["editcap", "-F", "pcapng", classic, modern], check=True, capture_output=True)
    batch, tally = read(modern.read_bytes())
    with RawPcapReader(str(modern)) as reader:
        times_ns = [((m.tshigh << 32) | m.tslow) * 10**9 // m.tsresol for _, m in reader]
    assert batch.observation_time_ns.tolist() == times_ns
    assert tally.kept == 3
