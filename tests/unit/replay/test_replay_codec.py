import msgpack
import pytest
from pydantic import ValidationError

from nsstream.errors import ReplayError
from nsstream.replay import codec
from nsstream.replay.codec import BadMessageError, decode_command, decode_reply, encode
from nsstream.replay.messages import (
    MAX_MESSAGE_BYTES,
    MAX_SENTENCE_LENGTH,
    MAX_STRING_BYTES,
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
    Status,
    Stop,
    Subscribe,
    fit_sentence,
)
from nsstream.replay.rate import BitRate, PacketRate
from nsstream.replay.scenario import ModelsSpec, RecordedSpec, Scenario

START = {
    "v": 2,
    "id": 7,
    "type": "start",
    "stream": {"kind": "models", "models": ["/m/a"]},
    "sink": {"kind": "pcap", "path": "/out/twin.pcap"},
}

MODELS = START["stream"]

COMMAND_CASES = [
    (Hello(id=0), {"v": 2, "id": 0, "type": "hello", "min_version": 2, "max_version": 2}),
    (Stop(id=1), {"v": 2, "id": 1, "type": "stop"}),
    (GetStatus(id=2), {"v": 2, "id": 2, "type": "status"}),
    (Shutdown(id=2**63 - 1), {"v": 2, "id": 2**63 - 1, "type": "shutdown"}),
    (Pause(id=1), {"v": 2, "id": 1, "type": "pause"}),
    (Resume(id=1), {"v": 2, "id": 1, "type": "resume"}),
    (SetRate(id=1, rate="max"), {"v": 2, "id": 1, "type": "rate", "rate": "max"}),
    (SetRate(id=1, rate=2.5), {"v": 2, "id": 1, "type": "rate", "rate": 2.5}),
    (
        SetRate(id=1, rate=PacketRate(packets_per_s=20_000.0)),
        {"v": 2, "id": 1, "type": "rate", "rate": {"packets_per_s": 20_000.0}},
    ),
    (SetRate(id=1, rate=BitRate(bits_per_s=1e8)), {"v": 2, "id": 1, "type": "rate", "rate": {"bits_per_s": 1e8}}),
    (Seek(id=1, twin_time_ns=5), {"v": 2, "id": 1, "type": "seek", "twin_time_ns": 5}),
    (SetLoop(id=1, loop=None), {"v": 2, "id": 1, "type": "loop", "loop": None}),
    (ListModels(id=1, first=5), {"v": 2, "id": 1, "type": "models", "first": 5, "count": 256}),
    (
        Subscribe(id=1, to="packets", name="ids"),
        {"v": 2, "id": 1, "type": "subscribe", "to": "packets", "name": "ids"},
    ),
    (
        Start(id=3, stream=RecordedSpec(path="/a"), sink={"kind": "fifo", "path": "/f"}, rate=1.5, loop=None),
        {
            "v": 2,
            "id": 3,
            "stream": {"kind": "recorded", "path": "/a"},
            "scenario": Scenario().model_dump(),
            "loop": None,
            "sink": {"kind": "fifo", "path": "/f"},
            "seed": 0,
            "mtu": 1500,
            "payload": "template",
            "oversize": "clamp",
            "testbed": None,
            "rate": 1.5,
            "controller_timeout_s": None,
            "is_exclusive": False,
            "type": "start",
        },
    ),
]


