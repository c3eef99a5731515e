"""Restarts lose nothing: the socket is held by whoever started the service, as systemd does, and queues meanwhile."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made_netflow import data_set, ipfix, template_set, v5
from socket_holder import DATAGRAMS, DEADLINE_S, Exporter, start_with_socket, wait_until

from nsstream.capture.sockets import SocketMark, bind_socket, grow_receive_buffer

SERVICE = Path(__file__).with_name("netflow_service.py")
RESTARTS = 3


class Service:
    """One life of the service after the other, all on one socket."""

    def __init__(self, directory: Path) -> None:
        self.socket = bind_socket("127.0.0.1", 0, socket.SOCK_DGRAM)
        self.numbers, self.state = directory / "numbers", directory / "state.json"
        self.tallies: list[dict[str, object]] = []
        self.numbers.touch()

    def start(self) -> None:
        self.child = start_with_socket(self.socket, [str(SERVICE), str(self.numbers), str(self.state)])

    def stop(self) -> None:
        self.child.send_signal(signal.SIGTERM)
        assert self.child.wait(DEADLINE_S) == 0
        self.tallies.append(json.loads(self.state.read_text())["tally"])

    def count(self) -> int:
        return self.numbers.stat().st_size // 8

    def close(self) -> None:
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait()
        self.socket.close()


def v5_export(number: int) -> bytes:
    return v5(number, 1)


def ipfix_export(number: int) -> bytes:
    """The template comes with every hundredth datagram: what a new life is sent before it waits until then."""
    sets = [data_set(number, 1)]
    return ipfix(*([template_set(), *sets] if number % 100 == 0 else sets), sequence=number)


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="needs a receive buffer beyond net.core.rmem_max, as systemd makes")
@pytest.mark.parametrize("export", [v5_export, ipfix_export])
def test_three_restarts_under_load_lose_nothing(tmp_path: Path, export: Callable[[int], bytes]) -> None:
    service = Service(tmp_path)
    grow_receive_buffer(service.socket, 256 << 20)  # nobody reads while a life begins
    exporter = Exporter(service.socket.getsockname(), export)
    try:
        service.start()
        exporter.send_first()
        wait_until(lambda: service.count() == 1)  # numba may have had to compile
        exporter.start()
        for _ in range(RESTARTS):
            kept = service.count()
            wait_until(lambda: service.count() > kept + 500)  # noqa: B023
            service.stop()
            assert exporter.is_alive(), "the exporter must send all the time"
            service.start()
        kept = service.count()
        wait_until(lambda: service.count() > kept + 500)
        exporter.is_told_to_stop.set()
        exporter.join(DEADLINE_S)
        wait_until(lambda: service.count() == exporter.sent)
        service.stop()
    finally:
        exporter.is_told_to_stop.set()
        service.close()
    assert exporter.sent < DATAGRAMS
    np.testing.assert_array_equal(np.fromfile(service.numbers, np.int64), np.arange(exporter.sent))
    assert sum(int(str(tally["kept"])) for tally in service.tallies) == exporter.sent
    assert all(tally["offered"] == tally["kept"] for tally in service.tallies)
    assert len(service.tallies) == RESTARTS + 1


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="needs a receive buffer beyond net.core.rmem_max, as systemd makes")
def test_what_is_dropped_while_nobody_reads_is_counted_by_the_next_life_once(tmp_path: Path) -> None:
    service = Service(tmp_path)
    try:
        service.start()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(v5(0, 1), service.socket.getsockname())
            wait_until(lambda: service.count() == 1)
            service.stop()
            service.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            for number in range(1, 1000):
                sock.sendto(v5(number, 1), service.socket.getsockname())
        dropped = SocketMark.of(service.socket).drop_count
        assert dropped > 0
        for life in range(2):
            service.start()
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                wait_until(lambda: service.count() == 1000 - dropped + life)  # noqa: B023
                sock.sendto(v5(1000 + life, 1), service.socket.getsockname())
                wait_until(lambda: service.count() == 1001 - dropped + life)  # noqa: B023
            service.stop()
    finally:
        service.close()
    assert [tally["dropped"] for tally in service.tallies] == [{}, {"socket": dropped}, {}]
