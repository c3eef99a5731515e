"""What is future, and what the clock closes."""

import numpy as np
import pytest

from nsstream.chunk import Chunk, Chunker, ChunkLimits, Kind
from nsstream.chunk.sampling import NOTHING
from nsstream.trace import FlowTable, PacketBatch

S = 1_000_000_000
HOUR = 3600


def packets_at(*times_s: float, conversation: int = 0) -> PacketBatch:
    columns = dict(PacketBatch.empty(len(times_s)).columns())
    columns["observation_time_ns"] = np.array([round(t * S) for t in times_s], np.int64)
    columns["source_transport_port"] = np.full(len(times_s), conversation, np.uint16)
    return PacketBatch.from_columns(columns)


def flows_ending_at(*times_s: float, labels: list[int] | None = None, names: tuple[str, ...] = ()) -> FlowTable:
    end = np.array([round(t * S) for t in times_s], np.int64)
    columns: dict[str, np.ndarray] = {"flow_start_ns": end - 100 * S, "flow_end_ns": end}
    columns["packet_delta_count"] = np.ones(len(end), np.uint64)
    columns["label"] = np.array(labels or [0] * len(end), np.uint16)
    return FlowTable.from_columns(columns, names)


def seconds_of(chunk: Chunk) -> list[float]:
    return (chunk.packets.observation_time_ns / S).tolist()


def test_a_lone_row_far_ahead_moves_no_watermark():
    chunker = Chunker(10 * S, allowed_future_ns=60 * S, witnesses=1 + 2)
    assert chunker.push(packets_at(1, 2, 3)) == []
    assert chunker.push(packets_at(90 * 86_400)) == []
    assert chunker.tally.parked == 1
    chunker.tally.check()
    assert chunker.push(packets_at(4)) == []
    assert (chunker.tally.parked, chunker.tally.future, chunker.tally.late) == (0, 1, 0)
    (chunk,) = chunker.flush()
    assert seconds_of(chunk) == [1, 2, 3, 4]
    assert chunk.tally.future == 1


def test_a_stream_that_really_leaps_is_believed_once_enough_rows_agree():
    chunker = Chunker(10 * S, allowed_future_ns=60 * S, witnesses=3)
    chunker.push(packets_at(1, 2, 3))
    chunks = chunker.push(packets_at(10 * HOUR, 10 * HOUR + 1, 10 * HOUR + 2, 10 * HOUR + 3))
    assert [seconds_of(c) for c in [*chunks, *chunker.flush()]] == [[1, 2, 3], [10 * HOUR + i for i in range(4)]]
    assert chunker.tally.future == 0


def test_an_absurd_first_row_does_not_make_the_stream_late():
    chunker = Chunker(10 * S, allowed_future_ns=60 * S, witnesses=2)
    chunker.push(packets_at(90 * 86_400, 1, 2, 3))
    assert [seconds_of(c) for c in chunker.flush()] == [[1, 2, 3]]
    assert (chunker.tally.future, chunker.tally.late) == (1, 0)


def test_a_stream_of_few_rows_far_apart_keeps_them():
    chunker = Chunker(10 * S, allowed_future_ns=60 * S, witnesses=3)
    times = [at * HOUR for at in range(1, 10)]
    chunks = chunker.push(packets_at(*times)) + chunker.flush()
    assert [time_s for chunk in chunks for time_s in seconds_of(chunk)] == times
    assert chunker.tally.future == 0


def test_an_absurd_row_between_undecided_ones_is_future_alone():
    chunker = Chunker(10 * S, allowed_future_ns=60 * S, witnesses=3)
    chunks = chunker.push(packets_at(1 * HOUR, 90 * 86_400, 3 * HOUR, 3 * HOUR + 1)) + chunker.flush()
    kept = [time_s for chunk in chunks for time_s in seconds_of(chunk)]
    assert kept == [1 * HOUR, 3 * HOUR, 3 * HOUR + 1]
    assert chunker.tally.future == 1


