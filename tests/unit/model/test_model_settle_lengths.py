"""Settled lengths: of each service's conversations, those that the chunk counted, in the order that was drawn."""

import dataclasses

import numpy as np
import pytest

from nsstream.encode.codec import stack_of
from nsstream.encode.schema import ATTRIBUTE_INDEX, SERVICE_SLOTS
from nsstream.encode.urns import Urns
from nsstream.model.sample_attributes import draw_attributes
from nsstream.model.settle_lengths import settle_lengths

LENGTH = ATTRIBUTE_INDEX["packet_count"]


@pytest.fixture
def drawn(networks, codec):
    return draw_attributes(networks["attributes"], codec, np.random.default_rng(1))[0]


def settled(attributes, codec, starts=None, seed=1):
    """Lengths of conversations that start at once, unless told when."""
    starts = np.full(len(attributes), codec.first_ns) if starts is None else starts
    return settle_lengths(attributes, starts, codec, np.random.default_rng(seed))


def kinds_of(attributes, codec):
    """Which counts each conversation's length is one of: twice its class, and 1 more where nobody answers."""
    service = codec.service.table()
    classes = codec.urns.classes(stack_of(service[:, 0], service[:, 1], service[:, 2])[:SERVICE_SLOTS])
    is_silent = codec.ttl.table()[attributes[:, ATTRIBUTE_INDEX["ttl"]], -1] == 0
    return 2 * classes[attributes[:, ATTRIBUTE_INDEX["service"]]] + is_silent


def with_lengths(codec, rows, volumes=()):
    pairs = {"lengths": rows, "volumes": volumes}
    told = {name: np.array(pair, np.int64).reshape(-1, 3) for name, pair in pairs.items()}
    shown = dataclasses.replace(codec.length, counts=np.ones_like(codec.length.counts))
    return dataclasses.replace(codec, urns=dataclasses.replace(codec.urns, **told), length=shown)


def of_one_kind(drawn, codec, lengths):
    """So many conversations of one kind, drawn with these lengths, and the kind."""
    out = np.repeat(drawn[:1], len(lengths), axis=0)
    out[:, LENGTH] = lengths
    return out, int(kinds_of(out, codec)[0])


def test_each_kind_has_the_lengths_that_were_counted_of_it_in_the_order_drawn(drawn, codec):
    kinds, before = kinds_of(drawn, codec), drawn[:, LENGTH]
    after = settled(drawn, codec, seed=2)
    same = 0
    for kind in np.unique(kinds):
        rows, counted = kinds == kind, codec.urns.lengths[codec.urns.lengths[:, 0] == kind]
        order = np.lexsort((after[rows], before[rows]))
        assert (np.diff(after[rows][order]) >= 0).all()
        assert np.isin(after[rows], counted[:, 1] if len(counted) else before[rows]).all()
        if counted[:, 2].sum() == rows.sum():
            assert sorted(after[rows].tolist()) == np.repeat(counted[:, 1], counted[:, 2]).tolist()
            same += 1
    assert same


def test_the_one_long_session_among_short_attempts_is_never_lost(drawn, codec):
    lengths = np.full(100, 3)
    lengths[41] = 9  # the network thinks that this one is longer, and no more
    attempts, kind = of_one_kind(drawn, codec, lengths)
    told = with_lengths(codec, [(kind, 3, 99), (kind, 47, 1)])
    after = settled(attempts, told)
    assert after[41] == 47
    assert (np.delete(after, 41) == 3).all()


def test_the_longest_begins_where_the_chunk_began_one_of_its_length(drawn, codec):
    attempts, kind = of_one_kind(drawn, codec, np.r_[np.full(50, 3), np.full(50, 9)])
    starts = np.linspace(codec.first_ns, codec.last_ns, 100).astype(np.int64)
    told = with_lengths(codec, [(kind, 3, 97), (kind, 40, 2), (kind, 47, 1)], [(0, 47, 1), (0, 40, 1), (31, 40, 1)])
    after = settled(attempts, told, starts)
    assert np.flatnonzero(after == 47) < 4
    early, late = np.flatnonzero(after == 40)
    assert early < 4
    assert late > 95
    assert (after == 3).sum() == 97


@pytest.mark.parametrize("times", [50, 99, 101, 200])
def test_of_more_or_fewer_than_counted_the_longest_comes_once(drawn, codec, times):
    attempts, kind = of_one_kind(drawn, codec, np.full(times, 2))
    told = with_lengths(codec, [(kind, 1, 30), (kind, 2, 69), (kind, 47, 1)])
    after = settled(attempts, told)
    assert (after == 47).sum() == 1
    assert abs((after == 1).sum() - 0.3 * times) <= 2


def test_lengths_that_the_chunk_does_not_show_are_not_handed_out(drawn, codec):
    attempts, kind = of_one_kind(drawn, codec, np.full(10, 2))
    told = with_lengths(codec, [(kind, 2, 9), (kind, 47, 1)])
    shown = told.length.counts.copy()
    shown[47] = 0
    told = dataclasses.replace(told, length=dataclasses.replace(told.length, counts=shown))
    assert (settled(attempts, told) == 2).all()


def test_a_count_beyond_all_measure_takes_no_more_room_than_another(drawn, codec):
    attempts, kind = of_one_kind(drawn, codec, np.full(10, 2))
    assert (settled(attempts, with_lengths(codec, [(kind, 2, 1 << 50)])) == 2).all()


def test_what_was_never_counted_keeps_what_was_drawn(drawn, codec):
    silent = dataclasses.replace(codec, urns=Urns.empty())
    np.testing.assert_array_equal(settled(drawn, silent), drawn[:, LENGTH])
