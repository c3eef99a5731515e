"""Real tcpdump and dumpcap, in a network namespace of the test's own: every packet of known traffic, once."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from nsstream.capture.child import ChildSource, dumpcap_command, tcpdump_command
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


def send(namespace: str, first: int, count: int = DATAGRAMS) -> None:
    """Datagrams in the namespace, numbered by source port, so that each is told from every other."""
    script = (
        "import socket\n"
        f"for n in range({first}, {first + count}):\n"
        "    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:\n"
        f"        s.bind(('127.0.0.1', 20000 + n)); s.sendto(b'x' * 40, ('127.0.0.1', {PORT}))\n"
    )
    subprocess.run(inside(namespace, ["python3", "-c", script]), check=True)


def numbers_of(batches: list[PacketBatch]) -> list[int]:
    return (PacketBatch.concatenate(batches).source_transport_port.astype(int) - 20000).tolist()


def read_until(source: ChildSource, count: int) -> list[PacketBatch]:
    batches: list[PacketBatch] = []
    until_s = time.monotonic() + 20
    while sum(map(len, batches)) < count:
        assert time.monotonic() < until_s, f"{sum(map(len, batches))} of {count} packets came within 20 s"
        batch = source.read_batch()
        assert batch is not None
        source.tally.check()
        batches.append(batch)
    return batches


@pytest.mark.parametrize("command", COMMANDS)
def test_every_packet_comes_and_the_sum_agrees(command: Callable[..., list[str]], namespace: str) -> None:
    source = ChildSource(inside(namespace, command("lo", filter_text=FILTER, snaplen=96)))
    source.open()
    try:
        wait_for_capture(namespace)
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


def wait_for_capture(namespace: str) -> None:
    """Until a packet socket is open in the namespace."""
    until_s = time.monotonic() + 10
    ask = inside(namespace, ["cat", "/proc/net/packet"])
    while len(subprocess.run(ask, check=True, capture_output=True).stdout.splitlines()) < 2:
        assert time.monotonic() < until_s, "nobody captures"
        time.sleep(0.02)


@pytest.mark.parametrize("command", COMMANDS)
def test_missing_interface_and_bad_filter_are_refused_in_one_sentence(
    command: Callable[..., list[str]], namespace: str
) -> None:
    for words, complaint in ((command("nsx-none"), "nsx-none"), (command("lo", filter_text="no filter"), "no filter")):
        source = ChildSource(inside(namespace, words))
        with pytest.raises(InputError) as caught:
            source.open()
        assert "ended with status" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert complaint in str(caught.value) or "syntax error" in str(caught.value)
        source.close()


def test_tool_that_ends_by_itself_ends_the_source(namespace: str) -> None:
    command = tcpdump_command("lo", filter_text=FILTER)
    source = ChildSource(inside(namespace, [*command[:1], "-c", "10", *command[1:]]))
    source.open()
    wait_for_capture(namespace)
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
    wait_for_capture(namespace)
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
