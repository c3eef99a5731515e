"""Choosing: what the trees prefer comes more often, and all else stays as it was drawn."""

import dataclasses

import numpy as np
import pytest
from made_traffic import MINUTE_NS, MS, START_NS, made_packets

from nsstream.draw.choose import ELEPHANT, _keep_within, draw_chosen
from nsstream.encode.codec import Codec
from nsstream.encode.encoding import sort_by_start
from nsstream.model.checkpoint import load_checkpoint
from nsstream.model.conversations import draw_conversations
from nsstream.model.portrait import portrait_of_drawn
from nsstream.model.sample_packets import draw_packets
from nsstream.model.trees import Trees
from nsstream.trace import PacketBatch
from nsstream.trace.conversations import TcpEvent
from nsstream.trace.grouping import group_conversations

DURATION = 7  # the feature of a portrait: log10 of seconds


@pytest.fixture(scope="module")
def model(checkpoints):
    return load_checkpoint(checkpoints[0])


@pytest.fixture(scope="module")
def conversations(model):
    """Of the chunk, and so are four of about an elephant's length."""
    drawn = draw_conversations(model.attributes, model.codec, np.random.default_rng(1))
    counts = drawn.counts.copy()
    counts[3], counts[20:23] = ELEPHANT + 1, ELEPHANT
    return dataclasses.replace(drawn, counts=counts)


def split(feature, threshold, left, right):
    """One split: what a portrait has if the feature is at most the threshold, and else."""
    whole = [np.array(a, np.int64) for a in ([0], [feature, -1, -1], [1, 0, 0], [2, 0, 0])]
    return Trees(
        np.zeros(1), whole[0], whole[1], np.array([threshold, 0.0, 0.0]), *whole[2:], np.array([0.0, left, right])
    )


def told_by(model, trees):
    return dataclasses.replace(model, trees=trees)


def same(packets, others, row):
    a, b = packets.take(np.array([row])), others.take(np.array([row]))
    return all(np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))


def durations(packets, conversations, codec):
    return portrait_of_drawn(packets, conversations.attributes, codec)[conversations.counts > 1, DURATION]


@pytest.mark.parametrize(("left", "right"), [(0.0, 6.0), (6.0, 0.0), (40.0, -40.0)])
def test_what_the_trees_prefer_comes_more_often(model, conversations, left, right):
    n = len(conversations.counts)  # all of one length, and none near the chunk's end
    alike = {"counts": np.full(n, 5), "start_ns": np.full(n, model.codec.first_ns)}
    conversations = dataclasses.replace(conversations, **alike)
    plain = draw_chosen(model, conversations, np.random.default_rng(2), 1)
    threshold = float(np.median(durations(plain, conversations, model.codec)))
    chosen = draw_chosen(
        told_by(model, split(DURATION, threshold, left, right)), conversations, np.random.default_rng(2)
    )
    is_long = [(durations(p, conversations, model.codec) > threshold).mean() for p in (plain, chosen)]
    assert (is_long[1] - is_long[0]) * (right - left) > 0
    assert abs(is_long[1] - is_long[0]) > 0.25


def test_counts_and_starts_stay(model, conversations):
    for candidates in (1, 2, 8):
        packets = draw_chosen(
            told_by(model, split(DURATION, 0.0, 3, 0)), conversations, np.random.default_rng(2), candidates
        )
        np.testing.assert_array_equal(np.diff(packets.packet_offset), conversations.counts)
        np.testing.assert_array_equal(packets.time_ns[packets.packet_offset[:-1]], conversations.start_ns)
        assert len(packets.kind) == len(packets.octets) == conversations.counts.sum()


def test_a_conversation_stays_whole(model, conversations):
    """Each is one of its candidates from its first packet to its last, as drawn alone from the same chance."""
    rng, trees = np.random.default_rng(2), split(DURATION, 0.0, 3, 0)
    chosen = draw_chosen(told_by(model, trees), conversations, np.random.default_rng(2), 3)
    given = conversations.attributes, conversations.ends.stack, conversations.start_ns, conversations.counts
    events = np.array(model.codec.endings.events)
    first = draw_packets(model.packets, model.codec, *given, rng, events=events)
    small = np.flatnonzero(conversations.counts <= ELEPHANT)
    candidates = [first.take(small)]
    candidates += [
        draw_packets(model.packets, model.codec, *(g[small] for g in given), rng, events=events) for _ in range(2)
    ]
    came_from = [[same(chosen.take(small), c, i) for c in candidates] for i in range(len(small))]
    assert all(any(row) for row in came_from)
    assert np.array(came_from).any(axis=0).all()


