import numpy as np

from nsstream.assemble.frames import Frames
from nsstream.replay.stream import FrameBlock, Merger, RecordedStream


def frames_of(times, mark=0):
    """Frames whose octets say what time they were made for: length and value vary with it."""
    packets = [bytes([t % 251, mark]) * (1 + t % 3) for t in times]
    offset = np.concatenate([[0], np.cumsum([len(p) for p in packets])]).astype(np.int64)
    return Frames(np.array(times, np.int64), offset, np.frombuffer(b"".join(packets), np.uint8).copy())


def packets_of(frames):
    return [bytes(frames.octets[a:b]) for a, b in zip(frames.offset[:-1], frames.offset[1:], strict=True)]


def test_frames_past_the_next_start_wait_and_are_merged_in():
    merger = Merger()
    first = merger.push(frames_of([1, 5, 12, 14]), 10)
    second = merger.push(frames_of([11, 13, 15]), None)
    assert first.observation_time_ns.tolist() == [1, 5]
    assert second.observation_time_ns.tolist() == [11, 12, 13, 14, 15]
    assert packets_of(first) + packets_of(second) == packets_of(frames_of([1, 5, 11, 12, 13, 14, 15]))
    assert merger.moved_count == 0


def test_sides_stay_with_their_frames():
    merger = Merger()

    def sided(times, side):
        frames = frames_of(times)
        return Frames(frames.observation_time_ns, frames.offset, frames.octets, np.array(side, np.uint8))

    merger.push(sided([1, 12, 14], [0, 1, 0]), 10)
    assert merger.push(sided([11, 13], [0, 1]), None).side.tolist() == [0, 1, 1, 0]


def test_a_frame_may_wait_for_several_chunks():
    merger = Merger()
    assert merger.push(frames_of([1, 35]), 10).observation_time_ns.tolist() == [1]
    assert merger.push(frames_of([11]), 20).observation_time_ns.tolist() == [11]
    assert merger.push(frames_of([21]), 30).observation_time_ns.tolist() == [21]
    assert merger.push(frames_of([31]), None).observation_time_ns.tolist() == [31, 35]


def test_frames_at_one_time_are_moved_apart_the_earlier_made_first():
    merger = Merger()
    merger.push(frames_of([12, 13], mark=1), 10)
    out = merger.push(frames_of([12, 13], mark=2), None)
    assert out.observation_time_ns.tolist() == [12, 13, 14, 15]
    assert [p[1] for p in packets_of(out)] == [1, 2, 1, 2]
    assert merger.moved_count == 3


def test_a_frame_before_what_has_gone_is_moved_behind_it():
    merger = Merger()
    assert merger.push(frames_of([5, 9]), 10).observation_time_ns.tolist() == [5, 9]
    assert merger.push(frames_of([7, 20]), None).observation_time_ns.tolist() == [10, 20]
    assert merger.moved_count == 1


def test_an_empty_chunk_is_nothing_special():
    merger = Merger()
    assert len(merger.push(frames_of([]), 10)) == 0
    assert merger.push(frames_of([4]), 10).observation_time_ns.tolist() == [4]
    assert len(merger.push(frames_of([]), None)) == 0


def test_a_recorded_stream_gives_its_blocks_and_ends():
    block = FrameBlock(1, "m", frames_of([1]))
    stream = RecordedStream([block])
    assert stream.read() is block
    assert stream.read() is None
    assert stream.read() is None