def test_the_clock_says_what_is_future_where_there_is_one():
    chunker = Chunker(10 * S, allowed_future_ns=5 * S)
    chunker.push(packets_at(100, 105, 106), now_ns=100 * S)
    assert [seconds_of(c) for c in chunker.flush()] == [[100, 105]]
    assert chunker.tally.future == 1


def test_an_idle_interval_closes_on_the_clock():
    chunker = Chunker(10 * S, allowed_lateness_ns=2 * S)
    chunker.push(packets_at(1))
    assert chunker.advance_to(12 * S - 1) == []
    (chunk,) = chunker.advance_to(12 * S)
    assert (seconds_of(chunk), chunk.is_partial) == ([1], False)
    chunker.push(packets_at(2, 11))
    assert chunker.tally.late == 1
    (chunk,) = chunker.flush()
    assert (seconds_of(chunk), chunk.tally.late) == ([11], 1)


def test_flows_fall_into_the_interval_of_their_end_and_keep_their_labels():
    chunker = Chunker(10 * S, allowed_lateness_ns=0)
    chunker.push(flows_ending_at(5, 3, labels=[2, 0], names=("web", "attack")))
    (chunk,) = chunker.push(flows_ending_at(11, labels=[1], names=("attack",)))
    assert (chunk.id, chunk.kind) == ("19700101T000000Z-10s-flows", Kind.FLOWS)
    assert chunk.flows.flow_end_ns.tolist() == [3 * S, 5 * S]
    assert (chunk.flows.label.tolist(), chunk.flows.label_names) == ([0, 1], ("attack",))
    with pytest.raises(Exception, match="holds flows"):
        _ = chunk.packets


def test_a_chunk_out_of_room_says_its_sampling_rate():
    chunker = Chunker(10 * S, limits=ChunkLimits(chunk_rows=100, open_rows=100))
    for conversation in range(400):
        chunker.push(packets_at(1, 2, conversation=conversation))
        chunker.tally.check()
        assert chunker.open_rows <= 100
    (chunk,) = chunker.flush()
    assert chunk.sampling_interval in (8, 16, 32)
    assert chunk.tally.sampled_out == 800 - len(chunk.table)
    assert np.unique(chunk.packets.source_transport_port, return_counts=True)[1].tolist() == [2] * (
        len(chunk.table) // 2
    )


def test_one_conversation_too_large_is_absent_and_counted():
    chunker = Chunker(10 * S, limits=ChunkLimits(chunk_rows=10, open_rows=10))
    for _ in range(5):
        chunker.push(packets_at(1, 1, 1))
    (chunk,) = chunker.flush()
    assert (len(chunk.table), chunk.tally.sampled_out, chunk.tally.offered) == (0, 15, 15)
    assert 1 < chunk.sampling_interval <= 2**NOTHING


def test_one_row_at_a_time_costs_no_more_pieces_than_many(monkeypatch: pytest.MonkeyPatch):
    chunker = Chunker(10 * S)
    for _ in range(3000):
        chunker.push(packets_at(1))
    assert len(chunker._open[0]._pieces) < 20
    assert len(chunker.flush()[0].table) == 3000


def test_a_small_part_of_a_large_block_does_not_keep_the_block_alive():
    chunker = Chunker(10 * S)
    chunker.push(packets_at(*[1.0] * 10_000).take(slice(0, 5)))
    assert chunker._open[0]._pieces[0].observation_time_ns.base is None


@pytest.mark.parametrize("options", [{"allowed_future_ns": -1}, {"witnesses": 0}, {"sampling_key": b"short"}])
def test_options_that_make_no_sense_are_refused(options: dict[str, object]):
    with pytest.raises(ValueError, match="must be"):
        Chunker(10 * S, **options)  # type: ignore[arg-type]


def test_limits_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="room"):
        ChunkLimits(chunk_rows=0)
    with pytest.raises(ValueError, match="room of one"):
        ChunkLimits(chunk_rows=10, open_rows=9)
