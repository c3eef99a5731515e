"""PacketFeed: batches for many subscribers, each of which takes them as fast as it likes. No sockets.

There is one ring of the newest batches, bounded in number and octets, and each subscriber is a place in it. One that
has no credit stays where it is; once the ring's end passes it, it has missed what was there, which the numbers in the
next header that it gets say exactly. So a slow subscriber costs nothing but its place, and never holds up another.

Promises: every subscriber is sent what came since it subscribed in order and once (again, where its connection broke
before it acknowledged), or has missed it; no more than a window of octets is on its way to one of them; the counters
add up at every moment::

    offered = offered_confirmed + offered_missed + offered_unconfirmed + offered_waiting      (packets)

where a subscriber that is gone leaves as unconfirmed what it has neither acknowledged nor missed. May be used from any
thread.
"""

from __future__ import annotations

import secrets
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from nsstream.clock import Clock
from nsstream.replay.batch import (
    TOKEN_LENGTH,
    Credit,
    End,
    EndOutcome,
    encode_batch,
    encode_part,
)
from nsstream.replay.messages import MAX_SUBSCRIBERS

if TYPE_CHECKING:
    from nsstream.assemble.frames import Frames

RING_BATCHES: Final = 1024
RING_BYTES: Final = 64 << 20
WINDOW_BYTES: Final = 4 << 20  # sent to one subscriber and not acknowledged
LEASE_S: Final = 60.0  # a subscriber that says nothing for so long is gone


class FullError(Exception):
    """There are as many subscribers as there may be."""


class UnknownSubscriberError(Exception):
    """No subscriber has this token, or not any more."""


@dataclass(frozen=True, slots=True)
class _Item:
    seq: int
    parts: list[bytes]
    size: int  # octets of the parts
    packet_count: int
    packets_before: int  # of all items before, since the feed was made


@dataclass(frozen=True, slots=True)
class SubscriberState:
    """How it stands with a subscriber, in packets since it came; the rest of `offered` is on its way, or waits."""

    name: str
    offered: int
    confirmed: int
    missed: int


@dataclass(slots=True)
class _Subscriber:
    name: str
    next_seq: int
    next_packet: int  # packets of the feed before the next item, if none is missed
    first_packet: int  # packets of the feed before it came
    heard_ns: int
    address: bytes | None = None  # of its connection; None: has none, or it broke
    credit: int = 0
    confirmed: int = 0
    missed: int = 0
    sent: deque[_Item] = field(default_factory=deque)  # not acknowledged
    sent_bytes: int = 0


