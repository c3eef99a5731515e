"""What an extcap says, its toolbar's messages, and captures of it without Wireshark: FIFOs, signals, an end."""

from __future__ import annotations

import contextlib
import lzma
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import nsstream_daemon
import numpy as np
import pytest
from checkpoints import drawn_checkpoint
from nsstream_plugins.extcap import grammar
from nsstream_plugins.extcap.__main__ import main, value_of
from nsstream_plugins.extcap.controls import ERROR, INITIALIZED, SET, STATUS_BAR, Message, MessageReader, encode
from nsstream_plugins.extcap.tap import _map_of, _secret

from nsstream.capture.bpf import compile_filter
from nsstream.errors import StateError
from nsstream.wire.frame_stream import FrameReader

PATIENCE_S = 300.0
SENTENCE = re.compile(r"(extcap|interface|control|dlt|arg|value) (\{[a-z]+=[^{}]*\})+")


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert main(arguments) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("name", sorted(grammar.INTERFACES))
def test_every_answer_is_of_the_grammar(name, capsys):
    listed = said(capsys, name, "--extcap-interfaces", "--extcap-version=4.0", "--of-a-newer-release")
    assert any(line.startswith(f"interface {{value={name}}}") for line in listed)
    config = said(capsys, name, "--extcap-config", f"--extcap-interface={name}")
    assert said(capsys, name, "--extcap-dlts", "--extcap-interface", name) == [
        "dlt {number=1}{name=EN10MB}{display=Ethernet}"
    ]
    assert all(SENTENCE.fullmatch(line) for line in [*listed, *config])
    numbers = [int(line.split("number=")[1].split("}")[0]) for line in config if line.startswith("arg")]
    assert numbers == list(range(len(numbers)))


def test_models_are_listed_newest_first_and_looked_for_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NSSTREAM_MODELS", f"relative:{tmp_path}:{tmp_path}/none")
    for age, name in enumerate(("aaa", "bbb", "{evil}", "empty")):
        (tmp_path / name).mkdir()
        if name != "empty":
            (tmp_path / name / "manifest.json").write_text("{}")
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    ask = (
        "nsstream-synth",
        "--extcap-config",
        "--extcap-interface",
        "nsstream-synth",
        "--extcap-reload-option",
        "model",
    )
    first = said(capsys, *ask)
    assert [line.split("value=")[1].split("}")[0] for line in first] == ["lab", f"{tmp_path}/aaa", f"{tmp_path}/bbb"]
    (tmp_path / "promoted").symlink_to("bbb")
    assert f"value {{arg=0}}{{value=follow:{tmp_path}}}" in said(capsys, *ask)[1]


def test_a_wrong_question_is_answered_with_status_1(capsys):
    assert main(["nsstream-tap"]) == 1
    assert main(["nsstream-tap", "--extcap-interface", "nsstream-synth", "--extcap-dlts"]) == 1
    assert main(["nsstream-tap", "--extcap-interface", "nsstream-tap", "--capture"]) == 1
    assert capsys.readouterr().out == ""
    assert value_of("--a", ["--a"]) == ""
    assert value_of("--a", ["--b", "--a=c=d"]) == "c=d"


def test_a_filter_is_judged_before_the_capture(capsys):
    ask = ("nsstream-synth", "--extcap-interface", "nsstream-synth", "--extcap-capture-filter")
    assert said(capsys, *ask, "tcp port 443") == []
    assert "no filter" in said(capsys, *ask, "no filter")[0]


def test_messages_of_a_toolbar_survive_any_cut():
    messages = [Message(0, SET, "20kpps"), Message(1, INITIALIZED, ""), Message(255, ERROR, "größer")]
    octets = b"".join(map(encode, messages))
    for size in (1, 5, 7, len(octets)):
        reader = MessageReader()
        found = [m for at in range(0, len(octets), size) for m in reader.feed(octets[at : at + size])]
        assert found == messages
    for bad in (b"X\0\0\2\0\1", b"T\xff\xff\xff\0\1", b"T\0\0\1\0\1"):
        with pytest.raises(ValueError, match="no message"):
            MessageReader().feed(bad)


