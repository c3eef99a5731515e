"""nsstream ingest on a socket that a service manager holds: restarted, or killed, under 2,000 exports a second.

The exporter tells its template and its sampling once, at the very beginning: who comes later knows them by what its
predecessor left in the state directory.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from made_netflow import data_set, template_set, v9
from socket_holder import DATAGRAMS, DEADLINE_S, Exporter, start_with_socket, wait_until

from nsstream.capture.sockets import SocketMark, bind_socket, grow_receive_buffer
from nsstream.chunk import ChunkStore
from nsstream.chunk.chunk import digest_of

RESTARTS = 3
KILLS = 6
SAMPLING = 100
OPTIONS_TEMPLATE = struct.pack("!HHHHHHHHH", 1, 18, 257, 4, 4, 1, 4, 34, 4)
OPTIONS = struct.pack("!HHII", 257, 12, 0, SAMPLING)
ONLY_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs a receive buffer beyond net.core.rmem_max, as systemd")


def export(number: int) -> bytes:
    """Flow `number`, and with the first one all that the exporter ever says of itself."""
    told = [template_set(9), OPTIONS_TEMPLATE, OPTIONS] if number == 0 else []
    return v9(*told, data_set(number, 1), sequence=number)


class Ingest:
    """One life of the command after the other, all on one socket and one state directory."""

    def __init__(self, directory: Path) -> None:
        self.socket = bind_socket("127.0.0.1", 0, socket.SOCK_DGRAM)
        grow_receive_buffer(self.socket, 256 << 20)  # nobody reads while a life begins
        self.state = directory / "state"
        self.accounts: list[dict[str, str]] = []
        self.child: subprocess.Popen[str] | None = None

    def start(self) -> None:
        arguments = ["-m", "nsstream_daemon", "ingest", "netflow:@", "--state", str(self.state)]
        arguments += ["--chunk", "1s", "--lateness", "3s"]
        self.before_ns = self.committed()[0]
        self.child = start_with_socket(self.socket, arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def committed(self) -> tuple[int, int]:
        """Time of the latest row that is committed, and the rows that the source had given."""
        path = self.state / "journal" / "commit.json"
        if not path.exists():
            return -1, 0
        commit = json.loads(path.read_text())
        return commit["latest_ns"], commit["progress"]["total"].get("kept", 0)

    def of_this_life(self) -> int:
        """Rows of this life that are committed."""
        latest_ns, kept = self.committed()
        return kept if latest_ns > self.before_ns else 0

    def stop(self) -> None:
        assert self.child is not None
        self.child.send_signal(signal.SIGTERM)
        out, err = self.child.communicate(timeout=DEADLINE_S)
        assert (self.child.returncode, "Traceback" in err) == (0, False), err
        self.accounts.append(dict(line.rsplit(maxsplit=1) for line in out.splitlines()))

    def kill(self) -> None:
        assert self.child is not None
        self.child.kill()
        self.child.communicate(timeout=DEADLINE_S)

    def numbers(self) -> np.ndarray:
        """Of all rows, in the order of chunks; every chunk is whole."""
        store = ChunkStore(self.state / "chunks")
        assert {path.suffix for path in store.directory.iterdir()} == {".arrow"}
        found = []
        for info in store.list():
            chunk = store.read(info.id)
            assert digest_of(chunk.id, chunk.table) == chunk.digest
            chunk.tally.check()
            assert chunk.tally.kept == len(chunk.flows)
            assert set(chunk.flows.sampling_interval.tolist()) <= {SAMPLING}
            found.append(np.ascontiguousarray(chunk.flows.source_address[:, 12:]).view(">u4")[:, 0].astype(np.int64))
        return np.sort(np.concatenate(found))

    def close(self) -> None:
        if self.child is not None and self.child.poll() is None:
            self.kill()
        self.socket.close()


@pytest.fixture
def ingest(tmp_path: Path) -> Iterator[Ingest]:
    ingest = Ingest(tmp_path)
    yield ingest
    ingest.close()


@pytest.fixture
def exporter(ingest: Ingest) -> Iterator[Exporter]:
    exporter = Exporter(ingest.socket.getsockname(), export)
    yield exporter
    exporter.is_told_to_stop.set()


@pytest.mark.root
@pytest.mark.slow
@ONLY_ROOT
def test_three_hand_overs_lose_nothing_and_templates_survive(ingest: Ingest, exporter: Exporter) -> None:
    ingest.start()
    exporter.send_first()
    wait_until(lambda: ingest.of_this_life() == 1)  # numba may have had to compile
    exporter.start()
    for _ in range(RESTARTS):
        wait_until(lambda: ingest.of_this_life() > 500)
        ingest.stop()
        assert exporter.is_alive(), "the exporter must send all the time"
        ingest.start()
    wait_until(lambda: ingest.of_this_life() > 500)
    exporter.is_told_to_stop.set()
    exporter.join(DEADLINE_S)
    before = sum(int(account["kept"].replace(",", "")) for account in ingest.accounts)
    wait_until(lambda: ingest.of_this_life() == exporter.sent - before)
    ingest.stop()
    assert exporter.sent < DATAGRAMS
    assert [sorted(account) for account in ingest.accounts] == [["chunks", "kept", "offered"]] * (RESTARTS + 1)
    np.testing.assert_array_equal(ingest.numbers(), np.arange(exporter.sent))
    assert SocketMark.of(ingest.socket).drop_count == 0


@pytest.mark.root
@pytest.mark.slow
@ONLY_ROOT
def test_kills_at_random_moments_lose_nothing_that_was_committed(ingest: Ingest, exporter: Exporter) -> None:
    rng = random.Random(11)
    ingest.start()
    exporter.send_first()
    wait_until(lambda: ingest.of_this_life() == 1)
    exporter.start()
    committed = []
    for life in range(KILLS):
        if life % 3:  # else it is killed while it begins
            wait_until(lambda: ingest.of_this_life() > 1)
        exporter.is_told_to_stop.wait(rng.uniform(0, 2))  # a random moment
        ingest.kill()
        committed.append(ingest.of_this_life())
        assert exporter.is_alive(), "the exporter must send all the time"
        ingest.start()
    exporter.is_told_to_stop.set()
    exporter.join(DEADLINE_S)
    queued = ingest.socket.getsockname()[1]
    wait_until(lambda: ingest.of_this_life() > 0 and not octets_queued(queued))
    ingest.stop()
    last = {name: int(count.replace(",", "")) for name, count in ingest.accounts[-1].items()}
    committed.append(last["kept"] - last.get("recovered", 0))
    numbers = ingest.numbers()
    assert len(numbers) == len(set(numbers.tolist())) == sum(committed)
    lives = [life for life in np.split(numbers, np.cumsum(committed)[:-1]) if len(life)]
    assert len(lives) > KILLS // 2
    for life in lives:  # what is missing is what came last before a kill
        assert life[-1] - life[0] == len(life) - 1
    assert numbers[0] == 0
    assert numbers[-1] == exporter.sent - 1
    assert set(last) <= {"chunks", "offered", "kept", "recovered"}


@pytest.mark.root
@pytest.mark.slow
@ONLY_ROOT
def test_drops_of_the_kernel_are_counted_once_over_lives(ingest: Ingest) -> None:
    address = ingest.socket.getsockname()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(export(0), address)
        ingest.start()
        wait_until(lambda: ingest.of_this_life() == 1)
        ingest.stop()
        ingest.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        for number in range(1, 1000):
            sender.sendto(export(number), address)
        dropped = SocketMark.of(ingest.socket).drop_count
        assert dropped > 0
        for number in (1000, 1001):
            ingest.start()
            wait_until(lambda: ingest.of_this_life() > 0 and not octets_queued(address[1]))
            ingest.stop()
            sender.sendto(export(number), address)
    assert SocketMark.of(ingest.socket).drop_count == dropped
    told = [int(account.get("dropped socket", "0").replace(",", "")) for account in ingest.accounts]
    assert told == [0, dropped, 0]


def octets_queued(port: int) -> int:
    rows = (line.split() for line in Path("/proc/net/udp").read_text().splitlines()[1:])
    return next(int(row[4].split(":")[1], 16) for row in rows if row[1].endswith(f":{port:04X}"))


@pytest.mark.skipif(shutil.which("systemd-socket-activate") is None, reason="needs systemd-socket-activate")
def test_a_socket_of_systemd_is_found_by_its_name(tmp_path: Path) -> None:
    with bind_socket("127.0.0.1", 0, socket.SOCK_DGRAM) as free:
        address = free.getsockname()
    state = tmp_path / "state"
    command = ["systemd-socket-activate", "--datagram", f"--listen=127.0.0.1:{address[1]}", "--fdname=netflow"]
    command += ["--setenv=PYTHONPATH", sys.executable, "-m", "nsstream_daemon"]
    command += ["ingest", "netflow:@netflow", "--state", str(state)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: f":{address[1]:04X} " in Path("/proc/net/udp").read_text())
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(export(0), address)
        commit = state / "journal" / "commit.json"
        wait_until(lambda: commit.exists() and json.loads(commit.read_text())["progress"]["total"].get("kept") == 1)
        child.send_signal(signal.SIGTERM)
        out, err = child.communicate(timeout=DEADLINE_S)
    finally:
        if child.poll() is None:
            child.kill()
            child.communicate()
    assert (child.returncode, ["kept", "1"] in [line.split() for line in out.splitlines()]) == (0, True), err


def test_a_socket_that_nobody_passed_is_asked_for_in_one_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "nsstream_daemon", "ingest", "netflow:@netflow", "--state", str(tmp_path / "s")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 1
    assert done.stderr == (
        "nsstream: one socket named 'netflow' must be passed in by the service manager (LISTEN_FDS); passed: none\n"
    )