@pytest.mark.parametrize(("command", "fields"), COMMAND_CASES)
def test_a_command_is_the_map_that_the_protocol_says(command, fields):
    assert msgpack.unpackb(encode(command)) == fields
    assert decode_command(msgpack.packb(fields)) == command


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (b"", "not a msgpack map"),
        (b"\xc1", "not a msgpack map"),  # never used in msgpack
        (b"\x80\x80", "not a msgpack map"),  # octets behind the map
        (b"\x90", "not list"),
        (b"\x00", "not int"),
        (b"\xdd\xff\xff\xff\xff", "not a msgpack map"),  # array of 2**32 - 1
        (b"\xdf\xff\xff\xff\xff", "not a msgpack map"),  # map of 2**32 - 1
        (b"\xdb\xff\xff\xff\xff", "not a msgpack map"),  # string of 2**32 - 1
        (b"\x91" * 100_000, "not a msgpack map"),
        (b"\x81\xc4\x01a\x01", "not a msgpack map"),  # a key of octets
        (b"\x81\x01\x01", "not a msgpack map"),  # a key that is a number
        (b"\x81\xa1a\xd4\x05\x00", "not a msgpack map"),  # an extension type
        (b"\x81\xa1a\xd6\xff\x00\x00\x00\x00", "not a msgpack map"),  # a time stamp
        (b"\x81\xa1a\xc4\x01a", "not a msgpack map"),  # octets as a value
        (b"\x81\xa1a\xa1\xff", "not a msgpack map"),  # a string that is not UTF-8
        (b"\x81\xa1a" + b"\x91" * 20 + b"\x90", "nested at most"),
        (b"\0" * (MAX_MESSAGE_BYTES + 1), "at most 1048576 octets"),
        (b"\x80", "v: the protocol version"),
        (msgpack.packb({"v": "1", "id": 1, "type": "stop"}), "v: the protocol version"),
        (msgpack.packb({"v": True, "id": 1, "type": "stop"}), "v: the protocol version"),
    ],
)
def test_what_is_no_message_is_malformed(octets, reason):
    with pytest.raises(BadMessageError, match=reason) as refused:
        decode_command(octets)
    assert refused.value.code == "malformed"


def test_an_empty_key_of_octets_is_refused_too():
    with pytest.raises(BadMessageError, match="keys of a map are strings"):
        decode_command(b"\x81\xc4\x00\x01")


@pytest.mark.parametrize("version", [0, 1, 3, -1, 2**64 - 1])
def test_another_version_is_refused_by_name(version):
    with pytest.raises(BadMessageError, match=f"2 to 2, not {version}") as refused:
        decode_command(msgpack.packb({"v": version, "id": 9, "type": "status"}))
    assert (refused.value.code, refused.value.request_id) == ("version", 9)


