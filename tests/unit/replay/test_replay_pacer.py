import numpy as np
import pytest

from nsstream.clock import ManualClock
from nsstream.errors import InputError
from nsstream.replay.pacer import MAX_BURST, Pacer
from nsstream.replay.rate import BitRate, PacketRate, parse_rate

MS = 1_000_000
SECOND = 1000 * MS


class Waiter:
    """Waits by moving the clock; late by so many nanoseconds each time. `meanwhile` is done once, at a time."""

    def __init__(self, clock, late_ns=0):
        self.clock = clock
        self.late_ns = late_ns
        self.waited_ns = []
        self.meanwhile = None

    def __call__(self, seconds):
        until_ns = self.clock.monotonic_ns() + round(seconds * 1e9) + self.late_ns
        if self.meanwhile is not None and self.meanwhile[0] <= until_ns:
            (at_ns, do), self.meanwhile = self.meanwhile, None
            self.clock.advance(max(at_ns - self.clock.monotonic_ns(), 0))
            do()  # and it wakes the wait
            return False
        self.waited_ns.append(round(seconds * 1e9))
        self.clock.advance(until_ns - self.clock.monotonic_ns())
        return False


def offsets(times, size=100):
    return np.arange(len(times) + 1, dtype=np.int64) * size


def play(pacer, clock, times, size=100):
    """The clock's time at which each frame goes."""
    at, gone, offset = 0, [], offsets(times, size)
    while at < len(times):
        count = len(pacer.due(times[at:], offset[at:]))
        gone += [clock.monotonic_ns()] * count
        at += count
    return gone


def steps(count, step_ns, start_ns=1_700_000_000 * SECOND):
    return start_ns + np.arange(count, dtype=np.int64) * step_ns


def test_at_the_rate_max_all_frames_are_due_up_to_a_burst():
    pacer = Pacer("max", ManualClock(), lambda seconds: False)
    assert pacer.due(np.arange(10), offsets(range(10))).tolist() == [0] * 10
    assert len(pacer.due(np.arange(MAX_BURST + 5), offsets(range(MAX_BURST + 5)))) == MAX_BURST


@pytest.mark.parametrize("rate", [0.5, 1.0, 4.0])
def test_frames_go_at_their_times_divided_by_the_rate(rate):
    clock = ManualClock(start_ns=5 * MS)
    times = np.array([1_000, 1_010, 1_030, 1_100], np.int64) * MS
    gone = play(Pacer(rate, clock, Waiter(clock)), clock, times)
    assert gone == [5 * MS + int((t - times[0]) / rate) for t in times]


def test_times_since_the_epoch_lose_no_nanosecond():
    clock = ManualClock()
    times = steps(50, 7)
    assert play(Pacer(1.0, clock, Waiter(clock)), clock, times) == [7 * i for i in range(50)]


@pytest.mark.parametrize(
    ("rate", "gap_ns"), [(PacketRate(packets_per_s=1000.0), MS), (BitRate(bits_per_s=400_000.0), 2 * MS)]
)
def test_frames_go_evenly_by_their_number_or_by_their_bits(rate, gap_ns):
    clock = ManualClock()
    times = np.array([0, 1, 2, 900, 901, 5000], np.int64) * MS
    assert play(Pacer(rate, clock, Waiter(clock)), clock, times) == [gap_ns * i for i in range(6)]


