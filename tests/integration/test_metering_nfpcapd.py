"""Our meter beside nfpcapd on the bundled lab capture, record by record: times, packets, octets, flags.

Both keep TCP and UDP flows by five-tuple with an active and an idle timeout on the packets' own clock. What differs:

- nfpcapd (1.7.1) gives each packet from or to UDP port 53 a record of its own; they add up to ours.
- nfpcapd looks only now and then for flows that are due: with short timeouts several of our records lie in one of its.
- nfpcapd gives every packet of other protocols a record of its own, so only TCP and UDP are compared.

The capture's times are cut to microseconds: nfpcapd takes the nanoseconds of a pcap for microseconds.
"""

from __future__ import annotations

import lzma
import os
import shutil
import struct
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import nsstream_daemon
import numpy as np
import pytest

from nsstream.capture import open_source, read_trace
from nsstream.trace import FlowEndReason, FlowTable
from nsstream.trace.fields import TCP, UDP
from nsstream.trace.metering import FlowMeter

CAPTURE = Path(nsstream_daemon.__file__).parent / "data/lab.pcap.xz"
DNS = 53

Key = tuple[int, bytes, bytes, int, int]
Record = tuple[int, int, int, int, int]  # start and end in ms, packets, octets, TCP control bits

pytestmark = pytest.mark.skipif(shutil.which("nfpcapd") is None, reason="needs nfpcapd")


def in_microseconds(octets: bytes) -> Iterator[bytes]:
    magic, rest = struct.unpack_from("<I20s", octets)
    assert magic == 0xA1B23C4D
    yield struct.pack("<I20s", 0xA1B2C3D4, rest)
    at = 24
    while at < len(octets):
        second, nanosecond, captured, length = struct.unpack_from("<IIII", octets, at)
        yield struct.pack("<IIII", second, nanosecond // 1000, captured, length)
        yield octets[at + 16 : at + 16 + captured]
        at += 16 + captured


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("capture") / "lab.pcap"
    path.write_bytes(b"".join(in_microseconds(lzma.decompress(CAPTURE.read_bytes()))))
    return path


def theirs(capture: Path, directory: Path, *, active_s: int, idle_s: int) -> dict[Key, list[Record]]:
    directory.mkdir()
    subprocess.run(
        ["nfpcapd", "-r", capture, "-w", directory, "-t", "3600", "-e", f"{active_s},{idle_s}"],
        check=True, capture_output=True, timeout=300,
    )  # fmt: skip
    flows: dict[Key, list[Record]] = defaultdict(list)
    for path in directory.iterdir():
        source = open_source(f"nfcapd:{path}")
        source.open()
        while (table := source.read_batch()) is not None:
            add(flows, table)
        source.close()
    return flows


def metered(capture: Path, *, active_s: int, idle_s: int) -> tuple[dict[Key, list[Record]], FlowMeter]:
    meter = FlowMeter(idle_timeout_s=idle_s, active_timeout_s=active_s)
    packets, _ = read_trace(capture)
    flows: dict[Key, list[Record]] = defaultdict(list)
    add(flows, meter.push(packets))
    add(flows, meter.flush())
    return flows, meter


def add(flows: dict[Key, list[Record]], table: FlowTable) -> None:
    for i in np.flatnonzero(np.isin(table.protocol_identifier, (TCP, UDP))):
        key = (
            int(table.protocol_identifier[i]),
            table.source_address[i].tobytes(), table.destination_address[i].tobytes(),
            int(table.source_transport_port[i]), int(table.destination_transport_port[i]),
        )  # fmt: skip
        record = (
            int(table.flow_start_ns[i]) // 10**6, int(table.flow_end_ns[i]) // 10**6, int(table.packet_delta_count[i]),
            int(table.octet_delta_count[i]), int(table.tcp_control_bits[i]),
        )  # fmt: skip
        flows[key].append(record)


def summed(records: list[Record]) -> Record:
    start, end, packets, octets, bits = zip(*records, strict=True)
    return min(start), max(end), sum(packets), sum(octets), int(np.bitwise_or.reduce(bits))


def test_records_are_nfpcapds(capture: Path, tmp_path: Path) -> None:
    wanted = theirs(capture, tmp_path / "flows", active_s=60, idle_s=15)
    ours, _ = metered(capture, active_s=60, idle_s=15)
    assert ours.keys() == wanted.keys()
    assert len(ours) > 6000
    for key, records in wanted.items():
        if key[0] == UDP and DNS in key[3:]:
            assert all(packets == 1 for _, _, packets, _, _ in records)
            assert summed(ours[key]) == summed(records), key
        else:
            assert sorted(ours[key]) == sorted(records), key


def test_short_timeouts_cut_nfpcapds_records_and_lose_nothing_of_them(capture: Path, tmp_path: Path) -> None:
    wanted = theirs(capture, tmp_path / "flows", active_s=10, idle_s=5)
    ours, meter = metered(capture, active_s=10, idle_s=5)
    assert {key: summed(records) for key, records in ours.items()} == {key: summed(wanted[key]) for key in wanted}
    cut = [key for key in ours if sorted(ours[key]) != sorted(wanted[key]) and not (key[0] == UDP and DNS in key[3:])]
    assert 0 < len(cut) < 50
    assert all(len(ours[key]) >= len(wanted[key]) for key in cut)
    assert meter.ended[FlowEndReason.ACTIVE_TIMEOUT] > 0


@pytest.mark.parametrize(
    "name", ["attack_ctf_hackeire_c2_2011", "attack_sd_syn", "ot_characterization_modbus_6RTU_with_operate", "ot_dnp3"]
)
def test_flows_of_real_traces_add_up_to_nfpcapds(name: str, tmp_path: Path) -> None:
    """A scan, a flood, two plants; where nfpcapd is late, several of our records add up to one of its."""
    trace = Path(os.environ.get("NSSTREAM_TEST_TRACES", ""), "packets", f"{name}.pcap.xz")
    if not trace.exists():
        pytest.skip("NSSTREAM_TEST_TRACES does not name the traces")
    capture = tmp_path / "trace.pcap"
    capture.write_bytes(lzma.decompress(trace.read_bytes()))
    wanted = theirs(capture, tmp_path / "flows", active_s=60, idle_s=15)
    ours, _ = metered(capture, active_s=60, idle_s=15)
    assert ours.keys() == wanted.keys()
    for key, records in wanted.items():
        *sums, bits = summed(ours[key])
        assert (*sums, bits & 0xFF) == summed(records), key  # nfpcapd keeps eight flags
        assert len(ours[key]) >= len(records) or DNS in key[3:]
