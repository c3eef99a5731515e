import gc
import weakref

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nsstream.replay.tcpreplay_child import ChildDiedError, TcpreplayChild, parse_summary

SUMMARY = b"""Actual: 2999 packets (299900 bytes) sent in 1.52 seconds
Rated: 197264.2 Bps, 1.57 Mbps, 1972.64 pps
Statistics for network device: tx
	Successful packets:        2999
	Failed packets:            1
	Truncated packets:         0
	Retried packets (ENOBUFS): 7
	Retried packets (EAGAIN):  5
"""


def test_the_summary_s_counts_are_read():
    assert parse_summary(SUMMARY) == {"successful": 2999, "failed": 1, "enobufs": 7, "eagain": 5}


def test_the_last_summary_counts():
    assert parse_summary(SUMMARY + SUMMARY.replace(b"2999", b"4")) == {
        "successful": 4,
        "failed": 1,
        "enobufs": 7,
        "eagain": 5,
    }


def test_without_a_summary_nothing_is_known():
    assert parse_summary(b"") is None
    assert parse_summary(SUMMARY[:150]) is None


@given(st.binary(max_size=300) | st.binary(max_size=40).map(lambda b: SUMMARY + b"Failed packets: " + b))
def test_no_text_does_more_than_give_counts(text):
    told = parse_summary(text)
    assert told is None or all(count >= 0 for count in told.values())


def test_what_a_child_that_died_was_fed_is_gone_without_the_collector():
    def feed_until_it_dies():
        child = TcpreplayChild(["sh", "-c", "head -c 100000 > /dev/null; exit 3"], lambda: False)
        child.start(None)
        ends = np.arange(1, 2001, dtype=np.int64) * 1000
        said = ""
        try:  # not pytest.raises, which keeps the traceback
            child.feed(bytes(2_000_000), ends)
        except ChildDiedError as err:
            said = str(err)
        assert said == "sh ended with status 3"
        return weakref.ref(child), weakref.ref(ends)

    gc.disable()
    try:
        assert [ref() for ref in feed_until_it_dies()] == [None, None]
    finally:
        gc.enable()
