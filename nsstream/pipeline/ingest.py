"""A trace becomes chunks: a survey says how long a chunk should be, then the packets fall into the store.

The file is read twice: the survey keeps counts by time only, so memory is bounded by a chunk and not by the trace.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np

from nsstream.capture import PcapFileSource
from nsstream.chunk import Chunk, Chunker, ChunkInfo, ChunkLimits, ChunkStore, Kind
from nsstream.chunk.interval import SECOND_NS
from nsstream.chunk.rows import concatenate, time_of
from nsstream.chunk.sampling import UNLIMITED
from nsstream.counters import Tally
from nsstream.encode.flow_conversations import group_flows
from nsstream.errors import InputError
from nsstream.pipeline.plan import BIN_S, merge_small
from nsstream.trace import PacketBatch
from nsstream.trace.grouping import group_conversations

MOST_HELD: Final = 20_000_000  # packets of one chunk by hand, which is held in memory


@dataclass(frozen=True, slots=True)
class Survey:
    """What a trace holds, by time."""

    packet_count: int
    packets_by_bin: dict[int, int]  # by `BIN_S` seconds of the UTC grid
    disorder_ns: int  # the furthest that a packet lags behind one before it
    longest: int  # octets of an IP datagram
    tally: Tally


@dataclass(frozen=True, slots=True)
class Lesson:
    """A chunk to learn: as it fell on the grid, or several small ones as one."""

    path: Path
    start_ns: int
    end_ns: int
    packet_count: int
    conversation_count: int


def survey_trace(path: Path) -> Survey:
    """Read a trace once; raises InputError if it is not a regular file that can be read, or holds no IP packet."""
    if not path.is_file():
        reason = "is not a regular file" if path.exists() else "does not exist"
        raise InputError(f"{path} {reason}; give a pcap or pcapng file, plain or as .gz, .xz or .zst")
    source = PcapFileSource(path)
    packets_by_bin: dict[int, int] = {}
    count, latest_ns, disorder_ns, longest = 0, -1, 0, 0
    source.open()
    try:
        while (batch := source.read_batch()) is not None:
            time_ns = batch.observation_time_ns[batch.observation_time_ns >= 0]
            if not len(time_ns):
                continue
            latest = np.maximum.accumulate(np.maximum(time_ns, latest_ns))
            latest_ns, disorder_ns = int(latest[-1]), max(disorder_ns, int((latest - time_ns).max()))
            for index, n in zip(*np.unique(time_ns // (BIN_S * SECOND_NS), return_counts=True), strict=True):
                packets_by_bin[int(index)] = packets_by_bin.get(int(index), 0) + int(n)
            count += len(time_ns)
            longest = max(longest, int(batch.ip_total_length.max()))
    finally:
        source.close()
    if not count:
        raise InputError(f"{path} holds no IP packet to learn from: {_fates(source.tally)}")
    return Survey(count, packets_by_bin, disorder_ns, longest, source.tally)


def import_trace(
    path: Path,
    store: ChunkStore,
    *,
    length_s: int,
    disorder_ns: int,
    most_packets: int | None = None,
    limits: ChunkLimits = UNLIMITED,
) -> list[ChunkInfo]:
    """Read a trace into the chunks of a store, and return them by start.

    `disorder_ns` is the survey's, so that no packet is late, however the trace was merged. Reading ends with the chunk
    that brings the packets to `most_packets`.
    """
    chunker = Chunker(length_s * SECOND_NS, allowed_lateness_ns=disorder_ns, limits=limits)
    source = PcapFileSource(path)
    infos: list[ChunkInfo] = []
    source.open()
    try:
        while (batch := source.read_batch()) is not None:
            for chunk in chunker.push(batch):
                infos.append(store.info(store.write(chunk)))
                if most_packets is not None and sum(info.packet_count for info in infos) >= most_packets:
                    return infos
    finally:
        source.close()
    infos += [store.info(store.write(chunk)) for chunk in chunker.flush()]
    if not infos:
        raise InputError(f"{path} holds no packet with a time from 1970 to 2262")
    return infos


def import_interval(path: Path, store: ChunkStore, interval_ns: tuple[int, int]) -> Path:
    """Read the packets of an interval of a trace into one chunk of a store; gives its file.

    What else the trace holds is left out, and nothing is told of it.

    Raises InputError where it cannot be read, holds nothing of that time, or more than `MOST_HELD` packets.
    """
    start_ns, end_ns = interval_ns
    batches: list[PacketBatch] = []
    count = 0
    source = PcapFileSource(path)
    source.open()
    try:
        while (batch := source.read_batch()) is not None:
            is_in = (batch.observation_time_ns >= start_ns) & (batch.observation_time_ns < end_ns)
            if is_in.any():
                batches.append(batch.take(is_in))
                count += len(batches[-1])
            if count > MOST_HELD:
                raise InputError(f"{path} holds more than {MOST_HELD:,} packets of that time: give a shorter one")
    finally:
        source.close()
    if not count:
        raise InputError(f"{path} holds no IP packet of that time to learn from")
    packets = PacketBatch.concatenate(batches)
    packets = packets.take(np.argsort(packets.observation_time_ns, kind="stable"))
    return store.write(Chunk.of(start_ns, end_ns, packets, Tally(offered=count, kept=count), is_partial=False))


def make_lessons(
    chunks: list[ChunkInfo], store: ChunkStore, merged: ChunkStore, *, fewest_conversations: int
) -> list[Lesson]:
    """The chunks to learn, by start; neighbours too small to learn alone are merged, into the `merged` store."""
    counts = [count_conversations(store.read(info.path)) for info in chunks]
    gaps_ns = [after.start_ns - before.end_ns for before, after in pairwise(chunks)]
    length_ns = chunks[0].end_ns - chunks[0].start_ns
    groups = merge_small(counts, gaps_ns, fewest=fewest_conversations, widest_gap_ns=length_ns)
    lessons: list[Lesson] = []
    for group in groups:
        first, last = chunks[group.start], chunks[group.stop - 1]
        path, conversation_count = first.path, counts[group.start]
        if len(group) > 1:
            chunk = merge_chunks([store.read(chunks[at].path) for at in group])
            path, conversation_count = merged.write(chunk), count_conversations(chunk)
        packet_count = sum(chunks[at].packet_count for at in group)
        lessons.append(Lesson(path, first.start_ns, last.end_ns, packet_count, conversation_count))
    return lessons


def count_conversations(chunk: Chunk) -> int:
    """Conversations of a chunk, of packets or of flows."""
    if chunk.kind is Kind.FLOWS:
        return len(group_flows(chunk.flows))
    return len(group_conversations(chunk.packets)[0])


def merge_chunks(chunks: Sequence[Chunk]) -> Chunk:
    """Chunks of one kind as one, from the start of the first to the end of the last; rows are put in time order."""
    tally = Tally()
    for chunk in chunks:
        tally.add(chunk.tally)
    rows = concatenate(chunks[0].kind, [chunk.table for chunk in chunks])
    time_ns = time_of(rows)
    if (time_ns[1:] < time_ns[:-1]).any():  # parts of one interval, behind a stop in its middle
        rows = rows.take(np.argsort(time_ns, kind="stable"))
    start_ns, end_ns = min(chunk.start_ns for chunk in chunks), max(chunk.end_ns for chunk in chunks)
    return Chunk.of(start_ns, end_ns, rows, tally, is_partial=chunks[-1].is_partial)


def _fates(tally: Tally) -> str:
    reasons = {**tally.unsupported, **tally.malformed}
    named = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in sorted(reasons.items()))
    return f"of {tally.offered} frames none could be used ({named})" if tally.offered else "it has no frames at all"
