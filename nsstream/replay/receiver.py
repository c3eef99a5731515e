"""What a client does with what comes and what it asks for, whether it waits for it or not. Sans-IO.

Promises: a subscriber gets every item once and in order, and where it has missed some, what and how much that was
before it gets the next; credit is asked for again before what was given has run out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgpack  # type: ignore[import-untyped]

from nsstream.errors import ReplayError
from nsstream.replay.batch import Credit, End, Leave, PacketBatch, PartRefused, decode_part
from nsstream.replay.codec import BadMessageError, decode_reply, make_command
from nsstream.replay.messages import (
    AnyCommand,
    AnyReply,
    Oversize,
    Payload,
    Refusal,
    Reply,
    Status,
    Subscription,
)
from nsstream.replay.rate import Rate

_R = TypeVar("_R", bound=Reply)


class RefusedError(ReplayError):
    """The server refused a command. Attribute code: why, one of `messages.RefusalCode`."""

    def __init__(self, refusal: Refusal | PartRefused) -> None:
        super().__init__(refusal.sentence)
        self.code = refusal.code


@dataclass(frozen=True, slots=True)
class Missed:
    """What a subscriber did not get, because it was slow, or because the run was stopped."""

    first_seq: int
    last_seq: int
    packet_count: int


PacketItem = PacketBatch | Missed | End


class PacketReceiver:
    """A subscriber's side of the packet plane.

    Args:
        subscription: the server's reply to `subscribe`.
        credit: batches that may be on their way; more hide the latency, fewer keep less in memory.
    """

    def __init__(self, subscription: Subscription, credit: int) -> None:
        self._token = subscription.token or ""
        self._next_seq = subscription.next_seq
        self._next_packet = subscription.packets_before
        self._credit = credit
        self._told_seq = self._next_seq  # up to here the server knows that it may forget
        self.missed_packet_count = 0

    def take(self, parts: Sequence[bytes]) -> list[PacketItem]:
        """What a message brings: nothing, an item, or an item behind what was missed; raises ReplayError."""
        item = decode_part(parts)
        if isinstance(item, PartRefused):
            raise RefusedError(item)
        if item.seq < self._next_seq:
            return []  # sent again, because it was on its way when the connection broke
        items: list[PacketItem] = [item]
        if item.seq > self._next_seq:
            count = max(item.packets_before - self._next_packet, 0)
            self.missed_packet_count += count
            items.insert(0, Missed(self._next_seq, item.seq - 1, count))
        self._next_seq = item.seq + 1
        self._next_packet = item.packets_before + (len(item) if isinstance(item, PacketBatch) else 0)
        return items

    @property
    def is_credit_due(self) -> bool:
        """Whether half of the credit is used up, and not asked for again."""
        return 2 * (self._next_seq - self._told_seq) >= self._credit

    def credit(self) -> bytes:
        """The message that acknowledges what was taken, and asks for more."""
        self._told_seq = self._next_seq
        octets: bytes = msgpack.packb(
            Credit(token=self._token, credit=self._credit, ack=self._next_seq - 1).model_dump()
        )
        return octets

    def leave(self) -> bytes:
        """The message that asks for nothing more."""
        octets: bytes = msgpack.packb(Leave(token=self._token).model_dump())
        return octets


def read_published(parts: Sequence[bytes]) -> Status:
    """The status in a published message; raises ReplayError."""
    reply = decode_reply(parts[1]) if len(parts) == 2 else None
    if not isinstance(reply, Status):
        raise ReplayError(f"the server published what is no status: {parts!r:.100}")
    return reply


def read_reply(parts: Sequence[bytes], request_id: int) -> AnyReply | None:
    """The reply to a request; None where a message is something else, such as the late reply to an earlier one."""
    try:
        reply = decode_reply(parts[1]) if len(parts) == 2 else None
    except BadMessageError:
        return None
    if reply is None or (reply.id != request_id and not (reply.id is None and isinstance(reply, Refusal))):
        return None
    return reply


def expect(reply: AnyReply, expected: type[_R], endpoint: str) -> _R:
    """The reply itself, if it is what was expected; else RefusedError, or ReplayError."""
    if isinstance(reply, Refusal):
        raise RefusedError(reply)
    if not isinstance(reply, expected):
        raise ReplayError(f"{endpoint}: the server answered with {reply!r:.100}")
    return reply


def no_answer(endpoint: str, timeout_s: float) -> ReplayError:
    """The error of a server that does not answer."""
    return ReplayError(f"{endpoint}: the replay server does not answer within {timeout_s:g} s; is it running?")


def start_command(
    request_id: int,
    stream: Mapping[str, object] | Sequence[str | Path],
    sink: Mapping[str, object],
    scenario: Mapping[str, object] | None,
    loop: int | None,
    seed: int,
    mtu: int,
    payload: Payload,
    oversize: Oversize,
    testbed: Mapping[str, object] | None,
    rate: Rate,
    controller_timeout_s: float | None,
    is_exclusive: bool,
) -> AnyCommand:
    """A `start` whose paths may be `Path`s, and whose stream may be the models of a sequence; raises ReplayError."""
    fields = {
        "type": "start",
        "id": request_id,
        "stream": stream if isinstance(stream, Mapping) else {"kind": "models", "models": list(stream)},
        "scenario": scenario or {},
        "loop": loop,
        "sink": sink,
        "seed": seed,
        "mtu": mtu,
        "payload": payload,
        "oversize": oversize,
        "testbed": testbed,
        "rate": rate,
        "controller_timeout_s": controller_timeout_s,
        "is_exclusive": is_exclusive,
    }
    return make_command({key: _plain(value) for key, value in fields.items()})


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value
