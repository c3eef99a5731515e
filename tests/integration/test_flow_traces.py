"""Published flow tables are read whole: their totals are those of a plain loop over the csv module."""

from __future__ import annotations

import contextlib
import csv
import io
import lzma
import os
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from nsstream.capture.flow_csv import FlowCsvSource
from nsstream.capture.nfcapd_file import NfcapdFileSource
from nsstream.counters import Tally
from nsstream.trace import FlowTable

Row = dict[str, str]
Totals = tuple[int, int, int]  # flows, packets, octets


def trace(name: str) -> Path:
    directory = os.environ.get("NSSTREAM_TEST_TRACES")
    if directory is None or not Path(directory, "flows", name).exists():
        pytest.skip("NSSTREAM_TEST_TRACES does not name the traces")
    return Path(directory, "flows", name)


def read(path: Path) -> tuple[FlowTable, Tally, str]:
    source = FlowCsvSource(path)
    batches = []
    with contextlib.closing(source):
        source.open()
        while (batch := source.read_batch()) is not None:
            source.tally.check()
            batches.append(batch)
    return FlowTable.concatenate(batches), source.tally, source.mapping.name


def rows_of(path: Path) -> Iterator[Row]:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive, archive.open(archive.namelist()[0]) as file:
            yield from csv.DictReader(io.TextIOWrapper(file))
        return
    with lzma.open(path, "rt") as text:
        if ".log" in path.suffixes:
            lines = [line.rstrip("\n") for line in text]
            (fields,) = (line.split("\t")[1:] for line in lines if line.startswith("#fields"))
            yield from (dict(zip(fields, line.split("\t"), strict=True)) for line in lines if not line.startswith("#"))
        else:
            yield from csv.DictReader(text)


def totals(flows: FlowTable) -> Totals:
    packets = flows.packet_delta_count.sum() + flows.reverse_packet_delta_count.sum()
    octets = flows.octet_delta_count.sum() + flows.reverse_octet_delta_count.sum()
    return len(flows), int(packets), int(octets)


def seconds(text: str) -> int:
    return int(Decimal(text) * 10**9)


# preset, packets, octets, start in ns, label
Told = tuple[str, Callable[[Row], int], Callable[[Row], int], Callable[[Row], int], Callable[[Row], str]]
PLAIN: Told = (
    "plain",
    lambda r: int(r["packets"]),
    lambda r: int(r["bytes"]),
    lambda r: seconds(r["ts_first"]),
    lambda r: "",
)
LUFLOW: Told = (
    "luflow",
    lambda r: int(r["num_pkts_in"]) + int(r["num_pkts_out"]),
    lambda r: int(r["bytes_in"]) + int(r["bytes_out"]),
    lambda r: int(r["time_start"].ljust(19, "0")),
    lambda r: r["label"],
)
TABLES: dict[str, Told] = {
    "isp_tier1_sampled3000_70k.csv.xz": PLAIN,
    "edge_netfor_29k_2022.csv.xz": PLAIN,
    "luflow_2020.07.08.zip": LUFLOW,
    "luflow_2020.07.09.zip": LUFLOW,
    "zeek_labelled_ctu_011.conn.log.xz": (
        "zeek",
        lambda r: int(r["orig_pkts"]) + int(r["resp_pkts"]),
        lambda r: int(r["orig_ip_bytes"]) + int(r["resp_ip_bytes"]),
        lambda r: seconds(r["ts"]),
        lambda r: " ".join(part for part in (r["label"], r["detailedlabel"]) if part not in ("-", "(empty)")),
    ),
    "ot_westermo_bottom_35k.csv.xz": (
        "westermo",
        lambda r: (int(r["sPackets"]) + int(r["rPackets"])) * r["protocol"].startswith("IPV4"),
        lambda r: int(r["sBytesSum"]) + int(r["rBytesSum"]),
        lambda r: seconds(r["start"]),
        lambda r: r["NST_M_Label"],
    ),
    "cidds001_wk3_8k.csv.xz": (
        "cidds",
        lambda r: int(r["Packets"]),
        lambda r: int(r["Bytes"]),
        lambda r: round(datetime.fromisoformat(r["Date first seen"]).replace(tzinfo=UTC).timestamp() * 1000) * 10**6,
        lambda r: "",
    ),
    "ugr16_1k.csv.xz": (
        "netshare",
        lambda r: int(r["pkt"]),
        lambda r: int(r["byt"]),
        lambda r: int(float(r["ts"])) * 1000,
        lambda r: r["type"],
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_published_table_is_read_whole(name: str) -> None:
    path = trace(name)
    preset, packets, octets, start_ns, label = TABLES[name]
    flows, tally, found = read(path)
    assert found == preset
    told = list(rows_of(path))
    kept = [row for row in told if packets(row)]  # of no flow without a packet, nor of what is not IP
    assert tally.offered == len(told)
    assert tally.malformed.total() + tally.unsupported.total() == len(told) - len(kept)
    assert set(tally.malformed) <= {"no_packets"}
    assert set(tally.unsupported) <= {"non_ip"}
    assert totals(flows) == (len(kept), sum(map(packets, kept)), sum(map(octets, kept)))
    np.testing.assert_array_equal(flows.flow_start_ns, [start_ns(row) for row in kept])
    names = ("", *flows.label_names)
    assert Counter(names[code] for code in flows.label.tolist()) == Counter(map(label, kept))
    assert (flows.flow_end_ns >= flows.flow_start_ns).all()


@pytest.mark.parametrize("name", ["isp_tier1_sampled3000_70k", "edge_netfor_29k_2022"])
def test_table_and_nfdump_file_of_the_same_flows_agree(name: str) -> None:
    flows, _, _ = read(trace(f"{name}.csv.xz"))
    source = NfcapdFileSource(trace(f"{name}.nfcapd"))
    batches = []
    with contextlib.closing(source):
        source.open()
        while (batch := source.read_batch()) is not None:
            batches.append(batch)
    others = FlowTable.concatenate(batches)
    columns = ("flow_start_ns", "flow_end_ns", "source_address", "destination_address", "protocol_identifier")
    columns += ("source_transport_port", "destination_transport_port", "icmp_type_code")
    columns += ("packet_delta_count", "octet_delta_count", "ingress_interface", "bgp_source_as_number")
    for column in columns:
        np.testing.assert_array_equal(getattr(flows, column), getattr(others, column), column)
    is_tcp = flows.protocol_identifier == 6  # of others the table shows no flags
    np.testing.assert_array_equal(flows.tcp_control_bits[is_tcp], others.tcp_control_bits[is_tcp])


def test_luflow_durations_agree_with_its_times() -> None:
    path = trace("luflow_2020.07.08.zip")
    flows, _, _ = read(path)
    told = np.array([float(row["duration"]) for row in rows_of(path)])
    ours = (flows.flow_end_ns - flows.flow_start_ns) / 1e9
    assert (np.abs(ours - told) < 1e-5).mean() > 0.999
