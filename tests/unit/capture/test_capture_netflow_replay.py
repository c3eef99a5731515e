from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from made_netflow import data_set, ipfix, template_set, v5
from scapy.layers.inet import IP, UDP, fragment
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw
from scapy.utils import wrpcap, wrpcapng

from nsstream.capture.netflow_replay import NetflowReplaySource
from nsstream.errors import InputError
from nsstream.trace import FlowTable


def export(payload: bytes, port: int = 2055) -> Packet:
    return Ether() / IP(src="192.0.2.7") / UDP(sport=1000, dport=port) / Raw(payload)


def write(path: Path, *packets: Packet) -> Path:
    wrpcap(str(path), list(packets))
    return path


def read(source: NetflowReplaySource) -> FlowTable:
    tables = []
    while (flows := source.read_batch()) is not None:
        source.tally.check()
        assert len(flows) > 0
        tables.append(flows)
    return FlowTable.concatenate(tables)


def numbers(flows: FlowTable) -> list[int]:
    return [int.from_bytes(row[12:].tobytes(), "big") for row in flows.source_address]


EXPORTS = [export(v5(0, 30)), export(ipfix(template_set(), data_set(30, 5)), 4739), export(v5(35, 5), 9995)]


@pytest.mark.parametrize("buffer_bytes", [64, 1 << 20])
def test_flows_of_all_exports_come_in_order(tmp_path: Path, buffer_bytes: int) -> None:
    path = write(tmp_path / "x.pcap", EXPORTS[0], Ether() / ARP(), *EXPORTS[1:], export(v5(0), 53))
    source = NetflowReplaySource(path, buffer_bytes=buffer_bytes)
    source.open()
    flows = read(source)
    source.close()
    assert numbers(flows) == list(range(40))
    assert source.tally.offered == source.tally.kept == 40
    assert source.other_frame_count == 2
    assert (flows.exporter_address == np.frombuffer(bytes(10) + b"\xff\xff\xc0\0\2\7", np.uint8)).all()


def test_pcapng_and_compressed_files_are_read_too(tmp_path: Path) -> None:
    wrpcapng(str(tmp_path / "x.pcapng"), EXPORTS)
    (tmp_path / "x.gz").write_bytes(gzip.compress(write(tmp_path / "x.pcap", *EXPORTS).read_bytes()))
    for name in ("x.pcapng", "x.gz"):
        source = NetflowReplaySource(tmp_path / name)
        source.open()
        assert numbers(read(source)) == list(range(40))
        source.close()


def test_only_the_ports_that_are_asked_for(tmp_path: Path) -> None:
    source = NetflowReplaySource(write(tmp_path / "x.pcap", *EXPORTS), ports=[9995])
    source.open()
    assert numbers(read(source)) == list(range(35, 40))
    assert source.other_frame_count == 2
    source.close()


def test_cut_and_fragmented_datagrams_are_counted(tmp_path: Path) -> None:
    cut = Ether(bytes(export(v5(0, 30)))[:200])
    path = write(tmp_path / "x.pcap", cut, *fragment(export(v5(0, 30)), 1000), export(v5(7, 1)))
    source = NetflowReplaySource(path)
    source.open()
    assert numbers(read(source)) == [7]
    assert source.tally.malformed == {"cut_datagram": 1}
    assert source.tally.unsupported == {"fragment": 1}
    source.close()


def test_file_that_is_cut_is_refused_after_what_was_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "x.pcap", *EXPORTS)
    path.write_bytes(path.read_bytes()[:-1])
    source = NetflowReplaySource(path)
    source.open()
    assert source.read_batch() is not None
    with pytest.raises(InputError, match="after the last whole record"):
        source.read_batch()
    assert source.read_batch() is None
    source.close()
    assert source.tally.malformed == {"cut_record": 1}
    source.tally.check()


@pytest.mark.parametrize("content", [b"", b"\xd4\xc3\xb2\xa1", b"hello, this is no capture at all"])
def test_file_that_is_no_capture_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    source = NetflowReplaySource(path)
    source.open()
    with pytest.raises(InputError, match=str(path)):
        source.read_batch()
    source.close()


def test_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        NetflowReplaySource(tmp_path / "nowhere").open()


def test_reading_before_open_is_a_mistake_of_the_caller(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="before open"):
        NetflowReplaySource(tmp_path / "x").read_batch()
