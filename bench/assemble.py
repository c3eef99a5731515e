"""How many packets a second `Assembler` turns into frames, all checksums made, on one core; scapy beside it.

    python bench/assemble.py [TRACE] [--json OUT]

Without a trace, connections made here: a handshake and a run of segments, every third answered by a bare ACK. Once the
segments are full (1,500 octets a datagram), once they hold a token payload of 12 octets, so that nearly all there is to
do is headers. Frames are always whole: nothing is cut off behind the headers. A table is of less than 32 MB of frames,
of which glibc gives back memory that has been written before; beyond that the kernel clears new pages, which costs
another 50 ns a full frame. Each kind of payload is measured; the sum of a run of one octet is known without reading it,
random octets are read.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, get_args

import numpy as np
from bars.runs import run_main
from bars.verdict import Bar, as_dict, finish, has_passed, show
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from nsstream.assemble import Assembler, Frames
from nsstream.assemble.catalogue import PayloadKind
from nsstream.capture import read_trace
from nsstream.trace import ConversationTable
from nsstream.trace.conversations import CONVERSATION_FIELDS, PACKET_COLUMNS
from nsstream.trace.fields import ACK, SYN
from nsstream.trace.fields import TCP as TCP_NUMBER
from nsstream.trace.grouping import group_conversations

SEGMENTS: Final = 100
ROUNDS: Final = 15
FULL: Final = 1500
HEADERS_ONLY: Final = 64
SCAPY_FRAMES: Final = 1000
MEMORY_BYTES: Final = 1 << 28
PAYLOADS: Final[tuple[PayloadKind, ...]] = get_args(PayloadKind)


def bulk_table(length_of_data: int, connections: int) -> ConversationTable:
    """Connections of a handshake and a run of segments of this length, every third answered by a bare ACK."""
    direction = np.array([0, 1, 0, *([1, 1, 0] * ((SEGMENTS - 3) // 3))], np.uint8)
    length = np.where(direction == 1, length_of_data, 52)
    length[:2] = 60
    control = np.full(len(direction), ACK)
    control[:2] = SYN, SYN | ACK
    header = np.full(len(direction), 32)
    header[:2] = 40
    one = (length, np.full(len(direction), 20), control, header, np.zeros(len(direction)))
    columns = {k: np.zeros((connections, *cell), dtype) for k, (dtype, cell) in CONVERSATION_FIELDS.items()}
    columns["initiator_address"][:, 10:] = np.array([255, 255, 10, 0, 0, 1], np.uint8)
    columns["responder_address"][:, 10:] = np.array([255, 255, 10, 0, 0, 2], np.uint8)
    columns["ip_version"][:] = 4
    columns["protocol_identifier"][:] = TCP_NUMBER
    columns["initiator_port"][:] = 10_000 + np.arange(connections)
    columns["responder_port"][:] = 443
    for name in ("initiator_ttl", "responder_ttl", "responder_syn_ttl"):
        columns[name][:] = 64
    start_ns = 1_700_000_000_000_000_000 + np.arange(connections)[:, None] * 1_000_000
    times_ns = (start_ns + np.arange(len(direction)) * 300_000).ravel()
    values = (times_ns, np.tile(direction, connections), *(np.tile(column, connections) for column in one))
    packets = {k: v.astype(dtype) for (k, dtype), v in zip(PACKET_COLUMNS.items(), values, strict=True)}
    offset = np.arange(connections + 1, dtype=np.int64) * len(direction)
    return ConversationTable(packet_offset=offset, **columns, **packets)


def frames_per_s(table: ConversationTable, payload: PayloadKind) -> tuple[float, Frames]:
    """Frames a second of CPU time, the best of some rounds; each begins with a new assembler."""
    best_s = float("inf")
    for _ in range(ROUNDS + 1):  # the first round compiles
        assembler = Assembler(np.random.default_rng(1), payload=payload)
        start = time.process_time()
        frames = assembler.assemble(table)
        best_s = min(best_s, time.process_time() - start)
    return len(frames) / best_s, frames


def scapy_per_s(frames: Frames) -> float:
    """Frames a second of CPU time that scapy builds of the same headers and payload, every length and checksum made."""
    packets = [Ether(frames.frame(i)) for i in range(min(len(frames), SCAPY_FRAMES))]
    for packet in packets:
        del packet[IP].len, packet[IP].chksum, packet[TCP].chksum
    start = time.process_time()
    built = [bytes(packet.__class__(**packet.fields) / packet.payload.copy()) for packet in packets]
    elapsed_s = time.process_time() - start
    assert built == [frames.frame(i) for i in range(len(built))]
    return len(built) / elapsed_s


def memory_bytes_per_s() -> float:
    """Octets a second that this core writes into memory beyond any cache."""
    octets = np.ones(MEMORY_BYTES, np.uint8)
    best_s = float("inf")
    for _ in range(ROUNDS):
        start = time.process_time()
        octets.fill(1)
        best_s = min(best_s, time.process_time() - start)
    return MEMORY_BYTES / best_s


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", type=Path, nargs="?", help="a capture file to assemble anew; no bars are set for it")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    given = parser.parse_args(arguments)
    bars, bar_of = [], {}
    if given.trace:
        tables = {given.trace.name: group_conversations(read_trace(given.trace)[0])[0]}
    else:
        tables = {"headers": bulk_table(HEADERS_ONLY, 2000), "1,500 octets": bulk_table(FULL, 300)}
        bar_of = {("headers", "zero"): 5e6, ("1,500 octets", "template"): 2e6}
    memory = memory_bytes_per_s()
    for name, table in tables.items():
        for payload in PAYLOADS:
            rate, frames = frames_per_s(table, payload)
            size = len(frames.octets)
            title = f"{name}, payload {payload}: frames/s"
            least = bar_of.get((name, payload))
            wanted = f">= {least:,.0f}" if least else ""
            bars.append(Bar(title, rate, wanted, rate >= least if least else None))
            bars.append(Bar(f"  octets/s, of {size / 1e6:.0f} MB", rate * size / len(frames)))
            bars.append(Bar("  share of what memory takes", rate * size / len(frames) / memory))
        if not given.trace:
            bars.append(Bar(f"{name}: scapy, frames/s", scapy_per_s(frames)))
    show("assembling to frames, one core, CPU time", bars)
    return finish(as_dict(bars), given.json, passed=has_passed(bars))


if __name__ == "__main__":
    raise SystemExit(run_main(main))
