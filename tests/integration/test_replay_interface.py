"""The sender of frames over real veth pairs: what leaves, when at the earliest, on which side, and what is refused."""

import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from namespaces import namespace

from nsstream.assemble.frames import Frames
from nsstream.errors import OutputError
from nsstream.replay.interface_sink import InterfaceSink, InterfaceSinkSpec
from nsstream.replay.rate_cap import BURST_S, RateCap
from nsstream.replay.safety import SendingRules
from nsstream.replay.sink import SinkContext, check_counters

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

from bars.veth import VethPair, veth_pair

DEADLINE_S = 300.0
HEADER = bytes.fromhex("020000000002 020000000001 88b5")
SO_TIMESTAMPNS = 35
RULES = SendingRules(frozenset({"tx", "tx2"}))

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("tcpreplay") is None, reason="needs tcpreplay"),
]


@pytest.fixture
def pair() -> Iterator[VethPair]:
    with veth_pair() as made:
        yield made


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def frames_of(*sizes: int, side: list[int] | None = None) -> Frames:
    """Frames of an experimental type, numbered behind their headers, as long as told."""
    octets = [(HEADER + struct.pack("!I", i)).ljust(size, bytes([i % 251]))[:size] for i, size in enumerate(sizes)]
    offset = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    sides = np.zeros(len(sizes), np.uint8) if side is None else np.array(side, np.uint8)
    return Frames(np.arange(len(sizes), dtype=np.int64), offset, np.frombuffer(b"".join(octets), np.uint8), sides)


@contextmanager
def receiver(where: str, device: str = "rx") -> Iterator[socket.socket]:
    with namespace(where):
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    with sock:
        sock.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        sock.bind((device, 3))
        sock.settimeout(DEADLINE_S)
        yield sock


def receive(sock: socket.socket, count: int) -> tuple[list[bytes], np.ndarray]:
    """So many frames, and the kernel's times of receipt; no more has come."""
    frames, times_ns = [], []
    for _ in range(count):
        octets, control, _, _ = sock.recvmsg(65536, 64)
        seconds, ns = struct.unpack("qq", control[0][2])
        frames.append(octets)
        times_ns.append(seconds * 10**9 + ns)
    sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        sock.recv(65536)
    return frames, np.array(times_ns)


@contextmanager
def opened(
    where: str, rules: SendingRules = RULES, is_stopped=lambda: False, **spec: object
) -> Iterator[InterfaceSink]:
    sink = InterfaceSink(InterfaceSinkSpec(**{"interface": "tx"} | spec), SinkContext(is_stopped, rules=rules))
    with namespace(where):
        sink.open()
    try:
        yield sink
    finally:
        sink.abort()
        check_counters(sink.counters)


@pytest.mark.parametrize("bypass", [True, False])
def test_frames_arrive_as_they_are(pair: VethPair, bypass: bool) -> None:
    sizes = np.random.default_rng(1).integers(18, 1515, 40_000).tolist()  # more than the ring holds
    frames = frames_of(*sizes)
    with receiver(pair.receiver) as sock, opened(pair.sender, bypass_qdisc=bypass) as sink:
        got: list[list[bytes]] = []
        reading = threading.Thread(target=lambda: got.append(receive(sock, len(frames))[0]))
        reading.start()
        for at in range(0, len(frames), 5000):
            sink.write(frames.slice(at, at + 5000))
            check_counters(sink.counters)
        sink.close()
        reading.join()
    # The pair itself may change the order, where the sender moves to another processor.
    assert sorted(got[0]) == sorted(frames.frame(i) for i in range(len(frames)))
    assert sink.counters["frames"] == sink.counters["frames_written"] == len(frames)
    assert sink.counters["octets"] == sum(sizes)


def test_no_frame_leaves_before_it_is_due(pair: VethPair) -> None:
    frames = frames_of(*[60] * 300)
    with receiver(pair.receiver) as sock, opened(pair.sender) as sink:
        wall_ns = time.time_ns() - time.monotonic_ns()
        due_ns = time.monotonic_ns() + 30_000_000 + np.arange(300) * 500_000
        sink.write_due(frames, due_ns)
        sink.close()
        got, times_ns = receive(sock, 300)
    assert got == [frames.frame(i) for i in range(300)]
    assert (times_ns - wall_ns - due_ns >= -1_000_000).all()  # a millisecond for the two clocks


def test_each_side_has_its_interface(pair: VethPair) -> None:
    ip("link", "add", "tx2", "netns", pair.sender, "type", "veth", "peer", "name", "rx2", "netns", pair.receiver)
    ip("-n", pair.sender, "link", "set", "dev", "tx2", "up")
    ip("-n", pair.receiver, "link", "set", "dev", "rx2", "up")
    sides = np.random.default_rng(2).integers(0, 2, 500).tolist()
    frames = frames_of(*[60] * 500, side=sides)
    with receiver(pair.receiver) as client, receiver(pair.receiver, "rx2") as server:
        with opened(pair.sender, server_interface="tx2") as sink:
            sink.write(frames)
            sink.close()
        for sock, side in ((client, 0), (server, 1)):
            wanted = [frames.frame(i) for i in range(500) if sides[i] == side]
            assert [f for f in receive_ours(sock, len(wanted)) if f[12:14] == HEADER[12:]] == wanted


