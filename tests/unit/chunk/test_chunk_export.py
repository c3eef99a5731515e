import csv
import shutil
import subprocess
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsstream.capture import read_trace
from nsstream.chunk import Chunk, Chunker, ChunkStore
from nsstream.chunk.export import ExportFormat, export_chunks
from nsstream.chunk.header_frames import header_frames
from nsstream.errors import InputError, OutputError
from nsstream.trace import FlowTable, PacketBatch
from nsstream.trace.fields import FLOW_FIELDS, ICMP, ICMPV6, PACKET_FIELDS, SCTP, TCP, UDP
from nsstream.wire import PcapReader, pcap_header, write_records

S = 1_000_000_000


def lawful_packets(n: int, seed: int) -> PacketBatch:
    """Packets as `dissect` may give them, of every kind."""
    rng = np.random.default_rng(seed)
    made = {name: rng.integers(0, 256, (n, *cell)).astype(dtype) for name, (dtype, cell, _) in PACKET_FIELDS.items()}
    for name in ("fragment_identification", "tcp_sequence_number", "tcp_acknowledgement_number"):
        made[name] = rng.integers(0, 1 << 32, n).astype(np.uint32)
    for name in ("source_transport_port", "destination_transport_port", "tcp_window_size"):
        made[name] = rng.integers(0, 1 << 16, n).astype(np.uint16)
    made["observation_time_ns"] = np.sort(rng.integers(0, (1 << 32) * S, n))
    is_4 = rng.random(n) < 0.5
    made["ip_version"] = np.where(is_4, 4, 6).astype(np.uint8)
    for name in ("source_address", "destination_address"):
        made[name][is_4, :12] = np.frombuffer(bytes(10) + b"\xff\xff", np.uint8)
    protocol = rng.choice([TCP, UDP, SCTP, ICMP, ICMPV6, 47, 89], n)
    made["protocol_identifier"] = protocol.astype(np.uint8)
    made["fragment_offset"] = np.where(rng.random(n) < 0.1, rng.integers(1, 1 << 13, n), 0).astype(np.uint16)
    made["fragment_flags"] = rng.integers(0, 4, n).astype(np.uint8)
    is_fragment = (made["fragment_offset"] > 0) | (made["fragment_flags"] & 1 > 0)
    extensions = rng.integers(0, 4, n) * 8 + np.where(is_fragment, 8, 0)
    made["ip_header_length"] = np.where(is_4, 20 + 4 * rng.integers(0, 11, n), 40 + extensions).astype(np.uint16)
    made["fragment_flags"] &= np.where(is_4, 3, 1).astype(np.uint8)
    made["fragment_identification"][is_4] &= 0xFFFF
    made["fragment_identification"][~is_4 & ~is_fragment] = 0
    made["flow_label_ipv6"] = np.where(is_4, 0, rng.integers(0, 1 << 20, n)).astype(np.uint32)
    made["vlan_id"] = np.where(rng.random(n) < 0.5, 0, rng.integers(1, 4096, n)).astype(np.uint16)
    has_header = made["fragment_offset"] == 0
    is_tcp = (protocol == TCP) & has_header
    made["tcp_header_length"] = np.where(is_tcp, 4 * rng.integers(5, 16, n), 0).astype(np.uint8)
    made["tcp_control_bits"] = rng.integers(0, 1 << 12, n).astype(np.uint16)
    room = np.where(is_tcp, made["tcp_header_length"], 12) + rng.choice(
        [0, 1, 100, 1400, 70_000], n, p=[*[0.24] * 4, 0.04]
    )
    made["ip_total_length"] = (made["ip_header_length"] + room).astype(np.uint32)
    for name in ("tcp_control_bits", "tcp_sequence_number", "tcp_acknowledgement_number", "tcp_window_size"):
        made[name][~is_tcp] = 0
    has_ports = np.isin(protocol, [TCP, UDP, SCTP]) & has_header
    for name in ("source_transport_port", "destination_transport_port"):
        made[name][~has_ports] = 0
    for name in ("icmp_type", "icmp_code"):
        made[name][~(np.isin(protocol, [ICMP, ICMPV6]) & has_header)] = 0
    return PacketBatch.from_columns(made)


def chunk_of(rows: PacketBatch | FlowTable) -> Chunk:
    chunker = Chunker(5_000_000_000 * S)
    return [*chunker.push(rows), *chunker.flush()][0]


