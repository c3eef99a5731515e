"""The installed helpers of dumpcap, tcpdump and nfdump, with the real tools: every packet and every flow, once."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from namespaces import loopback_namespace, wait_until
from nfdump_tools import free_port, received_and_waiting, wait_until_taken
from nsstream_plugins.handover import hand_over, trim
from nsstream_plugins.installer import Installer
from nsstream_plugins.lab import LAB
from nsstream_plugins.registry import load_plugin
from nsstream_plugins.tcpdump import is_confined

from nsstream.chunk import ChunkStore
from nsstream.errors import InputError

TOOLS = ("dumpcap", "tcpdump", "nfcapd", "nfdump", "softflowd")
pytestmark = pytest.mark.skipif(not all(map(shutil.which, TOOLS)), reason=f"needs {', '.join(TOOLS)}")
PATIENCE_S = 300.0
FIRST_PORT = 20_000
DATAGRAMS = 3000
SEND = f"""
import socket, sys, time
began = time.monotonic()
for n in range({DATAGRAMS}):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", {FIRST_PORT} + n))
        s.sendto(bytes(40), ("127.0.0.1", 9))
    time.sleep(max(began + n * 4.0 / {DATAGRAMS} - time.monotonic(), 0))
"""


def needs_root(test):
    return pytest.mark.root(pytest.mark.skipif(os.geteuid() != 0, reason="needs root")(test))


@pytest.fixture
def programs(tmp_path, monkeypatch) -> Path:
    """Where an ordinary installation has put the helpers."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(part for part in sys.path if part))
    for name in ("dumpcap", "tcpdump", "nfdump"):
        Installer("user").install(load_plugin(name))
    return home / ".local/bin"


@pytest.fixture
def inside() -> Iterator[list[str]]:
    with loopback_namespace() as command:
        yield command


def ingest(source: str, state: Path, *options: str) -> list[str]:
    command = [sys.executable, "-P", "-m", "nsstream_daemon", "ingest", source, "--state", str(state), "--chunk", "2s"]
    return [*command, *options]


def ports_in(state: Path) -> list[int]:
    """The source ports of all stored packets, sorted, from the first datagram's on."""
    store = ChunkStore(state / "chunks")
    ports = [store.read(info.path).packets.source_transport_port for info in store.list()]
    return sorted((np.concatenate(ports).astype(int) - FIRST_PORT).tolist())


def packets_in(files: list[Path]) -> int:
    """How many packets tcpdump finds in captures; what it has not read from the kernel when it ends is lost to it."""
    command = ["tcpdump", "-n", "-r"]
    found = [subprocess.run([*command, path], capture_output=True, text=True).stdout for path in files]
    return sum(text.count("\n") for text in found)


