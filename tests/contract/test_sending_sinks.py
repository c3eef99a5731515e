"""The published rules of sinks, held to those whose other end is a device or a client of the server.

Frames leave through a real veth pair and are taken off its other end by a raw socket; batches go through the server's
real socket to a client. `test_sinks` counts the cases here among all.
"""

from __future__ import annotations

import os
import select
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import zmq
from made_traffic import made_table
from namespaces import namespace

from nsstream.assemble import Assembler
from nsstream.clock import SystemClock
from nsstream.replay.batch import PacketBatch
from nsstream.replay.contract import RULES, SinkCase
from nsstream.replay.feed import PacketFeed
from nsstream.replay.messages import Subscription
from nsstream.replay.packet_server import OPTIONS, PacketServer
from nsstream.replay.receiver import PacketReceiver
from nsstream.replay.safety import SendingRules
from nsstream.replay.sink import SinkContext
from nsstream.replay.sockets import bind, connect

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

from bars.veth import VethPair, veth_pair

FRAMES = Assembler(np.random.default_rng(5)).assemble(made_table(count=24)).slice(0, 150)
RULES_OF_THE_LAB = SendingRules(frozenset({"tx", "tx2"}))
DEADLINE_S = 300.0
QUIET_S = 0.02
LAB: list[VethPair] = []  # while a test of frames goes on, the pair that it sends through

Sent = dict[str, list[bytes]]


def expected(by_side: dict[str, tuple[int, ...]]) -> Sent:
    """What each device gets; the pair itself may change the order, where the sender moves to another processor."""
    return {
        device: sorted(FRAMES.frame(i) for i in range(len(FRAMES)) if FRAMES.side[i] in sides)
        for device, sides in by_side.items()
    }


@dataclass
class OtherEnd:
    """Raw sockets at the other end of the lab's pairs, and the frames that came to each, a directory a run."""

    devices: tuple[str, ...]
    came: dict[Path, Sent] = field(default_factory=dict)

    @contextmanager
    def reader(self, directory: Path) -> Iterator[None]:
        came: Sent = {device: [] for device in self.devices}
        self.came[directory] = came
        with ExitStack() as stack:
            inlets: dict[socket.socket, list[bytes]] = {}
            with namespace(LAB[0].receiver):
                for device in self.devices:
                    inlet = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
                    inlet.bind((device, 3))
                    inlets[inlet] = came[device]
            is_over = threading.Event()

            def read() -> None:
                while (ready := select.select(list(inlets), [], [], QUIET_S)[0]) or not is_over.is_set():
                    for inlet in ready:
                        inlets[inlet].append(inlet.recv(65536))

            thread = threading.Thread(target=read)
            thread.start()
            try:
                yield
            finally:
                is_over.set()
                thread.join(DEADLINE_S)
                assert not thread.is_alive()

    def frames(self, directory: Path) -> Sent:
        return {device: sorted(frames) for device, frames in self.came[directory].items()}


@dataclass
class Client:
    """The server's packet plane, and a client that takes all that it is sent: frames with times and sides, a run."""

    feed: PacketFeed = field(default_factory=lambda: PacketFeed(SystemClock()))
    came: dict[Path, list[tuple[int, int, bytes]]] = field(default_factory=dict)

    @contextmanager
    def reader(self, directory: Path) -> Iterator[None]:
        came = self.came[directory] = []
        endpoint = f"ipc://{directory}/packets"
        with zmq.Context() as context:
            server = PacketServer(bind(context, zmq.ROUTER, endpoint, None, OPTIONS), self.feed, SystemClock())
            server.start()
            token, next_seq, before = self.feed.subscribe("contract")
            told = Subscription(
                id=1, endpoint=endpoint, token=token, next_seq=next_seq, packets_before=before, lease_s=60.0
            )
            receiver = PacketReceiver(told, credit=4)
            is_over = threading.Event()

            def read() -> None:
                with connect(context, zmq.DEALER, endpoint, None, {}) as connection:
                    connection.send(receiver.credit())
                    while not (is_over.is_set() and self.feed.is_drained):
                        if connection.poll(int(QUIET_S * 1000)):
                            for item in receiver.take(connection.recv_multipart()):
                                if isinstance(item, PacketBatch):
                                    times, sides = item.observation_time_ns.tolist(), item.side.tolist()
                                    came.extend((times[i], sides[i], item.frame(i)) for i in range(len(item)))
                            connection.send(receiver.credit())

            thread = threading.Thread(target=read)
            thread.start()
            try:
                assert self.feed.wait_for_subscribers(1, DEADLINE_S)  # whose sockets are all open then
                yield
            finally:
                is_over.set()
                thread.join(DEADLINE_S)
                self.feed.leave(token)
                server.close()
                assert not thread.is_alive()


