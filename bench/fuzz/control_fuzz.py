"""Feed octets that atheris makes up to all that reads a replay server's messages; a crash or growth is a finding.

    python bench/fuzz/control_fuzz.py CORPUS [-runs=1000000] [-rss_limit_mb=1024]      (pip install nsstream[fuzz])

CORPUS is a directory; where it is empty it is filled with valid messages. An input is up to MAX_MESSAGES messages, each
behind 2 octets of its length and one that says for whom it is: for commands they go through codec, session and the
carrying out, from three clients; the packet plane, its subscribers, the door (ZAP), key files and what a client reads
take the others. Each must end in an answer that can be sent and read again, or in the error that it promises; the
states follow `session`; the packets' counters add up; and the process has to stay below MAX_GROWTH_BYTES of growth,
whatever was said. What is started plays frames that need no model to the server's own subscribers, or nowhere.
"""

from __future__ import annotations

import logging
import os
import resource
import struct
import sys
import tempfile
from pathlib import Path

os.environ["NUMBA_DISABLE_JIT"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

import atheris

with atheris.instrument_imports(include=["nsstream.replay"]):
    from nsstream.replay.batch import Credit, End, Leave, decode_credit, decode_part, encode_part
    from nsstream.replay.codec import BadMessageError, decode_command, decode_reply, encode
    from nsstream.replay.conductor import Conductor
    from nsstream.replay.feed import PacketFeed, UnknownSubscriberError
    from nsstream.replay.messages import (
        GetStatus,
        Hello,
        ListModels,
        Pause,
        Refusal,
        Resume,
        Seek,
        SetLoop,
        SetRate,
        Shutdown,
        Start,
        Stop,
        Subscribe,
    )
    from nsstream.replay.zap import DOMAIN, Door

import msgpack

from nsstream.clock import ManualClock
from nsstream.replay.rate import BitRate, PacketRate
from nsstream.replay.scenario import ModelsSpec, RecordedSpec, Scenario
from nsstream.replay.sink import check_counters
from nsstream.replay.stream import RecordedStream

MAX_MESSAGES = 24
MAX_GROWTH_BYTES = 256 << 20
CLIENTS = (b"one", b"two", b"three")
COMMAND, REPLY, CREDIT, PART, ZAP = range(5)
COMMANDS_A_CONDUCTOR = 2000

REPORT_EVERY = 20_000

_messages = 0
_answers: dict[str, int] = {}
_report_at = [REPORT_EVERY]


class World:
    """A server without sockets, used for many inputs, so that what adds up is seen."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.feed = PacketFeed(self.clock, max_batches=8)
        self.conductor = Conductor(lambda *_, **__: RecordedStream([]), self.clock, lambda: None, self.feed)
        self.conductor.endpoints = {"status": "ipc:///s", "packets": "ipc:///p"}
        self.door = Door(lambda key: None)
        self.count = 0

    def end(self) -> None:
        self.conductor.end()


_world = World()


def one_input(octets: bytes) -> None:
    global _world, _messages
    for kind, message in unpack(octets):
        _messages += 1
        _world.count += 1
        (for_commands, for_client, for_packets, for_subscriber, for_door)[kind](message)
    check_counters(_world.feed.counters)
    if _world.conductor.session.state == "closing" or _world.count > COMMANDS_A_CONDUCTOR:
        _world.end()
        _world = World()
    if _messages >= _report_at[0]:
        _report_at[0] += REPORT_EVERY
        print(f"{_messages:,} messages, {resident_bytes() >> 20} MB, answers: {_answers}", flush=True)
        check_growth()


def for_commands(message: bytes) -> None:
    conductor = _world.conductor
    before = conductor.session
    reply = conductor.answer(message[1:], CLIENTS[message[0] % 3] if message else b"")
    _answers[reply.type] = _answers.get(reply.type, 0) + 1
    if decode_reply(encode(reply)) != reply:
        raise AssertionError(f"a reply is heard otherwise than it was said: {reply!r}")
    if isinstance(reply, Refusal) and reply.code == "internal":
        raise AssertionError(f"an error inside: {reply!r}")
    if isinstance(reply, Refusal) and conductor.session.run != before.run:
        raise AssertionError("a refused command started a run")
    _world.clock.advance(1000)


def for_client(message: bytes) -> None:
    for decode in (decode_reply, decode_command):
        try:
            known = decode(message)
        except BadMessageError as err:
            encode(Refusal.of(err.request_id, err.code, str(err)))
        else:
            if decode(encode(known)) != known:
                raise AssertionError(f"not the same again: {known!r}")


def for_packets(message: bytes) -> None:
    try:
        word = decode_credit(message[1:])
    except BadMessageError:
        return
    tokens = list(_world.feed._subscribers)
    token = tokens[message[0] % len(tokens)] if tokens else word.token  # nobody guesses one
    try:
        if isinstance(word, Leave):
            _world.feed.leave(token)
        else:
            _world.feed.take_credit(message[:1], Credit(token=token, credit=word.credit, ack=word.ack))
    except UnknownSubscriberError:
        return
    for address, _ in _world.feed.due():
        if address[0] & 1:
            _world.feed.break_off(address)


def for_subscriber(message: bytes) -> None:
    parts = message.split(b"\0\xff")
    for frames in (parts, [b"NSS1", *parts]):
        try:
            decode_part(frames)
        except BadMessageError:
            continue


def for_door(message: bytes) -> None:
    answer = _world.door.answer(message.split(b"\0\xff"))
    if answer is not None and answer[2] != b"400":
        raise AssertionError("somebody was let in")


def unpack(octets: bytes) -> list[tuple[int, bytes]]:
    messages, at = [], 0
    while at + 3 <= len(octets) and len(messages) < MAX_MESSAGES:
        length, kind = struct.unpack_from("<HB", octets, at)
        messages.append((kind % 5, octets[at + 3 : at + 3 + length]))
        at += 3 + length
    return messages


def pack(*messages: tuple[int, bytes]) -> bytes:
    return b"".join(struct.pack("<HB", len(message), kind) + message for kind, message in messages)


def fill(corpus: Path) -> None:
    """One input a valid message, and some of several that lead to deeper states."""
    model = Path(tempfile.gettempdir()) / "nsstream-control-fuzz-model"
    model.mkdir(exist_ok=True)
    (model / "manifest.json").write_text('{"id": "m", "start_ns": 0, "end_ns": 60000000000}')
    start = Start(
        id=1, stream=ModelsSpec(models=[str(model)]), sink={"kind": "subscribers", "wait_for": 1}, rate=1.0,
        controller_timeout_s=5.0, is_exclusive=True,
    )  # fmt: skip
    commands = [
        Hello(id=1), start, Pause(id=2), Resume(id=3), SetRate(id=4, rate="max"), SetRate(id=4, rate=2.0),
        SetRate(id=4, rate=PacketRate(packets_per_s=5.0)), SetRate(id=4, rate=BitRate(bits_per_s=5.0)),
        Seek(id=5, twin_time_ns=10), SetLoop(id=6, loop=None), GetStatus(id=7), ListModels(id=8),
        Subscribe(id=9, to="packets", name="x"), Subscribe(id=9, to="status"), Stop(id=10), Shutdown(id=11),
        Start(
            id=1, stream=RecordedSpec(path="/x"), scenario=Scenario(services=["tcp/443"]), loop=3, sink={"kind": "x"},
        ),
    ]  # fmt: skip
    packed = [(COMMAND, b"\0" + encode(command)) for command in commands]
    token = "0" * 32
    others = [
        (CREDIT, b"\2" + msgpack.packb(Credit(token=token, credit=8, ack=-1).model_dump())),
        (CREDIT, b"\2" + msgpack.packb(Leave(token=token).model_dump())),
        (PART, b"\0\xff".join(encode_part(End(seq=1, packets_before=0, run=1, outcome="done")))),
        (REPLY, encode(Refusal.of(1, "state", "no"))),
        (ZAP, b"\0\xff".join([b"1.0", b"1", DOMAIN.encode(), b"127.0.0.1", b"", b"CURVE", b"k" * 32])),
    ]
    for i, message in enumerate([*packed, *others]):
        (corpus / f"one{i}").write_bytes(pack(message))
    (corpus / "all").write_bytes(pack(*packed[:15], *others))
    (corpus / "subscribed").write_bytes(pack(packed[12], packed[1], others[0], packed[10], packed[14], others[1]))


_first_bytes = 0


def check_growth() -> None:
    global _first_bytes
    now = resident_bytes()
    if _messages > 100_000 and not _first_bytes:  # numba, pydantic and atheris have what they need by then
        _first_bytes = now
    if _first_bytes and now - _first_bytes > MAX_GROWTH_BYTES:
        raise AssertionError(f"grew by {now - _first_bytes} octets in {_messages} messages")


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main() -> None:
    logging.disable(logging.CRITICAL)
    corpus = [Path(argument) for argument in sys.argv[1:] if not argument.startswith("-")]
    if corpus and corpus[0].is_dir() and not any(corpus[0].iterdir()):
        fill(corpus[0])
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
