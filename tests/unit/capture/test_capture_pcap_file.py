"""PcapFileSource and read_trace: what is read, and the one sentence for each file that cannot be used."""

from __future__ import annotations

import gzip
import lzma
import os
import struct
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zstandard

from nsstream.capture import PcapFileSource, read_trace
from nsstream.errors import InputError
from nsstream.wire import pcap_header, write_records

FRAME = bytes.fromhex(
    "020000000002 020000000001 0800 4500 001c 0001 0000 4011 0000 c0000201 c6336407 d431 0035 0008 0000"
)
ARP = bytes.fromhex("020000000002 020000000001 0806") + bytes(28)
START_NS = 1_700_000_000_000_000_000


def capture_of(frames: list[bytes], link_type: int = 1) -> bytes:
    offset = np.cumsum([0, *map(len, frames)], dtype=np.int64)
    times_ns = START_NS + 1000 * np.arange(len(frames), dtype=np.int64)
    return pcap_header(link_type) + write_records(times_ns, offset, np.frombuffer(b"".join(frames), np.uint8))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trace.pcap"


@pytest.mark.parametrize("compress", [bytes, gzip.compress, lzma.compress, zstandard.compress])
def test_trace_is_read_whatever_its_compression(compress: Callable[[bytes], bytes], path: Path) -> None:
    path.write_bytes(compress(capture_of([FRAME] * 1000 + [ARP])))
    packets, tally = read_trace(path)
    assert packets.observation_time_ns.tolist() == [START_NS + 1000 * i for i in range(1000)]
    assert (tally.offered, tally.kept, dict(tally.unsupported)) == (1001, 1000, {"arp": 1})


def test_batches_together_are_the_trace(path: Path) -> None:
    path.write_bytes(capture_of([FRAME] * 1000))
    source = PcapFileSource(path, buffer_bytes=4096)
    source.open()
    sizes = []
    while (batch := source.read_batch()) is not None:
        sizes.append(len(batch))
        source.tally.check()
    source.close()
    assert sum(sizes) == 1000
    assert len(sizes) > 10


def test_fifo_is_read(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = threading.Thread(target=fifo.write_bytes, args=(capture_of([FRAME] * 3),))
    writer.start()
    packets, _ = read_trace(fifo)
    writer.join()
    assert len(packets) == 3


def error_of(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_trace(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def test_missing_file_is_refused(path: Path) -> None:
    assert error_of(path) == "cannot be read: No such file or directory"


def test_directory_is_refused(tmp_path: Path) -> None:
    assert error_of(tmp_path) == "cannot be read: Is a directory"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_file_without_permission_is_refused(path: Path) -> None:
    path.touch(mode=0)
    assert error_of(path) == "cannot be read: Permission denied"


def test_empty_file_is_refused(path: Path) -> None:
    path.touch()
    assert error_of(path) == "empty: not even a file header"


@pytest.mark.parametrize("octets", [b"\x01\x02\x03", pcap_header()[:4], pcap_header()[:23]])
def test_file_cut_in_its_header_is_refused(octets: bytes, path: Path) -> None:
    path.write_bytes(octets)
    assert error_of(path) == f"cut in its file header, after {len(octets)} octets"


def test_file_of_another_format_is_refused(path: Path) -> None:
    path.write_bytes(b"snoop\0\0\0")
    assert error_of(path).startswith("neither pcap nor pcapng: starts with the octets 73 6e 6f 6f")


def test_link_type_that_is_not_supported_is_refused(path: Path) -> None:
    path.write_bytes(capture_of([FRAME], 105))
    assert error_of(path).startswith("link type 105 (IEEE 802.11) is not supported: convert it with")


def test_capture_cut_at_every_octet_of_its_last_record_is_refused(path: Path) -> None:
    whole = capture_of([FRAME] * 3)
    for cut in range(1, 16 + len(FRAME)):
        path.write_bytes(whole[:-cut])
        message = error_of(path)
        assert message.startswith("ends in the middle of a record, after 2 whole ones; `editcap IN OUT` repairs it")


def test_cut_record_is_counted_where_it_is_allowed(path: Path) -> None:
    path.write_bytes(capture_of([FRAME] * 3)[:-1])
    packets, tally = read_trace(path, allow_cut=True)
    assert len(packets) == 2
    assert (tally.offered, dict(tally.malformed)) == (3, {"cut_record": 1})


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress, zstandard.compress])
def test_cut_compression_is_as_a_cut_record(compress: Callable[[bytes], bytes], path: Path) -> None:
    load = np.random.default_rng(0).bytes(200)
    path.write_bytes(compress(capture_of([FRAME + load] * 2000))[:-6])
    assert error_of(path).startswith("ends in the middle of a record, after ")


def test_compression_cut_before_the_first_record_is_refused(path: Path) -> None:
    path.write_bytes(zstandard.compress(capture_of([FRAME] * 1000))[:-6])
    assert error_of(path) == "its compressed stream is cut before the first record"


def test_whole_records_of_a_cut_gzip_are_kept_where_it_is_allowed(path: Path) -> None:
    path.write_bytes(gzip.compress(capture_of([FRAME] * 1000))[:-4])
    packets, tally = read_trace(path, allow_cut=True)
    assert len(packets) == 1000
    assert dict(tally.malformed) == {"cut_record": 1}


def test_corrupt_compression_is_refused(path: Path) -> None:
    octets = bytearray(gzip.compress(capture_of([FRAME] * 1000)))
    octets[-8:-4] = bytes(4)
    path.write_bytes(octets)
    assert "corrupt" in error_of(path)


def test_corrupt_record_is_refused_with_its_offset(path: Path) -> None:
    path.write_bytes(capture_of([FRAME]) + struct.pack("<IIII", 0, 0, 2**31, 2**31))
    assert error_of(path).startswith("corrupt at octet 82, after 1 whole records: ")


def test_capture_without_ip_is_refused_with_what_is_in_it(path: Path) -> None:
    path.write_bytes(capture_of([ARP, ARP, FRAME[:20]]))
    assert error_of(path) == "holds no IP packet among its 3 records (2 arp, 1 short_frame)"


def test_capture_without_packets_is_refused(path: Path) -> None:
    path.write_bytes(pcap_header())
    assert error_of(path) == "holds no packet"


def test_pcapng_of_a_foreign_link_type_is_refused_by_name(path: Path) -> None:
    section = struct.pack("<IIIHHqI", 0x0A0D0D0A, 28, 0x1A2B3C4D, 1, 0, -1, 28)
    interface = struct.pack("<IIHHII", 1, 20, 105, 0, 0, 20)
    packet = struct.pack("<IIIIIIII", 6, 32, 0, 0, 0, 0, 0, 32)
    path.write_bytes(section + interface + packet)
    assert error_of(path) == (
        "holds no IP packet among its 1 records (1 link_type; unsupported link types: 105 (IEEE 802.11))"
    )


def test_reading_before_opening_is_a_bug(path: Path) -> None:
    with pytest.raises(RuntimeError, match="before open"):
        PcapFileSource(path).read_batch()


def test_source_may_be_opened_again(path: Path) -> None:
    path.write_bytes(capture_of([FRAME] * 3))
    source = PcapFileSource(path)
    for _ in range(2):
        source.open()
        assert len(source.read_batch() or []) == 3
        assert source.tally.offered == 3
        source.close()
        source.close()
