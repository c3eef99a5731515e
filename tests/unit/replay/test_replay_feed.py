"""PacketFeed without sockets: what a subscriber gets, misses, and is held responsible for."""

import numpy as np
import pytest

from nsstream.assemble.frames import Frames
from nsstream.clock import ManualClock
from nsstream.replay.batch import Credit, decode_part
from nsstream.replay.feed import LEASE_S, WINDOW_BYTES, FullError, PacketFeed, UnknownSubscriberError
from nsstream.replay.messages import MAX_SUBSCRIBERS
from nsstream.replay.sink import check_counters

START_NS = 1_700_000_000 * 10**9


def frames(count=2, size=60):
    times = START_NS + np.arange(count, dtype=np.int64)
    return Frames(times, np.arange(count + 1, dtype=np.int64) * size, np.zeros(count * size, np.uint8))


class Subscriber:
    def __init__(self, feed, name="s", address=b"1"):
        self.feed = feed
        self.token, self.next_seq, self.packets_before = feed.subscribe(name)
        self.address = address
        self.ack = self.next_seq - 1
        self.got = []

    def credit(self, credit, ack=None):
        message = Credit(token=self.token, credit=credit, ack=self.ack if ack is None else ack)
        self.feed.take_credit(self.address, message)

    def fetch(self):
        """What the feed has for this one now, decoded."""
        new = [decode_part(parts) for address, parts in self.feed.due() if address == self.address]
        self.got += new
        if new:
            self.ack = new[-1].seq
        return new


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def feed(clock):
    made = PacketFeed(clock, max_batches=4)
    yield made
    check_counters(made.counters)


def test_a_subscriber_gets_what_comes_after_it_in_order(feed):
    feed.publish(frames(), 1, "a")
    subscriber = Subscriber(feed)
    subscriber.credit(10)
    for i in range(3):
        feed.publish(frames(i + 1), 7, "model")
    feed.end("done")
    got = subscriber.fetch()
    assert [item.seq for item in got] == [1, 2, 3, 4]
    assert [item.packets_before for item in got] == [2, 3, 5, 8]
    assert (got[0].chunk, got[0].model_id, len(got[2])) == (7, "model", 3)
    assert got[3].outcome == "done"


def test_no_more_is_sent_than_there_is_credit_for(feed):
    subscriber = Subscriber(feed)
    for _ in range(4):
        feed.publish(frames(), 1, "a")
    assert subscriber.fetch() == []
    subscriber.credit(2)
    assert [item.seq for item in subscriber.fetch()] == [0, 1]
    assert subscriber.fetch() == []
    subscriber.credit(2)
    assert [item.seq for item in subscriber.fetch()] == [2, 3]


def test_one_that_falls_behind_learns_from_the_next_header_what_it_missed(feed):
    slow, fast = Subscriber(feed, "slow", b"1"), Subscriber(feed, "fast", b"2")
    slow.credit(1)
    for i in range(10):
        feed.publish(frames(i + 1), 1, "a")
        fast.credit(4)
        sent = list(feed.due())
        slow.got += [decode_part(parts) for address, parts in sent if address == b"1"]
        fast.got += [decode_part(parts) for address, parts in sent if address == b"2"]
        fast.ack = i
    assert [item.seq for item in fast.got] == list(range(10))
    assert [item.seq for item in slow.got] == [0]
    slow.ack = 0
    slow.credit(4)
    caught_up = slow.fetch()
    assert [item.seq for item in caught_up] == [6, 7, 8, 9]
    assert caught_up[0].packets_before - len(slow.got[0]) == 2 + 3 + 4 + 5 + 6
    states = {state.name: state for state in feed.subscribers}
    assert (states["slow"].offered, states["slow"].confirmed, states["slow"].missed) == (55, 1, 20)
    assert states["fast"].missed == 0


def test_what_the_ring_has_lost_is_missed_before_the_subscriber_knows(feed):
    Subscriber(feed)
    for _ in range(6):
        feed.publish(frames(3), 1, "a")
    assert feed.subscribers[0].missed == 6
    assert feed.counters == {
        "offered": 18, "offered_confirmed": 0, "offered_missed": 6, "offered_unconfirmed": 0, "offered_waiting": 12,
    }  # fmt: skip


def test_a_stopped_run_leaves_nothing_but_its_end(feed):
    subscriber = Subscriber(feed)
    for _ in range(3):
        feed.publish(frames(), 1, "a")
    feed.end("stopped")
    subscriber.credit(9)
    (end,) = subscriber.fetch()
    assert (end.outcome, end.seq, end.packets_before) == ("stopped", 3, 6)
    subscriber.credit(9)
    assert feed.counters["offered_missed"] == 6


