"""Bad input, a full disk, a name that is taken: one sentence, a non-zero exit, no traceback, nothing half-written."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from made_captures import write_capture, write_capture_without_ip

from nsstream.errors import InputError
from nsstream.pipeline.ingest import survey_trace

NSSTREAM = (sys.executable, "-m", "nsstream_daemon")


def nsstream(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*NSSTREAM, *map(str, arguments)], capture_output=True, text=True, timeout=300)


def assert_refused(result: subprocess.CompletedProcess[str], *words: str) -> None:
    assert result.returncode == 1
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    sentences = [line for line in result.stderr.splitlines() if line.startswith("nsstream: ")]
    assert len(sentences) == 1, result.stderr
    for word in words:
        assert word in sentences[0]


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_capture(tmp_path_factory.mktemp("capture") / "real.pcap", conversations=30)


@pytest.mark.parametrize(("octets", "word"), [(b"", "empty"), (b"abc", "3 octets"), (b"\x00" * 100, "")])
def test_octets_that_are_no_capture_are_refused(tmp_path: Path, octets: bytes, word: str):
    trace = tmp_path / "x.pcap"
    trace.write_bytes(octets)
    assert_refused(nsstream("twin", trace, "-o", tmp_path / "twin.pcap"), str(trace), word)
    assert_refused(nsstream("score", trace, trace), str(trace), word)
    assert list(tmp_path.iterdir()) == [trace]


def test_a_missing_trace_is_refused(tmp_path: Path):
    assert_refused(nsstream("twin", tmp_path / "x.pcap", "-o", tmp_path / "twin.pcap"), "does not exist")


def test_a_capture_without_ip_is_refused(tmp_path: Path):
    trace = write_capture_without_ip(tmp_path / "arp.pcap")
    assert_refused(nsstream("twin", trace, "-o", tmp_path / "twin.pcap"), "no IP packet")
    assert list(tmp_path.iterdir()) == [trace]


def test_a_capture_cut_at_every_byte_of_its_last_record_is_refused(capture: Path, tmp_path: Path):
    octets = capture.read_bytes()
    last = 24
    while (end := last + 16 + int.from_bytes(octets[last + 8 : last + 12], "little")) < len(octets):
        last = end
    trace = tmp_path / "cut.pcap"
    for size in range(last + 1, len(octets)):
        trace.write_bytes(octets[:size])
        with pytest.raises(InputError, match=r"middle of a record.*whole ones"):
            survey_trace(trace)
    for size in (last + 1, last + 16, len(octets) - 1):
        trace.write_bytes(octets[:size])
        assert_refused(nsstream("twin", trace, "-o", tmp_path / "twin.pcap"), "middle of a record")
    assert list(tmp_path.iterdir()) == [trace]


@pytest.mark.parametrize("name", ["twin.pcap", "twin.pcap.config.json", "twin.pcap.score.json"])
def test_an_output_that_exists_is_refused_and_kept(capture: Path, tmp_path: Path, name: str):
    (tmp_path / name).write_bytes(b"precious")
    assert_refused(nsstream("twin", capture, "-o", tmp_path / "twin.pcap"), name, "exists already", "--force")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"precious"]


def test_a_state_directory_that_is_something_else_is_refused_and_kept(capture: Path, tmp_path: Path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis").write_bytes(b"precious")
    for force in ([], ["--force"]):
        result = nsstream("twin", capture, "-o", tmp_path / "twin.pcap", "--state", tmp_path / "home", *force)
        assert_refused(result, "home", "no state directory")
    assert (tmp_path / "home" / "thesis").read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--budget", "soon"], "not a duration"),
        (["--budget", "1s"], "leaves no time to train"),
        (["--budget", "5m", "--steps", "3"], "not both"),
        (["--chunk", "0.5s"], "whole seconds"),
        (["--chunk", "0"], "at least 1 s"),
        (["-o", "twin.txt"], ".pcapng"),
        (["-o", "missing/twin.pcap"], "does not exist"),
    ],
)
def test_options_that_make_no_sense_are_refused(capture: Path, tmp_path: Path, options: list[str], word: str):
    if options[0] == "-o":
        options = ["-o", str(tmp_path / options[1])]
    assert_refused(nsstream("twin", capture, "-o", tmp_path / "twin.pcap", *options), word)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a tmpfs needs root")
@pytest.mark.parametrize("size", ["4k", "16k", "64k"])
def test_a_full_disk_leaves_nothing_half_written(capture: Path, tmp_path: Path, size: str):
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], check=True)
    try:
        assert_refused(nsstream("twin", capture, "-o", disk / "twin.pcap", "--steps", "1"), "No space left")
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_children_and_leaves_nothing_behind(capture: Path, tmp_path: Path, number: signal.Signals):
    # A shell's background jobs, and what they start, ignore SIGINT.
    undo = ["env", f"--default-signal={number.name.removeprefix('SIG')}"]
    command = [*undo, *NSSTREAM, "twin", str(capture), "-o", str(tmp_path / "twin.pcap"), "--steps", "1000000"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as run:
        deadline_s = time.monotonic() + 300
        while not (children := _children_of(run.pid)) and time.monotonic() < deadline_s:
            time.sleep(0.05)
        assert children
        run.send_signal(number)
        _, errors = run.communicate(timeout=300)
    assert run.returncode == 130
    assert "Traceback" not in errors
    assert not any(Path(f"/proc/{child}").exists() for child in children)
    assert list(tmp_path.iterdir()) == []


def _children_of(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(line) for line in found.stdout.split()]
