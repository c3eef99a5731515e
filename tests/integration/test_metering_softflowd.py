"""Our meter beside softflowd on the bundled lab capture, exported as NetFlow v9 to nfcapd: every difference is named.

softflowd reads a file without expiring anything (it works by the machine's clock) and exports all at the end, so ours
is told never to expire, too, and records of one key are summed on both sides. What is left:

- softflowd exports no type and code of ICMPv6: its records of one pair of hosts are one.
- softflowd leaves later fragments in a flow without ports; ours adds them to the flow of their first fragment.

The capture is cut into pieces, since softflowd exports in one burst, which must fit a socket buffer.
"""

from __future__ import annotations

import ipaddress
import lzma
import shutil
import socket
import struct
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import nsstream_daemon
import numpy as np
import pytest

from nsstream.capture import read_trace
from nsstream.trace import FlowTable, PacketBatch
from nsstream.trace.fields import ICMP, ICMPV6
from nsstream.trace.metering import FlowMeter

CAPTURE = Path(nsstream_daemon.__file__).parent / "data/lab.pcap.xz"
PACKETS_A_PIECE = 6500
TOOLS = ("softflowd", "nfcapd", "nfdump")
DEADLINE_S = 300.0
ATTEMPTS = 5

Key = tuple[int, str, str, int, int]
Counts = list[int]  # packets, octets, TCP control bits

pytestmark = pytest.mark.skipif(not all(map(shutil.which, TOOLS)), reason=f"needs {', '.join(TOOLS)}")


def pieces(octets: bytes) -> Iterator[bytes]:
    header, at, start, count = octets[:24], 24, 24, 0
    while at < len(octets):
        at += 16 + struct.unpack_from("<I", octets, at + 8)[0]
        count += 1
        if count == PACKETS_A_PIECE or at == len(octets):
            yield header + octets[start:at]
            start, count = at, 0


def exported(capture: Path, directory: Path) -> dict[Key, Counts]:
    """What softflowd makes of a capture, as nfcapd received it; again if UDP lost some of it on the way."""
    for attempt in range(ATTEMPTS):
        flows, is_whole = received(capture, directory / str(attempt))
        if is_whole:
            return flows
    raise AssertionError(f"of {capture.name} records were lost on the way {ATTEMPTS} times")


def received(capture: Path, directory: Path) -> tuple[dict[Key, Counts], bool]:
    """What nfcapd received, and whether that are as many records as softflowd says that it sent."""
    directory.mkdir(parents=True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    collector = subprocess.Popen(
        ["nfcapd", "-w", directory, "-p", str(port), "-b", "127.0.0.1", "-t", "3600"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for_empty_socket(port)
        # Short names: softflowd 1.1 cuts the names of a file and of a control socket.
        softflowd = ["softflowd", "-d", "-6", "-r", capture.name, "-n", f"127.0.0.1:{port}", "-v", "9"]
        told = subprocess.run(
            [*softflowd, "-p", "softflowd.pid", "-c", "none"],
            cwd=capture.parent, check=True, capture_output=True, text=True, timeout=DEADLINE_S,
        )  # fmt: skip
        wait_for_empty_socket(port)
    finally:
        collector.terminate()
        collector.wait(DEADLINE_S)
    layout = "fmt:%pr,%sa,%da,%sp,%dp,%flg,%pkt,%byt"
    text = subprocess.run(
        ["nfdump", "-N", "-q", "-6", "-R", directory, "-o", layout], check=True, capture_output=True, text=True
    ).stdout
    flows: dict[Key, Counts] = defaultdict(lambda: [0, 0, 0])
    for line in text.splitlines():
        protocol, source, destination, sport, dport, flags, packets, octets = map(str.strip, line.split(","))
        kind, _, code = dport.partition(".")  # ICMP: type.code
        port = int(kind) << 8 | int(code) if code else int(kind)
        add(
            flows,
            (int(protocol), source, destination, int(sport), port),
            int(packets),
            int(octets),
            sum(1 << i for i, letter in enumerate(reversed(flags)) if letter != "."),
        )
    return flows, f"({len(text.splitlines())} records)" in told.stdout + told.stderr


def wait_for_empty_socket(port: int) -> None:
    """Wait until somebody listens on the port, and has read all that came."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        lines = map(str.split, Path("/proc/net/udp").read_text().splitlines())
        waiting = [line[4].partition(":")[2] for line in lines if line[1] == f"0100007F:{port:04X}"]
        if waiting and int(waiting[0], 16) == 0:
            return
        assert time.monotonic() < deadline, "nfcapd does not listen, or does not read"
        time.sleep(0.01)


def metered(packets: PacketBatch) -> dict[Key, Counts]:
    meter = FlowMeter(idle_timeout_s=1e8, active_timeout_s=1e9)
    table = FlowTable.concatenate([meter.push(packets), meter.flush()])
    flows: dict[Key, Counts] = defaultdict(lambda: [0, 0, 0])
    for i in range(len(table)):
        protocol = int(table.protocol_identifier[i])
        port = int(table.icmp_type_code[i] if protocol == ICMP else table.destination_transport_port[i])
        ends = address(table.source_address[i]), address(table.destination_address[i])
        add(
            flows,
            (protocol, *ends, int(table.source_transport_port[i]), port),
            int(table.packet_delta_count[i]),
            int(table.octet_delta_count[i]),
            int(table.tcp_control_bits[i]),
        )
    return flows


def address(octets: np.ndarray) -> str:
    six = ipaddress.IPv6Address(octets.tobytes())
    return str(six.ipv4_mapped or six)


def add(flows: dict[Key, Counts], key: Key, packets: int, octets: int, bits: int) -> None:
    flows[key][0] += packets
    flows[key][1] += octets
    flows[key][2] |= bits


def without_ports_of_later_fragments(packets: PacketBatch) -> PacketBatch:
    """The same packets, so told that no datagram's later fragments find their first one."""
    columns = packets.columns()
    is_first = (packets.fragment_offset == 0) & (packets.fragment_flags & 1 != 0)
    return PacketBatch.from_columns(columns | {"fragment_flags": np.where(is_first, 0, packets.fragment_flags)})


@pytest.mark.slow
def test_flows_are_softflowds(tmp_path: Path) -> None:
    for i, octets in enumerate(pieces(lzma.decompress(CAPTURE.read_bytes()))):
        capture = tmp_path / f"{i}.pcap"
        capture.write_bytes(octets)
        packets, _ = read_trace(capture)
        theirs = exported(capture, tmp_path / f"flows-{i}")
        assert theirs == metered(without_ports_of_later_fragments(packets))

        # With fragments joined, flows differ only where there are fragments.
        ours = metered(packets)
        differing = {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}
        is_fragment = (packets.fragment_offset > 0) | (packets.fragment_flags & 1 != 0)
        ends = {
            (int(packets.protocol_identifier[row]), address(packets.source_address[row]))
            for row in np.flatnonzero(is_fragment)
        }
        assert {key[:2] for key in differing} <= ends
        assert sum(flow[0] for flow in ours.values()) == len(packets)
        assert any(key[0] == ICMPV6 for key in ours)
