"""Files that nfdump's tools wrote give the same flows as nfdump prints of them, field by field."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from made_captures import write_capture
from nfdump_tools import NEEDS_NFDUMP, NEEDS_SOFTFLOWD, collect, nfdump, nfdump_rows
from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Ether
from scapy.utils import wrpcap

from nsstream.capture.flow_csv import FlowCsvSource
from nsstream.capture.nfcapd_file import NfcapdFileSource
from nsstream.counters import Tally
from nsstream.errors import InputError
from nsstream.trace import FlowTable
from nsstream.trace.flows import TimeQuality

pytestmark = NEEDS_NFDUMP

NUMBERS = {
    "sp": "source_transport_port",
    "stos": "ip_class_of_service",
    "ipkt": "packet_delta_count",
    "ibyt": "octet_delta_count",
    "opkt": "reverse_packet_delta_count",
    "obyt": "reverse_octet_delta_count",
    "in": "ingress_interface",
    "out": "egress_interface",
    "sas": "bgp_source_as_number",
    "das": "bgp_destination_as_number",
    "smk": "source_prefix_length",
    "dmk": "destination_prefix_length",
    "svln": "vlan_id",
}
ADDRESSES = {"sa": "source_address", "da": "destination_address", "nh": "ip_next_hop_address", "ra": "exporter_address"}
PROTOCOLS = {"TCP": 6, "UDP": 17, "ICMP": 1, "ICMP6": 58, "GRE": 47, "ESP": 50, "IPIP": 4, "SCTP": 132, "IGMP": 2}
FLAGS = "CEUAPRSF"


def read_flows(path: Path, **options: bool) -> tuple[FlowTable, Tally]:
    source = NfcapdFileSource(path, **options)
    batches = []
    with contextlib.closing(source):
        source.open()
        while (batch := source.read_batch()) is not None:
            assert len(batch)
            source.tally.check()
            batches.append(batch)
    return FlowTable.concatenate(batches), source.tally


def assert_same_as_nfdump(path: Path) -> FlowTable:
    flows, tally = read_flows(path)
    rows = nfdump_rows(path)
    assert tally.kept == tally.offered == len(flows) == len(rows)
    for ours, theirs in (("flow_start_ns", "ts"), ("flow_end_ns", "te")):
        told = np.array([row[theirs] for row in rows], "datetime64[ns]").astype(np.int64)
        is_exact = flows.time_quality == TimeQuality.EXACT
        np.testing.assert_array_equal(getattr(flows, ours)[is_exact], told[is_exact], theirs)
    for theirs, ours in NUMBERS.items():
        told = np.array([int(row[theirs]) for row in rows], np.uint64)
        np.testing.assert_array_equal(getattr(flows, ours).astype(np.uint64), told, theirs)
    for theirs, ours in ADDRESSES.items():
        np.testing.assert_array_equal(getattr(flows, ours), np.stack([_octets(row[theirs]) for row in rows]), theirs)
    told = np.array([PROTOCOLS.get(row["pr"]) or int(row["pr"]) for row in rows])
    np.testing.assert_array_equal(flows.protocol_identifier, told)
    told = np.array([sum(0x80 >> FLAGS.index(letter) for letter in row["flg"] if letter != ".") for row in rows])
    np.testing.assert_array_equal(flows.tcp_control_bits, told)
    told = np.array([int(row["dp"]) for row in rows])  # of ICMP: type << 8 | code
    np.testing.assert_array_equal(flows.destination_transport_port.astype(int) | flows.icmp_type_code, told)
    is_icmp = np.isin(flows.protocol_identifier, [1, 58])
    assert not flows.destination_transport_port[is_icmp].any()
    assert not flows.icmp_type_code[~is_icmp].any()
    directions = flows.flow_direction % 255  # nfdump prints 0 where nobody told
    np.testing.assert_array_equal(directions, [{"I": 0, "E": 1}.get(row["dir"]) or int(row["dir"]) for row in rows])
    return flows


def _octets(text: str) -> np.ndarray:
    address = ipaddress.ip_address(text)
    if not int(address):
        return np.zeros(16, np.uint8)  # nfdump prints 0.0.0.0 where nobody told
    packed = address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed
    return np.frombuffer(packed, np.uint8)


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TCP, UDP and ICMP over IPv4 and IPv6."""
    directory = tmp_path_factory.mktemp("capture")
    more = [
        Ether() / IP(src="192.0.2.9", dst="198.51.100.9") / ICMP(type=8, code=0, id=7),
        Ether() / IP(src="198.51.100.9", dst="192.0.2.9") / ICMP(type=3, code=13),
        Ether() / IPv6(src="2001:db8::1", dst="2001:db8::2:3") / TCP(sport=1025, dport=443, flags="SEC"),
        Ether() / IPv6(src="2001:db8::1", dst="2001:db8::2:3") / ICMPv6EchoRequest(),
    ]
    for number, frame in enumerate(more):
        frame.time = 1_500_000_000 + number
    write_capture(directory / "first.pcap", conversations=600)
    wrpcap(str(directory / "second.pcap"), more)
    whole = directory / "whole.pcap"
    subprocess.run(
        ["mergecap", "-F", "pcap", "-w", whole, directory / "first.pcap", directory / "second.pcap"], check=True
    )
    return whole