def receive_ours(sock: socket.socket, count: int) -> Iterator[bytes]:
    """So many frames of ours; a new device may say things of its own (IPv6)."""
    while count:
        octets = sock.recv(65536)
        count -= octets[12:14] == HEADER[12:]
        yield octets


def test_frames_that_no_interface_takes_are_counted_and_left_out(pair: VethPair) -> None:
    frames = frames_of(60, 1515, 10, 1514, 60, 9000, 13)
    with receiver(pair.receiver) as sock, opened(pair.sender) as sink:
        sink.write(frames)
        sink.close()
        got, _ = receive(sock, 3)
    assert got == [frames.frame(i) for i in (0, 3, 4)]
    told = sink.counters
    assert (told["frames_written"], told["frames_oversize"], told["frames_refused"]) == (3, 2, 2)


def write_and_close(sink: InterfaceSink, frames: Frames) -> None:
    sink.write(frames)
    sink.close()


def test_an_interface_that_goes_down_fails_the_run(pair: VethPair) -> None:
    frames = frames_of(*[60] * 5000)
    with opened(pair.sender) as sink:
        sink.write(frames.slice(0, 10))
        until_s = time.monotonic() + DEADLINE_S
        while sink.counters["frames_written"] < 10:
            assert time.monotonic() < until_s
        ip("-n", pair.sender, "link", "set", "dev", "tx", "down")
        with pytest.raises(OutputError, match="tx: network is down"):
            write_and_close(sink, frames)
    told = sink.counters
    assert told["frames"] == 5010
    assert told["frames_undone"] == 5010 - told["frames_written"] >= 5000


def test_what_is_down_or_no_ethernet_is_refused_before(pair: VethPair) -> None:
    ip("-n", pair.sender, "link", "set", "dev", "tx", "down")
    with pytest.raises(OutputError, match="tx: the interface is down"), opened(pair.sender):
        pass
    ip("-n", pair.sender, "tuntap", "add", "dev", "tx2", "mode", "tun")
    ip("-n", pair.sender, "link", "set", "dev", "tx2", "up")
    with pytest.raises(OutputError, match="is no Ethernet interface"), opened(pair.sender, interface="tx2"):
        pass


def test_a_stop_leaves_the_rest_unsent_and_counted(pair: VethPair) -> None:
    frames = frames_of(*[60] * 100)
    stopped = threading.Event()
    hour_ns = 3600 * 10**9
    with receiver(pair.receiver) as sock, opened(pair.sender, is_stopped=stopped.is_set) as sink:
        due_ns = time.monotonic_ns() + np.where(np.arange(100) < 40, 0, hour_ns)
        failure: list[BaseException] = []

        def write() -> None:
            try:
                sink.write_due(frames, due_ns)
            except OutputError as err:
                failure.append(err)

        writing = threading.Thread(target=write)
        writing.start()
        got = [sock.recv(2048) for _ in range(40)]
        stopped.set()
        writing.join(DEADLINE_S)
        assert not writing.is_alive()
        assert str(failure[0]) == "tx: stopped before all frames were sent"
        sink.abort()
        sink.abort()
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(2048)
    assert len(got) == 40
    assert sink.counters["frames_written"] == 40
    assert sink.counters["frames_undone"] == 60


def test_close_waits_for_the_last_frame_unless_stopped(pair: VethPair) -> None:
    stopped = threading.Event()
    with opened(pair.sender, is_stopped=stopped.is_set) as sink:
        sink.write_due(frames_of(60), np.array([time.monotonic_ns() + 15_000_000]))
        sink.close()
        assert sink.counters["frames_written"] == 1
    with opened(pair.sender, is_stopped=stopped.is_set) as sink:
        threading.Timer(0.1, stopped.set).start()
        with pytest.raises(OutputError, match="stopped"):
            sink.write_due(frames_of(60), np.array([time.monotonic_ns() + 10**12]))
    assert sink.counters["frames_undone"] == 1