class PacketFeed:
    """The ring and the subscribers.

    Args:
        clock: says when a subscriber has been silent for too long.
        on_change: called (from any thread, without the lock) when there may be something to send.
        max_batches, max_bytes: of the ring.
    """

    def __init__(
        self,
        clock: Clock,
        on_change: Callable[[], None] = lambda: None,
        max_batches: int = RING_BATCHES,
        max_bytes: int = RING_BYTES,
    ) -> None:
        self._clock = clock
        self.on_change = on_change
        self._max_batches = max_batches
        self._max_bytes = max_bytes
        self._changed = threading.Condition()
        self._ring: deque[_Item] = deque()
        self._ring_bytes = 0
        self._next_seq = 0
        self._packet_count = 0
        self._subscribers: dict[str, _Subscriber] = {}
        self._gone = {"confirmed": 0, "missed": 0, "unconfirmed": 0}
        self.run = 0  # that the next batches are of

    # What a run does.

    def publish(self, frames: Frames, chunk: int, model_id: str) -> None:
        """Add a batch of 1 to `batch.MAX_BATCH_PACKETS` frames."""
        with self._changed:
            parts = encode_batch(frames, self._next_seq, self._packet_count, self.run, chunk, model_id)
            self._append(parts, len(frames))
        self.on_change()

    def end(self, outcome: EndOutcome) -> None:
        """Say that the run has no more batches; where it was stopped, those that wait are missed."""
        with self._changed:
            if outcome != "done":
                self._ring.clear()
                self._ring_bytes = 0
            end = End(seq=self._next_seq, packets_before=self._packet_count, run=self.run, outcome=outcome)
            self._append(encode_part(end), 0)
        self.on_change()

    def wait_for_room(self, timeout_s: float) -> bool:
        """Whether a batch can be added without a subscriber losing one, after waiting for it so long at most."""
        with self._changed:
            return self._changed.wait_for(self._has_room, timeout_s)

    def wait_for_subscribers(self, count: int, timeout_s: float) -> bool:
        """Whether so many subscribers have given credit, after waiting for it so long at most."""

        def are_there() -> bool:
            return sum(s.credit > 0 for s in self._subscribers.values()) >= count

        with self._changed:
            return self._changed.wait_for(are_there, timeout_s)

    # What a subscriber does.

    def subscribe(self, name: str) -> tuple[str, int, int]:
        """A new subscriber: its token, the number of the first item that it gets, and the packets before that.

        Raises FullError.
        """
        with self._changed:
            self._forget_silent()
            if len(self._subscribers) >= MAX_SUBSCRIBERS:
                raise FullError(f"there are {MAX_SUBSCRIBERS} subscribers already")
            token = secrets.token_hex(TOKEN_LENGTH // 2)
            now_ns = self._clock.monotonic_ns()
            packets = self._packet_count
            self._subscribers[token] = _Subscriber(name, self._next_seq, packets, packets, now_ns)
            return token, self._next_seq, packets

    def take_credit(self, address: bytes, message: Credit) -> None:
        """A subscriber's word from its connection's address; raises UnknownSubscriberError.

        One that comes by another connection gets again what it has not acknowledged, as far as it is still there.
        """
        with self._changed:
            subscriber = self._subscribers.get(message.token)
            if subscriber is None:
                raise UnknownSubscriberError("no subscriber has this token (any more); subscribe again")
            subscriber.heard_ns = self._clock.monotonic_ns()
            sent = subscriber.sent
            while sent and sent[0].seq <= message.ack:
                item = sent.popleft()
                subscriber.sent_bytes -= item.size
                subscriber.confirmed += item.packet_count
            if subscriber.address != address:
                subscriber.address = address
                if sent:
                    subscriber.next_seq, subscriber.next_packet = sent[0].seq, sent[0].packets_before
                    sent.clear()
                    subscriber.sent_bytes = 0
            subscriber.credit = message.credit
            self._changed.notify_all()

    def leave(self, token: str) -> None:
        """Forget a subscriber; one that is not known is none."""
        with self._changed:
            self._forget(token)

    # What the socket's thread does.

    def due(self) -> Iterator[tuple[bytes, list[bytes]]]:
        """What is to be sent now, as addresses and ZeroMQ frames; counts as sent unless `break_off` says otherwise."""
        with self._changed:
            self._forget_silent()
            due = [pair for subscriber in self._subscribers.values() for pair in self._due_to(subscriber)]
            self._changed.notify_all()
        yield from due

    def break_off(self, address: bytes) -> None:
        """A connection is gone, with what was on its way; the subscriber may come back by another one."""
        with self._changed:
            for subscriber in self._subscribers.values():
                if subscriber.address == address:
                    subscriber.address = None

    @property
    def is_drained(self) -> bool:
        """Whether every connected subscriber has acknowledged everything."""
        with self._changed:
            return all(
                subscriber.address is None or (not subscriber.sent and subscriber.next_seq == self._next_seq)
                for subscriber in self._subscribers.values()
            )

    @property
    def subscribers(self) -> list[SubscriberState]:
        """All of them, in the order in which they came."""
        with self._changed:
            return [self._state(subscriber) for subscriber in self._subscribers.values()]

    @property
    def counters(self) -> dict[str, int]:
        """What became of packets, over all subscribers there were: see the law above."""
        with self._changed:
            states = [self._state(subscriber) for subscriber in self._subscribers.values()]
            offered = sum(state.offered for state in states)
            confirmed = sum(state.confirmed for state in states)
            missed = sum(state.missed for state in states)
            gone = self._gone
            return {
                "offered": offered + sum(gone.values()),
                "offered_confirmed": confirmed + gone["confirmed"],
                "offered_missed": missed + gone["missed"],
                "offered_unconfirmed": gone["unconfirmed"],
                "offered_waiting": offered - confirmed - missed,
            }

    def _append(self, parts: list[bytes], packet_count: int) -> None:
        item = _Item(self._next_seq, parts, sum(map(len, parts)), packet_count, self._packet_count)
        self._ring.append(item)
        self._ring_bytes += item.size
        self._next_seq += 1
        self._packet_count += packet_count
        while len(self._ring) > 1 and (len(self._ring) > self._max_batches or self._ring_bytes > self._max_bytes):
            self._ring_bytes -= self._ring.popleft().size

    def _has_room(self) -> bool:
        """Whether the next item pushes out none that somebody waits for; it is at most an eighth of the ring."""
        self._forget_silent()
        slowest = min((subscriber.next_seq for subscriber in self._subscribers.values()), default=self._next_seq)
        items_over = len(self._ring) + 1 - self._max_batches
        bytes_over = self._ring_bytes + (self._max_bytes >> 3) - self._max_bytes
        for item in self._ring:  # a large one may push out many small ones
            if items_over <= 0 and bytes_over <= 0:
                return True
            # What is on its way is held by the subscriber's window, not by the ring.
            if item.seq >= slowest:
                return False
            items_over -= 1
            bytes_over -= item.size
        return True

    def _due_to(self, subscriber: _Subscriber) -> Iterator[tuple[bytes, list[bytes]]]:
        while (
            subscriber.address is not None
            and subscriber.next_seq < self._next_seq
            and len(subscriber.sent) < subscriber.credit
            and subscriber.sent_bytes < WINDOW_BYTES
        ):
            item = self._ring[max(subscriber.next_seq - self._ring[0].seq, 0)]
            subscriber.missed += item.packets_before - subscriber.next_packet
            subscriber.next_seq = item.seq + 1
            subscriber.next_packet = item.packets_before + item.packet_count
            subscriber.sent.append(item)
            subscriber.sent_bytes += item.size
            yield subscriber.address, item.parts

    def _state(self, subscriber: _Subscriber) -> SubscriberState:
        oldest = self._ring[0].packets_before if self._ring else self._packet_count
        return SubscriberState(
            subscriber.name,
            self._packet_count - subscriber.first_packet,
            subscriber.confirmed,
            subscriber.missed + max(oldest - subscriber.next_packet, 0),
        )

    def _forget_silent(self) -> None:
        oldest_ns = self._clock.monotonic_ns() - int(LEASE_S * 1e9)
        for token in [t for t, subscriber in self._subscribers.items() if subscriber.heard_ns < oldest_ns]:
            self._forget(token)

    def _forget(self, token: str) -> None:
        subscriber = self._subscribers.pop(token, None)
        if subscriber is not None:
            state = self._state(subscriber)
            self._gone["confirmed"] += state.confirmed
            self._gone["missed"] += state.missed
            self._gone["unconfirmed"] += state.offered - state.confirmed - state.missed
            self._changed.notify_all()