@NEEDS_SOFTFLOWD
@pytest.mark.parametrize(("version", "compression"), [(5, "-z"), (9, "-y"), (9, "-j"), (10, "-z"), (9, None)])
def test_what_nfcapd_collects_is_what_nfdump_prints(
    version: int, compression: str | None, capture: Path, tmp_path: Path
) -> None:
    path = collect(capture, tmp_path / "flows", version, *([compression] if compression else []))
    flows = assert_same_as_nfdump(path)
    assert len(flows) > 1000
    assert set(flows.exporter_address[:, 12:].tobytes()) == {127, 0, 1}
    if version == 9:
        assert {4, 6} == set(flows.ip_version)
        assert 8 << 8 in flows.icmp_type_code
        assert 3 << 8 | 13 in flows.icmp_type_code


@NEEDS_SOFTFLOWD
def test_file_rewritten_in_each_compression_gives_the_same_flows(capture: Path, tmp_path: Path) -> None:
    path = collect(capture, tmp_path / "flows", 9)
    whole, _ = read_flows(path)
    for option in ("-z", "-y", "-j"):
        again = tmp_path / option
        nfdump(option, "-r", str(path), "-w", str(again))
        flows, _ = read_flows(again)
        for name, column in whole.columns().items():
            np.testing.assert_array_equal(flows.columns()[name], column, name)
    compressed = tmp_path / "again.xz"
    compressed.write_bytes(subprocess.run(["xz", "-c", path], check=True, capture_output=True).stdout)
    assert len(read_flows(compressed)[0]) == len(whole)


@NEEDS_SOFTFLOWD
def test_anonymised_and_aggregated_files_are_read(capture: Path, tmp_path: Path) -> None:
    path = collect(capture, tmp_path / "flows", 9, "-z")
    hidden, both = tmp_path / "hidden", tmp_path / "both"
    subprocess.run(["nfanon", "-K", "0123456789abcdefghijklmnopqrstuv", "-r", path, "-w", hidden], check=True)
    assert_same_as_nfdump(hidden)
    nfdump("-B", "-r", str(path), "-w", str(both))
    flows = assert_same_as_nfdump(both)
    assert flows.reverse_packet_delta_count.sum() > 0


@NEEDS_SOFTFLOWD
def test_table_that_nfdump_prints_gives_the_same_flows_as_its_file(capture: Path, tmp_path: Path) -> None:
    path = collect(capture, tmp_path / "flows", 9, "-z")
    whole, _ = read_flows(path)
    table = tmp_path / "flows.csv"
    table.write_text(nfdump("-r", str(path), "-o", "csv"))
    source = FlowCsvSource(table)
    with contextlib.closing(source):
        source.open()
        flows = source.read_batch()
        assert flows is not None
        assert source.read_batch() is None
    assert source.mapping.name == "nfdump"
    assert source.tally.offered == len(flows)
    columns = whole.columns()
    for name in ("flow_start_ns", "flow_end_ns", "observation_domain_id", "time_quality"):
        del columns[name]  # the table has whole seconds, and no domain
    for name, column in columns.items():
        np.testing.assert_array_equal(flows.columns()[name], column, name)
    np.testing.assert_array_equal(flows.flow_start_ns, whole.flow_start_ns // 10**9 * 10**9)
    np.testing.assert_array_equal(flows.flow_end_ns - flows.flow_start_ns, whole.flow_end_ns - whole.flow_start_ns)


@NEEDS_SOFTFLOWD
@pytest.mark.parametrize("share", [0.3, 0.999])
def test_cut_file_is_refused_or_read_as_far_as_it_goes(share: float, capture: Path, tmp_path: Path) -> None:
    octets = collect(capture, tmp_path / "flows", 9).read_bytes()
    cut = tmp_path / "cut"
    cut.write_bytes(octets[: int(share * len(octets))])
    with pytest.raises(InputError, match="ends in the middle of a block"):
        read_flows(cut)
    _, tally = read_flows(cut, allow_cut=True)
    tally.check()
    assert tally.malformed["cut_record"] > 0


@pytest.mark.parametrize("name", ["isp_tier1_sampled3000_70k", "edge_netfor_29k_2022"])
def test_real_trace_is_what_nfdump_prints(name: str, tmp_path: Path) -> None:
    directory = os.environ.get("NSSTREAM_TEST_TRACES")
    if directory is None or not Path(directory, "flows", f"{name}.nfcapd").exists():
        pytest.skip("NSSTREAM_TEST_TRACES does not name the traces")
    path = Path(directory, "flows", f"{name}.nfcapd")
    flows = assert_same_as_nfdump(path)
    assert len(flows) > 29_000
    plain = tmp_path / "plain"
    nfdump("-r", str(path), "-w", str(plain))
    assert len(read_flows(plain)[0]) == len(flows)
