from contextlib import suppress
from zlib import crc32

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsstream.assemble.frames import Frames
from nsstream.replay.batch import (
    PROLOGUE,
    Credit,
    End,
    Leave,
    PacketBatch,
    PartRefused,
    decode_credit,
    decode_part,
    encode_batch,
    encode_part,
)
from nsstream.replay.codec import BadMessageError

TOKEN = "0123456789abcdef" * 2
FRAMES = Frames(
    np.array([10, 20, 35], np.int64), np.array([0, 2, 2, 5], np.int64), np.arange(5, dtype=np.uint8)
)  # fmt: skip


def batch_parts(**changes):
    parts = encode_batch(FRAMES, 4, 9, 2, 1, "m")
    header = msgpack.unpackb(parts[1]) | changes
    return [parts[0], msgpack.packb(header), *parts[2:]]


def test_a_batch_is_read_as_it_was_written():
    batch = decode_part(encode_batch(FRAMES, 4, 9, 2, 1, "m"))
    assert (batch.seq, batch.packets_before, batch.run, batch.chunk, batch.model_id) == (4, 9, 2, 1, "m")
    assert np.array_equal(batch.observation_time_ns, FRAMES.observation_time_ns)
    assert [batch.frame(i) for i in range(3)] == [b"\0\1", b"", b"\2\3\4"]
    assert len(batch) == 3
    assert batch.side.tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="read-only"):
        batch.octets[0] = 1


def test_a_batch_holds_nothing_of_the_run():
    octets = np.arange(5, dtype=np.uint8)
    parts = encode_batch(Frames(FRAMES.observation_time_ns, FRAMES.offset, octets), 0, 0, 1, 1, "m")
    octets.flags.writeable = True
    octets[:] = 0
    assert decode_part(parts).frame(2) == b"\2\3\4"


def test_columns_of_a_later_server_are_passed_over():
    parts = encode_batch(FRAMES, 4, 9, 2, 1, "m")
    header = msgpack.unpackb(parts[1])
    header["columns"].append({"name": "vlan", "dtype": "<u2"})
    header["crc32"] = crc32(b"".join([*parts[2:], b"\0" * 6]))
    assert isinstance(decode_part([parts[0], msgpack.packb(header), *parts[2:], b"\0" * 6]), PacketBatch)


@pytest.mark.parametrize("part", [End(seq=3, packets_before=5, run=1, outcome="stopped"),
                                  PartRefused(code="state", sentence="no")])  # fmt: skip
def test_other_parts_are_read_as_they_were_written(part):
    assert decode_part(encode_part(part)) == part


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([], "begins with"),
        ([PROLOGUE], "begins with"),
        ([b"NSS2", b"\x80"], "begins with"),
        ([PROLOGUE, b"\xc1"], "msgpack"),
        ([PROLOGUE, b"\x80"], "header"),
        (batch_parts()[:-1], "columns: the header names"),
        (batch_parts(crc32=0), "crc32"),
        (batch_parts(packet_count=0), "packet_count"),
        (batch_parts(packet_count=1 << 40), "packet_count"),
        (batch_parts(packet_count=2), "has 3 values for 2"),
        (batch_parts(seq=-1), "seq"),
        (batch_parts(columns=[]), "columns: the header names 0"),
    ],
)
def test_what_is_no_part_is_an_error(parts, reason):
    with pytest.raises(BadMessageError, match=reason):
        decode_part(parts)


@pytest.mark.parametrize("offset", [[0, 2, 1, 5], [1, 2, 2, 5], [0, 2, 2, 4], [0, 2, 2, 6]])
def test_offsets_that_point_elsewhere_are_an_error(offset):
    parts = encode_batch(FRAMES, 4, 9, 2, 1, "m")
    parts[3] = np.array(offset, "<i8").tobytes()
    header = msgpack.unpackb(parts[1]) | {"crc32": crc32(b"".join(parts[2:]))}
    with pytest.raises(BadMessageError, match="offset must rise"):
        decode_part([parts[0], msgpack.packb(header), *parts[2:]])


@given(st.lists(st.binary(max_size=60), max_size=6), st.booleans())
def test_any_frames_are_a_part_or_an_error(parts, has_prologue):
    with suppress(BadMessageError):
        assert decode_part([PROLOGUE, *parts] if has_prologue else parts) is not None


@pytest.mark.parametrize("message", [Credit(token=TOKEN, credit=8, ack=-1), Leave(token=TOKEN)])
def test_what_a_subscriber_says_is_heard(message):
    assert decode_credit(msgpack.packb(message.model_dump())) == message


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"v": 1}, "version"),
        ({"v": "2"}, "invalid"),
        ({"type": "take"}, "invalid"),
        ({"token": "x" * 32}, "invalid"),
        ({"token": TOKEN + "\n"}, "invalid"),
        ({"credit": 1025}, "invalid"),
        ({"credit": -1}, "invalid"),
        ({"ack": -2}, "invalid"),
        ({"ack": True}, "invalid"),
        ({"more": 1}, "invalid"),
        ({"token": "x" * 2000}, "malformed"),
    ],
)
def test_what_a_subscriber_may_not_say_is_an_error(change, code):
    fields = Credit(token=TOKEN, credit=8, ack=-1).model_dump() | change
    with pytest.raises(BadMessageError) as refused:
        decode_credit(msgpack.packb(fields))
    assert refused.value.code == code
