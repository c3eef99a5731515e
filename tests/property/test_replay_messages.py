"""Laws of the control messages: what was said is what is heard, and hostile octets do no harm."""

import msgpack
from hypothesis import example, given, settings
from hypothesis import strategies as st
from made_messages import commands, nearly_commands, replies

from nsstream.clock import ManualClock
from nsstream.replay.codec import BadMessageError, decode_command, decode_reply, encode
from nsstream.replay.conductor import Conductor
from nsstream.replay.feed import PacketFeed
from nsstream.replay.messages import Refusal, Status
from nsstream.replay.stream import RecordedStream


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
    clock = ManualClock()
    server = Conductor(lambda *_, **__: RecordedStream([]), clock, lambda: None, PacketFeed(clock))
    server.endpoints = {"status": "ipc:///s", "packets": "ipc:///p"}
    last_sequence = 0
    for octets in messages:
        reply = server.answer(octets, b"client")
        assert decode_reply(encode(reply)) == reply
        assert not (isinstance(reply, Refusal) and reply.code == "internal")
        if isinstance(reply, Status):
            assert reply.sequence == last_sequence + 1
            last_sequence = reply.sequence
    server.end()