def test_lateness_does_not_add_up():
    clock = ManualClock()
    times = np.arange(100, dtype=np.int64) * MS
    gone = play(Pacer(1.0, clock, Waiter(clock, late_ns=MS // 10)), clock, times)
    assert max(g - t for g, t in zip(gone, times.tolist(), strict=True)) == MS // 10


def test_what_fell_due_while_the_sink_was_slow_goes_at_once():
    clock = ManualClock()
    waiter = Waiter(clock)
    pacer = Pacer(1.0, clock, waiter)
    times = np.arange(10, dtype=np.int64) * MS
    assert len(pacer.due(times, offsets(times))) == 1
    clock.advance(5 * MS)
    assert pacer.late_s == pytest.approx(0.004)
    assert pacer.due(times[1:], offsets(times)[1:]).tolist() == [i * MS for i in range(1, 6)]
    assert waiter.waited_ns == []


def test_a_stop_ends_the_wait():
    pacer = Pacer(1.0, ManualClock(), lambda seconds: True)
    assert len(pacer.due(np.array([0], np.int64), offsets([0]))) == 1
    assert len(pacer.due(np.array([10**12], np.int64), offsets([0]))) == 0


def test_frames_ahead_are_handed_out_with_their_deadlines():
    clock = ManualClock()
    waiter = Waiter(clock)
    pacer = Pacer(1.0, clock, waiter)
    times = steps(100, MS)
    assert pacer.due(times, offsets(times), 20 * MS).tolist() == [i * MS for i in range(21)]
    due = pacer.due(times[21:], offsets(times)[21:], 20 * MS)
    assert waiter.waited_ns == [11 * MS]  # until the first is 10 ms ahead
    assert due.tolist() == [i * MS for i in range(21, 32)]


def test_a_change_of_the_rate_scales_what_remains_of_a_wait():
    clock = ManualClock()
    waiter = Waiter(clock)
    pacer = Pacer(1.0, clock, waiter)
    waiter.meanwhile = 600 * MS, lambda: pacer.set_rate(4.0)
    assert play(pacer, clock, steps(4, SECOND)) == [0, 700 * MS, 950 * MS, 1200 * MS]


def test_a_change_of_the_rate_forgives_what_was_late():
    clock = ManualClock()
    pacer = Pacer(100.0, clock, Waiter(clock))
    times = steps(1000, SECOND)
    pacer.due(times[:1], offsets([0]))
    clock.advance(5 * SECOND)  # the sink took so long: 500 frames are late
    pacer.due(times[1:2], offsets([0]))
    pacer.set_rate(1.0)
    assert play(pacer, clock, times[2:5]) == [5 * SECOND, 6 * SECOND, 7 * SECOND]


def test_the_rate_that_holds_already_forgives_nothing():
    clock = ManualClock()
    pacer = Pacer(100.0, clock, Waiter(clock))
    times = steps(1000, SECOND)
    pacer.due(times[:1], offsets([0]))
    clock.advance(5 * SECOND)
    pacer.set_rate(100.0)
    assert play(pacer, clock, times[1:502]) == [5 * SECOND] * 500 + [5.01 * SECOND]


def test_a_change_between_blocks_forgives_what_was_late():
    clock = ManualClock()
    pacer = Pacer(1.0, clock, Waiter(clock))
    times = steps(5, SECOND)
    pacer.due(times[:1], offsets([0]))
    clock.advance(100 * SECOND)  # the next block is still drawn, so nobody knows its first frame's time
    pacer.set_rate(2.0)
    clock.advance(SECOND)
    assert play(pacer, clock, times[1:]) == [101 * SECOND, 101 * SECOND, 101 * SECOND, 101.5 * SECOND]


def test_a_change_from_a_pace_to_packets_a_second_and_back_counts_from_the_frame_before():
    clock = ManualClock()
    waiter = Waiter(clock)
    pacer = Pacer(1.0, clock, waiter)
    times = steps(6, SECOND)
    waiter.meanwhile = 100 * MS, lambda: pacer.set_rate(PacketRate(packets_per_s=5.0))
    assert play(pacer, clock, times[:3]) == [0, 200 * MS, 400 * MS]
    waiter.meanwhile = 500 * MS, lambda: pacer.set_rate(1.0)
    assert play(pacer, clock, times[3:]) == [1400 * MS, 2400 * MS, 3400 * MS]


def test_a_change_from_a_long_wait_to_packets_a_second_is_at_once():
    clock = ManualClock()
    waiter = Waiter(clock)
    pacer = Pacer(1.0, clock, waiter)
    waiter.meanwhile = 50 * SECOND, lambda: pacer.set_rate(PacketRate(packets_per_s=10.0))
    assert play(pacer, clock, steps(3, 100 * SECOND)) == [0, 50 * SECOND, 50.1 * SECOND]


@pytest.mark.parametrize("rate", [1.0, PacketRate(packets_per_s=1.0), BitRate(bits_per_s=800.0)])
def test_a_pause_moves_what_follows_by_its_length(rate):
    clock = ManualClock()
    waiter = Waiter(clock)
    pacer = Pacer(rate, clock, waiter)

    def pause():
        pacer.pause()
        assert pacer.is_paused
        waiter.meanwhile = 10 * SECOND, pacer.resume

    waiter.meanwhile = 1400 * MS, pause
    assert play(pacer, clock, steps(4, SECOND)) == [0, SECOND, 10_600 * MS, 11_600 * MS]


def test_a_pause_at_the_rate_max_holds_everything():
    clock = ManualClock()
    waiter = Waiter(clock)
    pacer = Pacer("max", clock, waiter)
    pacer.pause()
    waiter.meanwhile = 3 * SECOND, pacer.resume
    assert play(pacer, clock, steps(2, SECOND)) == [3 * SECOND] * 2


def test_a_rate_may_be_changed_in_a_pause():
    clock = ManualClock()
    waiter = Waiter(clock)
    pacer = Pacer(1.0, clock, waiter)
    assert play(pacer, clock, steps(1, SECOND)) == [0]
    pacer.pause()
    pacer.set_rate(2.0)
    waiter.meanwhile = 3 * SECOND, pacer.resume
    assert play(pacer, clock, steps(3, SECOND)[1:]) == [3500 * MS, 4 * SECOND]


def test_after_a_seek_the_next_frame_is_due_at_once():
    clock = ManualClock()
    pacer = Pacer(1.0, clock, Waiter(clock))
    times = steps(10, SECOND)
    assert play(pacer, clock, times[7:]) == [0, SECOND, 2 * SECOND]
    pacer.restart()
    assert play(pacer, clock, times[:3]) == [2 * SECOND, 3 * SECOND, 4 * SECOND]


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("max", "max"),
        ("1", 1.0),
        ("2.5x", 2.5),
        ("0.001", 0.001),
        ("500pps", PacketRate(packets_per_s=500.0)),
        ("20kpps", PacketRate(packets_per_s=20_000.0)),
        ("100Mbps", BitRate(bits_per_s=1e8)),
        ("1.5Gbps", BitRate(bits_per_s=1.5e9)),
    ],
)
def test_a_rate_is_read_from_a_text(text, rate):
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    "text", ["", "fast", "0", "-1", "nan", "inf", "1e3", "2k", "1 pps", "0bps", "9999Gpps", "\u0661"]
)
def test_a_text_that_is_no_rate_is_refused(text):
    with pytest.raises(InputError, match="a rate is max"):
        parse_rate(text)


