"""Columns agree with tshark on the lab capture, packet by packet."""

from __future__ import annotations

import lzma
import subprocess
from ipaddress import ip_address
from pathlib import Path

import nsstream_daemon
import numpy as np

from nsstream.capture import read_trace

LAB = Path(nsstream_daemon.__file__).parent / "data" / "lab.pcap.xz"
COLUMNS = {
    "frame.time_epoch": "observation_time_ns",
    "vlan.id": "vlan_id",
    "ip.len": "ip_total_length",
    "ip.ttl": "ip_ttl",
    "ip.id": "fragment_identification",
    "ip.proto": "protocol_identifier",
    "ipv6.hlim": "ip_ttl",
    "ipv6.flow": "flow_label_ipv6",
    "tcp.srcport": "source_transport_port",
    "tcp.dstport": "destination_transport_port",
    "tcp.seq_raw": "tcp_sequence_number",
    "tcp.ack_raw": "tcp_acknowledgement_number",
    "tcp.flags": "tcp_control_bits",
    "tcp.window_size_value": "tcp_window_size",
    "tcp.hdr_len": "tcp_header_length",
    "udp.srcport": "source_transport_port",
    "udp.dstport": "destination_transport_port",
    "icmp.type": "icmp_type",
    "icmp.code": "icmp_code",
    "icmpv6.type": "icmp_type",
    "icmpv6.code": "icmp_code",
}


def test_columns_agree_with_tshark(tmp_path: Path) -> None:
    plain = tmp_path / "lab.pcap"
    plain.write_bytes(lzma.decompress(LAB.read_bytes()))
    fields = ["ip.src", "ipv6.src", "ip.dst", "ipv6.dst", *COLUMNS]
    command = ["tshark", "-n", "-r", str(plain), "-Y", "ip or ipv6", "-T", "fields", "-E", "occurrence=f"]
    command += ["-o", "ip.defragment:FALSE", "-o", "ipv6.defragment:FALSE", "-o", "tcp.desegment_tcp_streams:FALSE"]
    command += [word for field in fields for word in ("-e", field)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    rows = np.array([line.split("\t") for line in told])
    packets, tally = read_trace(LAB)
    assert len(packets) == tally.kept == len(rows)
    assert packets.source_address.tobytes() == b"".join(packed(*row[:2]) for row in rows)
    assert packets.destination_address.tobytes() == b"".join(packed(*row[2:4]) for row in rows)
    for i, (field, name) in enumerate(COLUMNS.items(), start=4):
        is_icmp = np.isin(packets.protocol_identifier, (1, 58))  # an error quotes another packet's ports
        said = (rows[:, i] != "") & ~(is_icmp & field.startswith(("tcp", "udp")))
        assert said.any()
        expected = [number(text) for text in rows[said, i]]
        np.testing.assert_array_equal(getattr(packets, name)[said], expected, err_msg=field)


def packed(ipv4: str, ipv6: str) -> bytes:
    return bytes(10) + b"\xff\xff" + ip_address(ipv4).packed if ipv4 else ip_address(ipv6).packed


def number(text: str) -> int:
    """tshark's decimal, hexadecimal, or seconds with nine decimals."""
    return int(text.replace(".", "")) if "." in text else int(text, 0)