def test_no_command_lifts_the_cap(pair: VethPair) -> None:
    per_s, count = 4000, 2000
    rules = SendingRules(frozenset({"tx"}), cap=RateCap(packets_per_s=per_s))
    frames = frames_of(*[60] * count)
    with receiver(pair.receiver) as sock:
        for half in (frames.slice(0, count // 2), frames.slice(count // 2, count)):  # the cap outlives a run
            with opened(pair.sender, rules) as sink:
                sink.write(half)
                # What is lined up is soon gone, so that a pause or another rate takes effect.
                assert sink.counters["frames_waiting"] <= per_s * 0.05
                sink.close()
                assert sink.counters["cap_waits"] > 0
        _, times_ns = receive(sock, count)
    times_ns.sort()
    # A frame may come late, and its successors not: so a whole span is judged, with what a stamp may be late by.
    span_s = (times_ns[-1] - times_ns[0]) * 1e-9
    assert count <= per_s * (span_s + BURST_S) + 1 + per_s * 0.01


def test_a_default_route_has_to_be_meant_twice(pair: VethPair) -> None:
    ip("-n", pair.sender, "addr", "add", "10.77.0.1/24", "dev", "tx")
    once = RULES
    twice = SendingRules(RULES.interfaces, frozenset({"tx"}))
    with opened(pair.sender, once):
        pass  # an address alone is no default route
    ip("-n", pair.sender, "route", "add", "default", "via", "10.77.0.2")
    refuse(pair, once, "this server's configuration does not allow that", default_route=True)
    refuse(pair, once, "this server's configuration does not allow that")
    refuse(pair, twice, "the command does not say default_route")
    with opened(pair.sender, twice, default_route=True) as sink:
        sink.write(frames_of(60))
        sink.close()


def refuse(pair: VethPair, rules: SendingRules, why: str, **spec: object) -> None:
    refused = pytest.raises(OutputError, match=f"a default route leads through it, and {why}")
    with refused, opened(pair.sender, rules, **spec):
        pass


@pytest.mark.parametrize(
    "commands",
    [
        ["addr add 10.77.0.1/24 dev tx", "route add 0.0.0.0/1 via 10.77.0.2", "route add 128.0.0.0/1 via 10.77.0.2"],
        ["addr add 10.77.0.1/24 dev tx", "route add default via 10.77.0.2 table 77"],
        ["link set dev lo up", "-6 addr add fd77::1/64 dev tx nodad", "-6 route add default via fd77::2"],
        [
            "link add br7 type bridge",
            "link set dev tx master br7",
            "link set dev br7 up",
            "addr add 10.77.0.1/24 dev br7",
            "route add default via 10.77.0.2",
        ],
        [
            "link add bond7 type bond",
            "link set dev tx down",
            "link set dev tx master bond7",
            "link set dev tx up",
            "link set dev bond7 up",
            "link add br7 type bridge",
            "link set dev bond7 master br7",
            "link set dev br7 up",
            "addr add 10.77.0.1/24 dev br7",
            "route add default via 10.77.0.2",
        ],
        [
            "link add link tx name tx.7 type vlan id 7",
            "link set dev tx.7 up",
            "addr add 10.77.0.1/24 dev tx.7",
            "route add default dev tx.7",
        ],
        [
            "link add link tx name tx7 type macvlan",
            "link set dev tx7 up",
            "addr add 10.77.0.1/24 dev tx7",
            "route add default dev tx7",
        ],
    ],
    ids=["halves", "another table", "IPv6", "port of a bridge", "port of a port", "below a VLAN", "below a MACVLAN"],
)
def test_default_routes_of_other_kinds_are_seen(pair: VethPair, commands: list[str]) -> None:
    enable = "echo 0 >/proc/sys/net/ipv6/conf/tx/disable_ipv6"
    subprocess.run(["ip", "netns", "exec", pair.sender, "sh", "-c", enable], check=True)
    for command in commands:
        done = subprocess.run(["ip", "-n", pair.sender, *command.split()], capture_output=True, text=True)
        if "Unknown device type" in done.stderr:
            pytest.skip(f"this kernel cannot: ip {command}")
        assert done.returncode == 0, done.stderr
    refuse(pair, RULES, "this server's configuration does not allow that")


SEND_ONE = """
import sys
sys.path.insert(0, sys.argv[1])
from test_replay_interface import *
sink = InterfaceSink(InterfaceSinkSpec(interface="tx", real_time=True), SinkContext(rules=RULES))
try:
    sink.open()
except OutputError as err:
    sys.exit(str(err))
sink.write(frames_of(60))
sink.close()
print(sink.counters["frames_written"])
"""


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv")
def test_cap_net_raw_is_all_it_takes(pair: VethPair) -> None:
    folder = str(Path(__file__).parent)
    path = os.pathsep.join([str(Path(folder).parent), *sys.path])
    for capability, status, said in (("+net_raw", 0, "1"), ("-net_raw", 1, "tx: to send on an interface takes")):
        command = ["ip", "netns", "exec", pair.sender, "setpriv", f"--bounding-set=-all,{capability}"]
        command += [f"--inh-caps=-all,{capability}", sys.executable, "-c", SEND_ONE, folder]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
        assert done.returncode == status, done.stderr
        assert said in done.stdout + done.stderr
