"""What several wire tests need: a capture around frames, and the reading of a whole stream."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from nsstream.counters import Tally
from nsstream.trace import PacketBatch
from nsstream.wire import PcapReader, pcap_header


def capture_of(frames: list[bytes], link_type: int = 1, snaplen: int = 262_144) -> bytes:
    """A pcap of these frames, cut at snaplen, one microsecond apart."""
    records = []
    for i, frame in enumerate(frames):
        seen = frame[:snaplen]
        records.append(struct.pack("<IIII", 1_700_000_000, i * 1000, len(seen), len(frame)) + seen)
    return pcap_header(link_type) + b"".join(records)


def read_stream(octets: bytes) -> tuple[PacketBatch, Tally]:
    """All rows of a capture, and what became of every record."""
    reader = PcapReader()
    batch = PacketBatch.from_columns(reader.feed(octets))
    reader.finish()
    reader.tally.check()
    return batch, reader.tally


@pytest.fixture
def capture() -> Callable[..., bytes]:
    return capture_of


@pytest.fixture
def read() -> Callable[[bytes], tuple[PacketBatch, Tally]]:
    return read_stream


@pytest.fixture
def fate_of() -> Callable[..., str]:
    """The one reason for which a frame is not kept, or "kept"."""

    def fate(frame: bytes, link_type: int = 1, snaplen: int = 262_144) -> str:
        tally = read_stream(capture_of([frame], link_type, snaplen))[1]
        (reason,) = [*tally.malformed, *tally.unsupported, *(["kept"] * tally.kept)]
        return reason

    return fate
