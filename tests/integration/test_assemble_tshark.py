"""What tshark says of assembled traffic: no bad checksum, nothing malformed, no flag that was not asked for."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from nsstream.assemble import Assembler, Frames
from nsstream.assemble.catalogue import SERVICES
from nsstream.trace import ConversationTable, TcpEvent
from nsstream.trace.fields import ACK, FIN, PSH, RST, SYN, UDP
from nsstream.wire.pcap import pcap_header, write_records

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "assemble"))

from made_tables import Packet, chance_table, table_of

LAYERS = ("ip", "tcp", "udp", "icmp", "icmpv6", "igmp", "sctp")
REPETITIONS = {"retransmission", "fast_retransmission", "spurious_retransmission", "out_of_order"}
ANALYSIS = REPETITIONS | {
    "lost_segment", "ack_lost_segment", "window_update", "window_full", "keep_alive", "keep_alive_ack", "duplicate_ack",
    "zero_window", "zero_window_probe", "reused_ports",
}  # fmt: skip


def judge(frames: Frames, folder: Path) -> Counter[str]:
    """Frames by complaint of tshark."""
    path = folder / "assembled.pcap"
    path.write_bytes(pcap_header() + write_records(frames.observation_time_ns, frames.offset, frames.octets))
    complaints = ["_ws.malformed", *(f"{layer}.checksum.status == 0" for layer in LAYERS)]
    kinds = sorted(ANALYSIS)
    command = ["tshark", "-r", str(path), "-2", "-Y", " or ".join([*complaints, "tcp.analysis.flags"]), "-T", "fields"]
    for layer in ("ip", "tcp", "udp"):
        command += ["-o", f"{layer}.check_checksum:TRUE"]
    for field in ("_ws.malformed", "frame.protocols", *(f"tcp.analysis.{kind}" for kind in kinds)):
        command += ["-e", field]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    found: Counter[str] = Counter()
    for line in lines:
        malformed, protocols, *flags = line.split("\t")
        named = [kind for kind, flag in zip(kinds, flags, strict=True) if flag]
        if malformed or not named:
            named.append(f"bad {protocols}")
        found.update(named)
    return found


def lawful_table(seed: int) -> ConversationTable:
    """Connections with everything that a real one has: handshake, requests, bulk, pauses, an end of each kind."""
    rng = np.random.default_rng(seed)
    conversations = []
    for n in range(120):
        header = int(rng.choice([20, 32]))
        options = 40 if header == 32 else int(rng.choice([24, 28, 32]))
        rows = [
            (0, 20 + options, SYN, options, 0),
            (1, 20 + options, SYN | ACK, options, 0),
            (0, 20 + header, ACK, header, 0),
        ]
        if rng.random() < 0.2:
            rows.insert(1, (0, 20 + options, SYN, options, TcpEvent.RETRANSMISSION))
        for _ in range(int(rng.integers(0, 12))):
            rows.append((0, 20 + header + int(rng.integers(16, 700)), ACK | PSH, header, 0))
            rows += [(1, 1500, ACK, header, 0)] * int(rng.integers(1, 9))
            rows += [(0, 20 + header, ACK, header, 0)] * int(rng.integers(0, 3))
            if rng.random() < 0.2:
                rows.append((0, 20 + header, ACK, header, TcpEvent.IDLE_ACK))
            if rng.random() < 0.2:
                rows.append((1, 1500, ACK, header, TcpEvent.RETRANSMISSION))
            if rng.random() < 0.2:
                rows.append((0, 20 + header, ACK, header, TcpEvent.KEEP_ALIVE))
                rows.append((1, 20 + header, ACK, header, TcpEvent.KEEP_ALIVE_ACK))
        if rng.random() < 0.6:
            rows += [(d, 20 + header, FIN | ACK, header, 0) for d in (0, 1)] + [(0, 20 + header, ACK, header, 0)]
        elif rng.random() < 0.5:
            rows.append((1, 40, RST | ACK, 20, 0))
        times = np.sort(rng.integers(0, 30_000_000, len(rows)))
        fields = {
            "initiator_port": 49_152 + n,
            "responder_port": int(rng.choice([80, 443, 22, 502, 53, 5000])),
            "vlan_id": int(rng.choice([0, 5])),
        }
        conversations.append((fields, [Packet(int(t), *row) for t, row in zip(times, rows, strict=True)]))
    return table_of(*conversations)


@pytest.mark.parametrize("seed", range(3))
def test_lawful_connections_raise_only_the_flags_that_were_asked_for(seed: int, tmp_path: Path) -> None:
    table = lawful_table(seed)
    assembler = Assembler(np.random.default_rng(seed))
    found = judge(assembler.assemble(table), tmp_path)
    asked = Counter(table.tcp_event.tolist())
    assert set(found) <= REPETITIONS | {"duplicate_ack", "window_update", "keep_alive", "keep_alive_ack"}
    assert found["keep_alive"] == asked[TcpEvent.KEEP_ALIVE]
    assert found["keep_alive_ack"] == asked[TcpEvent.KEEP_ALIVE_ACK]
    assert found["retransmission"] == asked[TcpEvent.RETRANSMISSION]
    assert found["duplicate_ack"] + found["window_update"] == asked[TcpEvent.IDLE_ACK]
    assert set(assembler.tally) <= {"idle_ack_dropped", "payload_resized"}  # DNS over TCP comes in whole messages


@pytest.mark.parametrize("seed", range(3))
def test_unlawful_tables_become_clean_traffic(seed: int, tmp_path: Path) -> None:
    assembler = Assembler(np.random.default_rng(seed))
    found = judge(assembler.assemble(chance_table(seed, 300, has_events=False)), tmp_path)
    assert found.pop("reused_ports", 0) <= assembler.tally["port_reused"]
    assert not found


def test_a_table_cut_in_two_is_one_stream_to_tshark(tmp_path: Path) -> None:
    table = lawful_table(9)
    assembler = Assembler(np.random.default_rng(1))
    middle = int(np.median(table.observation_time_ns))
    parts = [assembler.assemble(_between(table, low, high)) for low, high in ((0, middle), (middle, 1 << 62))]
    whole = Frames(
        np.concatenate([part.observation_time_ns for part in parts]),
        np.concatenate([parts[0].offset, parts[1].offset[1:] + parts[0].offset[-1]]),
        np.concatenate([part.octets for part in parts]),
    )
    assert set(judge(whole, tmp_path)) <= REPETITIONS | {
        "duplicate_ack",
        "window_update",
        "keep_alive",
        "keep_alive_ack",
    }


def _between(table: ConversationTable, low_ns: int, high_ns: int) -> ConversationTable:
    """The packets of a table with ``low_ns <= time < high_ns``."""
    columns = table.columns()
    chosen = (table.observation_time_ns >= low_ns) & (table.observation_time_ns < high_ns)
    owner = np.repeat(np.arange(len(table)), table.packet_count)[chosen]
    rows, counts = np.unique(owner, return_counts=True)
    m = len(chosen)
    cut = {
        name: column[chosen if len(column) == m else rows]
        for name, column in columns.items()
        if name != "packet_offset"
    }
    return ConversationTable(packet_offset=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), **cut)


@pytest.mark.parametrize("first", [53, 69, 111, 500, 5060])
def test_a_scan_of_every_service_from_one_port_is_well_formed(first: int, tmp_path: Path) -> None:
    services = sorted({port for service in SERVICES for port in service.udp})
    probes = [
        (
            {"protocol_identifier": UDP, "initiator_port": 59_294, "responder_port": port},
            [Packet(1000 * n, 0, 78), Packet(1000 * n + 1, 1, 88)],
        )
        for n, port in enumerate([first, *services, *range(1024, 1100)])
    ]
    assert not judge(Assembler(np.random.default_rng(first)).assemble(table_of(*probes)), tmp_path)
