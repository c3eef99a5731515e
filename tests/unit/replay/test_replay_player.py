"""Player with real threads and the system's clock: what is asked of a run while it goes on."""

import threading

import numpy as np
import pytest

from nsstream.assemble.frames import Frames
from nsstream.clock import SystemClock
from nsstream.errors import InputError
from nsstream.replay.drawing import CannotError
from nsstream.replay.player import AHEAD_NS, Player
from nsstream.replay.sink import check_counters
from nsstream.replay.stream import FrameBlock

PATIENCE_S = 300.0
SECOND = 10**9


def some_frames(start_ns, count=1000, step_ns=1_000_000):
    times = start_ns + np.arange(count, dtype=np.int64) * step_ns
    return Frames(times, np.arange(count + 1, dtype=np.int64) * 2, np.zeros(2 * count, np.uint8))


class Endless:
    """A frame a millisecond; counts what it was asked for."""

    def __init__(self):
        self.next_ns = 0
        self.drawn = 0
        self.is_closed = False

    def read(self):
        frames = some_frames(self.next_ns)
        self.next_ns += SECOND
        self.drawn += len(frames)
        return FrameBlock(1, "m", frames, {"repaired": 1})

    def check_seek(self, twin_time_ns):
        pass

    def seek(self, twin_time_ns):
        self.next_ns = twin_time_ns

    def close(self):
        self.is_closed = True


class Passes:
    """A block a pass."""

    def __init__(self, loop):
        self.loop = loop
        self.done = 0

    def read(self):
        if self.done >= self.loop:
            return None
        self.done += 1
        return FrameBlock(self.done, "m", some_frames(self.done * SECOND, 10))

    def check_loop(self):
        pass

    def set_loop(self, loop):
        self.loop = loop


class Kept:
    """A sink that keeps times, and lets a test wait for them."""

    def __init__(self):
        self.times = []
        self.changed = threading.Condition()
        self.end = None

    @property
    def counters(self):
        return {"frames": len(self.times)}

    def open(self):
        pass

    def write(self, frames):
        with self.changed:
            self.times += frames.observation_time_ns.tolist()
            self.changed.notify_all()

    def close(self):
        self.end = "closed"

    def abort(self):
        self.end = "aborted"

    def wait_until(self, is_so):
        with self.changed:
            assert self.changed.wait_for(lambda: is_so(self.times), PATIENCE_S)


class KeptAhead(Kept):
    """One that paces itself, as far as the player can tell."""

    def __init__(self):
        super().__init__()
        self.ahead_ns = []

    def write_due(self, frames, due_ns):
        assert len(frames) == len(due_ns)
        self.ahead_ns.append(int(due_ns[-1]) - SystemClock().monotonic_ns())
        self.write(frames)


class Interrupted(Kept):
    """One that is always asked for its counters in the middle of a change."""

    def __init__(self):
        super().__init__()
        self.counts = {"frames": 0, "frames_written": 0}
        self.player = None
        self.seen = []

    @property
    def counters(self):
        return self.counts

    def write(self, frames):
        self.counts["frames"] += len(frames)
        self._be_asked()
        self.counts["frames_written"] += len(frames)
        super().write(frames)

    def _be_asked(self):
        asking = threading.Thread(target=lambda: self.seen.append(dict(self.player.counters)))
        asking.start()
        asking.join(PATIENCE_S)


def make_player(stream, sink, rate):
    ended = threading.Event()
    player = Player(lambda: stream, lambda is_stopped: sink, rate, SystemClock(), ended.set)
    player.start()
    return player, ended


def test_a_seek_skips_what_was_drawn_and_counts_it():
    stream, sink = Endless(), Kept()
    player, ended = make_player(stream, sink, 1.0)
    sink.wait_until(lambda times: len(times) >= 5)
    player.seek(1000 * SECOND)
    sink.wait_until(lambda times: times[-1] >= 1000 * SECOND)
    player.seek(0)
    sink.wait_until(lambda times: times[-1] < 1000 * SECOND and len(times) > 10)
    player.stop()
    assert ended.wait(PATIENCE_S)
    assert sink.end == "aborted"
    assert stream.is_closed
    assert player.progress.packets_written == len(sink.times)
    jump = next(i for i, time in enumerate(sink.times) if time >= 1000 * SECOND)
    assert sink.times[:jump] == [i * 1_000_000 for i in range(jump)]
    assert sink.times[jump] == 1000 * SECOND
    assert player.skipped >= 1000 - jump
    assert player.progress.tally["replay_skipped_by_seek"] <= player.skipped


def test_counters_that_are_asked_for_in_the_middle_of_a_write_add_up():
    sink = Interrupted()
    ended = threading.Event()
    sink.player = Player(lambda: Passes(3), lambda is_stopped: sink, "max", SystemClock(), ended.set)
    sink.player.start()
    assert ended.wait(PATIENCE_S)
    for counters in sink.seen:
        check_counters(counters)
    assert [counters["frames"] for counters in sink.seen] == [0, 10, 20]
    assert sink.player.counters == {"frames": 30, "frames_written": 30}


def test_a_seek_takes_effect_in_the_middle_of_a_long_wait():
    sink = Kept()
    player, ended = make_player(Endless(), sink, 1e-3)  # a frame a second
    sink.wait_until(lambda times: len(times) >= 1)
    player.seek(50 * SECOND)
    sink.wait_until(lambda times: 50 * SECOND in times)
    player.stop()
    assert ended.wait(PATIENCE_S)
    assert len(sink.times) <= 3


def test_passes_that_are_asked_for_behind_the_last_are_played():
    stream, sink = Passes(1), Kept()
    player, ended = make_player(stream, sink, 1.0)
    sink.wait_until(lambda times: len(times) >= 1)
    player.pause()
    player.set_loop(3)
    player.set_rate("max")
    player.resume()
    assert ended.wait(PATIENCE_S)
    assert (player.outcome, sink.end, len(sink.times)) == ("done", "closed", 30)


def test_a_stop_ends_a_pause():
    sink = Kept()
    player, ended = make_player(Endless(), sink, 1.0)
    player.pause()
    player.stop()
    assert ended.wait(PATIENCE_S)
    assert player.outcome == "stopped"


def test_a_sink_that_paces_itself_gets_frames_a_little_ahead():
    sink = KeptAhead()
    player, ended = make_player(Endless(), sink, 1.0)
    sink.wait_until(lambda times: len(times) >= 100)
    player.stop()
    assert ended.wait(PATIENCE_S)
    assert max(sink.ahead_ns) <= AHEAD_NS


def test_what_a_stream_cannot_do_is_an_error_of_the_asker():
    opening = threading.Event()

    def open_stream():
        assert opening.wait(PATIENCE_S)
        return Passes(1)

    sink = Kept()
    ended = threading.Event()
    player = Player(open_stream, lambda is_stopped: sink, 1.0, SystemClock(), ended.set)
    player.start()
    with pytest.raises(CannotError, match="still being opened"):
        player.seek(0)
    opening.set()
    sink.wait_until(lambda times: len(times) >= 1)
    with pytest.raises(CannotError, match="no times to seek"):
        player.seek(0)
    player.stop()
    assert ended.wait(PATIENCE_S)


def test_a_stream_that_breaks_and_stops_the_run_as_it_is_closed_fails_the_run():
    class Breaks(Passes):
        def read(self):
            if self.done:
                raise InputError("the file is gone")
            return super().read()

        def close(self):
            player.stop()

    player, ended = make_player(Breaks(2), Kept(), 1.0)
    assert ended.wait(PATIENCE_S)
    assert (player.outcome, player.progress.error) == ("failed", "the file is gone")
