"""Streams of made conversations: a drawer that needs no model, and what goes around it."""

from pathlib import Path

import numpy as np

from nsstream.errors import StateError
from nsstream.replay.checkpoints import CheckpointInfo
from nsstream.replay.framing import Framing
from nsstream.replay.streams.drawn import DrawnStream
from nsstream.replay.streams.line import Line
from nsstream.replay.streams.timeline import Timeline
from nsstream.trace import PacketBatch
from nsstream.trace.fields import TCP, UDP
from nsstream.trace.grouping import group_conversations

MINUTE_NS = 60 * 10**9
START_NS = 1_000_000 * MINUTE_NS
FLOWS = 40
EACH = 5  # packets of a flow


def checkpoint(name, minute=0, minutes=1, packet_count=FLOWS * EACH):
    start_ns = START_NS + minute * MINUTE_NS
    return CheckpointInfo(Path("/models") / name, name, start_ns, start_ns + minutes * MINUTE_NS, packet_count)


class MadeDrawer:
    """Draws `FLOWS` flows of `EACH` datagrams, half of them to port 53 and half to 123, for any checkpoint.

    `minute_of` says at which minute the chunk of a checkpoint lies, by its directory's name; those missing cannot be
    loaded. What is drawn depends on directory, line and turn, as a real drawer's does.
    """

    def __init__(self, minute_of, subnet_of=None):
        self.minute_of = minute_of
        self.candidates = 16
        self.subnet_of = subnet_of or {}
        self.drawn = []
        self.forgotten = 0

    def draw(self, directory, *, line, turn, select):
        if directory.name not in self.minute_of:
            raise StateError(f"{directory}: cannot be read")
        self.drawn.append((directory.name, line, turn))
        rng = np.random.default_rng([sum(directory.name.encode()), line, turn])
        count = FLOWS * EACH
        columns = {name: column.copy() for name, column in PacketBatch.empty(count).columns().items()}
        start_ns = START_NS + self.minute_of[directory.name] * MINUTE_NS
        begin = np.repeat(rng.integers(0, MINUTE_NS - 10**9, FLOWS), EACH)
        columns["observation_time_ns"] = start_ns + begin + rng.integers(0, 10**9, count)
        columns["ip_version"][:] = 4
        flow = np.repeat(np.arange(FLOWS), EACH)
        for name, last in (("source_address", 1 + flow % 20), ("destination_address", 99)):
            columns[name][:, 10:12] = 255
            columns[name][:, 12] = 10
            columns[name][:, 13] = self.subnet_of.get(directory.name, 0)
            columns[name][:, 15] = last
        columns["protocol_identifier"][:] = UDP
        columns["source_transport_port"] = np.repeat(rng.choice(np.arange(1024, 65536), FLOWS, False), EACH).astype(
            np.uint16
        )
        columns["destination_transport_port"] = np.where(flow % 2, 53, 123).astype(np.uint16)
        columns["ip_total_length"] = (76 + 0 * flow).astype(np.uint32)
        columns["ip_header_length"][:] = 20
        columns["ip_ttl"][:] = 64
        table, _ = group_conversations(PacketBatch.from_columns(columns))
        assert TCP not in table.protocol_identifier
        return table if select is None else table.take(np.flatnonzero(select(table)))

    def hosts(self, directory):
        return [bytes(10) + bytes([255, 255, 10, 0, 0, last]) for last in (*range(1, 21), 99)]

    def forget(self):
        self.forgotten += 1


def made_stream(plan, drawer=None, seed=1, start_ns=None, compression=1.0, others=(), blend=None, **line_arguments):
    drawer = drawer or MadeDrawer({"a": 0, "b": 1, "c": 5})
    lines = [Line(n, p, drawer, seed, **line_arguments) for n, p in enumerate((plan, *others))]
    timeline = Timeline(plan.origin_ns, plan.origin_ns if start_ns is None else start_ns, compression)
    return DrawnStream(lines, drawer, timeline, seed, Framing(), blend)


def times_of(blocks):
    return np.concatenate([block.frames.observation_time_ns for block in blocks])


def all_of(stream):
    return list(iter(stream.read, None))


def some_of(stream, chunks):
    """Blocks up to so many chunks of a stream without end."""
    blocks = []
    while (block := stream.read()).chunk <= chunks:
        blocks.append(block)
    return blocks
