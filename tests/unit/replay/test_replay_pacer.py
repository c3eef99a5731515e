import numpy as np
import pytest

from nsstream.clock import ManualClock
from nsstream.replay.pacer import MAX_BURST, PacedByClock, Unpaced

MS = 1_000_000


class Waiter:
    """Waits by moving the clock; late by so many nanoseconds each time."""

    def __init__(self, clock, late_ns=0):
        self.clock = clock
        self.late_ns = late_ns
        self.waited_ns = []

    def __call__(self, seconds):
        self.waited_ns.append(round(seconds * 1e9))
        self.clock.advance(round(seconds * 1e9) + self.late_ns)
        return False


def play(pacer, clock, times):
    """The clock's time at which each frame goes."""
    at, gone = 0, []
    while at < len(times):
        count = pacer.due(times[at:])
        gone += [clock.monotonic_ns()] * count
        at += count
    return gone


def test_unpaced_frames_are_all_due_up_to_a_burst():
    assert Unpaced().due(np.arange(10)) == 10
    assert Unpaced().due(np.arange(MAX_BURST + 5)) == MAX_BURST


@pytest.mark.parametrize("rate", [0.5, 1.0, 4.0])
def test_frames_go_at_their_times_divided_by_the_rate(rate):
    clock = ManualClock(start_ns=5 * MS)
    times = np.array([1_000, 1_010, 1_030, 1_100], np.int64) * MS
    gone = play(PacedByClock(rate, clock, Waiter(clock)), clock, times)
    assert gone == [5 * MS + int((t - times[0]) / rate) for t in times]


def test_lateness_does_not_add_up():
    clock = ManualClock()
    times = np.arange(100, dtype=np.int64) * MS
    gone = play(PacedByClock(1.0, clock, Waiter(clock, late_ns=MS // 10)), clock, times)
    assert max(g - t for g, t in zip(gone, times.tolist(), strict=True)) == MS // 10


def test_what_fell_due_while_the_sink_was_slow_goes_at_once():
    clock = ManualClock()
    waiter = Waiter(clock)
    pacer = PacedByClock(1.0, clock, waiter)
    times = np.arange(10, dtype=np.int64) * MS
    assert pacer.due(times) == 1
    clock.advance(5 * MS)
    assert pacer.due(times[1:]) == 5
    assert waiter.waited_ns == []


def test_a_stop_ends_the_wait():
    pacer = PacedByClock(1.0, ManualClock(), lambda seconds: True)
    assert pacer.due(np.array([0], np.int64)) == 1
    assert pacer.due(np.array([10**12], np.int64)) == 0


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(ValueError, match="rate must be > 0"):
        PacedByClock(rate, ManualClock(), lambda seconds: False)
