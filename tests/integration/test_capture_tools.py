"""Real tcpdump and dumpcap, in a network namespace of the test's own: every packet of known traffic, once."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from nsstream.capture.child import ChildSource, dumpcap_command, tcpdump_command
from nsstream.capture.pipe import PipeSource
from nsstream.capture.source import Source
from nsstream.capture.spool import SpoolSource
from nsstream.capture.tool_messages import ToolMessages
from nsstream.errors import InputError
from nsstream.trace import PacketBatch

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not (shutil.which("tcpdump") and shutil.which("dumpcap")), reason="needs tcpdump and dumpcap"),
]

DATAGRAMS = 300
PORT = 9009
FILTER = f"udp dst port {PORT}"
COMMANDS = [tcpdump_command, dumpcap_command]


@pytest.fixture
def namespace() -> Iterator[str]:
    name = f"nsx{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def inside(namespace: str, command: list[str]) -> list[str]:
    return ["ip", "netns", "exec", namespace, *command]


def send(namespace: str, first: int, count: int = DATAGRAMS, *, payload: int = 40) -> None:
    """Datagrams in the namespace, numbered by source port, so that each is told from every other."""
    script = (
        "import socket\n"
        f"for n in range({first}, {first + count}):\n"
        "    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:\n"
        f"        s.bind(('127.0.0.1', 20000 + n)); s.sendto(bytes({payload}), ('127.0.0.1', {PORT}))\n"
    )
    subprocess.run(inside(namespace, ["python3", "-c", script]), check=True)


def numbers_of(batches: list[PacketBatch]) -> list[int]:
    return (PacketBatch.concatenate(batches).source_transport_port.astype(int) - 20000).tolist()


def read_until(source: Source[PacketBatch], count: int) -> list[PacketBatch]:
    batches: list[PacketBatch] = []
    until_s = time.monotonic() + 300
    while sum(map(len, batches)) < count:
        assert time.monotonic() < until_s, f"{sum(map(len, batches))} of {count} packets came in time"
        batch = source.read_batch()
        assert batch is not None
        source.tally.check()
        batches.append(batch)
    return batches


@pytest.mark.parametrize("command", COMMANDS)
def test_every_packet_comes_and_the_sum_agrees(command: Callable[..., list[str]], namespace: str) -> None:
    source = ChildSource(inside(namespace, command("lo", capture_filter=FILTER, snaplen=96)))
    source.open()
    try:
        send(namespace, 0)
        batches = read_until(source, DATAGRAMS)
    finally:
        source.close()
    rows = PacketBatch.concatenate(batches)
    assert numbers_of(batches) == list(range(DATAGRAMS))
    assert set(rows.ip_total_length.tolist()) == {68}
    assert np.abs(rows.observation_time_ns - time.time_ns()).max() < 60e9
    assert source.tally.as_dict() == {
        **source.tally.as_dict(), "offered": DATAGRAMS, "kept": DATAGRAMS, "dropped": {}, "malformed": {},
    }  # fmt: skip
    source.tally.check()


def wait_until(is_so: Callable[[], bool]) -> None:
    until_s = time.monotonic() + 300
    while not is_so():
        assert time.monotonic() < until_s, "it did not become so in time"
        time.sleep(0.02)


@pytest.mark.parametrize("command", COMMANDS)
def test_missing_interface_and_bad_filter_are_refused_in_one_sentence(
    command: Callable[..., list[str]], namespace: str
) -> None:
    bad = {"nsx-none": command("nsx-none"), "no filter": command("lo", capture_filter="no filter")}
    for complaint, words in bad.items():
        source = ChildSource(inside(namespace, words))
        with pytest.raises(InputError) as caught:
            source.open()
        assert "ended with status" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert complaint in str(caught.value) or "syntax error" in str(caught.value)
        source.close()


def test_tool_that_ends_by_itself_ends_the_source(namespace: str) -> None:
    command = tcpdump_command("lo", capture_filter=FILTER)
    source = ChildSource(inside(namespace, [*command[:1], "-c", "10", *command[1:]]))
    source.open()
    send(namespace, 0, 10)
    count = 0
    while (batch := source.read_batch()) is not None:
        count += len(batch)
    assert count == 10
    source.close()


def test_closing_leaves_no_process_behind(namespace: str) -> None:
    source = ChildSource(inside(namespace, dumpcap_command("lo")))
    source.open()
    source.read_batch()
    assert pids_in(namespace)
    source.close()
    assert not pids_in(namespace)


def pids_in(namespace: str) -> list[str]:
    return subprocess.run(["ip", "netns", "pids", namespace], check=True, capture_output=True, text=True).stdout.split()


def test_losses_of_a_small_ring_are_told_by_the_kernel(namespace: str) -> None:
    """A reader that does not read: tcpdump fills the pipe, then the kernel's buffer; nothing goes without a name."""
    source = ChildSource(inside(namespace, tcpdump_command("lo", snaplen=65535, buffer_kib=64)), buffer_bytes=1 << 16)
    source.open()
    burst = (
        "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        f"for n in range(4000): s.sendto(bytes(1400), ('127.0.0.1', {PORT}))"
    )
    subprocess.run(inside(namespace, ["python3", "-c", burst]), check=True)
    source.close()  # tcpdump sums up; what it had written was not taken
    source.tally.check()
    assert source.tally.kept == 0
    assert source.tally.dropped["channel"] > 0
    assert source.tally.dropped["ring"] > 0


