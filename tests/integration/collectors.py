"""Real collectors on loopback, nfcapd and pmacct's nfacctd, and what each made of what a sink of ours sent to it."""

from __future__ import annotations

import csv
import os
import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from nfdump_tools import DEADLINE_S, free_port, nfdump, received_and_waiting, wait_until, wait_until_taken

NEEDS_NFACCTD = pytest.mark.skipif(shutil.which("nfacctd") is None, reason="pmacct is not installed")

_NFACCTD = """daemonize: false
nfacctd_ip: 127.0.0.1
nfacctd_port: {port}
nfacctd_disable_checks: false
nfacctd_renormalize: true
nfacctd_pipe_size: 4000000
timestamps_utc: true
plugins: print
aggregate: src_host, dst_host, src_port, dst_port, proto, tos, timestamp_start, timestamp_end
print_output: csv
print_output_file: {directory}/flows.csv
print_output_file_append: true
print_refresh_time: 1
"""
_IS_READY = "Purging cache - END"  # the plugin runs, too


def collect_with_nfcapd(directory: Path, send: Callable[[int], None]) -> Path:
    """The file of nfcapd with what `send` sent to the port that it is given."""
    directory.mkdir()
    port = free_port()
    nfcapd = subprocess.Popen(
        ["nfcapd", "-w", str(directory), "-p", str(port), "-b", "127.0.0.1", "-t", "3600", "-B", "8388608"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: received_and_waiting(port) == 0)
        send(port)
        wait_until_taken(port)
    finally:
        nfcapd.terminate()
        nfcapd.wait(DEADLINE_S)
    (path,) = directory.glob("nfcapd.2*")
    return path


def facts_of_nfcapd(path: Path) -> dict[str, int]:
    """What the file says of itself: flows, packets, bytes, sequence failures."""
    lines = (line.partition(": ") for line in nfdump("-I", "-r", str(path)).splitlines())
    return {name: int(value) for name, _, value in lines if value.isdecimal()}


def collect_with_nfacctd(
    directory: Path, send: Callable[[int], None], flow_count: int
) -> tuple[Counter[tuple[str, ...]], list[str]]:
    """What nfacctd printed of `flow_count` flows, by line, and its complaints.

    A line: source, destination, ports, protocol, class of service, start, end, packets, octets.
    """
    directory.mkdir()
    port = free_port()
    settings = directory / "nfacctd.conf"
    settings.write_text(_NFACCTD.format(port=port, directory=directory))
    log = directory / "nfacctd.log"
    with log.open("w") as file:
        nfacctd = subprocess.Popen(
            ["nfacctd", "-f", str(settings)], stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            wait_until(lambda: _IS_READY in log.read_text())
            send(port)
            wait_until(lambda: _printed(log) >= flow_count and (directory / "flows.csv").exists())
        finally:
            os.killpg(nfacctd.pid, signal.SIGKILL)  # told to end, it may wait for its plugin forever
            nfacctd.wait(DEADLINE_S)
    with (directory / "flows.csv").open() as lines:
        rows = Counter(tuple(row) for row in csv.reader(lines) if row[0] != "SRC_IP")
    return rows, [line for line in log.read_text().splitlines() if not line.startswith("INFO")]


def _printed(log: Path) -> int:
    """How many entries the printing plugin has written out."""
    return sum(int(count) for count in re.findall(r"QN: (\d+)/", log.read_text()))
