"""The metrics of a replay server, as Prometheus reads them from `nsstream replay --metrics-port`."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_captures import write_capture

from nsstream.replay import ReplayClient

PATIENCE_S = 300.0


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, int]]:
    """Endpoint and port of a server that is ready."""
    endpoint, port = f"ipc://{tmp_path}/replay.sock", free_port()
    command = [sys.executable, "-m", "nsstream_daemon", "replay", "--endpoint", endpoint, f"--metrics-port={port}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            assert json.loads(server.stdout.readline())["event"] == "ready"
            yield endpoint, port
        finally:
            server.terminate()
            assert server.wait(300) == 0


def figures(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=300) as page:
        lines = [line for line in page.read().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_they_say_where_a_run_is_in_the_twin_and_what_it_sent(served: tuple[str, int], tmp_path: Path):
    endpoint, port = served
    assert figures(port)['nsstream_replay_state{state="idle"}'] == 1
    capture = write_capture(tmp_path / "in.pcap", conversations=20)
    with ReplayClient(endpoint) as client:
        client.start(
            {"kind": "recorded", "path": str(capture)}, {"kind": "pcap", "path": str(tmp_path / "out.pcap")}, rate="max"
        )
        deadline_s = time.monotonic() + PATIENCE_S
        while (status := client.status()).state != "done":
            assert status.state != "failed", status.error
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
    while (told := figures(port))['nsstream_replay_state{state="done"}'] != 1:  # published a moment later
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    assert told["nsstream_replay_runs_total"] == 1
    assert told["nsstream_replay_packets_total"] == status.packets_written > 100
    assert told["nsstream_replay_bytes_total"] == status.octets_written
    assert told["nsstream_replay_offset_seconds"] == pytest.approx(status.twin_time_s)
    assert status.twin_now_ns is not None
    assert told["nsstream_replay_twin_seconds"] == pytest.approx(status.twin_now_ns * 1e-9)


def test_a_port_that_is_taken_is_told(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [
                sys.executable, "-m", "nsstream_daemon", "replay", "--endpoint", f"ipc://{tmp_path}/s",
                f"--metrics-port={port}",
            ],
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
    assert done.returncode == 1
    assert f"cannot serve metrics at 127.0.0.1:{port}: Address already in use; give another --metrics-port" in (
        done.stderr
    )
