"""Streams of made conversations: merged by time, blended, sought, limited, labelled, and drawn ahead."""

import csv
import os
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from made_streams import (
    EACH,
    FLOWS,
    MINUTE_NS,
    START_NS,
    MadeDrawer,
    all_of,
    checkpoint,
    made_stream,
    some_of,
    times_of,
)

from nsstream.clock import SystemClock
from nsstream.errors import InputError, OutputError, StateError
from nsstream.replay.frame_packets import packets_of
from nsstream.replay.scenario import Attack, Limits
from nsstream.replay.stream import BLOCK_OCTETS, BLOCK_PACKETS, FrameBlock, RecordedStream
from nsstream.replay.streams.ahead import AheadLimits, DrawnAhead
from nsstream.replay.streams.batches import split
from nsstream.replay.streams.blend import Blend
from nsstream.replay.streams.effort import AsManyAsKeepUp, SoonFirst
from nsstream.replay.streams.labels import HEADER, LabelledStream, Labels
from nsstream.replay.streams.limited import LimitedStream
from nsstream.replay.streams.line import Line, starts_of
from nsstream.replay.streams.plan import SequencePlan
from nsstream.trace import ConversationTable

A_CHUNK = FLOWS * EACH
LONG_S = 60


def endless(name="a", minutes=1, **arguments):
    place = checkpoint(name, minutes=minutes, **arguments)
    return SequencePlan([place], gaps="squeezed", passes=None, has_passes=False, origin_ns=START_NS)


def octets_of(blocks):
    return b"".join(block.frames.octets.tobytes() for block in blocks)


def test_chunks_come_in_order_and_times_rise_from_end_to_end():
    blocks = all_of(made_stream(SequencePlan([checkpoint("a", 0), checkpoint("b", 1), checkpoint("c", 5)])))
    assert (np.diff(times_of(blocks)) > 0).all()
    assert len(times_of(blocks)) == 3 * A_CHUNK
    assert sorted({b.chunk for b in blocks}) == [1, 2, 3]
    assert times_of(blocks)[-1] > START_NS + 5 * MINUTE_NS


def test_the_same_seed_gives_the_same_stream_and_no_pass_repeats_a_flow():
    a, b, c = (some_of(made_stream(endless(), seed=s), 4) for s in (1, 1, 2))
    assert octets_of(a) == octets_of(b)
    assert np.array_equal(times_of(a), times_of(b))
    assert octets_of(a) != octets_of(c)
    ports = [
        {p for block in a if block.chunk == n for p in packets_of(block.frames).source_transport_port.tolist()}
        for n in (1, 2, 3, 4)
    ]
    assert all(ports[i] != ports[j] for i in range(4) for j in range(i))


def test_times_are_shifted_and_compressed():
    plain = times_of(some_of(made_stream(endless()), 3))
    moved = times_of(some_of(made_stream(endless(), start_ns=MINUTE_NS, compression=60.0), 3))
    assert len(moved) == len(plain)
    np.testing.assert_allclose(moved, MINUTE_NS + (plain - START_NS) / 60, atol=300, rtol=0)
    assert (np.diff(moved) > 0).all()


def test_parts_of_a_mix_have_their_shares_and_chunks_of_other_lengths_go_along():
    drawer = MadeDrawer({"a": 0, "b": 0}, {"b": 77})
    stream = made_stream(endless("a"), drawer, others=[endless("b", minutes=2)], flows=0.5)
    blocks = some_of(stream, 60)
    packets = [packets_of(b.frames) for b in blocks]
    of_b = sum(int(np.count_nonzero(p.source_address[:, 13] == 77)) for p in packets)
    total = sum(map(len, packets))
    assert (np.diff(times_of(blocks)) > 0).all()
    assert abs(of_b / total - 1 / 3) < 0.05  # half as many a minute, since its chunk takes two


def blended(share, seed=1, passes=None, **attack):
    drawer = MadeDrawer({"a": 0, "x": 0}, {"x": 66})
    line = Line(1023, endless("x"), drawer, seed)
    blend = Blend(Attack(model="/models/x", share=share, **attack), line, A_CHUNK / MINUTE_NS, seed)
    return made_stream(SequencePlan([checkpoint("a")], gaps="squeezed", passes=passes), drawer, seed, blend=blend)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.8])
