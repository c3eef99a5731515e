"""`nsstream draw` for some of a model's traffic: each condition does what it says, on a model of the lab capture."""

import json
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from nsstream.capture import read_trace
from nsstream.trace import ConversationTable
from nsstream.trace.fields import TCP, UDP
from nsstream.trace.grouping import group_conversations

NSSTREAM = (sys.executable, "-m", "nsstream_daemon")
STEPS = 3  # who asks whom for what is counted, not learned


def nsstream(*arguments: object, status: int = 0) -> subprocess.CompletedProcess[str]:
    result = subprocess.run([*NSSTREAM, *map(str, arguments)], capture_output=True, text=True, timeout=900)
    assert result.returncode == status, result.stderr
    return result


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    with resources.as_file(resources.files("nsstream_daemon") / "data" / "lab.pcap.xz") as lab:
        nsstream("ingest", lab, "--state", folder / "state", "--chunk", "12h")
    (chunk,) = (folder / "state" / "chunks").glob("*.arrow")
    trained = nsstream("train", chunk, "-o", folder / "models", "--steps", STEPS, "--seed", 7).stdout
    return Path(trained.split()[-1])


def drawn(model: Path, output: Path, *options: object) -> ConversationTable:
    nsstream("draw", model, "-o", output, "--seed", 3, "--candidates", 1, "--force", *options)
    return group_conversations(read_trace(output)[0])[0]


@pytest.fixture(scope="module")
def whole(model: Path) -> ConversationTable:
    return drawn(model, model.parent / "whole.pcap")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "protocols", "ports"),
    [
        (["--service", "tcp/443"], {TCP}, {443}),
        (["--service", "udp/53", "--service", "tcp/22"], {TCP, UDP}, {22, 53}),
        (["--port", "53", "--protocol", "17"], {UDP}, {53}),
        (["--protocol", "6"], {TCP}, None),
    ],
)
def test_only_what_was_asked_for_is_drawn_and_as_much_of_it(
    model: Path, whole: ConversationTable, tmp_path: Path, options: list[str], protocols: set[int], ports: set[int]
):
    some = drawn(model, tmp_path / "some.pcap", *options)
    assert set(some.protocol_identifier.tolist()) == protocols
    of_all = np.isin(whole.protocol_identifier, [*protocols])
    if ports is not None:
        assert set(some.responder_port.tolist()) == ports
        of_all &= np.isin(whole.responder_port, [*ports])
    assert len(some) == pytest.approx(of_all.sum(), rel=0.1)


@pytest.mark.slow
def test_a_host_takes_part_in_all_that_is_drawn_for_it(model: Path, whole: ConversationTable, tmp_path: Path):
    hosts, counts = np.unique(whole.initiator_address[whole.ip_version == 4], axis=0, return_counts=True)
    host = hosts[counts.argmax()]
    some = drawn(model, tmp_path / "some.pcap", "--host", ".".join(map(str, host[12:])))
    assert len(some) > 0
    assert ((some.initiator_address == host).all(axis=1) | (some.responder_address == host).all(axis=1)).all()


@pytest.mark.slow
def test_twice_as_many_conversations_are_had_by_the_same_clients_or_by_more(
    model: Path, whole: ConversationTable, tmp_path: Path
):
    twice = drawn(model, tmp_path / "twice.pcap", "--scale", 2)
    more = drawn(model, tmp_path / "more.pcap", "--scale", 2, "--more-clients")
    assert len(twice) == pytest.approx(2 * len(whole), rel=0.1)
    assert len(more) == pytest.approx(2 * len(whole), rel=0.1)
    assert clients(more) - clients(twice)


def clients(table: ConversationTable) -> set[bytes]:
    """Those who only ask: hosts that answer, too, keep their addresses."""
    asking, answering = ({a.tobytes() for a in column} for column in (table.initiator_address, table.responder_address))
    return asking - answering


@pytest.mark.slow
def test_models_are_chosen_by_the_time_of_day_of_their_chunks(model: Path, tmp_path: Path):
    start_s = json.loads((model / "manifest.json").read_text())["start_ns"] // 10**9
    hour = start_s % 86_400 // 3600
    assert len(
        drawn(model, tmp_path / "at.pcap", "--at", f"{hour:02}:{start_s % 3600 // 60:02}", "--service", "tcp/22")
    )
    other = f"{(hour + 12) % 24:02}:00"
    said = nsstream("draw", model, "-o", tmp_path / "none.pcap", "--at", other, status=1).stderr
    assert re.search(f"none of the 1 models .*{other}:00 UTC", said)


@pytest.mark.parametrize(
    ("output", "options", "named"),
    [
        ("out.pcap", ["--label", "x"], "--label"),
        ("out.csv", ["--service", "tcp/80"], "--service"),
        ("out.pcap", ["--at", "noon"], "--at"),
    ],
)
def test_a_condition_that_does_not_fit_is_refused_by_name(tmp_path: Path, output: str, options: list[str], named: str):
    said = nsstream("draw", tmp_path, "-o", tmp_path / output, *options, status=1).stderr
    assert named in said
