import subprocess

import numpy as np
import pytest

from nsstream.wire.pcapng_writer import pcapng_header, write_packet_blocks

# draft-ietf-opsawg-pcapng 4.1, 4.2: section header; interface of Ethernet, snaplen 262144, if_tsresol 9
HEADER = bytes.fromhex(
    "0a0d0d0a 1c000000 4d3c2b1a 0100 0000 ffffffffffffffff 1c000000"
    "01000000 20000000 0100 0000 00000400 0900 0100 09 000000 0000 0000 20000000"
)
# 4.3: one packet of 5 octets, padded to 8, at 0x1_0000_0002 ns
BLOCK = bytes.fromhex("06000000 28000000 00000000 01000000 02000000 05000000 05000000 0102030405 000000 28000000")


def packets(lengths):
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), np.arange(sum(lengths), dtype=np.uint8)


def test_the_header_is_as_the_draft_says():
    assert pcapng_header() == HEADER


def test_a_packet_block_is_as_the_draft_says():
    octets = np.array([9, 1, 2, 3, 4, 5], np.uint8)
    assert write_packet_blocks(np.array([0x1_0000_0002], np.int64), np.array([1, 6], np.int64), octets) == BLOCK


def test_no_packets_are_no_octets():
    assert write_packet_blocks(np.empty(0, np.int64), np.zeros(1, np.int64), np.empty(0, np.uint8)) == b""


def test_tshark_reads_every_length_and_time_to_the_nanosecond(tmp_path):
    lengths = list(range(14, 40))
    offset, octets = packets(lengths)
    times = 1_700_000_000_123_456_789 + np.arange(len(lengths), dtype=np.int64) * 1_000_000_001
    path = tmp_path / "twin.pcapng"
    path.write_bytes(pcapng_header() + write_packet_blocks(times, offset, octets))
    listed = subprocess.run(
        ["tshark", "-r", path, "-T", "fields", "-e", "frame.time_epoch", "-e", "frame.len"],
        check=True, capture_output=True, text=True,
    ).stdout.split("\n")  # fmt: skip
    expected = [f"{t // 10**9}.{t % 10**9:09d}\t{n}" for t, n in zip(times.tolist(), lengths, strict=True)]
    assert listed[:-1] == expected


@pytest.mark.parametrize(
    ("times", "offset"), [([1, 2], [0, 1]), ([1], [0, 9]), ([1], [1, 0]), ([-1], [0, 1]), ([1], [-1, 1])]
)
def test_arrays_that_break_the_bounds_are_refused(times, offset):
    with pytest.raises(ValueError, match=r"offset must|packets must|times_ns must"):
        write_packet_blocks(np.array(times, np.int64), np.array(offset, np.int64), np.zeros(4, np.uint8))