@pytest.mark.parametrize("rate", [1.0, 4.0, PacketRate(packets_per_s=0.025)])
def test_the_twins_time_goes_on_while_a_frame_is_waited_for_and_not_beyond_it(rate):
    clock, twin = ManualClock(), []
    start_ns, step_ns = 1_700_000_000 * SECOND, 40 * SECOND
    wait_ns = 10 * SECOND if rate == 4.0 else 40 * SECOND

    def wait(seconds):
        twin.append((clock.monotonic_ns(), pacer.twin_now_ns))
        clock.advance(min(round(seconds * 1e9), SECOND))
        return False

    pacer = Pacer(rate, clock, wait)
    times = steps(2, step_ns, start_ns)
    assert pacer.twin_now_ns is None
    assert len(pacer.due(times, offsets(times))) == 1
    assert len(pacer.due(times[1:], offsets(times[1:]))) == 1
    assert len(twin) == wait_ns // SECOND
    for now_ns, twin_ns in twin:
        assert abs(twin_ns - start_ns - step_ns * now_ns // wait_ns) <= 2
        assert start_ns <= twin_ns < times[1]


def test_the_twins_time_is_not_known_while_paused_nor_behind_a_seek():
    clock = ManualClock()
    pacer = Pacer(1.0, clock, lambda seconds: True)
    times = steps(2, 40 * SECOND)
    pacer.due(times, offsets(times))
    pacer.due(times[1:], offsets(times[1:]))
    assert pacer.twin_now_ns == times[0]
    pacer.pause()
    assert pacer.twin_now_ns is None
    pacer.resume()
    assert pacer.twin_now_ns == times[0]
    clock.advance(15 * SECOND)
    assert pacer.twin_now_ns == times[0] + 15 * SECOND
    clock.advance(90 * SECOND)
    assert pacer.twin_now_ns == times[1] - 1
    pacer.restart()
    assert pacer.twin_now_ns is None
