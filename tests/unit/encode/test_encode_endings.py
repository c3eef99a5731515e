"""Endings: how far from its last packet a conversation ends, and whether connections begin anew."""

from dataclasses import replace

import pytest
from made_traffic import CLIENT, SERVER, back, batch_of, connection, packet, tcp

from nsstream.encode.endings import Endings
from nsstream.trace.fields import ACK, ICMP, RST, SYN
from nsstream.trace.grouping import group_conversations


def endings_of(*rows):
    """All but the counts of completeness, which have a test of their own."""
    return replace(fit(*rows), completeness=())


def fit(*rows):
    return Endings.fit(group_conversations(batch_of(rows))[0])


def test_connections_are_counted_by_how_complete_they_are():
    whole = connection(0, CLIENT, SERVER, 1)
    closed = [tcp(60, SYN, 9, ends=(("192.0.2.8", 7000), SERVER))]
    echoes = [packet(t, ("192.0.2.8", 0), ("192.0.2.9", 0), ICMP, icmp_type=0, icmp_code=2) for t in (6, 7)]
    counts = fit(*whole, *closed, *echoes).completeness
    assert {value: count for value, count in enumerate(counts) if count} == {1: 1, 31: 1}


def test_a_checkpoint_that_does_not_count_them_is_read_and_damaged_counts_are_not():
    told = Endings(1, 2, 3, (4, 5, 6, 7, 8, 9)).as_json()
    del told["completeness"]
    assert Endings.from_json(told).completeness == ()
    with pytest.raises(ValueError, match="completeness must have 64 counts, got 2"):
        Endings.from_json({**told, "completeness": [1, 2]})


def test_packets_are_counted_from_the_first_end_of_each_conversation():
    rows = connection(0, CLIENT, SERVER, 1)  # FIN, FIN, ACK
    assert endings_of(*rows) == Endings(after_reset=0, after_finish=2, reopens=0, events=(9, 0, 0, 0, 0, 0))
    rows += [tcp(50, RST, 182), tcp(51, RST, 182), tcp(52, RST, 182)]
    assert endings_of(*rows) == Endings(after_reset=2, after_finish=5, reopens=0, events=(12, 0, 0, 0, 0, 0))


def test_one_conversation_in_many_does_not_move_the_bound():
    ends = [((f"192.0.2.{i}", 5000), SERVER) for i in range(1, 201)]
    rows = [tcp(i, RST, 1, ends=e) for i, e in enumerate(ends)]
    rows += [tcp(1000 + i, RST, 1, ends=ends[0]) for i in range(50)]
    assert endings_of(*rows).after_reset == 0


def test_connections_that_begin_anew_are_counted_and_first_or_repeated_syns_are_not():
    first = [tcp(0, SYN, 9), tcp(1, SYN, 9), back(2, RST | ACK, 0, 10)]
    again = [tcp(3, SYN, 700), back(4, RST | ACK, 0, 701)]
    other = [tcp(5, SYN, 9000, ends=(("192.0.2.8", 7000), SERVER))]
    ends = ("192.0.2.8", 0), ("192.0.2.9", 0)
    echoes = [packet(t, *ends, ICMP, icmp_type=0, icmp_code=2) for t in (6, 7)]  # read as flags, code 2 would be SYN
    assert endings_of(*first, *again, *other, *echoes).reopens == 1
    assert endings_of(*first, *other, *echoes).reopens == 0


def test_where_nothing_ends_the_bounds_are_none():
    silent = Endings(after_reset=0, after_finish=0, reopens=0, events=(0, 0, 0, 0, 0, 0))
    assert endings_of(packet(0), packet(1)) == silent


def test_endings_survive_json():
    endings = Endings(1, 2, 3, (4, 5, 6, 7, 8, 9), tuple(range(64)))
    assert Endings.from_json(endings.as_json()) == endings


def test_events_are_counted():
    rows = [tcp(0, SYN, 9), tcp(1, SYN, 9), tcp(2, SYN, 9)]
    assert endings_of(*rows).events == (1, 2, 0, 0, 0, 0)
