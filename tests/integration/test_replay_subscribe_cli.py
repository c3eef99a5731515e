"""`nsstream send subscribe` and `hello`, as a user runs them, at a real server."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from replay_lab import PATIENCE_S, RECORDED_SERVER, make_model

from nsstream.capture.pcap_file import PcapFileSource
from nsstream.replay import ReplayClient, spawn_server
from nsstream.wire.pcap import HEADER_BYTES, RECORD_HEADER_BYTES

FRAMES, FRAME_BYTES = 500, 60  # the seed of a recorded stream is how many frames a chunk has
SEED_THAT_FAILS = 13  # of recorded_server
SINK = {"kind": "subscribers", "wait_for": 1, "when_behind": "wait"}


@pytest.fixture
def client() -> Iterator[ReplayClient]:
    with spawn_server(command=RECORDED_SERVER) as client:
        yield client


def send(client: ReplayClient, *arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "nsstream_daemon", "send", *map(str, arguments)],
        env={**os.environ, "NSSTREAM_REPLAY_ENDPOINT": client.endpoint},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_hello_says_who_answers(client: ReplayClient) -> None:
    told, _ = send(client, "hello").communicate(timeout=PATIENCE_S)
    assert told.decode().startswith("nsstream ")
    assert told.decode().endswith(", protocol version 2\n")


@pytest.mark.parametrize("name", ["run.pcap", "run.pcapng.zst", "-"])
def test_a_run_is_taken_into_a_capture(client: ReplayClient, tmp_path: Path, name: str) -> None:
    output = name if name == "-" else tmp_path / name
    child = send(client, "subscribe", "-o", output, "--name", "ids")
    client.start([make_model(tmp_path, "m")], SINK, seed=FRAMES)
    octets, said = child.communicate(timeout=PATIENCE_S)
    assert said.decode() == f"run 1 is done: {FRAMES} packets, 0 missed\n"
    assert child.returncode == 0
    if name == "-":
        assert len(octets) == HEADER_BYTES + FRAMES * (RECORD_HEADER_BYTES + FRAME_BYTES)
        return
    source = PcapFileSource(tmp_path / name)
    source.open()
    while source.read_batch() is not None:
        pass
    source.close()
    assert source.tally.offered == FRAMES


def test_a_run_that_fails_is_told_by_the_exit_status(client: ReplayClient, tmp_path: Path) -> None:
    child = send(client, "subscribe", "-o", tmp_path / "run.pcap")
    client.start([make_model(tmp_path, "m")], SINK, seed=SEED_THAT_FAILS)
    _, said = child.communicate(timeout=PATIENCE_S)
    assert said.decode().startswith("run 1 is failed: ")
    assert child.returncode == 1
    assert (tmp_path / "run.pcap").exists()


def test_an_output_that_exists_is_kept(client: ReplayClient, tmp_path: Path) -> None:
    (tmp_path / "run.pcap").write_bytes(b"mine")
    child = send(client, "subscribe", "-o", tmp_path / "run.pcap")
    _, said = child.communicate(timeout=PATIENCE_S)
    assert child.returncode == 1
    assert said.decode().endswith("run.pcap: exists already, and is not overwritten\n")
    assert (tmp_path / "run.pcap").read_bytes() == b"mine"