@pytest.mark.parametrize("kind", ["play", "", None, 3, ["start"], {"start": 1}, "x" * 4000])
def test_an_unknown_command_is_refused_with_those_that_are_known(kind):
    with pytest.raises(
        BadMessageError,
        match="hello, loop, models, pause, rate, resume, seek, shutdown, start, status, stop, subscribe",
    ) as refused:
        decode_command(msgpack.packb({"v": 2, "id": 9, "type": kind}))
    assert refused.value.code == "unknown-command"
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"id": None}, "id"),
        ({"id": -1}, "id"),
        ({"id": 2**63}, "id"),
        ({"id": True}, "id"),
        ({"stream": MODELS | {"models": []}}, "stream.*models"),
        ({"stream": MODELS | {"models": "/m"}}, "stream.*models"),
        ({"stream": MODELS | {"models": ["/m"] * 4096 + ["/n"]}}, "limits"),
        ({"stream": MODELS | {"models": ["m"]}}, r"models\[0\]"),
        ({"stream": MODELS | {"models": ["/m", "/m\0"]}}, r"models\[1\]"),
        ({"stream": MODELS | {"models": ["/" + "é" * (MAX_STRING_BYTES // 2)]}}, "limits"),
        ({"stream": {"kind": "tape"}}, "stream"),
        ({"stream": {"kind": "model"}}, "stream.*model"),
        ({"scenario": {"flow": 2.0}}, "scenario.*flow"),
        ({"loop": 0}, "loop"),
        ({"rate": {"packets_per_s": 0.0}}, "rate"),
        ({"rate": {"bits_per_s": 1e13}}, "rate"),
        ({"rate": {}}, "rate"),
        ({"controller_timeout_s": 0.0}, "controller_timeout_s"),
        ({"is_exclusive": 1}, "is_exclusive"),
        ({"sink": None}, "sink"),
        ({"sink": "/x"}, "sink"),
        ({"sink": [["kind", "pcap"]]}, "sink"),
        ({"sink": {"a": [[[[[[[]]]]]]]}}, "nested"),
        ({"sink": {"a": float("nan")}}, "sink"),
        ({"sink": {"a": "é" * (MAX_STRING_BYTES // 2 + 1)}}, "limits"),
        ({"sink": {str(i): i for i in range(257)}}, "limits"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"seed": 1.0}, "seed"),
        ({"mtu": 575}, "mtu"),
        ({"mtu": 65_536}, "mtu"),
        ({"payload": "lorem"}, "payload"),
        ({"oversize": "drop"}, "oversize"),
        ({"testbed": "lab"}, "testbed"),
        ({"rate": 0.0}, "rate"),
        ({"rate": -1.0}, "rate"),
        ({"rate": float("nan")}, "rate"),
        ({"rate": float("inf")}, "rate"),
        ({"rate": "fast"}, "rate"),
        ({"rates": 1.0}, "rates"),
    ],
)
def test_a_field_out_of_bounds_is_refused_with_its_path(change, path):
    with pytest.raises(BadMessageError, match=path) as refused:
        decode_command(msgpack.packb({**START, **change}))
    assert refused.value.code in ("invalid", "malformed")
    assert len(str(refused.value)) <= MAX_SENTENCE_LENGTH


def test_every_model_of_the_longest_list_is_taken():
    command = decode_command(
        msgpack.packb({**START, "stream": MODELS | {"models": [f"/models/{i}" for i in range(4096)]}})
    )
    assert isinstance(command, Start)
    assert len(command.stream.models) == 4096


def test_a_message_too_large_is_not_sent():
    with pytest.raises(ReplayError, match="at most 1048576 octets"):
        encode(
            Start(
                id=1,
                stream=ModelsSpec(models=["/" + "m" * 4000] * 300),
                sink={"kind": "pcap", "path": "/o.pcap", "overwrite": False},
            )
        )


def test_a_reply_may_say_more_than_this_client_knows():
    octets = msgpack.packb({"v": 2, "id": 1, "type": "accepted", "state": "running", "run": 1, "colour": "blue"})
    assert decode_reply(octets).id == 1


def test_a_reply_that_is_none_is_an_error_of_ours():
    with pytest.raises(BadMessageError, match="got"):
        decode_reply(msgpack.packb({"v": 2, "id": 1, "type": "accepted", "state": "flying", "run": 1}))
    with pytest.raises(BadMessageError):
        decode_reply(msgpack.packb({"v": 2, "id": 1}))


def test_a_status_survives_the_wire():
    status = Status(
        id=4, sequence=9, state="failed", run=2, model_id="m", chunk=3, chunk_count=5, packets_written=10,
        twin_start_ns=7, twin_now_ns=8, rate=1.0, late_s=0.0, counters={"frames": 10}, subscribers=[],
        octets_written=600, twin_time_s=1.5, packets_per_s=4.25, packets_drawn_ahead=7, tally={"repaired": 2},
        error="no space is left on the device",
    )  # fmt: skip
    assert decode_reply(encode(status)) == status


def test_a_long_sentence_of_a_refusal_is_cut_and_on_one_line():
    refusal = Refusal.of(1, "sink", "a\nb\x1b[31m\ud800" + "x" * 5000)
    assert refusal.sentence.startswith("a b [31m xxx")
    assert len(refusal.sentence) == MAX_SENTENCE_LENGTH
    assert decode_reply(encode(refusal)) == refusal


def test_fit_sentence_keeps_what_fits():
    assert fit_sentence("no space is left, é") == "no space is left, é"


def test_a_message_cannot_be_changed():
    command = Stop(id=1)
    with pytest.raises(ValidationError):
        command.id = 2


def test_bad_message_is_an_error_of_replay():
    assert issubclass(codec.BadMessageError, ReplayError)
