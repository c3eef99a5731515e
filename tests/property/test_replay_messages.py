"""Laws of the control messages: what was said is what is heard, and hostile octets do no harm."""

import msgpack
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nsstream.clock import ManualClock
from nsstream.replay.codec import BadMessageError, decode_command, decode_reply, encode
from nsstream.replay.control import ControlServer
from nsstream.replay.messages import (
    Accepted,
    GetStatus,
    Hello,
    Refusal,
    Shutdown,
    Start,
    Status,
    Stop,
    Welcome,
)
from nsstream.replay.stream import RecordedStream


def depth(value):
    inner = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


ids = st.integers(0, 2**63 - 1)
counts = st.integers(0, 2**63 - 1)
reals = st.floats(0, allow_nan=False, allow_infinity=False)
paths = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=200).map(lambda tail: "/" + tail)
states = st.sampled_from(["idle", "running", "stopping", "done", "failed", "stopped", "closing"])
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | reals | paths,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(paths, inner, max_size=3),
    max_leaves=6,
).filter(lambda value: depth(value) < 6)
sinks = st.dictionaries(st.sampled_from(["kind", "path"]) | st.text(max_size=10), plain, max_size=4)
commands = st.one_of(
    st.builds(Hello, id=ids, min_version=st.integers(1, 0xFFFF), max_version=st.integers(1, 0xFFFF)),
    st.builds(
        Start,
        id=ids,
        models=st.lists(paths, min_size=1, max_size=20),
        sink=sinks,
        seed=ids,
        mtu=st.integers(576, 9216),
        rate=st.one_of(st.just("max"), st.floats(0.001, 1e6)),
    ),
    st.builds(Stop, id=ids),
    st.builds(GetStatus, id=ids),
    st.builds(Shutdown, id=ids),
)
replies = st.one_of(
    st.builds(Welcome, id=ids, version=st.integers(1, 0xFFFF), server=st.text(max_size=100)),
    st.builds(Accepted, id=ids, state=states, run=counts),
    st.builds(Refusal.of, st.none() | ids, st.sampled_from(["malformed", "sink"]), st.text(max_size=2000)),
    st.builds(
        Status,
        id=ids,
        sequence=counts,
        state=states,
        run=counts,
        model_id=st.none() | st.text(max_size=50),
        chunk=counts,
        chunk_count=counts,
        packets_written=counts,
        octets_written=counts,
        twin_time_s=reals,
        packets_per_s=reals,
        packets_drawn_ahead=counts,
        tally=st.dictionaries(st.text(max_size=100), counts, max_size=20),
        error=st.none() | st.text(max_size=1000),
    ),
)
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary()
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=10), inner, max_size=5)
)
nearly_commands = st.fixed_dictionaries(
    {"v": st.just(1) | anything, "id": ids | anything},
    optional={
        "type": st.sampled_from(["hello", "start", "stop", "status", "shutdown"]) | anything,
        "models": st.lists(paths, max_size=3) | anything,
        "sink": st.fixed_dictionaries({}, optional={"kind": st.just("pcap") | anything, "path": paths | anything})
        | anything,
        "seed": ids | anything,
        "mtu": st.integers() | anything,
        "rate": st.floats() | anything,
        "min_version": anything,
        "max_version": anything,
    },
).filter(lambda fields: fields.get("mtu") is None or not isinstance(fields["mtu"], int) or abs(fields["mtu"]) < 2**63)


@given(commands)
def test_a_command_is_heard_as_it_was_said(command):
    assert decode_command(encode(command)) == command


@given(replies)
def test_a_reply_is_heard_as_it_was_said(reply):
    assert decode_reply(encode(reply)) == reply


def decode_or_refuse(octets):
    for decode in (decode_command, decode_reply):
        try:
            message = decode(octets)
        except BadMessageError as err:
            encode(Refusal.of(err.request_id, err.code, str(err)))
        else:
            assert decode(encode(message)) == message


@given(st.binary(max_size=300))
@example(b"\xdf\xff\xff\xff\xff")
@example(b"\x91" * 5000)
@settings(max_examples=500)
def test_any_octets_are_a_message_or_a_refusal(octets):
    decode_or_refuse(octets)


@given(nearly_commands)
@settings(max_examples=500)
def test_any_map_is_a_message_or_a_refusal(fields):
    decode_or_refuse(msgpack.packb(fields))


@given(commands, st.data())
def test_a_damaged_command_is_a_message_or_a_refusal(command, data):
    octets = bytearray(encode(command))
    for _ in range(data.draw(st.integers(1, 3))):
        octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(st.integers(0, 255))
    decode_or_refuse(bytes(octets[: data.draw(st.integers(0, len(octets)))]))


@given(
    st.lists(st.one_of(st.binary(max_size=100), nearly_commands.map(msgpack.packb), commands.map(encode)), max_size=8)
)
@settings(max_examples=100, deadline=None)
def test_a_server_answers_everything_and_keeps_its_word(messages):
    server = ControlServer("tcp://127.0.0.1:*", lambda *arguments: RecordedStream([]), ManualClock())
    try:
        last_sequence = 0
        for octets in messages:
            reply = server.answer(octets)
            assert decode_reply(encode(reply)) == reply
            assert not (isinstance(reply, Refusal) and reply.code == "internal")
            if isinstance(reply, Status):
                assert reply.sequence == last_sequence + 1
                last_sequence = reply.sequence
    finally:
        server.close()
