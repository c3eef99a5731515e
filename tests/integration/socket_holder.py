"""What stands around a service that is restarted: who holds its socket, and an exporter that never pauses."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence

START = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="netflow")
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""
RATE_HZ = 2000
DATAGRAMS = 200_000  # at most: 100 s, if numba has to compile meanwhile
DEADLINE_S = 300.0


class Exporter(threading.Thread):
    """Sends numbered flows, one a datagram, at an even rate, until told to stop but never more than `DATAGRAMS`."""

    def __init__(self, address: tuple[str, int], export: Callable[[int], bytes]) -> None:
        super().__init__(daemon=True)
        self.sent = 0
        self._address = address
        self._export = export
        self.is_told_to_stop = threading.Event()

    def send_first(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(self._export(0), self._address)
        self.sent = 1

    def run(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            start = time.monotonic() - self.sent / RATE_HZ
            while self.sent < DATAGRAMS and not self.is_told_to_stop.is_set():
                while self.sent < min(DATAGRAMS, (time.monotonic() - start) * RATE_HZ):
                    sock.sendto(self._export(self.sent), self._address)
                    self.sent += 1
                time.sleep(0.002)


def start_with_socket(
    sock: socket.socket, arguments: Sequence[str], environ: Mapping[str, str] = os.environ, **options: object
) -> subprocess.Popen[str]:
    """Start Python with these arguments as systemd would: the socket is its descriptor 3."""
    command = [sys.executable, "-c", START, str(sock.fileno()), *arguments]
    return subprocess.Popen(command, pass_fds=[sock.fileno()], text=True, env=dict(environ), **options)  # type: ignore[call-overload, no-any-return]


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)
