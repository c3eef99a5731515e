"""Memory and order of a capture stream: what many small records and few large ones take, and give back."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable, Iterator

import pytest

from nsstream.errors import WireError
from nsstream.wire import PcapReader, pcap_header
from nsstream.wire.stream import DEFAULT_BUFFER_BYTES

IPV4 = bytes.fromhex("4500 001c 0001 0000 4011 0000 c0000201 c6336407 d431 0035 0008 0000")
RECORD = struct.pack("<IIII", 1, 2, len(IPV4), len(IPV4)) + IPV4
SECTION = struct.pack("<IIIHHqI", 0x0A0D0D0A, 28, 0x1A2B3C4D, 1, 0, -1, 28)
MIB = 1 << 20


def interface(link_type: int = 101) -> bytes:
    return struct.pack("<IIHHII", 1, 20, link_type, 0, 0, 20)


def enhanced(interface_id: int) -> bytes:
    length = 32 + len(IPV4)
    return (
        struct.pack("<IIIIIII", 6, length, interface_id, 0, 7, len(IPV4), len(IPV4)) + IPV4 + struct.pack("<I", length)
    )


def custom(size: int) -> bytes:
    return struct.pack("<II", 0xBAD, size) + bytes(size - 12) + struct.pack("<I", size)


def read_as_a_file(reader: PcapReader, stream: Iterator[bytes]) -> None:
    """Feed as a source does: as much at a time as the reader has room for."""
    waiting = b""
    while waiting := waiting or next(stream, b""):
        room = reader.get_buffer()
        taken = min(len(room), len(waiting))
        room[:taken] = waiting[:taken]
        waiting = waiting[taken:]
        reader.buffer_updated(taken)


@pytest.fixture
def peak_of() -> Callable[[Callable[[], object]], int]:
    """Octets that a call takes at its worst, numpy's arrays among them."""

    def peak(call: Callable[[], object]) -> int:
        call()  # compiles
        tracemalloc.start()
        try:
            call()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    return peak


def test_more_records_than_are_indexed_at_once_come_in_order() -> None:
    reader = PcapReader(64)
    records = b"".join(struct.pack("<IIII", i, 0, len(IPV4), len(IPV4)) + IPV4 for i in range(1000))
    columns = reader.feed(pcap_header(101) + records)
    assert (columns["observation_time_ns"] // 10**9).tolist() == list(range(1000))
    assert reader.tally.kept == 1000


def test_rows_before_the_corrupt_record_are_given_when_the_index_was_full_between() -> None:
    reader = PcapReader(64)
    columns = reader.feed(pcap_header(101) + 50 * RECORD + struct.pack("<IIII", 0, 0, 1 << 30, 1 << 30))
    assert len(columns["ip_ttl"]) == 50
    with pytest.raises(WireError, match=f"corrupt at octet {24 + 50 * len(RECORD)}, after 50 whole records"):
        reader.feed(b"")


def test_room_for_a_large_block_is_given_back() -> None:
    reader = PcapReader()
    read_as_a_file(reader, iter([SECTION, interface(), custom(10 * MIB), enhanced(0)]))
    assert reader.tally.kept == 1
    assert len(reader.get_buffer()) <= DEFAULT_BUFFER_BYTES


def test_records_without_an_octet_take_no_more_than_the_buffers(peak_of: Callable) -> None:
    octets = pcap_header(101) + bytes(16) * 500_000
    assert peak_of(lambda: read_as_a_file(PcapReader(), iter([octets]))) < 40 * MIB


def test_claimed_giant_block_takes_no_more_than_its_size_allows(peak_of: Callable) -> None:
    head = SECTION + interface() + struct.pack("<II", 0xBAD, 16 * MIB)
    zeros = bytes(MIB)

    def read() -> None:
        reader = PcapReader()
        with pytest.raises(WireError, match="two lengths differ"):
            read_as_a_file(reader, iter([head, *[zeros] * 17]))

    assert peak_of(read) < 64 * MIB


def test_small_blocks_behind_large_ones_take_no_index_of_their_own(peak_of: Callable) -> None:
    def read() -> None:
        reader = PcapReader()
        stream = [SECTION, interface(), custom(16 * MIB), enhanced(0) * 100_000, custom(16 * MIB)]
        read_as_a_file(reader, iter(stream))
        assert reader.tally.kept == 100_000

    assert peak_of(read) < 96 * MIB


def test_blocks_too_short_to_be_one_are_refused() -> None:
    for size in (0, 1, 4, 8, 11, 13):
        with pytest.raises(WireError, match="multiple of 4"):
            PcapReader().feed(SECTION + interface() + struct.pack("<III", 0xBAD, size, size))


def test_packets_of_the_last_of_many_interfaces_are_read_and_one_too_many_is_refused() -> None:
    reader = PcapReader()
    assert len(reader.feed(SECTION + interface(105) * 4095 + interface() + enhanced(4095))["ip_ttl"]) == 1
    with pytest.raises(WireError, match="more than 4096 interfaces"):
        reader.feed(interface())


def test_each_section_describes_its_own_interfaces() -> None:
    reader = PcapReader()
    assert (
        len(reader.feed(SECTION + interface() * 20 + enhanced(19) + SECTION + interface() + enhanced(0))["ip_ttl"]) == 2
    )
    with pytest.raises(WireError, match="was not described"):
        reader.feed(enhanced(19))
