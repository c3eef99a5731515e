import numpy as np
import pytest

from nsstream.assemble.frames import Frames
from nsstream.clock import ManualClock
from nsstream.errors import InputError, OutputError
from nsstream.replay.batch import Credit, decode_part
from nsstream.replay.feed import PacketFeed
from nsstream.replay.registry import make_sink
from nsstream.replay.sink import SinkContext, check_counters
from nsstream.replay.subscribers import MAX_BATCH_BYTES


def frames(count, size):
    return Frames(
        np.arange(count, dtype=np.int64), np.arange(count + 1, dtype=np.int64) * size, np.zeros(count * size, np.uint8)
    )


def make(is_stopped=lambda: False, **fields):
    feed = PacketFeed(ManualClock(), max_batches=4)
    context = SinkContext(is_stopped, ManualClock(), feed, lambda: (3, "model"))
    return make_sink({"kind": "subscribers", **fields}, context), feed


def fetch(feed, token, credit=1000, ack=-1):
    feed.take_credit(b"1", Credit(token=token, credit=credit, ack=ack))
    return [decode_part(parts) for _, parts in feed.due()]


def test_frames_are_cut_into_batches_by_number():
    sink, feed = make(batch_packets=10)
    token, *_ = feed.subscribe("s")
    sink.open()
    sink.write(frames(25, 60))
    sink.close()
    *batches, end = fetch(feed, token)
    assert [len(batch) for batch in batches] == [10, 10, 5]
    assert (batches[0].chunk, batches[0].model_id, end.outcome) == (3, "model", "done")
    assert sink.counters == {"frames": 25, "frames_written": 25, "frames_failed": 0}
    check_counters(sink.counters)


def test_frames_are_cut_into_batches_by_octets():
    sink, feed = make()
    token, *_ = feed.subscribe("s")
    sink.open()
    size = MAX_BATCH_BYTES // 2
    sink.write(frames(3, size))
    assert [len(batch) for batch in fetch(feed, token)] == [2, 1]


def test_an_abort_says_whether_the_run_was_stopped():
    for is_stopped, outcome in ((True, "stopped"), (False, "failed")):
        sink, feed = make(lambda is_stopped=is_stopped: is_stopped)
        token, *_ = feed.subscribe("s")
        sink.open()
        sink.abort()
        sink.abort()
        (end,) = fetch(feed, token)
        assert end.outcome == outcome


def test_a_sink_that_was_not_opened_says_nothing():
    sink, feed = make()
    token, *_ = feed.subscribe("s")
    sink.abort()
    assert fetch(feed, token) == []
    with pytest.raises(ValueError, match="between open and close"):
        sink.write(frames(1, 60))


def test_a_stop_ends_every_wait():
    sink, feed = make(lambda: True, wait_for=1)
    with pytest.raises(OutputError, match="before 1 of them came"):
        sink.open()
    sink, feed = make(lambda: True, when_behind="wait", batch_packets=1)
    feed.subscribe("slow")
    sink.open()
    with pytest.raises(OutputError, match="while one of them was slow"):
        sink.write(frames(10, 60))
    assert sink.counters == {"frames": 10, "frames_written": 4, "frames_failed": 6}
    check_counters(sink.counters)


def test_only_a_server_has_subscribers():
    with pytest.raises(OutputError, match="only a replay server has them"):
        make_sink({"kind": "subscribers"}, SinkContext())


@pytest.mark.parametrize("fields", [{"batch_packets": 0}, {"batch_packets": 16_385}, {"wait_for": 65},
                                    {"when_behind": "drop"}, {"path": "/x"}])  # fmt: skip
def test_fields_out_of_bounds_are_refused(fields):
    with pytest.raises(InputError, match=r"^sink\."):
        make(**fields)
