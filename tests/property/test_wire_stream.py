"""Laws of reading: any split of a stream gives the same packets; any octets give packets, counts or WireError."""

from __future__ import annotations

import contextlib
import struct
from itertools import pairwise

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nsstream.counters import Tally
from nsstream.errors import WireError
from nsstream.trace import PacketBatch
from nsstream.wire import PcapReader, pcap_header, write_records
from nsstream.wire.fates import REASONS
from nsstream.wire.link import SUPPORTED_LINK_TYPES

MACS = bytes.fromhex("020000000002 020000000001")
ADDRESSES = bytes.fromhex("20010db8" + "00" * 11 + "01" + "20010db8" + "00" * 11 + "02")
LINK_TYPES = st.sampled_from(sorted(SUPPORTED_LINK_TYPES))


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """Frames that look like something, some of them cut or with octets changed."""
    protocol = draw(st.sampled_from([0, 1, 6, 17, 43, 44, 51, 58, 60, 132, 135, 255]))
    load = draw(st.binary(max_size=60))
    ipv4 = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(load), 1, draw(st.sampled_from([0, 0x2000, 5])), 64, protocol, 0)
    ipv6 = struct.pack("!IHBB", 0x60000000, len(load), protocol, 64)
    packet = draw(st.sampled_from([ipv4 + ADDRESSES[:8], ipv6 + ADDRESSES])) + load
    ethertype = draw(st.sampled_from([b"\x08\0", b"\x86\xdd", b"\x81\0\0\x05\x08\0", b"\x08\x06", b"\0\x20"]))
    frame = bytearray(draw(st.sampled_from([b"", MACS + ethertype, bytes(14) + ethertype, b"\2\0\0\0"])) + packet)
    for at, value in draw(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), max_size=3)):
        if at < len(frame):
            frame[at] = value
    return bytes(frame[: draw(st.integers(0, 130))])


@st.composite
def classic(draw: st.DrawFn) -> bytes:
    order = draw(st.sampled_from("<>"))
    magic = draw(st.sampled_from([0xA1B2C3D4, 0xA1B23C4D]))
    octets = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 65535, draw(LINK_TYPES))
    for frame in draw(st.lists(frames(), max_size=6)):
        original = len(frame) + draw(st.sampled_from([0, 0, 40]))
        octets += struct.pack(order + "IIII", draw(st.integers(0, 2**32 - 1)), 0, len(frame), original) + frame
    return octets


@st.composite
def pcapng(draw: st.DrawFn) -> bytes:
    octets = b""
    for _ in range(draw(st.integers(1, 2))):
        order = draw(st.sampled_from("<>"))
        interfaces = draw(st.lists(st.tuples(LINK_TYPES, st.integers(0, 255)), min_size=1, max_size=3))
        octets += block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))
        for link_type, resolution in interfaces:
            option = struct.pack(order + "HHB3x", 9, 1, resolution)
            octets += block(order, 1, struct.pack(order + "HHI", link_type, 0, 0) + option)
        for frame in draw(st.lists(frames(), max_size=4)):
            interface = draw(st.integers(0, len(interfaces) - 1))
            ticks = draw(st.integers(0, 2**64 - 1))
            head = struct.pack(order + "IIIII", interface, ticks >> 32, ticks & 0xFFFFFFFF, len(frame), len(frame))
            body = draw(st.sampled_from([head, struct.pack(order + "I", len(frame))])) + frame
            octets += block(order, 6 if body.startswith(head) else 3, body + bytes(-len(frame) % 4))
    return octets


def block(order: str, block_type: int, body: bytes) -> bytes:
    length = len(body) + 12
    return struct.pack(order + "II", block_type, length) + body + struct.pack(order + "I", length)


def read_pieces(pieces: list[bytes], buffer_bytes: int = 64) -> tuple[PacketBatch, Tally]:
    reader = PcapReader(buffer_bytes)
    batches = [PacketBatch.from_columns(reader.feed(piece)) for piece in pieces]
    reader.finish()
    return PacketBatch.concatenate(batches), reader.tally


def split(octets: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(octets) + 1) for cut in cuts), len(octets)]
    return [octets[a:b] for a, b in pairwise(edges)]


def assert_same(one: tuple[PacketBatch, Tally], other: tuple[PacketBatch, Tally]) -> None:
    for name, column in one[0].columns().items():
        np.testing.assert_array_equal(column, getattr(other[0], name), err_msg=name)
    assert one[1] == other[1]


@settings(deadline=None)
@given(octets=classic() | pcapng(), cuts=st.lists(st.integers(0, 2000), max_size=8))
def test_any_split_gives_the_same_packets(octets: bytes, cuts: list[int]) -> None:
    assert_same(read_pieces([octets], 4096), read_pieces(split(octets, cuts)))


@settings(deadline=None, max_examples=30)
@given(octets=classic() | pcapng())
def test_octet_by_octet_gives_the_same_packets(octets: bytes) -> None:
    assert_same(read_pieces([octets], 4096), read_pieces(split(octets, list(range(len(octets))))))


@settings(deadline=None)
@given(octets=classic() | pcapng(), cut=st.integers(0, 2000))
def test_every_record_is_accounted_for(octets: bytes, cut: int) -> None:
    cut %= len(octets) + 1
    assume(cut >= 28)
    _, tally = read_pieces([octets[:cut]])
    tally.check()
    assert {*tally.malformed, *tally.unsupported} <= {*REASONS[1:], "cut_record"}


@settings(deadline=None, max_examples=300)
@given(
    octets=st.binary(max_size=300)
    | st.builds(bytes.__add__, st.sampled_from([pcap_header(), pcap_header(101), block("<", 0x0A0D0D0A, bytes(16))]),
                st.binary(max_size=300))
    | classic()
    | pcapng(),
    changes=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=5),
)  # fmt: skip
def test_no_octets_raise_anything_but_wire_error(octets: bytes, changes: list[tuple[int, int]]) -> None:
    changed = bytearray(octets)
    for at, value in changes:
        if changed:
            changed[at % len(changed)] = value
    reader = PcapReader(64)
    with contextlib.suppress(WireError):
        batch = PacketBatch.from_columns(reader.feed(bytes(changed)))
        assert len(batch) == reader.tally.kept
        reader.finish()
    reader.tally.check()


@settings(deadline=None)
@given(records=st.lists(st.tuples(st.integers(0, 2**32 * 10**9 - 1), frames()), max_size=8), link_type=LINK_TYPES)
def test_what_is_written_is_read_back(records: list[tuple[int, bytes]], link_type: int) -> None:
    times_ns = np.array([t for t, _ in records], np.int64)
    offset = np.cumsum([0, *(len(frame) for _, frame in records)], dtype=np.int64)
    octets = np.frombuffer(b"".join(frame for _, frame in records), np.uint8)
    written = pcap_header(link_type) + write_records(times_ns, offset, octets)
    batch, tally = read_pieces([written])
    assert tally.offered == len(records)
    kept = [time_ns for i, (time_ns, _) in enumerate(records) if is_kept(written, i, link_type, offset)]
    assert batch.observation_time_ns.tolist() == kept


def is_kept(written: bytes, i: int, link_type: int, offset: np.ndarray) -> bool:
    """Whether record i alone is a row."""
    start, end = 24 + 16 * i + int(offset[i]), 24 + 16 * (i + 1) + int(offset[i + 1])
    return read_pieces([pcap_header(link_type) + written[start:end]])[1].kept == 1
