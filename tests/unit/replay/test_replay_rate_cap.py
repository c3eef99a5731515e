import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsstream.replay.rate_cap import BURST_S, RateCap, give_back, refill, take, wait_ns

GAPS_NS = st.lists(st.integers(0, 20_000_000), min_size=1, max_size=200)


def sent_at(cap: RateCap, gaps_ns: list[int], frame_bytes: int) -> np.ndarray:
    """When frames leave that somebody tries to send at these times, as many as he is let."""
    now_ns, sent = 5_000_000_000, []
    for gap_ns in gaps_ns:
        now_ns += gap_ns
        refill(cap.limits, cap.tokens, cap.last_ns, now_ns)
        while len(sent) < 2000 and take(cap.limits, cap.tokens, frame_bytes):
            sent.append(now_ns)
    return np.array(sent, np.int64)


def most_over(times_ns: np.ndarray, per_s: float, unit: float) -> float:
    """By how much any span of time has more units than the law of a cap allows; at most 0."""
    worst = -np.inf
    for i in range(len(times_ns)):
        spans_s = (times_ns[i:] - times_ns[i]) * 1e-9
        units = np.arange(1, len(spans_s) + 1) * unit
        worst = max(worst, float((units - per_s * (spans_s + BURST_S) - unit).max()))
    return worst


@given(GAPS_NS, st.floats(1, 1e5))
def test_no_span_of_time_has_more_packets_than_the_cap(gaps_ns, per_s):
    assert most_over(sent_at(RateCap(packets_per_s=per_s), gaps_ns, 100), per_s, 1) <= 1e-3


@given(GAPS_NS, st.floats(1e3, 1e9), st.integers(14, 9018))
def test_no_span_of_time_has_more_bits_than_the_cap(gaps_ns, per_s, frame_bytes):
    times_ns = sent_at(RateCap(bits_per_s=per_s), gaps_ns, frame_bytes)
    assert most_over(times_ns, per_s, 8 * frame_bytes) <= 1e-3 * 8 * frame_bytes


@given(st.floats(0.5, 1e6), st.integers(14, 9018))
def test_who_waits_as_long_as_told_may_send(per_s, frame_bytes):
    cap = RateCap(packets_per_s=per_s, bits_per_s=1e6)
    refill(cap.limits, cap.tokens, cap.last_ns, 10**9)
    now_ns = 10**9
    for _ in range(20):
        while take(cap.limits, cap.tokens, frame_bytes):
            pass
        now_ns += wait_ns(cap.limits, cap.tokens) + 1
        refill(cap.limits, cap.tokens, cap.last_ns, now_ns)
        assert take(cap.limits, cap.tokens, frame_bytes)


def test_what_did_not_leave_is_given_back():
    cap = RateCap(packets_per_s=10, bits_per_s=10_000)
    before = cap.tokens.copy()
    assert take(cap.limits, cap.tokens, 100)
    assert not take(cap.limits, cap.tokens, 100)
    give_back(cap.tokens, 100)
    np.testing.assert_allclose(cap.tokens, before)


def test_a_clock_that_stands_still_gives_nothing():
    cap = RateCap(packets_per_s=10)
    refill(cap.limits, cap.tokens, cap.last_ns, 10**9)
    assert take(cap.limits, cap.tokens, 100)
    refill(cap.limits, cap.tokens, cap.last_ns, 10**9)
    refill(cap.limits, cap.tokens, cap.last_ns, 5)
    assert not take(cap.limits, cap.tokens, 100)


@pytest.mark.parametrize("limit", [0, -1, float("nan"), float("inf")])
def test_a_cap_that_is_none_is_refused(limit):
    with pytest.raises(ValueError, match="packets_per_s must be more than 0"):
        RateCap(packets_per_s=limit)
    with pytest.raises(ValueError, match="bits_per_s must be more than 0"):
        RateCap(bits_per_s=limit)