class Captured:
    """An extcap that runs, read by this test."""

    def __init__(self, directory: Path, *options: str, program: str = "nsstream-synth") -> None:
        self.fifo, self.control_in, self.control_out = (directory / name for name in ("fifo", "in", "out"))
        for path in (self.fifo, self.control_in, self.control_out):
            os.mkfifo(path)
        command = [sys.executable, "-P", "-m", "nsstream_plugins.extcap", program, "--capture"]
        command += [f"--extcap-interface={program}", "--fifo", str(self.fifo)]
        command += ["--extcap-control-in", str(self.control_in), "--extcap-control-out", str(self.control_out)]
        path = os.pathsep.join(part for part in sys.path if part)
        self.child = subprocess.Popen(
            [*command, *options], stderr=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}
        )
        self.toolbar = os.open(self.control_in, os.O_RDWR)
        self.heard = os.open(self.control_out, os.O_RDONLY | os.O_NONBLOCK)
        self.descriptor = os.open(self.fifo, os.O_RDONLY)
        self._reader = FrameReader()
        self.times = np.empty(0, np.int64)

    def say(self, message: Message) -> None:
        os.write(self.toolbar, encode(message))

    def read(self, wait_s: float) -> int:
        """How many frames came within so long, or at once."""
        poll = select.poll()
        poll.register(self.descriptor, select.POLLIN)
        if not poll.poll(wait_s * 1000):
            return 0
        columns = self._reader.feed(os.read(self.descriptor, 1 << 16))
        if columns is None:
            return 0
        self.times = np.concatenate([self.times, columns["observation_time_ns"]])
        return len(columns["observation_time_ns"])

    def read_until(self, count: int) -> None:
        until_s = time.monotonic() + PATIENCE_S
        while len(self.times) < count:
            assert time.monotonic() < until_s, f"{len(self.times)} of {count} frames"
            assert self.child.poll() is None, self.child.stderr.read()
            self.read(0.2)

    def ends(self) -> int:
        status = self.child.wait(PATIENCE_S)
        assert self.child.stdout.read() == b""
        return status

    def close(self) -> None:
        for descriptor in (self.toolbar, self.heard, self.descriptor):
            if descriptor >= 0:
                os.close(descriptor)
        self.child.kill()
        self.child.wait()
        self.child.stderr.close()
        self.child.stdout.close()


@pytest.fixture
def run(tmp_path):
    made = []

    def make(*options, program="nsstream-synth"):
        directory = tmp_path / str(len(made))
        directory.mkdir()
        made.append(Captured(directory, *options, program=program))
        return made[-1]

    yield make
    for captured in made:
        captured.close()


def test_an_idle_capture_ends_at_a_signal_and_when_its_reader_goes(run):
    idle = run("--rate", "0.001pps")
    idle.read_until(1)
    idle.child.send_signal(signal.SIGTERM)
    assert idle.ends() == -signal.SIGTERM
    idle = run("--rate", "0.001pps")
    idle.read_until(1)
    os.close(idle.descriptor)
    idle.descriptor = -1
    assert idle.ends() == 0
    assert idle.child.stderr.read() == b""


