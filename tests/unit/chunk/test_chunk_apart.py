"""Late and future rows stand apart from the chunks: bounded, counted, and never learned from by mistake."""

from pathlib import Path

import numpy as np
import pytest

from nsstream.chunk import Chunk, Chunker, ChunkLimits, ChunkStore, Fate, read_chunk
from nsstream.chunk.journal import Journal
from nsstream.chunk.retention import Retention, expire
from nsstream.counters import Tally
from nsstream.errors import StateError
from nsstream.trace import FlowTable, PacketBatch

S = 1_000_000_000
HOUR_NS = 3600 * S


def packets_at(*times_s: float, port: int = 0) -> PacketBatch:
    columns = dict(PacketBatch.empty(len(times_s)).columns())
    columns["observation_time_ns"] = np.array([round(t * S) for t in times_s], np.int64)
    columns["source_transport_port"] = np.full(len(times_s), port, np.uint16)
    return PacketBatch.from_columns(columns)


def seconds_of(chunk: Chunk) -> list[float]:
    assert isinstance(chunk.table, PacketBatch)
    return (chunk.table.observation_time_ns / S).tolist()


def late_chunk() -> Chunk:
    chunker = Chunker(10 * S, allowed_lateness_ns=0)
    chunker.push(packets_at(1, 25, 3, 2))
    (apart,) = chunker.flush()[0].apart
    return apart


def test_late_rows_stand_beside_the_chunk_that_counts_them():
    chunker = Chunker(10 * S, allowed_lateness_ns=0)
    first, second = [*chunker.push(packets_at(1, 25, 3, 2)), *chunker.flush()]
    assert (first.apart, first.tally.late, second.tally.late) == ((), 0, 2)
    (apart,) = second.apart
    assert (apart.id, apart.fate) == ("19700101T000020Z-10s-late", Fate.LATE)
    assert (apart.start_ns, apart.end_ns) == (second.start_ns, second.end_ns)
    assert seconds_of(apart) == [2, 3]
    assert apart.tally == Tally(offered=2, kept=2)


def test_future_rows_of_a_live_source_stand_apart_from_late_ones():
    chunker = Chunker(10 * S, allowed_lateness_ns=0, allowed_future_ns=HOUR_NS)
    chunks = chunker.push(packets_at(1, 25, 9_000, 3), now_ns=30 * S) + chunker.flush()
    future, late = chunks[1].apart
    assert (future.id[-7:], seconds_of(future)) == ("-future", [9_000])
    assert (late.id[-5:], seconds_of(late)) == ("-late", [3])


def test_a_row_that_nothing_attests_at_the_end_of_a_file_stands_apart():
    chunker = Chunker(10 * S, allowed_future_ns=HOUR_NS, witnesses=2)
    (chunk,) = chunker.push(packets_at(1, 2, 90_000)) + chunker.flush()
    assert (chunk.tally.future, seconds_of(chunk.apart[0])) == (1, [90_000])


def test_rows_that_no_chunk_takes_along_are_given_by_themselves():
    chunker = Chunker(10 * S, allowed_lateness_ns=0)
    chunker.push(packets_at(1))
    chunker.advance_to(10 * S)
    chunker.push(packets_at(2))
    assert chunker.flush() == []
    (apart,) = chunker.close_apart()
    assert (seconds_of(apart), apart.is_partial, chunker.loose.late) == ([2], True, 1)
    assert chunker.close_apart() == []


def test_beyond_their_room_whole_conversations_go_and_the_rate_is_told():
    chunker = Chunker(10 * S, allowed_lateness_ns=0, limits=ChunkLimits(apart_rows=100), sampling_key=bytes(range(16)))
    chunker.push(packets_at(25))
    for port in range(300):
        chunker.push(packets_at(1, 2, port=port))
        assert chunker.apart.row_count <= 100
    (chunk,) = chunker.flush()
    (apart,) = chunk.apart
    assert (chunk.tally.late, apart.tally.offered) == (600, 600)
    assert 0 < apart.tally.kept == len(apart.table) <= 100
    assert apart.tally.sampled_out == 600 - apart.tally.kept
    assert apart.sampling_interval in (8, 16)
    assert isinstance(apart.table, PacketBatch)
    assert set(np.bincount(apart.table.source_transport_port).tolist()) == {0, 2}


