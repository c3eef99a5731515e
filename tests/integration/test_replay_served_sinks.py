"""Sinks as a client of the real replay server asks for them: what is refused, and runs to each that is registered."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from test_replay_server import RECORDED_SERVER, make_model

from nsstream.replay import RefusedError, ReplayClient, spawn_server

FRAMES = 50  # the seed of a recorded stream is how many frames a chunk has


@pytest.mark.parametrize(
    ("sink", "code", "sentence"),
    [
        ({}, "invalid", "sink.kind: must name a sink"),
        ({"kind": "eth"}, "invalid", "sink.kind: there is no sink 'eth'"),
        ({"kind": "pcap", "path": "twin.pcap"}, "invalid", "sink.path: "),
        ({"kind": "pcap", "path": "/x.pcap", "rotate": 1}, "invalid", "sink.rotate: "),
        ({"kind": "netflow", "address": "192.0.2.1"}, "invalid", "sink.port: "),
        ({"kind": "nfcapd", "path": "/none/flows"}, "sink", "/none: the directory does not exist"),
        ({"kind": "stdout"}, "sink", "standard output: has the line that says that the server is ready"),
        ({"kind": "pcap", "path": "/tmp/twin.cap"}, "sink", r"/tmp/twin.cap: the name of a capture"),
    ],
)
def test_a_sink_that_cannot_be_is_refused(tmp_path: Path, sink: dict[str, object], code: str, sentence: str) -> None:
    model = make_model(tmp_path, "m")
    with spawn_server(command=RECORDED_SERVER) as client:
        with pytest.raises(RefusedError, match=f"^{sentence}") as refused:
            client.start([model], sink)
        assert refused.value.code == code
        assert client.status().state == "idle"


def test_runs_to_files_a_fifo_and_a_collector_one_after_the_other(tmp_path: Path) -> None:
    model = make_model(tmp_path, "m")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    came: list[bytes] = []
    reader = threading.Thread(target=lambda: came.append(fifo.read_bytes()))
    reader.start()
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as collector,
        spawn_server(command=RECORDED_SERVER) as client,
    ):
        collector.bind(("127.0.0.1", 0))
        sinks: list[dict[str, Any]] = [
            {"kind": "pcap", "path": tmp_path / "twin.pcapng.zst"},
            {"kind": "pcap", "path": tmp_path / "twin.pcap", "rotate_bytes": 1024},
            {"kind": "fifo", "path": fifo},
            {"kind": "nfcapd", "path": tmp_path / "flows"},
            {"kind": "csv", "path": tmp_path / "flows.csv"},
            {"kind": "netflow", "address": "127.0.0.1", "port": collector.getsockname()[1], "version": 9},
        ]
        for sink in sinks:
            client.start([model], sink, seed=FRAMES)
            assert client.wait().packets_written == FRAMES
    reader.join(30)
    assert len(came[0]) == 24 + FRAMES * (16 + 60)
    assert len(list(tmp_path.glob("twin_0000*.pcap"))) == 4
    # The frames are of no IP packet: the files of flows are whole, and have none.
    assert (tmp_path / "flows").stat().st_size > 40
    assert (tmp_path / "flows.csv").read_text().count("\n") == 1


def test_standard_output_is_a_capture_alone_where_the_ready_line_stands_elsewhere(tmp_path: Path) -> None:
    model = make_model(tmp_path, "m")
    reading, ready = os.pipe()
    command = [*RECORDED_SERVER, "--endpoint", f"ipc://{tmp_path}/control.sock", "--ready-fd", str(ready)]
    with (
        (tmp_path / "out.pcap").open("wb") as out,
        subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL, pass_fds=[ready]) as child,
    ):
        try:
            os.close(ready)
            with os.fdopen(reading) as line, ReplayClient(json.loads(line.readline())["endpoint"]) as client:
                client.start([model], {"kind": "stdout"}, seed=FRAMES)
                assert client.wait().counters["frames_written"] == FRAMES
                client.shutdown()
            assert child.wait(300) == 0
        finally:
            child.kill()
    told = subprocess.run(
        ["capinfos", "-Mrc", tmp_path / "out.pcap"], check=True, capture_output=True, text=True
    ).stdout
    assert told.split()[-1] == str(FRAMES)
