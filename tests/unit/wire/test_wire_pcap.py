"""Classic pcap as it is written: exact octets, bounds, and what capinfos and scapy say of it."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from scapy.utils import RawPcapReader

from nsstream.wire.pcap import pcap_header, write_records

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
        ([(1 << 32) * 10**9], [0, 3]),
    ],
)
def test_arguments_out_of_bounds_are_refused(times_ns: list[int], offset: list[int]) -> None:
    with pytest.raises(ValueError, match=r"must"):
        write_records(np.array(times_ns, np.int64), np.array(offset, np.int64), OCTETS)
