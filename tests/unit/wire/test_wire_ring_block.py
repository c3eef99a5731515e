"""The walk of a TPACKET_V3 block: frames as they were on the wire, and headers that lie."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ring_blocks import DATAGRAM, FRAME, MACS, SECONDS, ring_block, ring_frame

from nsstream.wire import RecordIndex, dissect
from nsstream.wire.link import ETHERNET, LINUX_SLL, RAW
from nsstream.wire.ring_block import max_frames, scan_block

BLOCK = 4096
VLAN_VALID = 1 << 4
TPID_VALID = 1 << 6
CSUM_NOT_READY = 1 << 3


def scan(block: bytes, link_type: int = ETHERNET) -> tuple[np.ndarray, RecordIndex, int, int]:
    """The block in the middle of a ring of three, whose other two must stay as they are."""
    ring = np.frombuffer(b"\xee" * BLOCK + block + b"\xee" * BLOCK, np.uint8).copy()
    index = RecordIndex.with_room_for(max_frames(BLOCK))
    count, broken = scan_block(ring, BLOCK, BLOCK, link_type, index, 0)
    assert (ring[:BLOCK] == 0xEE).all()
    assert (ring[2 * BLOCK :] == 0xEE).all()
    return ring, index, count, broken


def octets_of(ring: np.ndarray, index: RecordIndex, record: int) -> bytes:
    start = int(index.start[record])
    return ring[start : start + int(index.captured_length[record])].tobytes()


def test_frames_are_found_with_their_times_and_lengths() -> None:
    block = ring_block(ring_frame(FRAME), ring_frame(FRAME[:30], length=1514, nanoseconds=999_999_999, next_offset=0))
    ring, index, count, broken = scan(block)
    assert (count, broken) == (2, 0)
    assert [octets_of(ring, index, k) for k in range(2)] == [FRAME, FRAME[:30]]
    assert index.time_ns[:2].tolist() == [SECONDS * 10**9 + 5, SECONDS * 10**9 + 999_999_999]
    assert index.original_length[:2].tolist() == [len(FRAME), 1514]
    assert index.link_type[:2].tolist() == [ETHERNET, ETHERNET]


def test_records_are_appended_to_those_of_the_block_before() -> None:
    ring = np.frombuffer(ring_block(ring_frame(FRAME)) + ring_block(ring_frame(FRAME[:20])), np.uint8).copy()
    index = RecordIndex.with_room_for(2 * max_frames(BLOCK))
    first, _ = scan_block(ring, 0, BLOCK, ETHERNET, index, 0)
    second, broken = scan_block(ring, BLOCK, BLOCK, ETHERNET, index, first)
    assert (first, second, broken) == (1, 2, 0)
    assert [octets_of(ring, index, k) for k in range(2)] == [FRAME, FRAME[:20]]


def test_block_that_was_retired_empty_has_no_record() -> None:
    assert scan(ring_block())[2:] == (0, 0)


@pytest.mark.parametrize(
    ("status", "tpid", "tag"),
    [
        (VLAN_VALID | TPID_VALID, 0x8100, bytes.fromhex("8100 6005")),
        (VLAN_VALID | TPID_VALID, 0x88A8, bytes.fromhex("88a8 6005")),
        (VLAN_VALID, 0, bytes.fromhex("8100 6005")),  # Linux before 3.14 does not tell the TPID
    ],
)
def test_stripped_tag_is_put_back(status: int, tpid: int, tag: bytes) -> None:
    ring, index, count, broken = scan(ring_block(ring_frame(FRAME, status=status, tci=0x6005, tpid=tpid)))
    assert (count, broken) == (1, 0)
    assert octets_of(ring, index, 0) == MACS + tag + FRAME[12:]
    assert index.original_length[0] == len(FRAME) + 4
    columns, _ = dissect(ring, index, count)
    assert columns["vlan_id"].tolist() == [5]


def test_outer_tag_is_put_back_before_the_inner_one() -> None:
    inner = MACS + bytes.fromhex("8100 0007") + FRAME[12:]
    block = ring_block(ring_frame(inner, mac=78, status=VLAN_VALID | TPID_VALID, tci=100, tpid=0x88A8))
    ring, index, count, _ = scan(block)
    assert octets_of(ring, index, 0) == MACS + bytes.fromhex("88a8 0064 8100 0007") + FRAME[12:]
    assert dissect(ring, index, count)[0]["vlan_id"].tolist() == [100]


def test_tag_is_not_put_back_where_nothing_says_that_there_was_one() -> None:
    ring, index, _, _ = scan(ring_block(ring_frame(FRAME, tci=5, tpid=0x8100)))
    assert octets_of(ring, index, 0) == FRAME


def test_frame_cut_within_its_addresses_stays_as_it_is() -> None:
    ring, index, count, _ = scan(ring_block(ring_frame(FRAME[:11], status=VLAN_VALID, tci=5, length=60)))
    assert count == 1
    assert octets_of(ring, index, 0) == FRAME[:11]


def test_raw_ip_stays_as_it_is() -> None:
    ring, index, count, _ = scan(ring_block(ring_frame(DATAGRAM, mac=96, status=VLAN_VALID, tci=5)), RAW)
    assert octets_of(ring, index, 0) == DATAGRAM
    assert dissect(ring, index, count)[0]["destination_transport_port"].tolist() == [53]


def test_cooked_frame_gets_a_header_of_its_address() -> None:
    frame = ring_frame(DATAGRAM, mac=96, hardware_type=512, packet_type=4)
    ring, index, count, broken = scan(ring_block(frame), LINUX_SLL)
    assert (count, broken) == (1, 0)
    assert octets_of(ring, index, 0) == bytes.fromhex("0004 0200 0006 020000000001 0000 0800") + DATAGRAM
    assert index.original_length[0] == len(DATAGRAM) + 16
    assert dissect(ring, index, count)[0]["destination_transport_port"].tolist() == [53]


def test_cooked_frame_gets_its_tag_back() -> None:
    frame = ring_frame(DATAGRAM, mac=96, status=VLAN_VALID | TPID_VALID, tci=7, tpid=0x8100)
    ring, index, count, _ = scan(ring_block(frame), LINUX_SLL)
    assert octets_of(ring, index, 0)[14:] == bytes.fromhex("8100 0007 0800") + DATAGRAM
    assert dissect(ring, index, count)[0]["vlan_id"].tolist() == [7]


@pytest.mark.parametrize("inner", ["0007 0800", "b007 8100 0001 0800"])
def test_cooked_frame_whose_inner_tag_the_kernel_does_not_name_is_read(inner: str) -> None:
    frame = ring_frame(bytes.fromhex(inner) + DATAGRAM, mac=96, status=VLAN_VALID | TPID_VALID, tci=7, tpid=0x88A8)
    ring, index, count, _ = scan(ring_block(frame), LINUX_SLL)
    assert octets_of(ring, index, 0)[14:] == bytes.fromhex("88a8 0007 8100" + inner) + DATAGRAM
    columns, _ = dissect(ring, index, count)
    assert columns["vlan_id"].tolist() == [7]
    assert columns["destination_transport_port"].tolist() == [53]


def test_offloaded_segment_is_a_row_of_its_own_length() -> None:
    total = 65_226 - 14
    datagram = DATAGRAM[:2] + total.to_bytes(2, "big") + DATAGRAM[4:9] + b"\x06" + DATAGRAM[10:20]
    segment = MACS + b"\x08\x00" + datagram + bytes(12) + b"\x50\x10\x01\x00" + bytes(100)
    ring, index, count, _ = scan(ring_block(ring_frame(segment, status=CSUM_NOT_READY, length=65_226)))
    columns, fates = dissect(ring, index, count)
    assert columns["ip_total_length"].tolist() == [total]
    assert fates.tolist()[1:] == [0] * (len(fates) - 1)


@pytest.mark.parametrize("link_type", [ETHERNET, LINUX_SLL])
@pytest.mark.parametrize(
    ("hostile", "kept"),
    [
        (ring_block(ring_frame(FRAME, mac=100), first=BLOCK), 0),  # no room for the header there
        (ring_block(ring_frame(FRAME, mac=100), first=BLOCK - 64), 0),
        (ring_block(ring_frame(FRAME, mac=100), first=0), 0),  # within the block's own header
        (ring_block(ring_frame(FRAME, mac=100), first=52), 0),  # not aligned
        (ring_block(ring_frame(FRAME, mac=100), first=0xFFFFFFF8), 0),
        (ring_block(ring_frame(FRAME, mac=100, next_offset=0xFFFFFFF8), b"", count=1), 1),
    ],
)
def test_offset_out_of_the_block_ends_the_walk(hostile: bytes, kept: int, link_type: int) -> None:
    _, _, count, broken = scan(hostile, link_type)
    assert (count, broken) == (kept, 1 - kept)


def test_frame_that_leaves_the_block_is_broken_and_the_next_is_read() -> None:
    too_long = bytearray(ring_frame(FRAME))
    struct.pack_into("=I", too_long, 12, BLOCK)  # tp_snaplen
    far = bytearray(ring_frame(FRAME))
    struct.pack_into("=H", far, 24, 0xFFFF)  # tp_mac
    near = bytearray(ring_frame(FRAME, status=VLAN_VALID))
    struct.pack_into("=H", near, 24, 49)  # the tag would go over tpacket3_hdr
    ring, index, count, broken = scan(ring_block(bytes(too_long), bytes(far), bytes(near), ring_frame(FRAME)))
    assert (count, broken) == (1, 3)
    assert octets_of(ring, index, 0) == FRAME


def test_frames_behind_a_broken_chain_are_counted() -> None:
    assert scan(ring_block(ring_frame(FRAME), ring_frame(FRAME, next_offset=0), count=9))[2:] == (2, 7)
    assert scan(ring_block(ring_frame(FRAME, next_offset=4080), count=9))[2:] == (1, 8)


def test_claim_beyond_what_fits_counts_as_what_fits() -> None:
    _, _, count, broken = scan(ring_block(ring_frame(FRAME, next_offset=0), count=0xFFFFFFFF))
    assert count + broken == max_frames(BLOCK)


@given(
    header=st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 200), min_size=12, max_size=12),
    body=st.binary(max_size=512),
    link_type=st.sampled_from([ETHERNET, RAW, LINUX_SLL]),
)
def test_any_octets_give_records_within_the_block(header: list[int], body: bytes, link_type: int) -> None:
    block = (struct.pack("=12I", *header) + body * 8)[:BLOCK].ljust(BLOCK, b"\0")
    ring, index, count, broken = scan(block, link_type)
    assert count + broken == min(header[3], max_frames(BLOCK))
    assert (index.start[:count] >= BLOCK).all()
    assert (index.start[:count] + index.captured_length[:count] <= 2 * BLOCK).all()
    assert (index.original_length[:count] >= index.captured_length[:count]).all()
    _, fates = dissect(ring, index, count)
    assert fates.sum() == count


@given(
    frames=st.lists(
        st.tuples(st.integers(0, 300), st.integers(0, 0xFFFF), st.integers(0, 0xFF), st.integers(0, 600)),
        min_size=1,
        max_size=8,
    ),
    link_type=st.sampled_from([ETHERNET, RAW, LINUX_SLL]),
)
def test_headers_that_lie_a_little_stay_within_the_block(
    frames: list[tuple[int, int, int, int]], link_type: int
) -> None:
    made = []
    for size, mac, status, next_offset in frames:
        frame = bytearray(ring_frame((FRAME * 8)[:size], mac=96, status=status, next_offset=next_offset))
        struct.pack_into("=H", frame, 24, mac)
        made.append(bytes(frame))
    _, index, count, broken = scan(ring_block(*made), link_type)
    assert count + broken == len(made)
    assert (index.start[:count] >= BLOCK).all()
    assert (index.start[:count] + index.captured_length[:count] <= 2 * BLOCK).all()


@pytest.mark.parametrize(
    ("block", "block_bytes", "record_count"), [(4, BLOCK, 0), (0, 2 * BLOCK, 0), (0, BLOCK, 1), (0, 40, 0), (-8, 64, 0)]
)
def test_walk_refuses_what_its_caller_must_not_ask(block: int, block_bytes: int, record_count: int) -> None:
    with pytest.raises(ValueError, match=r"block"):
        scan_block(
            np.zeros(BLOCK, np.uint8),
            block,
            block_bytes,
            ETHERNET,
            RecordIndex.with_room_for(max_frames(BLOCK)),
            record_count,
        )
