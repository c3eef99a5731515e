"""docs/protocol.md says what the messages are: every command, field, limit, code and state; its exchange decodes."""

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import get_args

import msgpack
import pytest

from nsstream.replay import feed, messages, scenario
from nsstream.replay.batch import DTYPES, MAX_BATCH_PACKETS, MAX_CREDIT, Column, Credit, End, Packets
from nsstream.replay.codec import decode_command, decode_reply
from nsstream.replay.messages import COMMANDS, REPLIES, RefusalCode, State
from nsstream.replay.registry import load_sink, sink_kinds
from nsstream.replay.session import NotAllowedError, Session

PAGE = (Path(__file__).parents[3] / "docs" / "protocol.md").read_text(encoding="utf-8")
IN_EVERY_MESSAGE = {"v", "id", "type"}


def part(start, end):
    """The page between two headings."""
    return PAGE.split(f"\n{start}\n", 1)[1].split(f"\n{end}", 1)[0]


def rows(text):
    """The rows of tables whose first cell is code, as lists of cells."""
    lines = [line for line in text.split("\n") if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def names(text):
    return [row[0].strip("`") for row in rows(text)]


def kind(model):
    return model.model_fields["type"].default


@pytest.mark.parametrize("model", COMMANDS, ids=kind)
def test_every_command_has_its_fields_on_the_page(model):
    text = part("## Commands", "## Replies").split(f"### {kind(model)}\n", 1)[1].split("\n### ", 1)[0]
    text = text.split("\nSink `pcap`", 1)[0]
    assert names(text) == [name for name in model.model_fields if name not in IN_EVERY_MESSAGE]


@pytest.mark.parametrize("model", REPLIES, ids=kind)
def test_every_reply_has_its_fields_on_the_page(model):
    text = part("## Replies", "## Status as it comes").split(f"### {kind(model)}\n", 1)[1].split("\n### ", 1)[0]
    text = text.split("\n| code |", 1)[0]
    assert names(text) == [name for name in model.model_fields if name not in IN_EVERY_MESSAGE]


@pytest.mark.parametrize("sink", sink_kinds())
def test_every_sink_has_its_fields_on_the_page(sink):
    text = PAGE.split(f"\nSink `{sink}`", 1)[1].split("\nSink `", 1)[0].split("###")[0]
    assert names(text) == list(load_sink(sink).spec_type.model_fields)


def test_every_stream_and_scenario_has_its_fields_on_the_page():
    text = part("## Streams and scenarios", "## In Python")
    streams, scenario_fields = text.split("\nThe map `scenario`", 1)
    told = {}
    for name, field, *_ in rows(streams):
        told.setdefault(name.strip("`"), []).append(field.strip("`"))
    specs = (scenario.ModelsSpec, scenario.ModelSpec, scenario.FollowSpec, scenario.RecordedSpec, scenario.MixSpec)
    assert told == {kind_of(spec): [name for name in spec.model_fields if name != "kind"] for spec in specs}
    assert names(scenario_fields) == list(scenario.Scenario.model_fields)
    for model in (scenario.Part, scenario.Limits, scenario.Attack):
        for name in model.model_fields:
            assert f"`{name}`" in text, name
    for limit in (scenario.MAX_MODELS, scenario.MAX_PARTS, scenario.MAX_FILTERS, scenario.MAX_CANDIDATES):
        assert f"1 to {limit} " in text or f"1 to {limit}," in text, limit


def kind_of(spec):
    return spec.model_fields["kind"].default


def test_the_packet_plane_is_on_the_page():
    text = part("## Packets", "## States")
    for model in (Credit, Packets, End, Column):
        for name in model.model_fields:
            assert f"`{name}`" in text or f'"{name}"' in text, name
    columns = [row[:2] for row in rows(text.replace("\\|", "!")) if row[0].strip("`") in DTYPES]
    assert {name.strip("`"): dtype.strip("`").replace("!", "|") for name, dtype in columns} == DTYPES
    assert f"integer, 0 to {MAX_CREDIT}" in text
    assert f"m, 1 to {MAX_BATCH_PACKETS}" in text
    assert f"at most {feed.RING_BATCHES} of them and {feed.RING_BYTES >> 20} MiB" in text
    assert f"At most {feed.WINDOW_BYTES >> 20} MiB" in text


def test_no_command_and_no_reply_is_on_the_page_only():
    assert re.findall(r"^### (.+)$", part("## Commands", "## Replies"), re.M) == [kind(model) for model in COMMANDS]
    assert re.findall(r"^### (.+)$", part("## Replies", "## Status as it comes"), re.M) == [
        kind(model) for model in REPLIES
    ]


def test_the_limits_on_the_page_are_those_of_the_code():
    limits = [
        int(n) for n in re.findall(r"^\| (?:a|an|nesting)\b[^|]*\| (\d+) ", part("## Messages", "## Commands"), re.M)
    ]
    assert limits == [
        messages.MAX_MESSAGE_BYTES,
        messages.MAX_STRING_BYTES,
        messages.MAX_ARRAY_LENGTH,
        messages.MAX_MAP_LENGTH,
        messages.MAX_NESTING,
    ]
    assert f"at most {messages.MAX_SENTENCE_LENGTH} characters" in PAGE
    assert f"version {messages.PROTOCOL_VERSION}\n" in PAGE.split("\n", 1)[0] + "\n"


def test_every_refusal_code_is_on_the_page():
    text = part("### refused", "## Status as it comes").split("\n| code |", 1)[1]
    assert names(text) == list(get_args(RefusalCode))


@pytest.mark.parametrize("state", get_args(State))
def test_what_a_state_allows_is_on_the_page(state):
    table = {row[0].strip("`"): row[1:] for row in rows(part("## States", "## On the command line"))}
    for command, cell in zip(("start", "stop", "pause", "resume", "rate", "seek", "loop"), table[state], strict=True):
        try:
            Session(state, 1).after_command(command)
        except NotAllowedError:
            assert cell == "refused"
        else:
            assert cell.startswith("yes")


def test_the_exchange_on_the_page_decodes():
    lines = part("## An exchange", "## none").split("\n")
    pairs = [(a, b) for a, b in pairwise(lines) if a[:2] in ("C ", "S ")]
    assert len(pairs) == 14
    for octets, text in pairs:
        message = bytes.fromhex(octets[2:])
        assert msgpack.unpackb(message) == json.loads(text)
        decoded = (decode_command if octets[0] == "C" else decode_reply)(message)
        assert decoded.id == json.loads(text)["id"]
