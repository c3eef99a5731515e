"""What Argus's ra prints of a capture is read whole: its flows count the packets that the capture holds."""

from __future__ import annotations

import contextlib
import logging
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from made_captures import write_capture

logging.getLogger("scapy").setLevel(logging.ERROR)
from scapy.layers.inet import ICMP, IP, UDP  # noqa: E402
from scapy.layers.inet6 import ICMPv6Unknown, IPv6  # noqa: E402
from scapy.layers.l2 import Ether  # noqa: E402
from scapy.utils import PcapWriter  # noqa: E402

from nsstream.capture import read_trace  # noqa: E402
from nsstream.capture.flow_csv import FlowCsvSource  # noqa: E402
from nsstream.trace import FlowTable  # noqa: E402
from nsstream.trace.fields import ACK, FIN, SYN  # noqa: E402

pytestmark = pytest.mark.skipif(
    shutil.which("argus") is None or shutil.which("ra") is None, reason="argus is not installed"
)

ENDS = "stime dur proto saddr sport dir daddr dport"


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_capture(tmp_path_factory.mktemp("capture") / "made.pcap")


def argus_table(capture: Path, columns: str, *options: str) -> Path:
    records, table = capture.with_suffix(".argus"), capture.with_suffix(".csv")
    records.unlink(missing_ok=True)
    subprocess.run(["argus", "-F", "/dev/null", "-r", capture, "-w", records], check=True, timeout=300)
    command = ["ra", "-F", "/dev/null", "-L0", "-n", "-c", ",", "-r", records, *options, "-s", *columns.split()]
    table.write_bytes(subprocess.run(command, check=True, capture_output=True, timeout=300).stdout)
    return table


def read(table: Path) -> tuple[FlowTable, FlowCsvSource]:
    source = FlowCsvSource(table)
    batches = []
    with contextlib.closing(source):
        source.open()
        while (batch := source.read_batch()) is not None:
            batches.append(batch)
    return FlowTable.concatenate(batches), source


def test_counts_of_each_direction(capture: Path) -> None:
    packets, _ = read_trace(capture)
    table = argus_table(capture, f"{ENDS} spkts dpkts sbytes dbytes state stos", "-u", "-Zb")
    flows, source = read(table)
    assert source.mapping.name == "argus"
    assert source.tally.unsupported == {"non_ip": source.tally.offered - len(flows)}  # of Argus itself
    assert flows.scaled_packet_count.sum() == len(packets)
    assert flows.scaled_octet_count.sum() == packets.ip_total_length.sum() + 14 * len(packets)  # Argus counts Ethernet
    assert flows.flow_start_ns.min() // 1000 == packets.observation_time_ns.min() // 1000
    is_tcp = flows.protocol_identifier == 6
    np.testing.assert_array_equal(flows.tcp_control_bits[is_tcp] & (SYN | ACK | FIN), SYN | ACK | FIN)
    np.testing.assert_array_equal(flows.reverse_tcp_control_bits[is_tcp] & (SYN | ACK | FIN), SYN | ACK | FIN)


def test_totals_of_both_directions_stay_whole(capture: Path) -> None:
    packets, _ = read_trace(capture)
    apart, _ = read(argus_table(capture, f"{ENDS} spkts dpkts sbytes dbytes", "-u"))
    flows, source = read(argus_table(capture, f"{ENDS} state stos dtos pkts bytes sbytes", "-u"))
    assert source.mapping.name == "binetflow"
    assert flows.scaled_packet_count.sum() == len(packets)
    np.testing.assert_array_equal(flows.octet_delta_count, apart.octet_delta_count)
    np.testing.assert_array_equal(flows.reverse_octet_delta_count, apart.reverse_octet_delta_count)
    np.testing.assert_array_equal(flows.scaled_packet_count, apart.scaled_packet_count)


def test_icmp_types_and_codes_are_those_of_the_capture(tmp_path: Path) -> None:
    """No packet answers another, so Argus's records are the packets, in their order."""
    v4 = [(8, 0), (3, 1), (3, 3), (11, 0), (5, 1), (13, 0)]
    v6 = [(128, 0), (1, 4), (3, 1)]
    quoted = IP(src="192.0.2.1", dst="203.0.113.9") / UDP(sport=1111, dport=33434)
    packets = [
        IP(src="192.0.2.1", dst=f"198.51.100.{kind}") / ICMP(type=kind, code=code) / quoted for kind, code in v4
    ] + [
        IPv6(src="2001:db8::1", dst=f"2001:db8::{kind}") / ICMPv6Unknown(type=kind, code=code, msgbody=bytes(60))
        for kind, code in v6
    ]
    capture = tmp_path / "icmp.pcap"
    with PcapWriter(str(capture)) as writer:
        for i, packet in enumerate(packets):
            frame = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / packet
            frame.time = 1_700_000_000 + i
            writer.write(frame)
    wanted = [kind << 8 | code for kind, code in v4 + v6]
    assert len(read_trace(capture)[0]) == len(wanted)
    for counts in ("spkts dpkts sbytes dbytes state stos", "state stos dtos pkts bytes sbytes"):
        flows, _ = read(argus_table(capture, f"{ENDS} {counts}", "-u"))
        assert flows.icmp_type_code.tolist() == wanted
        assert not flows.source_transport_port.any()
        assert not flows.destination_transport_port.any()
