"""Our reading of exports beside tshark's: softflowd's, and vendors' captures where there are any.

Keys, counters and times must be the same, record by record. Where tshark is known to be wrong, the test says how;
docs/netflow.md lists these differences.
"""

from __future__ import annotations

import lzma
import os
import re
import shutil
import socket
import struct
import subprocess
import tarfile
from collections import Counter
from pathlib import Path

import nsstream_daemon
import numpy as np
import pytest
from made_exports import arrays, rows
from tshark_exports import Datagram, read_by_tshark

from nsstream.wire import pcap_header, write_records
from nsstream.wire.netflow import ExportDecoder

NEEDS_TSHARK = pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
NEEDS_SOFTFLOWD = pytest.mark.skipif(shutil.which("softflowd") is None, reason="softflowd is not installed")
TRACES = os.environ.get("NSSTREAM_TEST_TRACES", "")
VENDORS = Path(TRACES, "exporters", "exporters_dev.tar.xz")
NEEDS_VENDORS = pytest.mark.skipif(not (TRACES and VENDORS.is_file()), reason="NSSTREAM_TEST_TRACES has no exporters")
pytestmark = NEEDS_TSHARK

WRAP_NS = (1 << 32) * 10**6
YEARS_NS = 100 * 365 * 86400 * 10**9
RECEIVED_S = 1_700_000_000


def patient_decoder() -> ExportDecoder:
    """One that moves no time: old captures are read as if they came in just now."""
    return ExportDecoder(max_clock_error_s=YEARS_NS / 10**9)


def differences(datagrams: list[Datagram]) -> tuple[Counter[str], int]:
    """In how many records each column differs, without those that are explained; and how many records were compared.

    Explained: tshark prints an uptime of 0 as 1970, knows no wrap of the uptime, and does not round the fractions of
    microseconds that RFC 7011 6.1.9 makes void. It stops at v9's header count, which exporters have of records, of
    sets or wrong; and it reads no data that came before its template.
    """
    decoder = patient_decoder()
    found: Counter[str] = Counter()
    compared = 0
    for datagram in datagrams:
        ours = rows(decoder.decode(*arrays([datagram.payload], [datagram.exporter], [datagram.time_ns])))
        decoder.tally.check()
        # What tshark has must be there, in its order; what it has not is looked at by the caller.
        if len(datagram.flows) > len(ours):
            found["missing"] += len(datagram.flows) - len(ours)
            continue
        for mine, theirs in zip(ours, datagram.flows, strict=False):
            compared += 1
            found.update(name for name, value in theirs.items() if not agrees(name, mine[name], value))
        if len(ours) > len(datagram.flows):
            found["more"] += len(ours) - len(datagram.flows)
    return found, compared


def agrees(name: str, ours: object, theirs: object) -> bool:
    if ours == theirs:
        return True
    if name not in ("flow_start_ns", "flow_end_ns"):
        return False
    assert isinstance(ours, int)
    assert isinstance(theirs, int)
    return theirs == 0 or theirs - ours == WRAP_NS or abs(theirs - ours) < 1000


@NEEDS_SOFTFLOWD
@pytest.mark.parametrize("version", [5, 9, 10])
def test_softflowds_exports_read_as_tshark_reads_them(tmp_path: Path, version: int) -> None:
    datagrams = softflowd_exports(tmp_path, version)
    capture = tmp_path / "exports.pcap"
    write_exports(capture, [(payload, "192.0.2.1") for payload in datagrams])
    by_tshark = read_by_tshark(capture)
    assert [d.payload for d in by_tshark] == datagrams
    found, compared = differences(by_tshark)
    # tshark stops at the header count of softflowd's v9 where it is that of the templates.
    assert found.keys() <= ({"more"} if version == 9 else set())
    assert compared > 3000


