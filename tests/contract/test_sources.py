"""The rules of `capture.source`, held to every source that the library has. A new source adds one line to SOURCES."""

from __future__ import annotations

import lzma
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nsstream.capture import PcapFileSource, Source
from nsstream.errors import InputError
from nsstream.trace import PacketBatch
from nsstream.wire import pcap_header, write_records

PacketSource = Source[PacketBatch]

FRAME = bytes.fromhex(
    "020000000002 020000000001 0800 4500 001c 0001 0000 4011 0000 c0000201 c6336407 d431 0035 0008 0000"
)
PACKETS = 500
OFFSET = np.arange(PACKETS + 1, dtype=np.int64) * len(FRAME)
TIMES_NS = 1_700_000_000_000_000_000 + np.arange(PACKETS, dtype=np.int64)
CAPTURE = pcap_header() + write_records(TIMES_NS, OFFSET, np.frombuffer(FRAME * PACKETS, np.uint8))


def pcap_file(directory: Path) -> PacketSource:
    path = directory / "trace.pcap"
    path.write_bytes(CAPTURE)
    return PcapFileSource(path, buffer_bytes=4096)


def pcap_file_xz(directory: Path) -> PacketSource:
    path = directory / "trace.pcap.xz"
    path.write_bytes(lzma.compress(CAPTURE))
    return PcapFileSource(path)


def missing_pcap_file(directory: Path) -> PacketSource:
    return PcapFileSource(directory / "nowhere.pcap")


SOURCES = [pcap_file, pcap_file_xz]
BROKEN_SOURCES = [missing_pcap_file]


@pytest.fixture(params=SOURCES)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> PacketSource:
    make: Callable[[Path], PacketSource] = request.param
    return make(tmp_path)


def test_source_is_inert_until_open(source: PacketSource) -> None:
    assert source.tally.offered == 0
    source.close()
    source.close()


def test_batches_hold_every_packet_in_order_and_none_is_empty(source: PacketSource) -> None:
    source.open()
    batches = []
    while (batch := source.read_batch()) is not None:
        assert len(batch) > 0
        batches.append(batch)
    source.close()
    np.testing.assert_array_equal(PacketBatch.concatenate(batches).observation_time_ns, TIMES_NS)


def test_end_is_the_end_for_good(source: PacketSource) -> None:
    source.open()
    while source.read_batch() is not None:
        pass
    assert source.read_batch() is None
    source.close()


def test_tally_adds_up_after_every_call(source: PacketSource) -> None:
    source.open()
    kept = 0
    while (batch := source.read_batch()) is not None:
        kept += len(batch)
        source.tally.check()
        assert source.tally.kept == kept
    source.close()
    source.tally.check()
    assert source.tally.offered == PACKETS


def test_source_may_be_closed_in_the_middle(source: PacketSource) -> None:
    source.open()
    source.read_batch()
    source.close()
    source.close()
    source.tally.check()


@pytest.mark.parametrize("make", BROKEN_SOURCES)
def test_source_that_cannot_be_opened_says_so_in_one_sentence(
    make: Callable[[Path], PacketSource], tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        make(tmp_path).open()
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
