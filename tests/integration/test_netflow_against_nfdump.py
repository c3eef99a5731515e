"""Our reading of exports beside nfcapd's: keys, counters and times to the millisecond, of the same datagrams.

nfdump 1.7.1 is right for v5 and v9. Of IPFIX it changes start and end where they are relative to the system init time,
and gives no time where that is not told; docs/netflow.md lists what else differs.
"""

from __future__ import annotations

import calendar
import ipaddress
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import time
from collections import Counter
from pathlib import Path

import pytest
from made_exports import arrays
from nfdump_tools import (
    DEADLINE_S,
    NEEDS_NFDUMP,
    NEEDS_SOFTFLOWD,
    free_port,
    nfdump,
    received_and_waiting,
    wait_until,
    wait_until_taken,
)
from test_netflow_against_tshark import NEEDS_VENDORS, VENDORS, softflowd_exports
from tshark_exports import read_by_tshark

from nsstream.wire.netflow import ExportDecoder

pytestmark = NEEDS_NFDUMP

# start and end in ms, protocol, addresses, ports, packets, octets
Flow = tuple[int, int, int, str, str, int, int, int, int]
ICMP = (1, 58)

# Vendors' captures that nfdump reads in full and right: v5, v9 and IPFIX.
VENDOR_CAPTURES = (
    "graylog/netgraph-netflow5.pcap",
    "graylog/nprobe-netflow9-3.pcap",
    "graylog/pmacctd-netflow5.pcap",
    "graylog/pmacctd-netflow9.pcap",
    "pmacct/100-IPFIXv10-CISCO__traffic-00.pcap",
    "pmacct/103-IPFIXv10-CISCO-pretag-JSON_encoding__traffic-00.pcap",
    "pmacct/110-IPFIXv10-NFv9-multiple-sources__traffic-00.pcap",
)


@NEEDS_SOFTFLOWD
@pytest.mark.parametrize("version", [5, 9])
def test_softflowds_exports_read_as_nfdump_reads_them(tmp_path: Path, version: int) -> None:
    exports = [(payload, "127.0.1.1") for payload in softflowd_exports(tmp_path, version)]
    flows = flows_of_ours(exports)
    assert flows == flows_of_nfdump(tmp_path / "nfcapd", exports)
    assert flows.total() > 3000


@NEEDS_SOFTFLOWD
def test_softflowds_ipfix_has_the_flows_of_nfdump_and_lawful_times(tmp_path: Path) -> None:
    exports = [(payload, "127.0.1.1") for payload in softflowd_exports(tmp_path, 10)]
    ours, theirs = flows_of_ours(exports), flows_of_nfdump(tmp_path / "nfcapd", exports)
    assert any(start > end for start, end, *_ in theirs)  # nfdump 1.7.1
    swapped: Counter[Flow] = Counter()
    for (start, end, *rest), count in theirs.items():
        swapped[(min(start, end), max(start, end), *rest)] += count  # type: ignore[index]
    assert ours == swapped


@NEEDS_VENDORS
@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
@pytest.mark.parametrize("name", VENDOR_CAPTURES)
def test_vendors_captures_read_as_nfdump_reads_them(tmp_path: Path, name: str) -> None:
    with tarfile.open(VENDORS) as archive:
        archive.extract(name, tmp_path, filter="data")
    datagrams = read_by_tshark(tmp_path / name)
    exporters = list(dict.fromkeys(datagram.exporter for datagram in datagrams))
    exports = [(d.payload, f"127.0.1.{exporters.index(d.exporter) + 1}") for d in datagrams]
    flows = flows_of_ours(exports)
    assert flows == flows_of_nfdump(tmp_path / "nfcapd", exports)
    assert flows.total() > 0


def flows_of_ours(exports: list[tuple[bytes, str]]) -> Counter[Flow]:
    decoder = ExportDecoder(max_clock_error_s=1e9)
    exporters = [bytes(10) + b"\xff\xff" + socket.inet_aton(source) for _, source in exports]
    flows = decoder.decode(*arrays([payload for payload, _ in exports], exporters))
    decoder.tally.check()
    return Counter(
        zip(
            (flows.flow_start_ns // 10**6).tolist(),
            (flows.flow_end_ns // 10**6).tolist(),
            flows.protocol_identifier.tolist(),
            map(address_text, flows.source_address),
            map(address_text, flows.destination_address),
            ports(flows.source_transport_port.tolist(), flows.protocol_identifier.tolist()),
            ports(flows.destination_transport_port.tolist(), flows.protocol_identifier.tolist()),
            flows.packet_delta_count.tolist(),
            flows.octet_delta_count.tolist(),
            strict=True,
        )
    )


def ports(numbers: list[int], protocols: list[int]) -> list[int]:
    """Ports; 0 for ICMP: nfdump loses type and code where an element of their own has them."""
    return [0 if protocol in ICMP else number for number, protocol in zip(numbers, protocols, strict=True)]


def address_text(octets: object) -> str:
    address = ipaddress.IPv6Address(octets.tobytes())  # type: ignore[attr-defined]
    return str(address.ipv4_mapped or address)


def flows_of_nfdump(directory: Path, exports: list[tuple[bytes, str]]) -> Counter[Flow]:
    directory.mkdir()
    port = free_port()
    nfcapd = subprocess.Popen(
        ["nfcapd", "-w", str(directory), "-p", str(port), "-b", "127.0.0.1", "-t", "3600", "-B", "8388608"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    senders: dict[str, socket.socket] = {}
    try:
        wait_until(lambda: received_and_waiting(port) == 0)
        for payload, source in exports:
            if source not in senders:
                senders[source] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                senders[source].bind((source, 0))
            senders[source].sendto(payload, ("127.0.0.1", port))
            wait_until(lambda: received_and_waiting(port) == 0)
        wait_until_taken(port)
    finally:
        os.kill(nfcapd.pid, signal.SIGTERM)
        nfcapd.wait(DEADLINE_S)
        for sender in senders.values():
            sender.close()
    (path,) = directory.glob("nfcapd.2*")
    lines = nfdump("-q", "-N", "-6", "-r", str(path), "-o", "fmt:%ts|%te|%pr|%sa|%da|%sp|%dp|%pkt|%byt").splitlines()
    return Counter(flow_of(line.split("|")) for line in lines if line.count("|") == 8)


def flow_of(cells: list[str]) -> Flow:
    start, end, protocol, source, destination, source_port, destination_port, packets, octets = map(str.strip, cells)
    is_icmp = int(protocol) in ICMP
    return (
        milliseconds(start),
        milliseconds(end),
        int(protocol),
        str(ipaddress.ip_address(source)),
        str(ipaddress.ip_address(destination)),
        0 if is_icmp else int(source_port),
        0 if is_icmp else int(destination_port),
        int(packets),
        int(octets),
    )


def milliseconds(text: str) -> int:
    whole, _, fraction = text.partition(".")
    return calendar.timegm(time.strptime(whole, "%Y-%m-%d %H:%M:%S")) * 1000 + int(fraction)
