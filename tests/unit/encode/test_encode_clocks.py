"""Clocks: what a gap is counted from, and which clock tells more."""

import numpy as np
from made_traffic import CLIENT, MINUTE_NS, SERVER, START_NS, batch_of, packet

from nsstream.encode.clocks import FEWEST, gaps_of, measure_clocks
from nsstream.encode.codec import Codec, kind_values
from nsstream.encode.encoding import encode, sort_by_start
from nsstream.encode.schema import PACKET_GAP_GRID
from nsstream.trace.grouping import group_conversations

MS = 1_000_000


def table_of(rows):
    return sort_by_start(group_conversations(batch_of(rows))[0])


def polls(count=3 * FEWEST):
    """A client that asks every second on the dot, and a server that takes its time to answer."""
    rng = np.random.default_rng(1)
    answers = [packet(1000 * i + float(rng.integers(1, 900)), SERVER, CLIENT) for i in range(count)]
    return [row for i, answer in enumerate(answers) for row in (packet(1000 * i), answer)]


def questions(count=3 * FEWEST):
    """A client that asks whenever it likes, and a server that answers after 10 ms."""
    at = np.cumsum(np.random.default_rng(1).integers(20, 2000, count)).tolist()
    return [row for ms in at for row in (packet(ms), packet(ms + 10, SERVER, CLIENT))]


def clocks_of(rows):
    table = table_of(rows)
    return measure_clocks(table.direction.astype(np.int64), *gaps_of(table), 2).tolist()


def test_gaps_are_counted_from_the_packet_before_and_from_the_same_sides_last():
    table = table_of([packet(0), packet(5, SERVER, CLIENT), packet(7), packet(7), packet(9, SERVER, CLIENT)])
    since_any, since_own = gaps_of(table)
    assert (since_any // MS).tolist() == [0, 5, 2, 0, 2]
    assert since_own.tolist() == [-1, -1, 7 * MS, 0, 4 * MS]


def test_sides_of_one_conversation_have_nothing_to_do_with_anothers():
    other = ("192.0.2.77", 4000)
    table = table_of([packet(0), packet(3, other, SERVER), packet(10), packet(14, other, SERVER)])
    since_any, since_own = gaps_of(table)
    assert (since_any // MS).tolist() == [0, 10, 0, 11]
    assert since_own.tolist() == [-1, 10 * MS, -1, 11 * MS]


def test_a_timer_runs_by_its_own_sides_clock_and_an_answer_by_the_others():
    assert clocks_of(polls())[0]
    assert not clocks_of(questions())[1]


def test_few_gaps_decide_nothing():
    assert not any(clocks_of(polls(FEWEST)))  # each side's first has none


def test_a_chunks_tokens_follow_its_clocks_and_a_childs_its_parents():
    table = table_of(polls(40))
    codec = Codec.fit(table, START_NS, START_NS + MINUTE_NS)
    kinds = codec.kind.tokens(kind_values(table))
    asks = int(kinds[0])
    assert codec.own_clock[asks]
    second = PACKET_GAP_GRID.tokens(np.array([1000 * MS]))
    gap = encode(table, codec).gap
    assert set(gap[2:][kinds[2:] == asks].tolist()) == set(second.tolist())
    assert codec.own_gap.counts.sum() + codec.packet_gap.counts.sum() == 79
    child = Codec.fit(table_of(questions(40)), START_NS, START_NS + MINUTE_NS, codec)
    np.testing.assert_array_equal(child.own_clock, codec.own_clock)
    assert Codec.from_json(codec.as_json()).own_clock.tolist() == codec.own_clock.tolist()


def test_an_answer_that_comes_at_once_is_not_told_by_the_polls_that_it_answers():
    """Every 5 s, give or take 2 ms, and the answer 0.1 to 0.3 ms behind: in logarithms the polls tell more."""
    rng = np.random.default_rng(1)
    asked = 5000.0 * np.arange(3 * FEWEST) + rng.uniform(-2, 2, 3 * FEWEST) + 10
    behind = asked + rng.uniform(0.1, 0.3, len(asked))
    rows = [row for a, b in zip(asked, behind, strict=True) for row in (packet(a), packet(b, SERVER, CLIENT))]
    assert not clocks_of(rows)[1]
