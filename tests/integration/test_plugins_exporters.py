"""The installed configurations of softflowd and pmacct, with the real programs, in a network namespace."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from namespaces import loopback_namespace, wait_until
from nsstream_plugins.installer import Installer
from nsstream_plugins.lab import LAB
from nsstream_plugins.registry import load_plugin

from nsstream.chunk.journal_segment import read_messages
from nsstream.trace import FlowTable

SBIN = f"{os.environ.get('PATH', '')}:/usr/sbin"
TOOLS = ("softflowd", "softflowctl", "pmacctd", "nfacctd")
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not all(shutil.which(tool, path=SBIN) for tool in TOOLS), reason=f"needs {', '.join(TOOLS)}"),
]
PATIENCE_S = 300.0
FLOWS, PACKETS = 40, 5
SEND = f"""
import socket, time
while True:
    for n in range({FLOWS}):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.bind(("127.0.0.1", 20000 + n))
            for _ in range({PACKETS}):
                s.sendto(bytes(40), ("127.0.0.1", 9))
    time.sleep(0.1)
"""


@pytest.fixture
def share(tmp_path, monkeypatch) -> Path:
    """Where an ordinary installation has put the configurations."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(part for part in sys.path if part))
    for name in ("softflowd", "pmacct"):
        Installer("user").install(load_plugin(name))
    return tmp_path / ".local/share/nsstream"


@pytest.fixture
def inside() -> Iterator[list[str]]:
    with loopback_namespace() as command:
        yield command


def sockets_at(inside: list[str], port: int) -> list[list[str]]:
    """The lines of /proc/net/udp about a port in there, word by word."""
    told = subprocess.run([*inside, "cat", "/proc/net/udp"], capture_output=True, text=True, check=True).stdout
    return [line.split() for line in told.splitlines() if line.split()[1].endswith(f":{port:04X}")]


def has_port(inside: list[str], port: int) -> bool:
    return bool(sockets_at(inside, port))


def waiting_at(inside: list[str], port: int) -> int:
    """Octets that were received there and not taken."""
    return sum(int(words[4].partition(":")[2], 16) for words in sockets_at(inside, port))


def has_ring(inside: list[str]) -> bool:
    """Whether somebody captures in there."""
    told = subprocess.run([*inside, "cat", "/proc/net/packet"], capture_output=True, text=True, check=True).stdout
    return len(told.splitlines()) > 1


def softflowd(share: Path, tmp_path: Path) -> list[str]:
    places = f"-p {tmp_path}/softflowd.pid -c {tmp_path}/softflowd.ctl"
    started = f'exec softflowd -i "$interface" {places} $options -t udp=2 -t maxlife=2 -d'
    return ["sh", "-c", f'. "{share}/softflowd/nsstream.conf"; {started}']


def pmacctd(share: Path, tmp_path: Path) -> list[str]:
    text = (share / "pmacct/nsstream-export.conf").read_text()
    impatient = tmp_path / "pmacctd.conf"
    impatient.write_text(text.replace("maxlife=60", "maxlife=2"))
    return ["pmacctd", "-f", str(impatient), "-i", "lo"]


def flows_in(state: Path) -> dict[int, int]:
    """Packets to the port that was sent to, by source port, as the journal has them."""
    found: dict[int, int] = {}
    for path in state.glob("journal/*.arrows"):
        for rows, _, _ in read_messages(path):
            assert isinstance(rows, FlowTable)
            to_it = rows.destination_transport_port == 9
            ports, packets = rows.source_transport_port[to_it], rows.packet_delta_count[to_it]
            for port, count in zip(ports.tolist(), packets.tolist(), strict=True):
                found[port] = found.get(port, 0) + count
    return found


@pytest.mark.parametrize("exporter", [softflowd, pmacctd])
def test_an_exporter_that_is_configured_so_is_understood_flow_by_flow(exporter, share, inside, tmp_path):
    """Flows are told of after 2 s here, so that nobody has to wait for them to become old."""
    state = tmp_path / "state"
    command = [sys.executable, "-P", "-m", "nsstream_daemon", "ingest", "netflow:127.0.0.1:2055", "--state", str(state)]
    collector = subprocess.Popen([*inside, *command, "--chunk", "1h"], stdout=subprocess.DEVNULL)
    tool = sender = None
    try:
        wait_until(lambda: has_port(inside, 2055))
        tool = subprocess.Popen(
            [*inside, *exporter(share, tmp_path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, "PATH": SBIN}, start_new_session=True,
        )  # fmt: skip
        wait_until(lambda: has_ring(inside))
        # softflowd takes whole buffers of the kernel's alone, so that it needs traffic that goes on.
        sender = subprocess.Popen([*inside, sys.executable, "-c", SEND])
        wait_until(lambda: flows_in(state).keys() >= set(range(20_000, 20_000 + FLOWS)))
    finally:
        if sender is not None:
            sender.kill()
            sender.wait()
        if tool is not None:
            os.killpg(tool.pid, signal.SIGKILL)
            tool.wait()
        collector.terminate()
        collector.wait(PATIENCE_S)


def test_nfacctd_that_is_configured_so_takes_what_a_twin_exports(share, inside, tmp_path):
    whole, cut = tmp_path / "whole.pcap", tmp_path / "cut.pcap"
    whole.write_bytes(subprocess.run(["xz", "-dc", str(LAB)], capture_output=True, check=True).stdout)
    subprocess.run(["editcap", "-r", whole, cut, "1-3000"], check=True)
    conf = tmp_path / "collect.conf"  # its writers, of every minute and of the end, would share one pipe
    conf.write_text((share / "pmacct/nsstream-collect.conf").read_text().replace("time: 60", "time: 3600"))
    collector = subprocess.Popen(
        [*inside, "nfacctd", "-f", conf], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, "PATH": SBIN},
    )  # fmt: skip
    wait_until(lambda: has_port(inside, 9996))
    script = (
        "import sys\nfrom nsstream.replay import spawn_server\nwith spawn_server() as client:\n"
        "    client.start({'kind': 'recorded', 'path': sys.argv[1]},"
        " {'kind': 'netflow', 'address': '127.0.0.1', 'port': 9996}, mtu=9216)\n"
        "    print(client.wait().packets_written)\n"
    )
    done = subprocess.run([*inside, sys.executable, "-c", script, cut], capture_output=True, text=True, check=True)
    wait_until(lambda: not waiting_at(inside, 9996))
    collector.send_signal(signal.SIGINT)
    told, _ = collector.communicate(timeout=PATIENCE_S)
    rows = [line.split(",") for line in told.splitlines() if line.count(",") > 5]
    at = rows[0].index("PACKETS")
    packets = sum(int(row[at]) for row in rows[1:])
    assert int(done.stdout) * 0.9 < packets <= int(done.stdout)  # ARP and the like are no flows