def test_an_attack_has_its_share_of_packets_and_each_of_them_is_marked(share):
    blocks = some_of(blended(share), 50)
    total = marked = 0
    for block in blocks:
        is_attack = packets_of(block.frames).source_address[:, 13] == 66
        is_attack |= packets_of(block.frames).destination_address[:, 13] == 66
        assert np.array_equal(is_attack, block.is_attack)
        total, marked = total + len(is_attack), marked + int(is_attack.sum())
        assert set(block.frames.side.tolist()) <= {0, 1}
        assert block.tally["attack_packets"] == marked
    assert abs(marked / total - share) < 0.15 * share
    assert marked == blocks[-1].tally["attack_packets"]


def test_labels_list_what_is_sent_flow_by_flow(tmp_path):
    path = tmp_path / "labels.csv"
    blocks = []
    with closing(LabelledStream(blended(0.3, passes=3), Labels(path, "Scan 1"))) as stream:
        blocks += all_of(stream)
    rows = list(csv.reader(path.read_text().splitlines()))
    assert tuple(rows[0]) == HEADER
    assert sum(int(row[7]) for row in rows[1:]) == blocks[-1].tally["attack_packets"]
    assert {row[9] for row in rows[1:]} == {"Scan 1"}
    assert {row[11] for row in rows[1:]} <= {"1", "2", "3"}
    attacks = {}
    for block in blocks:
        packets = packets_of(block.frames)
        for i in np.flatnonzero(block.is_attack).tolist():
            ends = (int(packets.source_transport_port[i]), int(packets.destination_transport_port[i]))
            attacks.setdefault((block.chunk, min(ends), max(ends)), []).append(int(packets.observation_time_ns[i]))
    told = {(int(r[11]), *sorted((int(r[4]), int(r[6])))): (int(r[0]), int(r[1])) for r in rows[1:]}
    assert {key: (min(times), max(times)) for key, times in attacks.items()} == told
    with pytest.raises(OutputError, match="exists already"):
        Labels(path, "x")
    Labels(path, "x", overwrite=True).close()
    assert path.read_text().count("\n") == 1