def test_elephants_are_drawn_once(model, conversations):
    plain, chosen = (
        draw_chosen(told_by(model, split(DURATION, 0.0, 9, 0)), conversations, np.random.default_rng(2), candidates)
        for candidates in (1, 8)
    )
    assert same(plain, chosen, 3)
    changed = [i for i in range(len(conversations.counts)) if not same(plain, chosen, i)]
    assert len(changed) > len(conversations.counts) / 2
    assert {20, 21, 22} & set(changed)


def test_a_chunk_of_elephants_alone(model, conversations):
    counts = np.full(2, ELEPHANT + 1)
    ends = dataclasses.replace(
        conversations.ends,
        **{f.name: getattr(conversations.ends, f.name)[:2] for f in dataclasses.fields(conversations.ends)},
    )
    two = type(conversations)(conversations.attributes[:2], ends, conversations.start_ns[:2], counts)
    plain, chosen = (draw_chosen(model, two, np.random.default_rng(2), candidates) for candidates in (1, 8))
    assert same(plain, chosen, 0)
    assert same(plain, chosen, 1)


def test_one_candidate_is_one_drawing(model, conversations):
    rng, other = np.random.default_rng(2), np.random.default_rng(2)
    chosen = draw_chosen(told_by(model, split(DURATION, 0.0, 9, 0)), conversations, rng, 1)
    given = conversations.attributes, conversations.ends.stack, conversations.start_ns, conversations.counts
    drawn = draw_packets(model.packets, model.codec, *given, other, events=np.array(model.codec.endings.events))
    for field in dataclasses.fields(drawn):
        np.testing.assert_array_equal(getattr(chosen, field.name), getattr(drawn, field.name))
    assert rng.bit_generator.state == other.bit_generator.state


def test_the_same_chance_chooses_the_same(model, conversations):
    one, again = (draw_chosen(model, conversations, np.random.default_rng(2)) for _ in range(2))
    assert all(same(one, again, i) for i in range(len(conversations.counts)))


@pytest.fixture(scope="module")
def lossy(model):
    """The same networks, for a chunk in which every seventh segment of TCP was sent again."""
    packets = made_packets(seed=1, count=96)
    again = packets.take(np.flatnonzero(packets.tcp_header_length)[::7])
    later = {**again.columns(), "observation_time_ns": again.observation_time_ns + 400 * MS}
    every = PacketBatch.concatenate([packets, PacketBatch.from_columns(later)])
    every = every.take(np.argsort(every.observation_time_ns, kind="stable"))
    table = sort_by_start(group_conversations(every)[0])
    return dataclasses.replace(model, codec=Codec.fit(table, START_NS, START_NS + MINUTE_NS))


def test_no_event_comes_more_often_than_the_chunk_had_it(lossy):
    most = np.array(lossy.codec.endings.events)
    assert most[TcpEvent.RETRANSMISSION] > 10
    used = np.zeros(len(TcpEvent), np.int64)
    for seed in range(6):
        rng = np.random.default_rng(seed)
        conversations = draw_conversations(lossy.attributes, lossy.codec, rng)
        conversations.counts[:2] = ELEPHANT + 1  # which use up some of them
        packets = draw_chosen(lossy, conversations, rng)
        events = lossy.codec.kind.table()[packets.kind, 6]
        found = np.bincount(events, minlength=len(TcpEvent))
        assert (found <= most)[1:].all()
        used += found
    assert used[TcpEvent.RETRANSMISSION] > 0.5 * 6 * most[TcpEvent.RETRANSMISSION]


def test_conversations_go_back_to_the_first_drawing_until_all_is_within_bounds():
    rng = np.random.default_rng(1)
    for _ in range(50):
        shown = rng.integers(0, 4, (30, 5, 3))
        most = shown[:, 0].sum(axis=0) + rng.integers(0, 12, 3)
        lot = rng.integers(0, 5, 30)
        chosen = lot.copy()
        _keep_within(chosen, shown, most, rng)
        assert (shown[np.arange(30), chosen].sum(axis=0) <= most).all()
        assert ((chosen == lot) | (chosen == 0)).all()


def test_where_nothing_is_beyond_bounds_the_lot_stands():
    rng = np.random.default_rng(1)
    shown, lot = rng.integers(0, 4, (30, 5, 3)), rng.integers(0, 5, 30)
    chosen = lot.copy()
    _keep_within(chosen, shown, np.full(3, 1000), rng)
    np.testing.assert_array_equal(chosen, lot)


def test_what_the_first_drawing_itself_has_too_often_is_left():
    """The law lets an event through where nothing else may come; then all that can be done is not to add to it."""
    shown = np.array([[[2], [3], [1]], [[2], [1], [4]]])
    chosen = np.array([1, 2])
    _keep_within(chosen, shown, np.array([3]), np.random.default_rng(1))
    np.testing.assert_array_equal(chosen, [0, 0])
