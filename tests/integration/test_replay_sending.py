"""A replay server that sends: its rules, a run on an interface that is steered, and tcpreplay killed under it."""

import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from namespaces import namespace
from replay_lab import PATIENCE_S, RECORDED_SERVER, make_model, status_when

from nsstream.replay import RefusedError, ReplayClient, spawn_server
from nsstream.replay.sink import check_counters

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

from bars.veth import VethPair, veth_pair

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("tcpreplay") is None, reason="needs tcpreplay"),
]


@pytest.fixture
def pair() -> Iterator[VethPair]:
    with veth_pair() as made:
        yield made


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("endless"), "endless")


def server_in(pair: VethPair, *options: str):
    return spawn_server(command=["ip", "netns", "exec", pair.sender, *RECORDED_SERVER, *options])


def wait_until(client: ReplayClient, is_so) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not is_so(status := client.status()):
        check_counters(status.counters)
        assert time.monotonic() < until_s, status
        assert status.error is None, status


def children_of(pid: int) -> list[int]:
    """The tcpreplay processes that a process started."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in task.joinpath("children").read_text().split():
            if Path(f"/proc/{child}/comm").read_text().strip() == "tcpreplay":
                found.append(int(child))
    return found


def test_a_server_sends_only_where_its_start_says(pair: VethPair, endless: Path) -> None:
    with server_in(pair) as client:
        for kind in ("interface", "tcpreplay"):
            with pytest.raises(RefusedError, match="tx: this server's configuration does not name it") as refused:
                client.start([endless], {"kind": kind, "interface": "tx"})
            assert refused.value.code == "sink"
        assert client.status().state == "idle"


def test_a_run_on_an_interface_is_paused_hastened_and_stopped(pair: VethPair, endless: Path) -> None:
    with namespace(pair.receiver):
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    with sock, server_in(pair, "--send-on=tx", "--max-packets-per-second=5000") as client:
        sock.bind(("rx", 3))
        sock.settimeout(PATIENCE_S)
        client.start([endless], {"kind": "interface", "interface": "tx"}, rate=1.0)
        stamps = [int.from_bytes(sock.recv(2048)[-8:], "little") for _ in range(300)]
        assert stamps == list(range(stamps[0], stamps[0] + 300_000_000, 1_000_000))  # all, and in order
        client.pause()
        wait_until(client, lambda s: s.counters["frames_waiting"] == 0)
        paused = client.status().counters["frames_written"]
        client.set_rate("max")
        client.resume()
        wait_until(client, lambda s: s.counters["frames_written"] > paused + 2000)
        assert client.status().counters["cap_waits"] > 0
        client.stop()
        status = status_when(client, lambda s: s.state == "stopped")
    check_counters(status.counters)
    assert status.counters["frames"] >= status.counters["frames_written"] > 2300


def test_a_run_survives_a_killed_tcpreplay(pair: VethPair, endless: Path) -> None:
    before = pair.received()[0]
    with server_in(pair, "--send-on=tx") as client:
        client.start([endless], {"kind": "tcpreplay", "interface": "tx"}, rate=5.0)
        for deaths in range(1, 3):
            written = client.status().counters["frames_written"]
            wait_until(client, lambda s, w=written: s.counters["frames_written"] > w + 500)
            [pid] = children_of(server_pid(client))
            os.kill(pid, signal.SIGKILL)
            wait_until(client, lambda s, d=deaths: s.counters["child_deaths"] == d)
        written = client.status().counters["frames_written"]
        wait_until(client, lambda s: s.counters["frames_written"] > written + 500)
        client.stop()
        status = status_when(client, lambda s: s.state == "stopped")
        assert not children_of(server_pid(client))
    counters = status.counters
    check_counters(counters)
    received = pair.received()[0] - before
    assert counters["frames_written"] <= received <= counters["frames"]
    assert counters["frames_lost_with_child"] > 0


def server_pid(client: ReplayClient) -> int:
    """Who listens at the client's endpoint."""
    path = client.endpoint.removeprefix("ipc://")
    peer = socket.socket(socket.AF_UNIX)
    with peer:
        peer.connect(path)
        credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int.from_bytes(credentials[:4], sys.byteorder)
