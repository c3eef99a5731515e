"""Classic pcap, written and read: exact octets, bounds, all four variants, and what capinfos and scapy say."""

import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scapy.utils import RawPcapReader

from nsstream.errors import OutputError, WireError
from nsstream.wire import PcapReader
from nsstream.wire.pcap import PcapHeader, pcap_header, write_records

FRAMES = [b"\x01\x02\x03", b"", b"\xff" * 60]
TIMES_NS = np.array([1_700_000_000_123_456_789, 1_700_000_000_123_456_790, (1 << 32) * 10**9 - 1], np.int64)
OFFSET = np.array([0, 3, 3, 63], np.int64)
OCTETS = np.frombuffer(b"".join(FRAMES), np.uint8)


def test_header_is_nanosecond_little_endian() -> None:
    assert pcap_header(linktype=101, snaplen=96) == bytes.fromhex(
        "4d3cb2a1 0200 0400 00000000 00000000 60000000 65000000"
    )


def test_record_is_written_octet_by_octet() -> None:
    record = write_records(TIMES_NS[:1], OFFSET[:2], OCTETS)
    assert record == bytes.fromhex("00f15365 15cd5b07 03000000 03000000 010203")


def test_no_records_are_no_octets() -> None:
    assert write_records(TIMES_NS[:0], OFFSET[:1], OCTETS) == b""


def test_offset_need_not_start_at_zero() -> None:
    whole = write_records(TIMES_NS, OFFSET, OCTETS)
    assert whole.endswith(write_records(TIMES_NS[1:], OFFSET[1:], OCTETS))


def test_scapy_reads_the_frames_back(tmp_path: Path) -> None:
    path = tmp_path / "out.pcap"
    path.write_bytes(pcap_header() + write_records(TIMES_NS, OFFSET, OCTETS))
    with RawPcapReader(str(path)) as reader:
        assert reader.nano
        records = list(reader)
    assert [octets for octets, _ in records] == FRAMES
    assert [m.sec * 10**9 + m.usec for _, m in records] == TIMES_NS.tolist()


def test_capinfos_accepts_the_file(tmp_path: Path) -> None:
    path = tmp_path / "out.pcap"
    path.write_bytes(pcap_header() + write_records(TIMES_NS[:2], OFFSET[:3], OCTETS))
    told = subprocess.run(["capinfos", "-T", "-m", "-c", "-t", str(path)], capture_output=True, text=True, check=True)
    assert "nsecpcap" in told.stdout
    assert told.stdout.strip().split(",")[-1] == "2"


@pytest.mark.parametrize(
    ("times_ns", "offset"),
    [
        ([0], [0]),
        ([0], [0, 64]),
        ([0, 0], [0, 5, 3]),
        ([0], [-1, 3]),
        ([-1], [0, 3]),
    ],
)
def test_arguments_out_of_bounds_are_refused(times_ns: list[int], offset: list[int]) -> None:
    with pytest.raises(ValueError, match=r"must"):
        write_records(np.array(times_ns, np.int64), np.array(offset, np.int64), OCTETS)


def test_a_time_that_a_pcap_does_not_have_is_an_error_of_the_output() -> None:
    with pytest.raises(OutputError, match=r"no times after 7 February 2106: .* write a \.pcapng"):
        write_records(np.array([(1 << 32) * 10**9], np.int64), OFFSET[:2], OCTETS)


RAW_IPV4_UDP = bytes.fromhex("4500 001c 0001 0000 4011 0000 c0000201 c6336407 d431 0035 0008 0000")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("magic", "ns_per_unit"), [(0xA1B2C3D4, 1000), (0xA1B23C4D, 1)])
def test_every_variant_is_read(order: str, magic: int, ns_per_unit: int, read: Callable) -> None:
    octets = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 96, 101)
    octets += struct.pack(order + "IIII", 0xFFFFFFFF, 999_999, 28, 1500) + RAW_IPV4_UDP
    batch, tally = read(octets)
    assert tally.kept == 1
    assert batch.observation_time_ns[0] == 0xFFFFFFFF * 10**9 + 999_999 * ns_per_unit
    assert batch.destination_transport_port[0] == 53


def test_what_is_written_is_read_back(read: Callable) -> None:
    times_ns = np.arange(100, dtype=np.int64) * 123_456_789 + 1_700_000_000_000_000_000
    offset = np.arange(101, dtype=np.int64) * len(RAW_IPV4_UDP)
    octets = np.frombuffer(RAW_IPV4_UDP * 100, np.uint8)
    batch, tally = read(pcap_header(101) + write_records(times_ns, offset, octets))
    assert tally.kept == tally.offered == 100
    assert (batch.observation_time_ns == times_ns).all()


def test_original_length_below_the_captured_one_is_not_believed(read: Callable) -> None:
    octets = pcap_header(101) + struct.pack("<IIII", 0, 0, 28, 0) + RAW_IPV4_UDP[:2] + b"\0\0" + RAW_IPV4_UDP[4:]
    assert read(octets)[0].ip_total_length[0] == 28


def test_header_with_another_magic_or_version_is_refused() -> None:
    with pytest.raises(WireError, match="not a pcap magic number: 01 02 03 04"):
        PcapHeader.parse(b"\x01\x02\x03\x04" + bytes(20))
    with pytest.raises(WireError, match=r"version must be 2, got 543\.3"):
        PcapHeader.parse(struct.pack("<IHHiIII", 0xA1B2C3D4, 543, 3, 0, 0, 0, 1))


def test_absurd_captured_length_is_corrupt_at_its_offset() -> None:
    octets = pcap_header(101) + struct.pack("<IIII", 0, 0, 28, 28) + RAW_IPV4_UDP
    reader = PcapReader()
    assert len(reader.feed(octets + struct.pack("<IIII", 0, 0, 262_145, 262_145))["ip_ttl"]) == 1
    with pytest.raises(WireError, match="corrupt at octet 68, after 1 whole records: a record claims more than 262144"):
        reader.feed(bytes(16))


def test_largest_record_is_read(read: Callable) -> None:
    record = struct.pack("<IIII", 0, 0, 262_144, 262_144) + RAW_IPV4_UDP.ljust(262_144, b"\0")
    assert read(pcap_header(101) + record)[1].kept == 1
