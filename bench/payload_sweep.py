"""Find, for every port that tshark has a dissector for, a payload in which it sees nothing malformed.

    python bench/payload_sweep.py            rows for nsstream/assemble/fills.py, and the ports that need a service
    python bench/payload_sweep.py --check    what the shipped tables give: exits with 1 if anything is malformed

Every port gets payloads of many lengths, in both directions, one after another in a stream, for each fill octet in
turn.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np

from nsstream.assemble import Assembler
from nsstream.assemble.catalogue import SERVICES
from nsstream.assemble.fills import DEFAULT_FILL, PROTOCOL_FILLS, TCP_FILLS, UDP_FILLS
from nsstream.assemble.services import compile_services
from nsstream.trace import ConversationTable
from nsstream.trace.conversations import CONVERSATION_FIELDS, PACKET_COLUMNS
from nsstream.trace.fields import ACK, PSH, TCP, UDP
from nsstream.wire.pcap import pcap_header, write_records

LENGTHS = (
    *range(1, 33),
    36,
    40,
    44,
    45,
    47,
    48,
    49,
    52,
    56,
    60,
    63,
    64,
    68,
    80,
    100,
    101,
    127,
    128,
    129,
    160,
    200,
    255,
    256,
    257,
    300,
    400,
    512,
    513,
    700,
    1000,
    1200,
    1400,
    1448,
)
FILLS = (0x7F, 0x00, 0xFF, 0x80, 0xAA, 0x55, 0x78, 0x20, 0x01, 0x40, 0x30, 0x0A, 0x10, 0x02, 0x03, 0x04, 0xC0, 0xFE)
CLIENT_PORT = 61_003
TURNS = {TCP: (0, 1, 0, 0, 1, 1), UDP: (0, 1)}
MIXED = 0  # stands for a stream of many lengths


def dissected_ports(transport: str) -> list[int]:
    """The ports that tshark has a dissector for."""
    lines = subprocess.run(["tshark", "-G", "decodes"], capture_output=True, text=True, check=True).stdout.splitlines()
    fields = (line.split("\t") for line in lines)
    return sorted({int(f[1]) for f in fields if f[0] == f"{transport}.port" and int(f[1]) > 0} | {CLIENT_PORT - 1})


def sweep_table(protocol: int, ports: list[int]) -> tuple[ConversationTable, list[tuple[int, int, int]]]:
    """A conversation for every port and length, and one of mixed lengths; (port, length, payload) of every packet."""
    rng = np.random.default_rng(5)
    header = 40 if protocol == TCP else 28
    rows, what, offset, server = [], [], [0], []
    for port in ports:
        for length in (*LENGTHS, MIXED):
            turns = TURNS[protocol] if length else tuple(rng.integers(0, 2, 60))
            for direction in turns:
                payload = length or int(rng.choice(LENGTHS))
                control = PSH | ACK if protocol == TCP else 0
                rows.append(
                    (
                        1_700_000_000_000_000_000 + len(rows) * 100_000,
                        direction,
                        header + payload,
                        20,
                        control,
                        20 if protocol == TCP else 0,
                        0,
                    )
                )
                what.append((port, length, payload))
            offset.append(len(rows))
            server.append(port)
    n = len(server)
    columns = {name: np.zeros((n, *cell), dtype) for name, (dtype, cell) in CONVERSATION_FIELDS.items()}
    for name, network in (("initiator_address", 10), ("responder_address", 11)):
        columns[name][:, 10:12] = 0xFF
        columns[name][:, 12] = network
        columns[name][:, 13:] = np.arange(1, n + 1).astype(">u4")[:, None].view(np.uint8)[:, 1:]
    columns |= {
        "ip_version": np.full(n, 4, np.uint8),
        "protocol_identifier": np.full(n, protocol, np.uint8),
        "initiator_port": np.full(n, CLIENT_PORT, np.uint16),
        "responder_port": np.array(server, np.uint16),
    }
    packets = np.array(rows, np.int64)
    columns |= {name: packets[:, k].astype(dtype) for k, (name, dtype) in enumerate(PACKET_COLUMNS.items())}
    return ConversationTable(packet_offset=np.array(offset, np.int64), **columns), what


def malformed(table: ConversationTable, services) -> list[tuple[int, str]]:
    """Frame index and protocols of each frame that tshark calls malformed or in error."""
    frames = Assembler(np.random.default_rng(1), services=services).assemble(table)
    assert len(frames) == len(table.observation_time_ns)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sweep.pcap"
        path.write_bytes(pcap_header() + write_records(frames.observation_time_ns, frames.offset, frames.octets))
        command = ["tshark", "-r", str(path), "-Y", "_ws.malformed", "-T", "fields"]
        command += ["-e", "frame.number", "-e", "frame.protocols"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    return [(int(line.split("\t")[0]) - 1, line.split("\t")[1]) for line in done.stdout.splitlines()]


def least_length(bad: set[int]) -> int | None:
    """The least length from which on nothing is malformed; None if there is none below 100."""
    bad = bad - {MIXED}
    if not bad:
        return 0
    above = [length for length in LENGTHS if length > max(bad)]
    return above[0] if above and above[0] <= 100 else None


def derive(transport: str, protocol: int) -> None:
    """Print the rows of a transport's fills."""
    ports = dissected_ports(transport)
    table, what = sweep_table(protocol, ports)
    served = {port for service in SERVICES for port in (service.tcp if protocol == TCP else service.udp)}
    bad = {fill: defaultdict(set) for fill in FILLS}
    for fill in FILLS:
        services = compile_services(SERVICES, (), (), (), fill)
        for frame, _ in malformed(table, services):
            port, length, _ = what[frame]
            bad[fill][port].add(length)
        print(f"# {transport} fill {fill:#04x}: {len(bad[fill])} ports", file=sys.stderr)
    chosen, unsolved = defaultdict(list), []
    for port in ports:
        if not bad[DEFAULT_FILL][port] or port in served:
            continue
        options = [(least, k) for k, fill in enumerate(FILLS) if (least := least_length(bad[fill][port])) is not None]
        if options:
            least, k = min(options)
            chosen[least, FILLS[k]].append(port)
        else:
            unsolved.append(port)
    print(f"{transport.upper()}_FILLS: Final[tuple[tuple[int, int, tuple[int, ...]], ...]] = (")
    for (least, fill), group in sorted(chosen.items()):
        print(f"    ({fill:#04x}, {least}, ({', '.join(map(str, group))},)),")
    print(")")
    print(f"# {transport}: need a service: {unsolved}", file=sys.stderr)


def check(transport: str, protocol: int) -> int:
    """Print what the shipped tables leave malformed; returns how many frames."""
    table, what = sweep_table(protocol, dissected_ports(transport))
    found = defaultdict(set)
    frames = malformed(table, compile_services(SERVICES, TCP_FILLS, UDP_FILLS, PROTOCOL_FILLS))
    for frame, protocols in frames:
        found[what[frame][0], protocols].add(what[frame][1:])
    for (port, protocols), cases in sorted(found.items()):
        print(f"{transport} {port}: {protocols} {sorted(cases)[:12]}")
    print(f"{transport}: {len(frames)} of {len(what)} frames malformed")
    return len(frames)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    transports = (("udp", UDP), ("tcp", TCP))
    if arguments.check:
        return 1 if sum(check(*transport) for transport in transports) else 0
    for transport in transports:
        derive(*transport)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