def test_without_room_they_are_counted_and_nothing_is_held():
    chunker = Chunker(10 * S, allowed_lateness_ns=0, limits=ChunkLimits(apart_rows=0))
    chunks = chunker.push(packets_at(1, 25, 3)) + chunker.flush()
    assert (chunker.tally.late, [chunk.apart for chunk in chunks]) == (1, [(), ()])


def test_nothing_learns_from_them_by_mistake(tmp_path: Path):
    apart = late_chunk()
    path = ChunkStore(tmp_path).write(apart)
    read = read_chunk(path)
    assert (read.fate, read.digest, seconds_of(read)) == (Fate.LATE, apart.digest, [2, 3])
    assert ChunkStore(tmp_path).info(path).fate is Fate.LATE
    for chunk in (apart, read):
        with pytest.raises(StateError, match="holds late rows"):
            _ = chunk.packets
    ends = np.array([25, 3]) * S
    table = FlowTable.from_columns(
        {"flow_start_ns": ends, "flow_end_ns": ends, "packet_delta_count": np.ones(2, np.uint64)}
    )
    chunker = Chunker(10 * S, allowed_lateness_ns=0)
    chunker.push(table)
    (flows,) = chunker.flush()[0].apart
    assert flows.id.endswith("-flows-late")
    with pytest.raises(StateError, match="holds late rows"):
        _ = flows.flows


def test_a_journal_gives_back_what_had_not_left_and_only_that(tmp_path: Path):
    journal, chunker = Journal(tmp_path), Chunker(10 * S, allowed_lateness_ns=0)
    chunker.push(packets_at(1, 25, 3))
    journal.sync(chunker)
    chunker.push(packets_at(4))
    journal.sync(chunker)
    found = Journal(tmp_path).recover(lambda chunk_id: False)
    (rows,) = found.apart
    assert (rows.fate, [len(piece) for piece in rows.pieces], found.row_count) == (Fate.LATE, [1, 1], 1)

    again = Chunker(10 * S, allowed_lateness_ns=0)
    again.resume(found.latest_ns, found.closed_before, found.loose)
    again.apart.resume(found.apart_number, found.apart_lost)
    again.apart.restore(rows.fate, rows.kind, rows.pieces, level=rows.level, sampled_out=rows.sampled_out)
    (apart,) = again.close_apart()
    assert (seconds_of(apart), apart.recovered, again.tally.late) == ([3, 4], 2, 2)

    chunks = chunker.push(packets_at(31, 5))
    assert seconds_of(chunks[0].apart[0]) == [3, 4]
    journal.sync(chunker, [*chunks, *chunks[0].apart])  # and killed before the old rows are removed
    (rows,) = Journal(tmp_path).recover(lambda chunk_id: False).apart
    assert [piece.observation_time_ns.tolist() for piece in rows.pieces] == [[5 * S]]


def test_they_expire_before_the_chunk_of_their_interval(tmp_path: Path):
    store, apart = ChunkStore(tmp_path / "chunks"), ChunkStore(tmp_path / "apart")
    chunker = Chunker(10 * S, allowed_lateness_ns=0)
    for chunk in [*chunker.push(packets_at(1, 25, 3)), *chunker.flush()]:
        store.write(chunk)
        for rows in chunk.apart:
            apart.write(rows)
    octets = sum(path.stat().st_size for path in tmp_path.glob("*/*.arrow"))
    first, second = store.list()
    done = expire(store, Retention(max_octets=octets - first.path.stat().st_size - 1), 0, apart=apart)
    assert [judged.id for judged in done.expired] == [first.id, f"{second.id}-late"]
    apart.write(late_chunk())
    apart.pin(apart.list()[0].id)
    done = expire(store, Retention(max_age_ns=0), 1 << 62, apart=apart)
    assert ([judged.id for judged in done.expired], len(apart.list())) == ([second.id], 1)
