"""The chunker's law: any batching of the same packets gives the same chunks."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nsstream.chunk import Chunk, Chunker
from nsstream.counters import Tally
from nsstream.trace import PacketBatch

S = 1_000_000_000
TIMES = st.lists(st.one_of(st.integers(-S, 60 * S), st.integers(-(2**63), 2**63 - 1)), max_size=40)


def batch_of(times_ns: list[int]) -> PacketBatch:
    columns = dict(PacketBatch.empty(len(times_ns)).columns())
    columns["observation_time_ns"] = np.array(times_ns, np.int64)
    columns["ip_total_length"] = np.arange(len(times_ns), dtype=np.uint32)
    return PacketBatch.from_columns(columns)


def chunks_of(batch: PacketBatch, cuts: list[int], length_s: int, lateness_ns: int) -> tuple[list[Chunk], Tally]:
    chunker = Chunker(length_s * S, allowed_lateness_ns=lateness_ns)
    chunks: list[Chunk] = []
    for start, end in zip([0, *cuts], [*cuts, len(batch)], strict=True):
        chunks += chunker.push(batch.take(slice(start, end)))
    return chunks + chunker.flush(), chunker.tally


@given(TIMES, st.lists(st.integers(0, 40)), st.sampled_from([1, 7, 60]), st.integers(0, 20 * S))
def test_any_batching_of_the_same_packets_gives_the_same_chunks(times_ns, cuts, length_s, lateness_ns):
    batch = batch_of(times_ns)
    whole, tally = chunks_of(batch, [], length_s, lateness_ns)
    split, split_tally = chunks_of(batch, sorted(min(c, len(batch)) for c in cuts), length_s, lateness_ns)
    for field in ("id", "start_ns", "end_ns", "digest", "tally", "is_partial"):
        assert [getattr(c, field) for c in split] == [getattr(c, field) for c in whole]
    assert split_tally == tally


@given(TIMES, st.sampled_from([1, 7, 60]), st.integers(0, 20 * S))
def test_every_packet_is_kept_once_or_counted(times_ns, length_s, lateness_ns):
    chunks, tally = chunks_of(batch_of(times_ns), [], length_s, lateness_ns)
    tally.check()
    rows = np.concatenate([c.packets.ip_total_length for c in chunks]) if chunks else np.empty(0)
    assert tally.offered == len(times_ns)
    assert tally.kept == len(rows) == len(set(rows.tolist()))
    assert tally.late == sum(c.tally.late for c in chunks)
    assert [c.start_ns for c in chunks] == sorted({c.start_ns for c in chunks})
