"""nsstream ingest on eve.json while it is written to, rotated by logrotate itself, and ingest is killed with -9."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_logs import eve_line, eve_stats, numbers_of

from nsstream.chunk import ChunkStore
from nsstream.counters import Tally
from nsstream.trace import FlowTable

DEADLINE_S = 300.0
ROTATIONS = 4
STEP = 400  # flows between two acts
CUT = b'{"cut'


def wait_for(is_so: Callable[[], bool]) -> None:
    until_s = time.monotonic() + DEADLINE_S
    while not is_so():
        assert time.monotonic() < until_s
        time.sleep(0.01)


def start(source: str, state: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "nsstream_daemon", "ingest", source, "--state", str(state), "--chunk", "60s"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    _, said = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, "Traceback" in said) == (0, False), said


def stored(state: Path) -> tuple[Tally, list[int]]:
    """The account of all chunks, and which flows are in them."""
    store, told, numbers = ChunkStore(state / "chunks"), Tally(), []
    for info in store.list():
        told.add(info.tally)
        table: Any = store.read(info.id).table
        assert isinstance(table, FlowTable)
        numbers += numbers_of(table.source_address)
    told.check()
    return told, numbers


def position(state: Path) -> dict[str, Any]:
    """Where what is committed ends; nothing before the first commit."""
    with contextlib.suppress(FileNotFoundError):  # a later commit takes its place
        name = json.loads((state / "journal" / "commit.json").read_text())["progress"]["handover"]
        return json.loads((state / "handover" / name).read_text()) if name else {}
    return {}


def is_at_end(state: Path, log: Path) -> bool:
    """Whether what is committed ends in front of the half line that the file ends with."""
    whole = log.stat().st_size - len(CUT)
    stands = position(state)
    return bool(stands) and stands["offset"] == whole and stands["head"][0] == min(whole, 1024)


@pytest.mark.parametrize("way", ["create", "copytruncate"])
def test_each_flow_comes_once_over_logrotate_and_kills(way: str, tmp_path: Path) -> None:
    if shutil.which("logrotate") is None:
        pytest.skip("needs logrotate")
    log, state, config = tmp_path / "eve.json", tmp_path / "state", tmp_path / "logrotate.conf"
    config.write_text(f"{log} {{\n rotate 20\n {way}\n}}\n")
    config.chmod(0o644)
    flow = 0
    process = start(f"eve:{log}", state)
    for act in range(ROTATIONS):
        with log.open("ab", buffering=0) as writer:
            for _ in range(4):
                line = eve_line(flow)
                writer.write(eve_stats() + line[:40])  # a line in two pieces
                writer.write(line[40:] + b"".join(map(eve_line, range(flow + 1, flow + STEP // 4))))
                flow += STEP // 4
            if act % 2 == 0:
                wait_for(lambda: position(state).get("offset", 0) > 0)
            process.kill()  # at odd acts at any time at all, with or without anything of it read
            process.communicate()
            rotate = ["logrotate", "--force", "--state", str(tmp_path / "status"), str(config)]
            subprocess.run(rotate, check=True)
        process = start(f"eve:{log}", state)
    with log.open("ab") as writer:
        writer.write(eve_line(flow) + CUT)
    flow += 1
    wait_for(lambda: is_at_end(state, log))
    stop(process)
    told, numbers = stored(state)
    np.testing.assert_array_equal(np.sort(numbers), np.arange(flow))
    assert (told.kept, dict(told.unsupported)) == (flow, {"other_record": 4 * ROTATIONS})
    assert not told.malformed
    assert not told.dropped


def test_flows_come_over_a_unix_socket_of_which_nothing_is_left(tmp_path: Path) -> None:
    path, state = tmp_path / "eve.sock", tmp_path / "state"
    process = start(f"eve-socket:{path}", state)
    wait_for(path.exists)
    flows = 3000
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sender:
        wait_for(lambda: not sender.connect_ex(os.fspath(path)))
        sender.sendall(b"".join([eve_stats(), *map(eve_line, range(flows)), b"no json\n", b"x" * 200_000 + b"\n"]))
        sender.sendall(CUT)
        sender.shutdown(socket.SHUT_WR)
        sender.settimeout(DEADLINE_S)
        assert sender.recv(1) == b""  # which closes it when all is read
    stop(process)
    assert not path.exists()
    told, numbers = stored(state)
    np.testing.assert_array_equal(np.sort(numbers), np.arange(flows))
    assert dict(told.malformed) == {"bad_json": 1, "long_line": 1, "cut_record": 1}