def test_a_capture_whose_reader_goes_before_the_first_packet_ends(run):
    early = run()
    os.close(early.descriptor)  # the library is not loaded yet
    early.descriptor = -1
    assert early.ends() == 0


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_capture_whose_starter_is_killed_before_anybody_reads_ends(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    script = (
        "import os, subprocess, sys\n"
        "command = [sys.executable, '-P', '-m', 'nsstream_plugins.extcap', 'nsstream-synth', '--capture']\n"
        "command += ['--extcap-interface', 'nsstream-synth', '--fifo', sys.argv[1]]\n"
        "child = subprocess.Popen(command, stdout=sys.stderr)\n"
        "print(child.pid, flush=True)\n"
        "import time; time.sleep(600)\n"
    )
    path = os.pathsep.join(part for part in sys.path if part)
    env = {**os.environ, "PYTHONPATH": path}
    starter = subprocess.Popen([sys.executable, "-c", script, tmp_path / "fifo"], stdout=subprocess.PIPE, env=env)
    pid = int(starter.stdout.readline())
    time.sleep(0.5)  # it looks for a reader by now, or loads; it must end in either case
    starter.kill()
    starter.wait()
    starter.stdout.close()
    until_s = time.monotonic() + PATIENCE_S
    while (
        Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    ):
        assert time.monotonic() < until_s
        time.sleep(0.02)


def test_the_toolbar_holds_the_packets_back_and_changes_the_rate(run):
    captured = run("--rate", "500pps")
    captured.say(Message(grammar.RATE_CONTROL, INITIALIZED, "7pps"))  # what it shows at first changes nothing
    captured.read_until(200)
    assert np.array_equal(np.diff(captured.times), np.full(len(captured.times) - 1, 2_000_000))
    captured.say(Message(grammar.PAUSE_CONTROL, SET, "\1"))
    until_s = time.monotonic() + PATIENCE_S
    while captured.read(1.0):  # what was on its way
        assert time.monotonic() < until_s
    held = len(captured.times)
    captured.say(Message(grammar.RATE_CONTROL, SET, "no rate"))
    captured.say(Message(grammar.RATE_CONTROL, SET, "2kpps"))
    captured.say(Message(grammar.PAUSE_CONTROL, SET, "\0"))
    captured.read_until(held + 400)
    gaps = np.diff(captured.times[held + 1 :])
    assert abs(float(np.median(gaps)) - 500_000) <= 1
    assert captured.times[held] - captured.times[held - 1] > 500_000_000
    heard = MessageReader().feed(os.read(captured.heard, 4096))
    assert [message.command for message in heard] == [ERROR]
    assert "a rate is" in heard[0].text


def test_a_key_that_is_kept_elsewhere_is_found_or_asked_for(tmp_path, monkeypatch):
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    (tmp_path / "unit").mkdir()
    (tmp_path / "store").mkdir()
    places = (tmp_path / "unit", tmp_path / "store")
    with pytest.raises(StateError, match=r"credential:a\.key: cannot be read in .*unit or .*store"):
        _secret("credential:a.key", places)
    for place in reversed(places):
        (place / "a.key").write_text("00" * 32)
        assert _secret("credential:a.key", places).path == place / "a.key"
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(places[1]))
    assert _secret("credential:a.key", ()).path == places[1] / "a.key"
    assert _secret(str(tmp_path / "own"), places).path == tmp_path / "own"
    state = tmp_path / "state"
    (state / "models").mkdir(parents=True)
    assert _map_of(state, None).ipv4_range == "10.0.0.0/8"  # no model yet: a key of the capture's own
    (state / "models/promoted").symlink_to("one")
    with pytest.raises(StateError, match=r"key is kept elsewhere; .*--config"):
        _map_of(state, None)


def test_a_model_that_is_loaded_and_drawn_shows_in_the_status_bar(run, tmp_path):
    captured = run("--model", str(drawn_checkpoint(tmp_path)), "--rate", "1kpps")
    captured.read_until(300)
    assert np.array_equal(np.diff(captured.times), np.full(len(captured.times) - 1, 1_000_000))
    reader, heard, until_s = MessageReader(), [], time.monotonic() + PATIENCE_S
    while not heard or heard[-1].text:
        assert time.monotonic() < until_s
        with contextlib.suppress(BlockingIOError):
            heard += reader.feed(os.read(captured.heard, 4096))
        captured.read(0.1)
    assert {message.command for message in heard} == {STATUS_BAR}
    assert heard[-1].text == ""


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--extcap-capture-filter", "no filter"), "capture filter 'no filter'"),
        (("--rate", "fast"), "a rate is max"),
        (("--services", "tcp/99999"), "--services"),
        (("--hosts", "10.0.0.0/8 nowhere"), "--hosts"),
        (("--trace", "/nowhere/x.pcap"), "/nowhere/x.pcap"),
        (("--model", "/nowhere"), "/nowhere"),
        (("--seed", "-1"), "--seed must be"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(run, options, sentence):
    captured = run(*options)
    assert captured.ends() == 1
    said = captured.child.stderr.read().decode()
    assert said.startswith("nsstream-synth: ")
    assert sentence in said
    assert said.count("\n") == 1


def test_a_trace_is_shown_once_where_it_can_be_read_once_and_the_services_asked_for_alone(run, tmp_path):
    fifo = tmp_path / "trace"
    os.mkfifo(fifo)
    lab = Path(nsstream_daemon.__file__).parent / "data/lab.pcap.xz"
    octets = lzma.decompress(lab.read_bytes())[:3_000_000]
    writer = threading.Thread(target=lambda: fifo.write_bytes(octets))
    writer.start()
    captured = run("--trace", str(fifo), "--rate", "max", "--services", "udp/53")
    while captured.child.poll() is None or captured.read(0.0):
        captured.read(0.2)
    writer.join()
    assert captured.ends() == 0, captured.child.stderr.read()
    columns = FrameReader().feed(octets)
    lengths = columns["captured_length"]
    offset = np.concatenate([[0], np.cumsum(lengths)])
    names = compile_filter("udp port 53 or (vlan and udp port 53)", 1, 262_144).run_over(
        columns["octets"], offset, lengths
    )
    assert len(captured.times) == names.sum() > 100
