"""New conversations: as many as the chunk had, in order, each at least a packet, as long as the chunk's own."""

import dataclasses

import numpy as np

from nsstream.encode.codec import slice_of
from nsstream.encode.schema import ATTRIBUTE_INDEX, MOMENTS, SERVICE_SLOTS
from nsstream.encode.tokens import moment_of
from nsstream.model.conversations import draw_conversations, fit_volume


def test_what_is_drawn_goes_together(networks, codec):
    drawn = draw_conversations(networks["attributes"], codec, np.random.default_rng(1))
    n = int(codec.profile.sum())
    assert len(drawn.attributes) == len(drawn.ends.stack) == len(drawn.start_ns) == len(drawn.counts) == n
    assert (np.diff(drawn.start_ns) >= 0).all()
    assert codec.first_ns == drawn.start_ns[0]
    assert drawn.start_ns[-1] <= codec.last_ns
    assert (drawn.counts >= 1).all()
    assert abs(int(drawn.counts.sum()) - codec.packet_count) <= 0.1 * codec.packet_count


def test_the_same_chance_draws_the_same_conversations(networks, codec):
    one, again, other = (
        draw_conversations(networks["attributes"], codec, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    for name in ("attributes", "start_ns", "counts"):
        np.testing.assert_array_equal(getattr(one, name), getattr(again, name))
    np.testing.assert_array_equal(one.ends.initiator_port, again.ends.initiator_port)
    assert not np.array_equal(one.attributes, other.attributes)


def test_lengths_are_the_chunks_own_whatever_was_drawn(codec):
    conversations = int(codec.profile.sum())
    for drawn in (np.ones(conversations, np.int64), np.full(conversations, 10**7), np.arange(conversations)):
        counts = fit_volume(drawn, codec, np.random.default_rng(1))
        assert abs(int(counts.sum()) - codec.packet_count) <= 0.1 * codec.packet_count
        assert (counts >= 1).all()


def test_what_was_drawn_longest_is_longest(codec):
    drawn = np.random.default_rng(1).permutation(50)
    counts = fit_volume(drawn, codec, np.random.default_rng(1))
    assert (np.diff(counts[np.argsort(drawn)]) >= 0).all()


def test_short_conversations_stay_as_long_as_they_were_drawn(codec):
    drawn = np.random.default_rng(2).permutation(codec.length.sample(int(codec.profile.sum())))
    counts = fit_volume(drawn, codec, np.random.default_rng(1))
    is_short = drawn <= 32
    assert is_short.any()
    np.testing.assert_array_equal(counts[is_short], drawn[is_short])


def services_by_moment(codec, drawn):
    """How many conversations of each service began in each moment: (MOMENTS, SERVICE_SLOTS)."""
    moment = moment_of(slice_of(drawn.start_ns, codec.first_ns, codec.last_ns))
    out = np.zeros((MOMENTS, SERVICE_SLOTS), np.int64)
    np.add.at(out, (moment, drawn.attributes[:, ATTRIBUTE_INDEX["service"]]), 1)
    return out


def test_services_come_at_each_moment_as_the_chunk_had_them(networks, codec):
    wanted = np.zeros((MOMENTS, SERVICE_SLOTS), np.int64)
    wanted[codec.services_by_moment[:, 0], codec.services_by_moment[:, 1]] = codec.services_by_moment[:, 2]
    assert wanted.sum() == codec.profile.sum()
    silent = dataclasses.replace(codec, services_by_moment=np.zeros((0, 3), np.int64))
    off = []
    for asked in (codec, silent):
        drawn = [draw_conversations(networks["attributes"], asked, np.random.default_rng(seed)) for seed in range(5)]
        came = [services_by_moment(codec, one) for one in drawn]
        for one in came:
            np.testing.assert_array_equal(one.sum(axis=1), wanted.sum(axis=1))
        off.append(sum(np.abs(one - wanted).sum() for one in came))
    assert off[0] < 0.6 * off[1]  # of a network that knows nothing, and hosts of two families


def test_where_the_chunk_says_nothing_of_services_the_network_alone_decides(networks, codec):
    silent = dataclasses.replace(codec, services_by_moment=np.zeros((0, 3), np.int64))
    drawn = draw_conversations(networks["attributes"], silent, np.random.default_rng(1))
    assert len(drawn) == codec.profile.sum()