def test_a_broken_connection_gets_again_what_was_not_acknowledged(feed):
    subscriber = Subscriber(feed)
    subscriber.credit(3)
    for _ in range(3):
        feed.publish(frames(), 1, "a")
    assert len(subscriber.fetch()) == 3
    subscriber.address = b"2"
    subscriber.credit(3, ack=0)
    assert [item.seq for item in subscriber.fetch()] == [1, 2]
    assert feed.counters["offered_missed"] == 0


def test_an_address_that_cannot_be_reached_is_left_alone_until_it_speaks(feed):
    subscriber = Subscriber(feed)
    subscriber.credit(3)
    feed.publish(frames(), 1, "a")
    assert len(subscriber.fetch()) == 1
    feed.break_off(b"1")
    feed.publish(frames(), 1, "a")
    assert subscriber.fetch() == []
    subscriber.credit(3, ack=-1)
    assert [item.seq for item in subscriber.fetch()] == [0, 1]


def test_no_more_than_a_window_is_on_its_way(clock):
    feed = PacketFeed(clock)
    subscriber = Subscriber(feed)
    subscriber.credit(1000)
    big = frames(1000, 1000)
    for _ in range(20):
        feed.publish(big, 1, "a")
    on_their_way = len(subscriber.fetch())
    assert WINDOW_BYTES <= on_their_way * 1_000_000 < WINDOW_BYTES + 2_000_000
    subscriber.credit(1000)
    assert len(subscriber.fetch()) == on_their_way
    assert feed.counters["offered_missed"] == 0


def test_a_ring_is_bounded_by_octets(clock):
    feed = PacketFeed(clock, max_bytes=3_000_000)
    Subscriber(feed)
    for _ in range(10):
        feed.publish(frames(1000, 1000), 1, "a")
    assert feed.counters["offered_missed"] >= 7000


def test_one_that_is_silent_for_the_lease_is_gone(feed, clock):
    subscriber, other = Subscriber(feed, "a", b"1"), Subscriber(feed, "b", b"2")
    subscriber.credit(1)
    feed.publish(frames(), 1, "a")
    assert len(subscriber.fetch()) == 1
    clock.advance(int(LEASE_S * 0.9e9))
    other.credit(1)
    clock.advance(int(LEASE_S * 0.2e9))
    assert other.fetch() != []
    assert [state.name for state in feed.subscribers] == ["b"]
    assert feed.counters["offered_unconfirmed"] == 2
    with pytest.raises(UnknownSubscriberError):
        subscriber.credit(1)


def test_one_that_leaves_is_gone_at_once(feed):
    subscriber = Subscriber(feed)
    feed.leave(subscriber.token)
    feed.leave(subscriber.token)
    feed.leave("0" * 32)
    assert feed.subscribers == []


def test_there_are_only_so_many(feed, clock):
    for _ in range(MAX_SUBSCRIBERS):
        Subscriber(feed)
    with pytest.raises(FullError):
        Subscriber(feed)
    clock.advance(int(LEASE_S * 1.1e9))
    Subscriber(feed)


def test_there_is_room_while_nobody_would_lose_a_batch(feed):
    assert feed.wait_for_room(0)
    subscriber = Subscriber(feed)
    for _ in range(4):
        assert feed.wait_for_room(0)
        feed.publish(frames(), 1, "a")
    assert not feed.wait_for_room(0)
    subscriber.credit(1)
    subscriber.fetch()
    assert feed.wait_for_room(0)
    feed.publish(frames(), 1, "a")
    assert not feed.wait_for_room(0)
    assert feed.counters["offered_missed"] == 0


def test_there_is_room_for_a_large_batch_only_once_the_small_ones_it_pushes_out_were_taken(clock):
    feed = PacketFeed(clock, max_batches=1000, max_bytes=80_000)
    subscriber = Subscriber(feed)
    for _ in range(20):
        assert feed.wait_for_room(0)
        feed.publish(frames(1, 60), 1, "a")
    subscriber.credit(1)
    subscriber.fetch()
    while feed.wait_for_room(0):
        feed.publish(frames(1, 9_000), 1, "a")
    assert feed.counters["offered_missed"] == 0
    while subscriber.fetch() or not feed.wait_for_room(0):
        subscriber.credit(1)
    feed.publish(frames(1, 9_000), 1, "a")
    assert feed.counters["offered_missed"] == 0


def test_subscribers_are_waited_for_until_they_give_credit(feed):
    subscriber = Subscriber(feed)
    assert feed.wait_for_subscribers(0, 0)
    assert not feed.wait_for_subscribers(1, 0)
    subscriber.credit(1)
    assert feed.wait_for_subscribers(1, 0)


def test_an_acknowledgement_of_what_was_never_sent_harms_only_its_sender(feed):
    liar, honest = Subscriber(feed, "a", b"1"), Subscriber(feed, "b", b"2")
    honest.credit(9)
    liar.credit(9, ack=2**62)
    for _ in range(3):
        feed.publish(frames(), 1, "a")
        liar.credit(9, ack=2**62)
        assert len(honest.fetch()) == 1
    assert feed.counters["offered_missed"] == 0