@pytest.mark.parametrize("command", COMMANDS)
def test_tool_that_writes_to_a_fifo_is_read(command: Callable[..., list[str]], namespace: str, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    source = PipeSource(fifo)
    source.open()
    assert len(source.read_batch() or []) == 0
    words = [str(fifo) if word == "-" else word for word in command("lo", capture_filter=FILTER)]
    with running(namespace, words):
        send(namespace, 0)
        assert numbers_of(read_until(source, DATAGRAMS)) == list(range(DATAGRAMS))
    while source.read_batch() is not None:
        pass
    source.close()
    assert source.tally.as_dict()["malformed"] == {}
    assert source.tally.kept == DATAGRAMS


@contextmanager
def running(namespace: str, command: list[str]) -> Iterator[ToolMessages]:
    """A tool that captures, asked to end when the block does; what it said is known behind."""
    tool = subprocess.Popen(inside(namespace, command), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    messages = ToolMessages()
    assert tool.stderr is not None
    try:
        said = b""
        while b"listening on" not in said and b"File:" not in said:  # only then its filter is in the kernel
            said = tool.stderr.readline()
            assert said, "the tool has ended"
        yield messages
    finally:
        tool.terminate()
        try:
            tool.wait(300)
        except subprocess.TimeoutExpired:
            tool.kill()
            tool.wait()
        messages.feed(tool.stderr.read())
        messages.finish()
        tool.stderr.close()


def spool_writers(spool: Path) -> dict[str, list[str]]:
    tcpdump = ["tcpdump", "-i", "lo", "-n", "-U", "-B", "65536", "-Z", "root"]
    return {
        "dumpcap ring": ["dumpcap", "-q", "-i", "lo", "-s", "96", "-f", FILTER, "-b", "packets:40",
                         "-b", "printname:stdout", "-w", str(spool / "ring.pcapng")],
        "tcpdump -G": [*tcpdump, "-G", "1", "-w", str(spool / "c-%s.pcap"), FILTER],
        "tcpdump -C": [*tcpdump, "-C", "1", "-w", str(spool / "c.pcap"), FILTER],
        "tcpdump -C -z": [*tcpdump, "-C", "1", "-z", "gzip", "-w", str(spool / "c.pcap"), FILTER],
    }  # fmt: skip


@pytest.mark.parametrize("writer", spool_writers(Path()))
def test_every_packet_of_a_rotating_tool_comes_once_over_a_restart_too(
    writer: str, namespace: str, tmp_path: Path
) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    payload = 8000 if "-C" in writer else 40
    source = SpoolSource(spool, tmp_path / "ledger.sqlite")
    source.open()
    with running(namespace, spool_writers(spool)[writer]) as messages:
        batches: list[PacketBatch] = []
        sent = 0
        while not any(map(len, batches)):  # tcpdump -G begins a new file with the first packet of its time
            assert sent < 30_000, "no file is finished"
            send(namespace, sent, 100, payload=payload)
            sent += 100
            batches.append(source.read_batch() or PacketBatch.empty())
        source.close()
        tallies = [source.tally]
        send(namespace, sent, payload=payload)  # nobody reads
        source = SpoolSource(spool, tmp_path / "ledger.sqlite")
        source.open()
        send(namespace, sent + DATAGRAMS, payload=payload)
        sent += 2 * DATAGRAMS
        if "-z" not in writer:  # what is not written when it ends, a tool forgets
            wait_until(lambda: sum(file.stat().st_size for file in spool.iterdir()) > sent * (28 + 40))
    assert messages.captured is not None
    assert messages.captured > DATAGRAMS
    batches += read_until(source, messages.captured - sum(map(len, batches)))  # the last file too: nothing follows it
    for _ in range(5):
        assert len(source.read_batch() or []) == 0
    source.close()
    tallies.append(source.tally)
    assert sorted(numbers_of(batches)) == list(range(messages.captured))
    assert sum(tally.offered for tally in tallies) == messages.captured
    assert len(list(spool.iterdir())) > 1