@NEEDS_SOFTFLOWD
def test_softflowds_three_versions_tell_the_same_flows(tmp_path: Path) -> None:
    tables = {}
    for version in (5, 9, 10):
        decoder = patient_decoder()
        flows = decoder.decode(*arrays(softflowd_exports(tmp_path, version)))
        decoder.tally.check()
        assert decoder.tally.kept == decoder.tally.offered
        tables[version] = flows.take(flows.ip_version == 4)
    keys = {
        version: Counter(
            zip(
                (octets.tobytes() for octets in flows.source_address),
                (octets.tobytes() for octets in flows.destination_address),
                flows.protocol_identifier.tolist(),
                flows.source_transport_port.tolist(),
                flows.packet_delta_count.tolist(),
                flows.octet_delta_count.tolist(),
                flows.icmp_type_code.tolist(),
                ((flows.flow_end_ns - flows.flow_start_ns) // 10**6).tolist(),
                strict=True,
            )
        )
        for version, flows in tables.items()
    }
    assert keys[9] == keys[10]
    assert keys[5].total() == keys[9].total()
    assert tables[5].packet_delta_count.sum() == tables[9].packet_delta_count.sum()
    assert not tables[10].time_quality.any()  # its system init time, in an options record, was found


@NEEDS_SOFTFLOWD
def test_softflowds_biflows_have_both_directions_of_its_uniflows(tmp_path: Path) -> None:
    one_way = patient_decoder().decode(*arrays(softflowd_exports(tmp_path, 10)))
    both = patient_decoder().decode(*arrays(softflowd_exports(tmp_path, 10, "-b")))
    assert len(both) < len(one_way)
    assert both.scaled_packet_count.sum() == one_way.packet_delta_count.sum()
    assert both.scaled_octet_count.sum() == one_way.octet_delta_count.sum()
    assert both.reverse_tcp_control_bits.any()


@NEEDS_SOFTFLOWD
@pytest.mark.parametrize("version", [5, 9, 10])
def test_softflowds_sampling_is_told_beside_raw_counts(tmp_path: Path, version: int) -> None:
    flows = patient_decoder().decode(*arrays(softflowd_exports(tmp_path, version, "-s", "10")))
    assert set(flows.sampling_interval.tolist()) == {10}
    assert flows.scaled_packet_count.sum() == 10 * flows.packet_delta_count.sum() > 0


# Capture -> records that only we have, and why.
MORE = {
    "graylog/netflow9.pcap": 3,  # the header counts the template only; data before its template
    "graylog/nprobe-netflow9-4.pcap": 14,  # data before its template
    "pmacct/112-IPFIXv10-CISCO-options-map-reassignment__traffic-00.pcap": 9,  # data before its template
}


@NEEDS_VENDORS
@pytest.mark.slow
def test_vendors_captures_read_as_tshark_reads_them(tmp_path: Path) -> None:
    unpack(tmp_path)
    total = 0
    for capture in sorted(tmp_path.rglob("*.pcap")):
        name = str(capture.relative_to(tmp_path))
        if "sflow" in name:
            continue
        found, compared = differences(read_by_tshark(capture))
        total += compared
        assert found == Counter(more=MORE[name]) if name in MORE else not found, name
    assert total > 2500


# Datagrams of one file each, where tshark and we differ in more than the differences that `agrees` explains.
EXPLAINED = {
    "ipfix_test_yaf_data45873.dat": {"tcp_control_bits"},  # in CERT's own elements
    "netflow5_test_invalid01.dat": {"flow_start_ns", "flow_end_ns"},  # times days ahead of the uptime in the header
    "netflow5_test_invalid02.dat": {"flow_start_ns"},  # likewise
    "netflow9_test_fortigate_fortios_521_data257.dat": {"flow_start_ns", "flow_end_ns"},  # likewise
    "netflow9_test_0length_fields_tpl_data.dat": {"differs"},  # counts zero in elements 2 and 1, but not in 24 and 23
    "netflow9_test_h3c_data3281.dat": {"more"},  # an IPv4 address of 2 octets, where tshark gives up
    "netflow9_test_invalid01.dat": {"more"},  # the header counts the templates only
    "netflow9_test_nprobe_dpi.dat": {"flow_start_ns", "flow_end_ns"},  # an export time of 1970: beyond our clock error
}


@NEEDS_VENDORS
def test_vendors_single_datagrams_read_as_tshark_reads_them(tmp_path: Path) -> None:
    unpack(tmp_path)
    files = sorted((tmp_path / "logstash_codec_netflow").glob("*.dat"), key=lambda file: (family(file), rank(file)))
    families = list(dict.fromkeys(map(family, files)))
    exports = [(file.read_bytes(), f"10.9.0.{families.index(family(file)) + 1}") for file in files]
    capture = tmp_path / "single.pcap"
    write_exports(capture, exports)
    decoder = ExportDecoder(max_clock_error_s=1e9)
    compared = 0
    for file, datagram in zip(files, read_by_tshark(capture), strict=True):
        ours = rows(decoder.decode(*arrays([datagram.payload], [datagram.exporter], [datagram.time_ns])))
        decoder.tally.check()
        expected = EXPLAINED.get(file.name, set())
        if "differs" in expected:
            assert ours != datagram.flows
            continue
        if "more" in expected:
            assert len(ours) > len(datagram.flows)
        else:
            assert len(ours) == len(datagram.flows), file.name
        for mine, theirs in zip(ours, datagram.flows, strict=False):
            compared += 1
            assert {k for k, v in theirs.items() if not agrees(k, mine[k], v)} <= expected, file.name
    assert compared > 300


def family(file: Path) -> str:
    """Templates and data of one exporter."""
    return re.sub(r"_(tpl|data|opttpl|tplopt).*$", "", file.stem)


def rank(file: Path) -> int:
    """Templates first."""
    return 0 if "tpl" in file.stem.replace("tpldata", "") else 1


def unpack(directory: Path) -> None:
    with tarfile.open(VENDORS) as archive:
        archive.extractall(directory, filter="data")


def softflowd_exports(directory: Path, version: int, *options: str) -> list[bytes]:
    """What softflowd exports of our own capture; its times are moved to now, which keeps them in 32 bits."""
    capture = directory / "lab.pcap"
    if not capture.exists():
        packed = Path(nsstream_daemon.__file__).parent / "data" / "lab.pcap.xz"
        capture.write_bytes(lzma.decompress(packed.read_bytes()))
    datagrams = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inlet:
        inlet.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
        inlet.bind(("127.0.0.1", 0))
        where = ["-n", f"127.0.0.1:{inlet.getsockname()[1]}", "-p", str(directory / "softflowd.pid"), "-c", "none"]
        command = ["softflowd", "-r", str(capture), "-v", str(version), "-a", "-d", *options, *where]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
        inlet.setblocking(False)  # it has ended: all that it sent is there
        try:
            while True:
                datagrams.append(inlet.recv(65_535))
        except BlockingIOError:
            return datagrams


def write_exports(path: Path, exports: list[tuple[bytes, str]]) -> None:
    """A capture of datagrams, each from an IPv4 address to port 2055, a second after the other."""
    frames = []
    for payload, source in exports:
        udp = struct.pack("!HHHH", 2055, 2055, 8 + len(payload), 0) + payload
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0)
        addresses = socket.inet_aton(source) + socket.inet_aton("192.0.2.99")
        frames.append(bytes.fromhex("020000000002 020000000001 0800") + head + addresses + udp)
    offset = np.cumsum([0, *map(len, frames)], dtype=np.int64)
    times_ns = (RECEIVED_S + np.arange(len(frames), dtype=np.int64)) * 10**9
    path.write_bytes(pcap_header() + write_records(times_ns, offset, np.frombuffer(b"".join(frames), np.uint8)))
