"""nfdump's own programs, run for real: nfcapd fed by softflowd on loopback, and what nfdump prints of a file."""

from __future__ import annotations

import csv
import io
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

DEADLINE_S = 300.0
NEEDS_NFDUMP = pytest.mark.skipif(shutil.which("nfdump") is None, reason="nfdump is not installed")
NEEDS_SOFTFLOWD = pytest.mark.skipif(shutil.which("softflowd") is None, reason="softflowd is not installed")


def collect(capture: Path, directory: Path, version: int, *options: str) -> Path:
    """The file that nfcapd writes of the flows that softflowd exports of a capture."""
    directory.mkdir()
    port = free_port()
    nfcapd = subprocess.Popen(
        ["nfcapd", "-w", str(directory), "-p", str(port), "-b", "127.0.0.1", "-t", "3600", *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: received_and_waiting(port) == 0)
        exporter = ["softflowd", "-r", str(capture), "-n", f"127.0.0.1:{port}", "-v", str(version), "-d"]
        places = ["-p", str(directory / "softflowd.pid"), "-c", "none"]  # with a control socket it never ends
        subprocess.run([*exporter, *places], check=True, capture_output=True, timeout=DEADLINE_S)
        wait_until_taken(port)
    finally:
        nfcapd.terminate()
        nfcapd.wait(DEADLINE_S)
    (path,) = directory.glob("nfcapd.2*")
    return path


def nfdump_rows(path: Path) -> list[dict[str, str]]:
    """What `nfdump -o csv` prints of a file, by its own column names, times to the millisecond from `-o fmt`."""
    text = nfdump("-r", str(path), "-o", "csv")
    if "\nNo matching flows" in text:  # nfcapd begins a file every five minutes by the clock
        return []
    table = text.partition("\nSummary")[0]
    rows = list(csv.DictReader(io.StringIO(table)))
    times = nfdump("-q", "-r", str(path), "-o", "fmt:%ts|%te").splitlines()
    assert len(times) == len(rows)
    for row, line in zip(rows, times, strict=True):
        row["ts"], row["te"] = (part.strip() for part in line.split("|"))
    return rows


def nfdump(*arguments: str) -> str:
    done = subprocess.run(["nfdump", *arguments], check=True, capture_output=True, timeout=300, env={"TZ": "UTC"})
    return done.stdout.decode()


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def received_and_waiting(port: int) -> int | None:
    """Octets in the receive queue of the UDP socket of this port; None where there is no such socket."""
    for line in Path("/proc/net/udp").read_text().splitlines()[1:]:
        cells = line.split()
        if int(cells[1].partition(":")[2], 16) == port:
            return int(cells[4].partition(":")[2], 16)
    return None


def wait_until_taken(port: int) -> None:
    """Wait until nfcapd has worked on all that was sent to it.

    It drops the datagram in hand when SIGTERM comes: so one that is no export follows, which leaves the queue when
    the last of the exports is done with.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.sendto(bytes(24), ("127.0.0.1", port))
    wait_until(lambda: received_and_waiting(port) == 0)


def wait_until(holds: object) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)
