"""How many packets a second `Assembler` turns into frames, on one core.

python bench/assemble.py [TRACE]    a capture file, grouped first; without one, bulk TCP connections made here
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from nsstream.assemble import Assembler
from nsstream.capture import read_trace
from nsstream.trace import ConversationTable
from nsstream.trace.conversations import CONVERSATION_FIELDS, PACKET_COLUMNS
from nsstream.trace.fields import ACK, SYN, TCP
from nsstream.trace.grouping import group_conversations

CONNECTIONS, SEGMENTS, ROUNDS = 2_000, 100, 5


def bulk_table() -> ConversationTable:
    """Connections of a handshake and a run of full segments, every third answered by a bare ACK."""
    direction = np.array([0, 1, 0, *([1, 1, 0] * ((SEGMENTS - 3) // 3))], np.uint8)
    length = np.where(direction == 1, 1500, 52)
    length[:2] = 60
    control = np.full(len(direction), ACK)
    control[:2] = SYN, SYN | ACK
    header = np.full(len(direction), 32)
    header[:2] = 40
    one = (length, np.full(len(direction), 20), control, header, np.zeros(len(direction)))
    columns = {k: np.zeros((CONNECTIONS, *cell), dtype) for k, (dtype, cell) in CONVERSATION_FIELDS.items()}
    columns["initiator_address"][:, 10:] = np.array([255, 255, 10, 0, 0, 1], np.uint8)
    columns["responder_address"][:, 10:] = np.array([255, 255, 10, 0, 0, 2], np.uint8)
    columns["ip_version"][:] = 4
    columns["protocol_identifier"][:] = TCP
    columns["initiator_port"][:] = 10_000 + np.arange(CONNECTIONS)
    columns["responder_port"][:] = 443
    columns["initiator_ttl"][:] = columns["responder_ttl"][:] = 64
    start_ns = 1_700_000_000_000_000_000 + np.arange(CONNECTIONS)[:, None] * 1_000_000
    times_ns = (start_ns + np.arange(len(direction)) * 300_000).ravel()
    values = (times_ns, np.tile(direction, CONNECTIONS), *(np.tile(column, CONNECTIONS) for column in one))
    packets = {k: v.astype(dtype) for (k, dtype), v in zip(PACKET_COLUMNS.items(), values, strict=True)}
    offset = np.arange(CONNECTIONS + 1, dtype=np.int64) * len(direction)
    return ConversationTable(packet_offset=offset, **columns, **packets)


def main() -> int:
    table = group_conversations(read_trace(Path(sys.argv[1]))[0])[0] if len(sys.argv) > 1 else bulk_table()
    best_s = float("inf")
    for _ in range(ROUNDS + 1):  # the first round compiles
        assembler = Assembler(np.random.default_rng(1))
        start = time.process_time()
        frames = assembler.assemble(table)
        best_s = min(best_s, time.process_time() - start)
    octets = len(frames.octets)
    print(f"{len(frames)} frames, {octets / 1e6:.1f} MB, best of {ROUNDS}: {best_s:.3f} s of CPU time")
    print(f"{len(frames) / best_s:,.0f} packets/s, {octets / best_s / 1e6:,.0f} MB/s; tally {dict(assembler.tally)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
