"""Waits of long conversations: drawn about as often as counted, whatever a network likes, and in time for the end."""

import copy
import dataclasses

import numpy as np
import pytest

from nsstream.encode.bins import Bins
from nsstream.encode.profiles import Profiles
from nsstream.encode.schema import ATTRIBUTE_INDEX, PACKET_GAP_GRID
from nsstream.encode.waits import WAITS, step_of
from nsstream.model.sample_packets import draw_packets
from nsstream.model.wait_urns import time_to_wait, wait_urns

SHORT_NS, PAUSE_NS = 2_000_000, 20_000_000_000
PACKETS, PAUSES = 1_000, 5


def steps(*wait_ns):
    return step_of(np.array(wait_ns)).tolist()


@pytest.fixture(scope="module")
def attributes(codec):
    """Four conversations of one service that has counts of its own."""
    out = np.zeros((4, len(ATTRIBUTE_INDEX)), np.int64)
    out[:, ATTRIBUTE_INDEX["service"]] = np.flatnonzero(codec.service.is_active() & (codec.service.table()[:, 1] == 4))[
        0
    ]
    return out


@pytest.fixture(scope="module")
def sessions(codec, attributes):
    """A codec in which gaps are short or pauses, and one session of that service made five pauses."""
    class_ = int(codec.service_classes()[attributes[0, ATTRIBUTE_INDEX["service"]]])
    short, pause = steps(SHORT_NS, PAUSE_NS)
    waits = Profiles(np.array([[class_, PACKETS]]), np.array([[0, short, PACKETS - 1 - PAUSES], [0, pause, PAUSES]]))
    gaps = Bins.fit(PACKET_GAP_GRID, np.array([SHORT_NS, PAUSE_NS]))
    nothing = dataclasses.replace(codec.gap_shapes, cells=codec.gap_shapes.cells[:0], shape=codec.gap_shapes.shape[:0])
    return dataclasses.replace(
        codec, waits=waits, makeup=Profiles.empty(), packet_gap=gaps, gap_shapes=nothing,
        own_clock=np.zeros_like(codec.own_clock), last_ns=codec.first_ns + 10**12,
    )  # fmt: skip


def liking(networks, token, by):
    """Networks that like one gap by so many nats more."""
    other = copy.deepcopy(networks["packets"])
    other.correction[2].data[:, token] += by
    return other


def drawn_waits(network, codec, attributes, start_ns=None, packets=PACKETS):
    stack = np.zeros(len(attributes), np.int64) + int(codec.kind.table()[np.flatnonzero(codec.kind.is_active())[0], 0])
    start_ns = np.full(len(attributes), codec.first_ns) if start_ns is None else start_ns
    counts = np.full(len(attributes), packets)
    drawn = draw_packets(network, codec, attributes, stack, start_ns, counts, np.random.default_rng(1))
    return np.diff(drawn.time_ns.reshape(len(attributes), packets), axis=1)


@pytest.mark.parametrize("by", [-4.0, 0.0, 6.0])
def test_pauses_come_about_as_often_as_counted_whatever_the_network_likes(networks, sessions, attributes, by):
    pause = int(PACKET_GAP_GRID.tokens(np.array([PAUSE_NS]))[0])
    network = liking(networks, pause, by)
    waits = drawn_waits(network, sessions, attributes)
    often = (waits == PAUSE_NS).sum(axis=1)
    assert (abs(often - PAUSES) <= 3).all()
    if by >= 0:  # where it likes them less they are few without urns, too
        alone = drawn_waits(network, dataclasses.replace(sessions, waits=Profiles.empty()), attributes)
        assert (abs((alone > SHORT_NS).sum(axis=1) - PAUSES) > 20).all()


def test_who_is_late_makes_no_pause_and_is_not_squeezed(networks, sessions, attributes):
    late = np.full(len(attributes), sessions.last_ns - 2 * PACKETS * SHORT_NS)
    waits = drawn_waits(networks["packets"], sessions, attributes, late)
    assert (waits[:, : PACKETS // 2] > 0.9 * SHORT_NS).mean() > 0.9
    assert waits.sum(axis=1).max() <= 2 * PACKETS * SHORT_NS


def test_the_shortest_has_the_waits_of_the_shortest_that_was_counted(sessions, attributes):
    short, pause = steps(SHORT_NS, PAUSE_NS)
    class_ = int(sessions.waits.of[0, 0])
    two = Profiles(np.array([[class_, 200], [class_, 400]]), np.array([[0, short, 199], [1, pause, 399]]))
    urns = wait_urns(dataclasses.replace(sessions, waits=two), attributes, np.array([WAITS.longer_than, 600, 150, 399]))
    assert urns.urns.row.tolist() == [-1, 2, 0, 1]
    expected = np.zeros((3, WAITS.steps))
    expected[0, short], expected[1, short], expected[2, pause] = 199 * 0.75, 199 * 399 / 200, 399 * 1.5
    np.testing.assert_allclose(urns.urns.wanted, expected, rtol=1e-6)
    assert urns.pace_ns[0] == pytest.approx(SHORT_NS, rel=0.4)
    assert urns.pace_ns[2] == 0


def test_of_a_service_that_had_no_long_conversation_none_has_an_urn(sessions, attributes):
    silent = dataclasses.replace(sessions, waits=Profiles.empty())
    assert (wait_urns(silent, attributes, np.full(len(attributes), 500)).urns.row == -1).all()


def test_time_is_left_for_as_many_packets_as_are_to_come(sessions, attributes):
    urns = wait_urns(sessions, attributes, np.full(len(attributes), PACKETS))
    pace = urns.pace_ns[0]
    assert time_to_wait(urns, 0, 10**12, 11) == int(10**12 - 10 * pace)
    assert time_to_wait(urns, 0, int(5 * pace), 11) == int(int(5 * pace) / 11)