def test_seeking_forward_and_back_gives_the_frames_that_are_there():
    plan = SequencePlan([checkpoint("a", 0), checkpoint("b", 1)], passes=3)
    drawer = MadeDrawer({"a": 0, "b": 1})
    times = times_of(all_of(made_stream(SequencePlan([checkpoint("a", 0), checkpoint("b", 1)], passes=3), drawer)))
    stream = made_stream(plan, drawer)
    for wanted in (len(times) - 5, 3, len(times) // 2):
        stream.seek(int(times[wanted]))
        block = stream.read()
        assert block.frames.observation_time_ns[0] == times[wanted]
        assert block.tally.get("packets_sought_past", 0) > 0 or wanted == 0
    np.testing.assert_array_equal(times_of([block, *all_of(stream)]), times[len(times) // 2 :])
    with pytest.raises(InputError, match="seek"):
        stream.seek(int(times[0]) - 10**12)
    assert stream.read() is None


def test_a_stream_that_has_ended_goes_on_when_it_is_told_more_passes():
    stream = made_stream(SequencePlan([checkpoint("a")]))
    assert len(times_of(all_of(stream))) == A_CHUNK
    stream.set_loop(3)
    assert len(times_of(all_of(stream))) == 2 * A_CHUNK
    with pytest.raises(InputError, match="no passes"):
        made_stream(endless()).set_loop(1)


def test_a_chunk_is_split_by_start_and_five_tuples_stay_together():
    drawer = MadeDrawer({"a": 0})
    table = ConversationTable.concatenate(
        [drawer.draw(checkpoint("a").directory, line=0, turn=t, select=None) for t in (0, 0, 1, 2)]
    )
    parts = split(table, START_NS + MINUTE_NS, most=100)
    assert len(parts) > 4
    assert sum(len(part) for _, part in parts) == len(table)
    untils = [until for until, _ in parts]
    assert untils == sorted(untils)
    assert untils[-1] == START_NS + MINUTE_NS
    seen = {}
    for number, (until, part) in enumerate(parts):
        assert len(part)
        for later, later_part in parts[number + 1 :]:
            assert starts_of(later_part).min() >= until
            assert later >= until
        for i in range(len(part)):
            key = (part.initiator_address[i].tobytes(), int(part.initiator_port[i]), int(part.responder_port[i]))
            assert seen.setdefault(key, number) == number
    assert split(table, 7) == [(7, table)]


def test_blocks_are_bounded():
    blocks = some_of(made_stream(endless(), flows=100.0), 1)
    assert sum(len(b.frames) for b in blocks) == 100 * A_CHUNK
    assert max(len(b.frames) for b in blocks) <= BLOCK_PACKETS
    assert max(len(b.frames.octets) for b in blocks) <= BLOCK_OCTETS
    assert len(blocks) >= 3


@pytest.mark.parametrize(
    ("limits", "reached"),
    [
        (Limits(packets=250), lambda times, octets: len(times) == 250),
        (Limits(octets=10_000), lambda times, octets: 10_000 - 90 < octets <= 10_000),
        (Limits(twin_s=90.0), lambda times, octets: 85e9 < times[-1] - times[0] <= 90e9),
        (Limits(packets=250, twin_s=1.0), lambda times, octets: times[-1] - times[0] <= 1e9),
    ],
)
def test_a_limit_ends_a_stream_that_has_no_end(limits, reached):
    with closing(LimitedStream(ahead_of(made_stream(endless())), limits)) as stream:
        blocks = all_of(stream)
        assert stream.read() is None
    assert reached(times_of(blocks), len(octets_of(blocks)))


def test_a_limit_of_time_begins_anew_with_a_seek_from_the_end():
    with closing(LimitedStream(ahead_of(made_stream(endless())), Limits(twin_s=30.0))) as stream:
        times = times_of(all_of(stream))
        stream.seek(int(times[0]) + 100 * 10**9)
        again = times_of(all_of(stream))
    assert again[0] >= times[0] + 100 * 10**9
    assert 0 < again[-1] - again[0] <= 30 * 10**9


def ahead_of(stream, **limits):
    return DrawnAhead(stream, AheadLimits(**limits), SystemClock(), threading.Event())


def wait_for(condition):
    """Let a condition come true, which it must within a minute."""
    waiting = threading.Event()
    for _ in range(LONG_S * 100):
        if condition():
            return
        waiting.wait(0.01)
    raise AssertionError("it did not come true")


def test_what_is_drawn_ahead_is_what_would_have_been_drawn():
    with closing(ahead_of(made_stream(endless()))) as stream:
        blocks = some_of(stream, 20)
    assert octets_of(blocks) == octets_of(some_of(made_stream(endless()), 20))


@pytest.mark.parametrize(
    ("limits", "most_packets"),
    [
        ({"packets": 3 * A_CHUNK}, 4 * A_CHUNK),
        ({"octets": 90 * 2 * A_CHUNK}, 3 * A_CHUNK),
        ({"twin_ns": 5 * MINUTE_NS}, 7 * A_CHUNK),
    ],
)
def test_the_buffer_is_bounded_in_packets_octets_and_time(limits, most_packets):
    drawer = MadeDrawer({"a": 0})
    with closing(ahead_of(made_stream(endless(), drawer), **limits)) as stream:
        wait_for(lambda: stream._is_full())
        drawn = len(drawer.drawn)
        assert 0 < stream.counters()["drawn_ahead_packets"] <= most_packets
        counters = stream.counters()
        assert counters["drawn_ahead_ns"] > 0
        assert counters["drawn_ahead_octets"] == 90 * counters["drawn_ahead_packets"]
        assert counters["underruns"] == 0
        stream.read()
        wait_for(lambda: len(drawer.drawn) > drawn)
    assert stream.read() is None


class SlowStream:
    """Gives a block when it is let, and remembers what it was told."""

    def __init__(self, blocks):
        self.inner = RecordedStream(blocks)
        self.let = threading.Semaphore(0)
        self.told = []

    def read(self):
        assert self.let.acquire(timeout=LONG_S)
        return self.inner.read()

    def check_seek(self, twin_time_ns):
        if twin_time_ns < 0:
            raise InputError("seek: before the start")

    def seek(self, twin_time_ns):
        self.told.append(twin_time_ns)

    def check_loop(self):
        raise InputError("no passes")

    def close(self):
        self.told.append("closed")


def some_blocks(count):
    frames = [b.frames for b in some_of(made_stream(endless()), count)]
    return [FrameBlock(i, "m", f) for i, f in enumerate(frames, 1)]


def test_a_stream_that_is_slow_makes_underruns_which_are_counted_and_nothing_is_lost():
    slow = SlowStream(some_blocks(3))
    stream = ahead_of(slow)
    got = []
    reader = threading.Thread(target=lambda: got.extend(iter(stream.read, None)))
    reader.start()
    for count in (1, 2, 3):
        slow.let.release()
        wait_for(lambda count=count: len(got) == count)
    wait_for(lambda: stream.counters()["underruns"] == 3)
    slow.let.release()
    reader.join(LONG_S)
    assert [block.chunk for block in got] == [1, 2, 3]
    assert stream.counters()["underrun_ns"] > 0
    stream.close()
    stream.close()
    assert slow.told == ["closed"]


def test_a_seek_throws_away_what_was_drawn_and_what_is_being_drawn():
    slow = SlowStream(some_blocks(4))
    stream = ahead_of(slow)
    slow.let.release()
    wait_for(lambda: stream.counters()["drawn_ahead_packets"] > 0)  # and now it makes the second one
    stream.seek(77)
    assert stream.counters()["drawn_ahead_packets"] == 0
    slow.let.release(2)
    block = stream.read()
    assert (block.chunk, block.seek_count, slow.told) == (3, 1, [77])
    with pytest.raises(InputError, match="before the start"):
        stream.seek(-1)
    with pytest.raises(InputError, match="no passes"):
        stream.set_loop(2)
    slow.let.release(2)
    stream.close()
    assert slow.told == [77, "closed"]


def test_a_seek_back_from_the_end_goes_on_there():
    plan = SequencePlan([checkpoint("a")])
    with closing(ahead_of(made_stream(plan))) as stream:
        times = times_of(all_of(stream))
        assert stream.read() is None
        stream.seek(int(times[100]))
        again = all_of(stream)
        assert {b.seek_count for b in again} == {1}
        np.testing.assert_array_equal(times_of(again), times[100:])
        stream.set_loop(2)
        assert len(times_of(all_of(stream))) == A_CHUNK
        with pytest.raises(InputError):
            stream.seek(0)


def test_candidates_are_fewer_where_a_stream_is_late_and_as_many_as_before_where_it_is_ahead():
    drawer, slow = MadeDrawer({"a": 0}), SlowStream(some_blocks(12))
    limits = AheadLimits(packets=2 * A_CHUNK)
    with closing(DrawnAhead(slow, limits, SystemClock(), threading.Event(), AsManyAsKeepUp(drawer))) as stream:
        reader = threading.Thread(target=lambda: [stream.read() for _ in range(7)])
        reader.start()
        slow.let.release()
        for underruns, left in enumerate((8, 4, 2, 1, 1, 1), 1):
            wait_for(lambda underruns=underruns: stream.counters()["underruns"] == underruns)
            assert drawer.candidates == left
            slow.let.release()
        reader.join()
        slow.let.release(12)
        for _ in range(4):
            wait_for(stream._is_full)
            stream.read()
        wait_for(lambda: drawer.candidates == 16)


def test_a_first_chunk_that_is_to_come_soon_is_drawn_once_on_every_line_and_those_behind_it_with_care():
    class Counting(MadeDrawer):
        def draw(self, directory, *, line, turn, select):
            self.told.append((line, turn, self.candidates))
            return super().draw(directory, line=line, turn=turn, select=select)

    drawer = Counting({"a": 0})
    drawer.told = []
    soon = SoonFirst(drawer)
    for turn in (0, 1, 0):
        for line in (0, 1):
            soon.draw(Path("/models/a"), line=line, turn=turn, select=None)
    assert drawer.told == [(line, turn, 16 if turn else 1) for turn in (0, 1, 0) for line in (0, 1)]
    soon.candidates = 4
    assert (soon.candidates, drawer.candidates) == (4, 4)
    with pytest.raises(StateError):
        soon.draw(Path("/models/gone"), line=0, turn=0, select=None)
    assert drawer.candidates == 4


def test_an_error_comes_behind_the_blocks_before_it_and_stays():
    plan = SequencePlan([checkpoint("a", 0), checkpoint("gone", 1)])
    with closing(ahead_of(made_stream(plan))) as stream:
        assert stream.read().chunk == 1
        for _ in range(2):
            with pytest.raises(StateError, match="cannot be read"):
                stream.read()


def test_a_stop_that_somebody_else_says_ends_the_reading():
    slow, stopped = SlowStream(some_blocks(1)), threading.Event()
    stream = DrawnAhead(slow, AheadLimits(), SystemClock(), stopped)
    stopped.set()
    assert stream.read() is None
    slow.let.release()
    stream.close()
    assert slow.told == ["closed"]


PLAY_ON = """
import resource
from made_streams import checkpoint, made_stream
from nsstream.replay.streams.plan import SequencePlan
plan = SequencePlan([checkpoint("a")], gaps="squeezed", passes=None)
stream, peaks = made_stream(plan, flows=10.0), []
for chunks in (30, 330):
    while stream.read().chunk <= chunks:
        stream._drawer.drawn.clear()
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(peaks[1] - peaks[0])
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length_of_the_stream():
    """600,000 packets, all of flows that are never met again."""
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", PLAY_ON], capture_output=True, text=True, env=os.environ | path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 8192  # kibibytes