@needs_root
def test_a_ring_of_dumpcaps_reaches_the_chunks_once_over_kill_9(programs, inside, tmp_path):
    spool, state = tmp_path / "spool", tmp_path / "state"
    spool.mkdir()
    options = ["-i", "lo", "-f", "udp dst port 9", "-b", "interval:1", "-b", "files:2"]
    ring = subprocess.Popen(
        [*inside, programs / "nsstream-dumpcap", spool, *options], stderr=subprocess.PIPE, text=True
    )
    reader = subprocess.Popen(ingest(f"spool:{spool}", state), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: list(spool.glob(".ring/*")))
    sender = subprocess.Popen([*inside, sys.executable, "-c", SEND])
    wait_until(lambda: list(state.glob("journal/*.arrows")))
    reader.kill()
    reader.wait()
    assert sender.wait(PATIENCE_S) == 0
    ring.send_signal(signal.SIGTERM)
    said = ring.communicate(timeout=PATIENCE_S)[1]
    assert ring.returncode == 0, said
    files = [path.name for path in spool.iterdir() if path.is_file()]
    assert f"{len(files)} files handed over" in said
    assert len(files) > 2  # though dumpcap was to keep two: what it deletes is handed over before
    assert list((spool / ".ring").iterdir()) == []
    done = subprocess.run(ingest(f"spool:{spool}", state, "-O", "follow=false"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ports_in(state) == list(range(DATAGRAMS))


@needs_root
def test_a_killed_ring_leaves_no_dumpcap_and_its_last_file_to_the_next_life(programs, inside, tmp_path):
    spool = tmp_path / "spool"
    spool.mkdir()
    command = [*inside, programs / "nsstream-dumpcap", spool, "-i", "lo", "-b", "interval:3600"]
    ring = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    wait_until(lambda: list(spool.glob(".ring/*")))

    def dumpcaps() -> list[str]:
        found = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
        return [line for line in found if line.startswith(b"dumpcap") and str(spool).encode() in line]

    subprocess.run([*inside, sys.executable, "-c", SEND.replace(str(DATAGRAMS), "100")], check=True)
    wait_until(lambda: any(path.stat().st_size > 10_000 for path in spool.glob(".ring/*")))
    assert dumpcaps()
    ring.kill()
    ring.wait()
    wait_until(lambda: not dumpcaps())
    ring = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    wait_until(lambda: list(spool.glob("ring*")))
    ring.terminate()
    assert ring.wait(PATIENCE_S) == 0
    missing = subprocess.run([programs / "nsstream-dumpcap", spool, "-i", "no-such"], capture_output=True, text=True)
    assert missing.returncode == 1
    assert "no-such" in missing.stderr
    assert "Traceback" not in missing.stderr


@needs_root
def test_a_pipe_of_tcpdumps_is_read_to_its_end_after_a_signal(programs, inside, tmp_path):
    state = tmp_path / "state"
    command = [*inside, programs / "nsstream-tcpdump", state, "--chunk", "2s", "-i", "lo", "udp dst port 9"]
    piped = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert piped.stderr is not None
    while "listening on" not in (line := piped.stderr.readline()):
        assert line, "tcpdump has ended"
    subprocess.run([*inside, sys.executable, "-c", SEND.replace("4.0", "0.0")], check=True)
    piped.send_signal(signal.SIGINT)
    out, said = piped.communicate(timeout=PATIENCE_S)
    assert piped.returncode == 0, said
    assert "0 packets dropped by kernel" in said
    captured = re.search(r"(\d+) packets captured", said)  # not what it had still to read when it was told to end
    assert captured
    assert 0 < int(captured[1]) <= DATAGRAMS
    ports = ports_in(state)
    assert ports == list(range(len(ports))), out
    # A packet that the signal finds tcpdump writing is counted by it, and not written again (EINTR).
    assert int(captured[1]) - 1 <= len(ports) <= int(captured[1]), out


@needs_root
@pytest.mark.skipif(is_confined(), reason="AppArmor lets tcpdump -z start nothing")
def test_tcpdump_hands_over_each_file_that_it_rotates(programs, inside, tmp_path):
    place, state = tmp_path / "place", tmp_path / "state"
    (place / "spool").mkdir(parents=True)
    options = ["-Z", "root", "-i", "lo", "-n", "-U", "-G", "1", "-w", str(place / "t-%s.pcap")]
    command = [
        *inside,
        "tcpdump",
        *options,
        "-z",
        str(programs / "nsstream-tcpdump-rotated"),
        "udp",
        "dst",
        "port",
        "9",
    ]
    tool = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert tool.stderr is not None
    while "listening on" not in (line := tool.stderr.readline()):
        assert line, "tcpdump has ended"
    subprocess.run([*inside, sys.executable, "-c", SEND], check=True)
    wait_until(lambda: packets_in([*place.glob("t-*.pcap")]) == DATAGRAMS)
    tool.send_signal(signal.SIGINT)
    tool.communicate(timeout=PATIENCE_S)
    written = sorted(path.name for path in place.glob("t-*.pcap"))
    spool = place / "spool"
    wait_until(lambda: len(list(spool.glob("t-*.pcap"))) >= len(written) - 1)
    (last,) = set(written) - {path.name for path in spool.glob("t-*")} or {written[-1]}
    hand_over(place / last, spool)  # tcpdump starts nothing for the last one
    done = subprocess.run(ingest(f"spool:{spool}", state, "-O", "follow=false"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ports_in(state) == list(range(DATAGRAMS))


def test_nfcapd_hands_over_each_file_and_every_flow_comes_once(programs, tmp_path):
    written, spool, state = (tmp_path / name for name in ("written", "spool", "state"))
    for directory in (written, spool):
        directory.mkdir()
    capture = tmp_path / "lab.pcap"
    octets = subprocess.run(["xz", "-dc", str(LAB)], capture_output=True, check=True).stdout
    capture.write_bytes(octets)
    port = free_port()
    hook = f"{programs / 'nsstream-nfcapd-rotated'} {spool} %d/%f"
    command = ["nfcapd", "-w", str(written), "-p", str(port), "-b", "127.0.0.1", "-t", "2", "-x", hook]
    nfcapd = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: received_and_waiting(port) == 0)
        for turn in range(2):
            exporter = ["softflowd", "-r", capture, "-n", f"127.0.0.1:{port}", "-v", "9", "-d", "-c", "none"]
            subprocess.run([*exporter, "-p", tmp_path / "pid"], check=True, capture_output=True, timeout=PATIENCE_S)
            wait_until_taken(port)
            wait_until(lambda turn=turn: len(list(spool.glob("nfcapd.2*"))) > turn)
    finally:
        nfcapd.terminate()
        nfcapd.wait(PATIENCE_S)
    names = {path.name for path in written.glob("nfcapd.2*")}
    subprocess.run([programs / "nsstream-nfcapd-rotated", spool, written], check=True)  # the last one, of which no hook
    assert {path.name for path in spool.glob("nfcapd.2*")} == names
    for path in written.glob("nfcapd.2*"):
        subprocess.run([programs / "nsstream-nfcapd-rotated", spool, path], check=True)  # again: nothing comes twice
    command = ingest(f"spool:{spool}", state, "-O", "follow=false", "-O", "content=flows", "--chunk", "10s")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = subprocess.run(["nfdump", "-R", written, "-I"], capture_output=True, text=True, check=True).stdout
    flows = int(next(line for line in told.splitlines() if line.startswith("Flows:")).split()[1])
    stored = sum(info.row_count for info in ChunkStore(state / "chunks").list())
    account = dict(line.rsplit(maxsplit=1) for line in done.stdout.splitlines() if " " in line.strip())
    assert stored + int(account.get("late", "0").replace(",", "")) == flows > 1000
    assert list(spool.glob("*.1")) == []


def test_a_synthetic_directory_is_nfdumps_own(programs, tmp_path):
    place = tmp_path / "twin"
    place.mkdir()
    whole, cut = tmp_path / "whole.pcap", tmp_path / "cut.pcap"
    whole.write_bytes(subprocess.run(["xz", "-dc", str(LAB)], capture_output=True, check=True).stdout)
    subprocess.run(["editcap", "-r", whole, cut, "1-40000"], check=True)
    command = [programs / "nsstream-nfcapd-twin", "--trace", cut, "--rotate", "2", "--rate", "max", place]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    assert len(list(place.glob("nfcapd.2*"))) > 2
    told = subprocess.run(["nfdump", "-R", place, "-o", "csv", "-q"], capture_output=True, text=True, check=True)
    assert len(told.stdout.splitlines()) > 1000
    assert not told.stderr.strip()
    assert subprocess.run([programs / "nsstream-nfcapd-twin", place / "none"], capture_output=True).returncode == 1


def test_a_spool_gets_each_file_once_by_whatever_name_and_stays_bounded(tmp_path):
    spool, place = tmp_path / "spool", tmp_path / "place"
    spool.mkdir()
    place.mkdir()
    for number in range(5):
        path = place / f"{number}.pcap"
        path.write_bytes(bytes([number]))
        os.utime(path, (1000 + number, 1000 + number))
        assert hand_over(path, spool) == spool / path.name
        assert hand_over(path, spool) is None
    other = tmp_path / "4.pcap"
    other.write_bytes(b"another of that name")
    assert hand_over(other, spool, moves=True) == spool / "4.pcap.1"
    assert not other.exists()
    (spool / "ledger").mkdir()
    assert trim(spool, 4) == ["0.pcap", "1.pcap"]
    assert sorted(path.name for path in spool.iterdir()) == ["2.pcap", "3.pcap", "4.pcap", "4.pcap.1", "ledger"]
    assert (place / "0.pcap").read_bytes() == b"\0"
    with pytest.raises(InputError, match="no such file"):
        hand_over(place / "none", spool)
    elsewhere = Path("/dev/shm") / f"nsstream-{os.getpid()}.pcap"  # another file system: it is copied, and once
    elsewhere.write_bytes(b"elsewhere")
    try:
        assert hand_over(elsewhere, spool) is not None
        assert hand_over(elsewhere, spool) is None
        assert (spool / elsewhere.name).read_bytes() == b"elsewhere"
    finally:
        elsewhere.unlink()
