"""pmacct's tee, with the configuration that we ship: softflowd's exports come to nfcapd, and to us beside it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from exporters import Flow, flows_of, flows_of_nfcapd, run
from made_captures import write_capture
from nfdump_tools import DEADLINE_S, NEEDS_NFDUMP, free_port, received_and_waiting, wait_until, wait_until_taken
from nsstream_plugins.pmacct_tee import PmacctTeeSource

from nsstream.trace import FlowTable

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "plugins" / "nsstream_plugins" / "data" / "pmacct"
ESTABLISHED = "01"  # in /proc/net/tcp
NEEDED = ("unshare", "ip", "tcpreplay", "softflowd", "nfacctd", "nfcapd", "nfdump", "xz")

pytestmark = [
    NEEDS_NFDUMP,
    pytest.mark.skipif(not all(map(shutil.which, ("softflowd", "nfacctd"))), reason="needs softflowd and pmacct"),
]


def free_tcp_port() -> int:
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        return int(chosen.getsockname()[1])


def has_peer(port: int) -> bool:
    """Whether somebody has connected to a TCP port of this machine."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(int(cells[1].partition(":")[2], 16) == port and cells[3] == ESTABLISHED for cells in lines)


class Tee:
    """nfacctd by the shipped files, on ports of its own, and nfcapd behind it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port, self.collector, self.zeromq = free_port(), free_port(), free_tcp_port()
        ports = {"2055": self.port, "2056": self.collector, "50001": self.zeromq}
        for path in SHIPPED.iterdir():
            text = re.sub(r"\b(2055|2056|50001)\b", lambda found: str(ports[found[0]]), path.read_text())
            text = text.replace("/etc/pmacct", str(directory))
            if os.geteuid():
                text = text.replace("tee_transparent: true", "tee_transparent: false")
            (directory / path.name).write_text(text)
        (directory / "nfcapd").mkdir()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        command = [
            "nfcapd",
            "-w",
            self.directory / "nfcapd",
            "-p",
            str(self.collector),
            "-b",
            "127.0.0.1",
            "-t",
            "3600",
        ]
        nfcapd = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        log = (self.directory / "nfacctd.log").open("w")
        nfacctd = subprocess.Popen(
            ["nfacctd", "-f", str(self.directory / "nsstream-tee.conf")], stdout=log, stderr=log, start_new_session=True
        )
        try:
            wait_until(lambda: received_and_waiting(self.collector) == 0)
            wait_until(lambda: received_and_waiting(self.port) == 0 and "successfully" in self.said())
            yield
            wait_until(lambda: received_and_waiting(self.port) == 0)
            wait_until_taken(self.collector)
        finally:
            nfacctd.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                nfacctd.wait(DEADLINE_S)
            nfcapd.terminate()
            nfcapd.wait(DEADLINE_S)
            with contextlib.suppress(ProcessLookupError):  # its plugin, which is a process of its group
                os.killpg(nfacctd.pid, signal.SIGKILL)
            log.close()

    def said(self) -> str:
        return (self.directory / "nfacctd.log").read_text()

    def export(self, capture: Path) -> None:
        places = ["-p", str(self.directory / "pid"), "-c", "none"]
        run("softflowd", "-r", str(capture), "-n", f"127.0.0.1:{self.port}", "-v", "9", "-d", *places)


def collected(tee: Tee) -> Counter[Flow]:
    return flows_of_nfcapd(tee.directory)


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_capture(tmp_path_factory.mktemp("capture") / "made.pcap", conversations=300)


def test_we_have_what_the_collector_has(capture: Path, tmp_path: Path) -> None:
    tee = Tee(tmp_path)
    source = PmacctTeeSource(f"tcp://127.0.0.1:{tee.zeromq}")
    tables = []
    with tee.running():
        source.open()
        wait_until(lambda: has_peer(tee.zeromq))
        tee.export(capture)
        idle = 0
        while not tables or idle < 5:  # a second without any
            batch = source.read_batch()
            assert batch is not None
            source.tally.check()
            idle = 0 if len(batch) else idle + 1
            tables += [batch] if len(batch) else []
    source.close()
    ours = FlowTable.concatenate(tables)
    assert flows_of(ours) == collected(tee)
    assert source.tally.kept == source.tally.offered == len(ours) > 300
    assert {bytes(address) for address in ours.exporter_address} == {bytes(10) + b"\xff\xff\x7f\0\0\1"}
    assert "Queue full" not in tee.said()


def test_the_collector_has_all_where_nobody_takes_ours(capture: Path, tmp_path: Path) -> None:
    taken, left = tmp_path / "taken", tmp_path / "left"
    for directory in (taken, left):
        directory.mkdir()
        tee = Tee(directory)
        source = PmacctTeeSource(f"tcp://127.0.0.1:{tee.zeromq}")
        with tee.running(), contextlib.closing(source):
            if directory == taken:
                source.open()
                wait_until(lambda tee=tee: has_peer(tee.zeromq))
            tee.export(capture)
    assert flows_of_nfcapd(left) == flows_of_nfcapd(taken)
    assert "Queue full" in (left / "nfacctd.log").read_text()  # which nfacctd says, and goes on


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.skipif(not all(map(shutil.which, NEEDED)), reason=f"needs {', '.join(NEEDED)}")
def test_the_sidecar_leaves_the_collector_as_it_was_and_its_twin_is_collected(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "bench" / "sidecar.py"), "--seconds", "8", "--steps", "2"]
    done = subprocess.run(
        [*command, "--directory", str(tmp_path / "lane")], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