ONE, TWO, BY_TCPREPLAY, CLIENT = OtherEnd(("rx",)), OtherEnd(("rx", "rx2")), OtherEnd(("rx",)), Client()
ON_THE_LAB = SinkContext(rules=RULES_OF_THE_LAB)
CASES = {
    "interface": SinkCase(
        fields=lambda directory: {"kind": "interface", "interface": "tx"},
        frames=FRAMES,
        received=ONE.frames,
        expected=expected({"rx": (0, 1)}),
        reader=ONE.reader,
        context=ON_THE_LAB,
    ),
    "interface of each side": SinkCase(
        fields=lambda directory: {"kind": "interface", "interface": "tx", "server_interface": "tx2"},
        frames=FRAMES,
        received=TWO.frames,
        expected=expected({"rx": (0,), "rx2": (1,)}),
        reader=TWO.reader,
        context=ON_THE_LAB,
    ),
    **{
        f"tcpreplay by {pacing}": SinkCase(
            fields=lambda directory, pacing=pacing: {"kind": "tcpreplay", "interface": "tx", "pacing": pacing},
            frames=replace(FRAMES, observation_time_ns=FRAMES.observation_time_ns[0] + np.arange(len(FRAMES)) * 1000),
            received=BY_TCPREPLAY.frames,
            expected=expected({"rx": (0, 1)}),
            reader=BY_TCPREPLAY.reader,
            context=ON_THE_LAB,
        )
        for pacing in ("clock", "tcpreplay", "file")
    },
    "subscribers": SinkCase(
        fields=lambda directory: {"kind": "subscribers", "wait_for": 1, "when_behind": "wait", "batch_packets": 16},
        frames=FRAMES,
        received=lambda directory: CLIENT.came[directory],
        expected=[
            (int(FRAMES.observation_time_ns[i]), int(FRAMES.side[i]), FRAMES.frame(i)) for i in range(len(FRAMES))
        ],
        reader=CLIENT.reader,
        context=SinkContext(feed=CLIENT.feed),
        waits=True,
    ),
}
HAS_LAB = os.geteuid() == 0 and all(shutil.which(tool) for tool in ("ip", "tcpreplay"))
NEEDS_LAB = [pytest.mark.root, pytest.mark.skipif(not HAS_LAB, reason="needs root, iproute2 and tcpreplay")]


@pytest.fixture(scope="module")
def lab() -> Iterator[VethPair]:
    """Two pairs between two namespaces: tx and rx, tx2 and rx2."""
    with veth_pair() as pair:
        ends = ["name", "tx2", "netns", pair.sender], ["name", "rx2", "netns", pair.receiver]
        run_ip("link", "add", *ends[0], "type", "veth", "peer", *ends[1])
        run_ip("-n", pair.receiver, "link", "set", "dev", "rx2", "up")
        run_ip("-n", pair.sender, "link", "set", "dev", "tx2", "up")
        LAB.append(pair)
        yield pair
        LAB.remove(pair)


def run_ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind == "subscribers" else NEEDS_LAB) for kind in CASES]
)
def test_a_sink_that_sends_keeps_the_rule(
    kind: str, rule: Callable[[SinkCase, Path], None], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    stands = nullcontext() if kind == "subscribers" else namespace(request.getfixturevalue("lab").sender)
    with stands:  # and the threads and children that the rule starts
        rule(CASES[kind], tmp_path)
