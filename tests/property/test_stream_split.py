"""The law of every reader of a stream: whole, octet by octet, cut at random, with junk behind it: the same result."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from made_exports import data_set, ipfix, template_set
from nfcapd_files import block as flow_block
from nfcapd_files import file_of, flow

from nsstream.capture.contract import StreamOutcome, check_any_split
from nsstream.capture.pipe import PipeSource
from nsstream.counters import Tally
from nsstream.errors import InputError, WireError
from nsstream.trace import FlowTable, PacketBatch
from nsstream.wire import PcapReader, pcap_header, write_records
from nsstream.wire.netflow.splitter import MessageSplitter
from nsstream.wire.nfcapd import NfcapdReader
from nsstream.wire.pdml import PdmlSplitter

UDP = bytes.fromhex(
    "020000000002 020000000001 0800 4500 001c 0001 0000 4011 0000 c0000201 c6336407 d431 0035 0008 0000"
)
ARP = bytes.fromhex("020000000002 020000000001 0806") + bytes(28)
FRAMES = [UDP, ARP, UDP + b"padding", UDP[:30], UDP]

Read = Callable[[Sequence[bytes]], StreamOutcome]


def pcap(frames: Sequence[bytes] = FRAMES) -> bytes:
    offset = np.cumsum([0, *map(len, frames)], dtype=np.int64)
    times_ns = 1_700_000_000_000_000_000 + np.arange(len(frames), dtype=np.int64)
    return pcap_header() + write_records(times_ns, offset, np.frombuffer(b"".join(frames), np.uint8))


def pcapng(order: str) -> bytes:
    def block(kind: int, body: bytes) -> bytes:
        size = struct.pack(order + "I", len(body) + 12)
        return struct.pack(order + "I", kind) + size + body + size

    octets = block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))
    octets += block(1, struct.pack(order + "HHI", 1, 0, 0))
    for k, frame in enumerate(FRAMES):
        head = struct.pack(order + "IIIII", 0, 390_000, k, len(frame), len(frame))
        octets += block(6, head + frame + bytes(-len(frame) % 4))
    octets += block(0x0BAD, bytes(20))
    dropped = struct.pack(order + "IIIHHQI", 0, 0, 0, 5, 8, 9, 0)
    return octets + block(5, dropped) + octets


def read_pcap(pieces: Sequence[bytes]) -> StreamOutcome:
    reader = PcapReader(64)
    batches, error = [], ""
    try:
        for piece in pieces:
            batches.append(PacketBatch.from_columns(reader.feed(piece)))
        reader.finish()
    except WireError as err:
        error = str(err)
    rows = PacketBatch.concatenate(batches)
    assert reader.tally.kept == len(rows)
    return StreamOutcome(rows.columns(), reader.tally, error)


def read_through_a_pipe(pieces: Sequence[bytes]) -> StreamOutcome:
    """As `PipeSource` reads what another thread writes: how the kernel cuts it is nobody's choice."""
    reading, writing = os.pipe()

    def write() -> None:
        try:
            for piece in pieces:
                os.write(writing, piece)
        except BrokenPipeError:
            return
        finally:
            os.close(writing)

    writer = threading.Thread(target=write)
    source = PipeSource(reading, buffer_bytes=64)
    source.open()
    batches, error = [], ""
    writer.start()
    try:
        while (batch := source.read_batch()) is not None:
            batches.append(batch)
    except InputError as err:
        error = str(err).partition(": ")[2]
    source.close()
    os.close(reading)
    writer.join()
    rows = PacketBatch.concatenate(batches)
    assert source.tally.kept == len(rows)
    return StreamOutcome(rows.columns(), source.tally, error)


def read_ipfix_stream(pieces: Sequence[bytes]) -> StreamOutcome:
    splitter = MessageSplitter()
    messages, error = [], ""
    try:
        for piece in pieces:
            messages += splitter.feed(piece)
        splitter.finish()
    except WireError as err:
        error = str(err)
    return StreamOutcome({"messages": np.array(messages, object)}, Tally(), error)


def read_flow_file(pieces: Sequence[bytes]) -> StreamOutcome:
    reader = NfcapdReader()
    tables, error = [FlowTable.empty()], ""
    try:
        for piece in pieces:
            tables += [FlowTable.from_columns(columns) for columns in reader.feed(piece)]
        reader.finish()
    except WireError as err:
        error = str(err)
    rows = FlowTable.concatenate(tables)
    assert reader.tally.kept == len(rows)
    return StreamOutcome(rows.columns(), reader.tally, error)


def read_pdml(pieces: Sequence[bytes]) -> StreamOutcome:
    splitter = PdmlSplitter()
    packets = [packet for piece in pieces for packet in splitter.feed(piece)]
    return StreamOutcome({"packets": np.array(packets, object)}, Tally())


TEMPLATE = [(8, 4), (12, 4), (2, 4)]
MESSAGES = [ipfix(template_set(10, 256, TEMPLATE)), ipfix(data_set(256, bytes(12), bytes(range(12))), sequence=1)]
FLOWS = file_of(flow_block(flow(first=1_700_000_000_000, last=1_700_000_000_005)), flow_block(flow(), flow()))
UNFINISHED_FLOWS = file_of(flow_block(flow()), flow_block(flow(), flow()), count=0)
STREAMS: dict[str, tuple[Read, bytes]] = {
    "pcap": (read_pcap, pcap()),
    "pcap of a large frame": (read_pcap, pcap([UDP, UDP + bytes(700), UDP])),
    "pcapng, little-endian": (read_pcap, pcapng("<")),
    "pcapng, big-endian": (read_pcap, pcapng(">")),
    "pcap through a pipe": (read_through_a_pipe, pcap()),
    "pcapng through a pipe": (read_through_a_pipe, pcapng("<")),
    "IPFIX": (read_ipfix_stream, b"".join(MESSAGES)),
    "nfdump's file": (read_flow_file, FLOWS),
    "nfdump's file, still written": (read_flow_file, UNFINISHED_FLOWS),
    "PDML": (read_pdml, b"<pdml>" + b"<packet><proto/></packet>\n" * 3),
}


@pytest.mark.parametrize(("read", "octets"), STREAMS.values(), ids=STREAMS.keys())
def test_how_a_stream_is_cut_makes_no_difference(read: Read, octets: bytes) -> None:
    check_any_split(read, octets)


def test_law_notices_a_reader_that_forgets_what_it_was_fed() -> None:
    def read(pieces: Sequence[bytes]) -> StreamOutcome:
        found = [piece.count(b"ab") for piece in pieces]
        return StreamOutcome({"count": np.array([sum(found)])})

    with pytest.raises(AssertionError, match="pieces"):
        check_any_split(read, b"abab")