@given(st.integers(0, 2**32), st.integers(1, 60))
def test_frames_of_headers_dissect_to_the_columns_they_were_made_of(seed: int, n: int):
    packets = lawful_packets(n, seed)
    offset, octets, on_wire = header_frames(packets)
    reader = PcapReader()
    columns = reader.feed(pcap_header() + write_records(packets.observation_time_ns, offset, octets, on_wire))
    reader.finish()
    assert reader.tally.kept == n, reader.tally
    for name, column in packets.columns().items():
        np.testing.assert_array_equal(columns[name], column, err_msg=name)


def test_a_pcap_of_headers_is_read_by_tshark_without_a_wrong_header_checksum(tmp_path: Path):
    if shutil.which("tshark") is None:
        pytest.fail("tshark is needed: tests/packages.txt")
    output = tmp_path / "headers.pcap"
    chunk = chunk_of(lawful_packets(300, 1))
    assert export_chunks([lambda: chunk], output, ExportFormat.PCAP) == 300
    fields = ["-T", "fields", "-e", "frame.len", "-e", "ip.checksum.status"]
    done = subprocess.run(
        ["tshark", "-n", "-r", str(output), "-o", "ip.check_checksum:TRUE", *fields], capture_output=True, text=True
    )
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert len(lines) == 300
    link = 14 + 4 * (chunk.packets.vlan_id > 0)
    assert [int(line[0]) for line in lines] == (link + chunk.packets.ip_total_length).tolist()
    statuses = [
        line[1].split(",")[0] for line, version in zip(lines, chunk.packets.ip_version, strict=True) if version == 4
    ]
    assert "0" not in statuses  # bad
    assert statuses.count("1") > 0.9 * len(statuses)  # good; tshark says nothing of a length that offload left at 0
    batch, _ = read_trace(output)
    np.testing.assert_array_equal(batch.source_address, chunk.packets.source_address)


def test_csv_has_addresses_as_text_and_parquet_every_column(tmp_path: Path):
    chunk = chunk_of(lawful_packets(200, 2))
    told: list[int] = []
    export_chunks([lambda: chunk], tmp_path / "x.csv", ExportFormat.CSV, report=told.append)
    export_chunks([lambda: chunk, lambda: chunk], tmp_path / "x.parquet", ExportFormat.PARQUET)
    with (tmp_path / "x.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert told == [200]
    assert list(rows[0]) == list(PACKET_FIELDS)
    assert [int(row["observation_time_ns"]) for row in rows] == chunk.packets.observation_time_ns.tolist()
    assert {row["source_address"].count(".") for row in rows if row["ip_version"] == "4"} == {3}
    table = parquet.read_table(tmp_path / "x.parquet")
    assert (table.num_rows, table.column_names) == (400, list(PACKET_FIELDS))
    assert table.column("source_address")[3].as_py() == chunk.packets.source_address[3].tobytes()


def test_flows_export_with_their_labels_and_not_as_pcap(tmp_path: Path):
    end = np.arange(3) * S
    columns = {"flow_start_ns": end, "flow_end_ns": end, "packet_delta_count": np.ones(3, np.uint64)}
    chunk = chunk_of(FlowTable.from_columns(columns | {"label": np.array([1, 0, 2], np.uint16)}, ("a, b", "c")))
    export_chunks([lambda: chunk], tmp_path / "x.csv", ExportFormat.CSV)
    with (tmp_path / "x.csv").open(newline="") as file:
        assert [row["label"] for row in csv.DictReader(file)] == ["a, b", "", "c"]
    export_chunks([lambda: chunk], tmp_path / "x.parquet", ExportFormat.PARQUET)
    table = parquet.read_table(tmp_path / "x.parquet")
    assert table.column_names == list(FLOW_FIELDS)
    assert table.column("label").to_pylist() == ["a, b", "", "c"]
    with pytest.raises(InputError, match="csv or parquet"):
        export_chunks([lambda: chunk], tmp_path / "x.pcap", ExportFormat.PCAP)
    assert not (tmp_path / "x.pcap").exists()


def test_an_output_that_exists_is_refused_and_left(tmp_path: Path):
    (tmp_path / "x.csv").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        export_chunks([], tmp_path / "x.csv", ExportFormat.CSV)
    assert (tmp_path / "x.csv").read_text() == "mine"
    with pytest.raises(InputError, match="no chunk"):
        export_chunks([], tmp_path / "y.csv", ExportFormat.CSV)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.csv"]


def test_a_chunk_of_the_store_exports_what_it_holds(tmp_path: Path):
    store = ChunkStore(tmp_path / "chunks")
    path = store.write(chunk_of(lawful_packets(50, 3)))
    assert export_chunks([partial(store.read, path)], tmp_path / "x.pcap", ExportFormat.PCAP) == 50
