"""Who waits for an instant learns what waking takes, and stays awake only where the processor is left to it."""

from __future__ import annotations

import numpy as np
import pytest

from nsstream.replay.waking import (
    AWAKE_NS,
    LEAST_REST_NS,
    LEAST_SPIN_NS,
    MOST_REST_NS,
    WINDOW_NS,
    lead_ns,
    new_waiter,
    note_awake,
    note_sleep,
)

US = 1_000
START = 10**12


class Waiting:
    """A waiter on a clock of its own."""

    def __init__(self, spin_ns: int = LEAST_SPIN_NS, *, is_adaptive: bool = True) -> None:
        self.waiter = new_waiter(spin_ns)
        self.now_ns = START
        self.spin_ns = spin_ns
        self.is_adaptive = is_adaptive

    def look(self, after_ns: int = 0) -> int:
        self.now_ns += after_ns
        return lead_ns(self.waiter, self.now_ns, self.spin_ns, self.is_adaptive)

    def stay_awake(self, until_ns: int, *, taken_every_ns: int, taken_ns: int) -> int:
        """Look at the clock all 10 us, but where the processor is taken, until then or until the lead changes."""
        lead, since_ns = self.look(), 0
        first = lead
        while self.now_ns < until_ns and lead == first:
            note_awake(self.waiter, self.now_ns)
            since_ns += 10 * US
            lead = self.look(taken_ns if since_ns >= taken_every_ns else 10 * US)
            since_ns = 0 if since_ns >= taken_every_ns else since_ns
        return lead


@pytest.mark.parametrize("share", [0.01, 0.3])
def test_the_margin_is_what_all_but_few_wakings_take(share: float) -> None:
    waiting = Waiting(is_adaptive=False)
    chance = np.random.default_rng(4)
    for _ in range(60_000):
        waking_ns = int(200 * US if chance.random() < share else 30 * US)
        note_sleep(waiting.waiter, waiting.now_ns)
        lead = waiting.look(waking_ns)
    assert 200 * US <= lead <= 260 * US


def test_no_more_than_told_is_waited_awake() -> None:
    waiting = Waiting(100 * US, is_adaptive=False)
    for _ in range(1_000):
        note_sleep(waiting.waiter, waiting.now_ns)
        waiting.look(800 * US)
    assert waiting.look() == 100 * US
    assert Waiting(0, is_adaptive=False).look() == 0


def test_it_stays_awake_while_the_processor_is_left_to_it() -> None:
    waiting = Waiting()
    lead = waiting.stay_awake(START + 3 * WINDOW_NS, taken_every_ns=500_000 * US, taken_ns=2_000 * US)
    assert lead == AWAKE_NS
    assert waiting.now_ns >= START + 3 * WINDOW_NS


def test_it_sleeps_where_others_want_the_processor_and_tries_again_ever_later() -> None:
    waiting = Waiting()
    rests = []
    for _ in range(10):
        assert waiting.stay_awake(waiting.now_ns + WINDOW_NS, taken_every_ns=3_000 * US, taken_ns=3_000 * US) < AWAKE_NS
        slept_from_ns = waiting.now_ns
        while waiting.look(1_000 * US) < AWAKE_NS:
            pass
        rests.append(waiting.now_ns - slept_from_ns)
    assert rests[0] == pytest.approx(LEAST_REST_NS, abs=2_000 * US)
    assert rests[1] == pytest.approx(2 * LEAST_REST_NS, abs=2_000 * US)
    assert max(rests) == rests[-1] == pytest.approx(MOST_REST_NS, abs=2_000 * US)


def test_time_that_was_slept_is_not_taken() -> None:
    waiting = Waiting()
    for _ in range(100):
        note_sleep(waiting.waiter, waiting.now_ns + 5_000 * US)
        assert waiting.look(5_050 * US) == AWAKE_NS
