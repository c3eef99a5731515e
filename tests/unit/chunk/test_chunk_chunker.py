import numpy as np
import pytest

from nsstream.chunk import Chunk, Chunker
from nsstream.trace import PacketBatch

S = 1_000_000_000


def packets_at(*times_s: float) -> PacketBatch:
    columns = dict(PacketBatch.empty(len(times_s)).columns())
    columns["observation_time_ns"] = np.array([round(t * S) for t in times_s], np.int64)
    columns["ip_total_length"] = np.arange(len(times_s), dtype=np.uint32)  # names the row
    return PacketBatch.from_columns(columns)


def seconds_of(chunk: Chunk) -> list[float]:
    return (chunk.packets.observation_time_ns / S).tolist()


def test_a_chunk_closes_once_the_watermark_reaches_its_end():
    chunker = Chunker(10 * S, allowed_lateness_ns=2 * S)
    assert chunker.push(packets_at(1, 9, 11.9)) == []
    (chunk,) = chunker.push(packets_at(12))
    assert (chunk.id, chunk.start_ns, chunk.end_ns) == ("19700101T000000Z-10s", 0, 10 * S)
    assert seconds_of(chunk) == [1, 9]
    assert not chunk.is_partial


def test_several_intervals_are_open_at_once():
    chunker = Chunker(10 * S, allowed_lateness_ns=30 * S)
    assert chunker.push(packets_at(25, 5, 15, 6)) == []
    assert [seconds_of(c) for c in chunker.flush()] == [[5, 6], [15], [25]]
    assert chunker.tally.late == 0


def test_late_packet_is_counted_not_kept():
    chunker = Chunker(10 * S, allowed_lateness_ns=0)
    chunks = [*chunker.push(packets_at(1, 20, 2, 21)), *chunker.flush()]
    assert [seconds_of(c) for c in chunks] == [[1], [20, 21]]
    assert (chunker.tally.offered, chunker.tally.kept, chunker.tally.late) == (4, 3, 1)
    assert [c.tally.late for c in chunks] == [0, 1]
    chunker.tally.check()


def test_rows_of_one_time_keep_the_order_of_arrival():
    chunker = Chunker(10 * S)
    chunker.push(packets_at(3, 1, 1, 2, 1))
    (chunk,) = chunker.flush()
    assert chunk.packets.ip_total_length.tolist() == [1, 2, 4, 3, 0]


def test_flush_marks_what_the_input_did_not_reach_the_end_of():
    chunker = Chunker(10 * S)
    chunker.push(packets_at(5, 12))
    assert [c.is_partial for c in chunker.flush()] == [False, True]


def test_months_of_silence_make_no_chunk():
    chunker = Chunker(10 * S)
    chunks = [*chunker.push(packets_at(1, 90 * 86_400)), *chunker.flush()]
    assert [c.id for c in chunks] == ["19700101T000000Z-10s", "19700401T000000Z-10s"]


def test_a_time_out_of_range_is_malformed_and_moves_no_watermark():
    columns = dict(packets_at(0, 0, 0).columns())
    columns["observation_time_ns"] = np.array([np.iinfo(np.int64).max, -1, 5 * S], np.int64)
    chunker = Chunker(10 * S)
    assert chunker.push(PacketBatch.from_columns(columns)) == []
    assert [seconds_of(c) for c in chunker.flush()] == [[5]]
    assert chunker.tally.malformed["time_out_of_range"] == 2
    chunker.tally.check()


def test_the_digest_depends_on_every_column():
    def digest(batch: PacketBatch) -> str:
        chunker = Chunker(10 * S)
        chunker.push(batch)
        return chunker.flush()[0].digest

    batch = packets_at(1, 2)
    digests = {digest(batch)}
    for name in list(batch.columns())[1:]:
        columns = {k: v.copy() for k, v in batch.columns().items()}
        columns[name].flat[0] += 1
        digests.add(digest(PacketBatch.from_columns(columns)))
    assert len(digests) == len(batch.columns())


def test_a_chunk_refuses_rows_outside_or_out_of_order():
    (chunk,) = (chunker := Chunker(10 * S)).push(packets_at(1, 2)) or chunker.flush()
    for packets in (packets_at(2, 1), packets_at(1, 10)):
        with pytest.raises(ValueError, match="chunk"):
            Chunk(chunk.id, chunk.start_ns, chunk.end_ns, packets, chunk.tally, chunk.is_partial, chunk.digest)
