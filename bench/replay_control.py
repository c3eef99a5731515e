"""What a client's word does to a run that is going on, and how soon; and what hostile clients do to a server.

    python bench/replay_control.py [--repeat 20] [--messages 100000] [--model DIR] [--json OUT]

A server of recorded frames (a frame a millisecond, and no model, so that its pace is the pacer's own) plays to a
subscriber, who stamps what comes by CLOCK_MONOTONIC. A change of the rate has taken effect with the first frame that
comes at the new distance; a stop with the last frame of the run. Then clients send messages that are no messages to all
three sockets, while another asks for the status; and clients whose key is not listed try to get in. With a model, a
server draws it at full speed while it plays it at 1,000 frames a second: how long a status takes meanwhile, how far
apart frames come, and how soon a change of the rate takes effect.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgpack
import numpy as np
import zmq
from bars.runs import run_main
from bars.verdict import Bar, as_dict, at_most, equal, finish, has_passed, show

from nsstream.errors import ReplayError
from nsstream.replay import End, PacketBatch, PacketRate, ReplayClient
from nsstream.replay.keys import ClientKeys, KeyPair, allow_client, load_client_keys, make_keys, make_server_keys

SERVER = Path(__file__).resolve().parents[1] / "tests" / "integration" / "recorded_server.py"
BAR_RATE_MS = 50.0
BAR_STOP_MS = 100.0
BAR_STATUS_MS = 100.0  # while a model is drawn, with two cores
RATE_CHANGES = 5  # while a model is drawn
BAR_GROWTH_MB = 64


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=20, help="changes and stops of each kind")
    parser.add_argument("--messages", type=int, default=100_000, help="that are none, over real sockets")
    parser.add_argument("--strangers", type=int, default=200, help="handshakes with keys that are not listed")
    parser.add_argument("--model", type=Path, help="a checkpoint, to draw from meanwhile")
    parser.add_argument("--only-model", action="store_true", help="measure that alone")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    given = parser.parse_args(arguments)
    drawing = [] if given.model is None else while_drawing(given.model.absolute())
    if given.only_model:
        show("a run whose model is drawn meanwhile", drawing)
        return finish(as_dict(drawing), given.json, passed=has_passed(drawing))
    with tempfile.TemporaryDirectory(prefix="nsstream-control-") as folder:
        directory = Path(folder)
        model = directory / "endless"
        model.mkdir()
        (model / "manifest.json").write_text('{"id": "endless", "start_ns": 0, "end_ns": 60000000000}')
        rates = [rate_change_ms(directory, model) for _ in range(given.repeat)]
        stops = {how: [stop_ms(directory, model, how) for _ in range(max(given.repeat // 4, 1))] for how in STOPS}
        growth, worst_ms, answered = hostile(directory, model, given.messages)
        let_in, listed = strangers(directory, given.strangers)
    bars = [
        at_most("rate change takes effect, worst (ms)", round(max(rates), 2), BAR_RATE_MS),
        Bar("rate change takes effect, median (ms)", round(float(np.median(rates)), 2)),
        *(at_most(f"last frame after {how}, worst (ms)", round(max(ms), 2), BAR_STOP_MS) for how, ms in stops.items()),
        Bar("hostile messages over sockets", given.messages),
        Bar("refusals that were read", answered),
        at_most("growth of the server meanwhile (MB)", growth, BAR_GROWTH_MB),
        Bar("longest status meanwhile (ms)", round(worst_ms, 1)),
        equal(f"let in, of {given.strangers} with a key that is not listed", let_in, 0),
        equal(f"let in, of {given.strangers // 4} that are listed", listed, given.strangers // 4),
        *drawing,
    ]
    print(flush=True)
    show("commands to a run, and hostile clients", bars)
    return finish(as_dict(bars), given.json, passed=has_passed(bars))


@contextmanager
def server(
    endpoint: str, *options: str, program: Sequence[str] = (str(SERVER),)
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    child = subprocess.Popen(
        [sys.executable, *program, "--endpoint", endpoint, *options],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert child.stdout is not None
        yield child, json.loads(child.stdout.readline())["endpoint"]
    finally:
        child.kill()
        child.wait()


class Stamps:
    """A subscriber in a thread of its own: when each frame came."""

    def __init__(self, endpoint: str) -> None:
        self.came_ns: list[int] = []
        self.end_ns = 0
        self._client = ReplayClient(endpoint)
        self._packets = self._client.packets("stamps", credit=256)
        self._thread = threading.Thread(target=self._receive)
        self._thread.start()

    def _receive(self) -> None:
        with suppress(ReplayError):
            for item in self._packets:
                now_ns = time.monotonic_ns()
                if isinstance(item, PacketBatch):
                    self.came_ns += [now_ns] * len(item)
                elif isinstance(item, End):
                    break
        self._packets.close()
        self._client.close()

    def wait_for(self, count: int) -> None:
        deadline = time.monotonic() + 120
        while len(self.came_ns) < count:
            if time.monotonic() > deadline:
                raise ReplayError(f"only {len(self.came_ns)} frames of {count} came")
            time.sleep(0.001)

    def join(self) -> None:
        self._thread.join(30)


def rate_change_ms(directory: Path, model: Path) -> float:
    """From the word to the first frame at the new distance: 10 frames a second become 1,000."""
    with server(f"ipc://{directory}/rate.sock") as (_, endpoint), ReplayClient(endpoint) as client:
        stamps = Stamps(endpoint)
        client.start([model], {"kind": "subscribers", "wait_for": 1}, rate=PacketRate(packets_per_s=10.0))
        ms = quicken_ms(client, stamps)
        client.stop()
        stamps.join()
    return ms


def quicken_ms(client: ReplayClient, stamps: Stamps) -> float:
    """From the word to the first frame at the new distance, of a run at 10 frames a second."""
    stamps.wait_for(3)
    while stamps.came_ns[-1] - stamps.came_ns[-2] < 50_000_000:  # of another rate, still on their way
        stamps.wait_for(len(stamps.came_ns) + 1)
    before = len(stamps.came_ns)
    said_ns = time.monotonic_ns()
    client.set_rate(PacketRate(packets_per_s=1000.0))
    stamps.wait_for(before + 20)
    came = np.array(stamps.came_ns[before:])
    close = np.flatnonzero(np.diff(came) < 50_000_000)  # the old distance is 100 ms
    return float(came[close[0] + 1] - said_ns) * 1e-6


def while_drawing(model: Path, seconds: float = 20.0) -> list[Bar]:
    """How long a status takes, and how far apart frames of a millisecond come, while more is drawn than is played."""
    stream, scenario = {"kind": "model", "model": str(model)}, {"time_compression": 1e4}
    slowest_s, asked, drawn = 0.0, 0, 0
    with (
        tempfile.TemporaryDirectory(prefix="nsstream-drawing-") as folder,
        server(f"ipc://{folder}/drawing.sock", program=("-m", "nsstream.replay.server")) as (_, endpoint),
        ReplayClient(endpoint, timeout_s=60) as client,
    ):
        stamps = Stamps(endpoint)
        rate = PacketRate(packets_per_s=1000.0)
        client.start(stream, {"kind": "subscribers", "wait_for": 1}, scenario=scenario, rate=rate)
        stamps.wait_for(100)
        first, end = len(stamps.came_ns), time.monotonic() + seconds
        while time.monotonic() < end:
            asked_s = time.monotonic()
            status = client.status()
            slowest_s, asked = max(slowest_s, time.monotonic() - asked_s), asked + 1
            drawn = max(drawn, status.packets_drawn_ahead)
            time.sleep(0.002)
        gaps = np.diff(stamps.came_ns[first:])
        quickened = []
        for _ in range(RATE_CHANGES):
            client.set_rate(PacketRate(packets_per_s=10.0))
            quickened.append(quicken_ms(client, stamps))
        client.stop()
        stamps.join()
    return [
        Bar("packets drawn ahead meanwhile", drawn),
        Bar("statuses asked for while drawing", asked),
        at_most("longest status while drawing (ms)", round(slowest_s * 1e3, 1), BAR_STATUS_MS),
        at_most("rate change takes effect while drawing, worst (ms)", round(max(quickened), 2), BAR_RATE_MS),
        Bar("longest distance of frames while drawing, 1 ms due (ms)", round(float(gaps.max()) * 1e-6, 1)),
        Bar("p99 distance of frames while drawing (ms)", round(float(np.percentile(gaps, 99)) * 1e-6, 1)),
    ]


STOPS = ("stop", "SIGTERM", "the loss of its controller")


def stop_ms(directory: Path, model: Path, how: str) -> float:
    """From the word to the last frame; from the end of the controller's timeout, where it is lost."""
    timeout_s = 0.5
    with server(f"ipc://{directory}/stop.sock") as (child, endpoint):
        stamps = Stamps(endpoint)
        controller = ReplayClient(endpoint)
        is_lost = how == STOPS[2]
        controller.start(
            [model], {"kind": "subscribers", "wait_for": 1}, rate=PacketRate(packets_per_s=2000.0),
            controller_timeout_s=timeout_s if is_lost else None,
        )  # fmt: skip
        if is_lost:
            heard_ns = time.monotonic_ns()
            said_ns = heard_ns + int(timeout_s * 1e9)
        else:
            stamps.wait_for(500)
            said_ns = time.monotonic_ns()
            if how == "stop":
                controller.stop()
            else:
                child.send_signal(signal.SIGTERM)
        stamps.join()
        controller.close()
    return max(float(stamps.came_ns[-1] - said_ns) * 1e-6, 0.0)


def hostile(directory: Path, model: Path, count: int) -> tuple[float, float, int]:
    """Growth of the server in MB, the longest status in ms, and how many refusals were read."""
    chance = random.Random(5)
    valid = [msgpack.packb({"v": 2, "id": 1, "type": kind}) for kind in ("hello", "status", "stop", "pause", "models")]
    valid.append(msgpack.packb({"v": 2, "type": "credit", "token": "0" * 32, "credit": 8, "ack": -1}))
    worst_ms, answered = 0.0, 0
    with server(f"ipc://{directory}/hostile.sock") as (child, endpoint), ReplayClient(endpoint, 30.0) as client:
        client.start([model], {"kind": "subscribers"}, rate=1.0)
        context = zmq.Context()
        first = 0.0
        batches = max(count // 1000, 1)
        for batch in range(batches):
            plane, kind = [("", zmq.DEALER), (".packets", zmq.DEALER), (".status", zmq.SUB)][batch % 3]
            stranger = context.socket(kind if kind == zmq.DEALER else zmq.XSUB)
            stranger.setsockopt(zmq.LINGER, 0)
            stranger.setsockopt(zmq.SNDHWM, 0)
            stranger.connect(endpoint + plane)
            for _ in range(1000):
                stranger.send_multipart(mutate(chance, valid))
            reads = batch % 2 == 0
            while reads and stranger.poll(200):
                stranger.recv_multipart()
                answered += 1
            asked_ns = time.monotonic_ns()
            client.status()
            worst_ms = max(worst_ms, (time.monotonic_ns() - asked_ns) * 1e-6)
            stranger.close(2000)
            if batch == min(9, batches // 2):  # by then it has what it needs
                first = resident_mb(child.pid)
        growth = resident_mb(child.pid) - first
        context.destroy(0)
    return round(growth, 1), worst_ms, answered


def mutate(chance: random.Random, valid: Sequence[bytes]) -> list[bytes]:
    """Frames of any number: noise, damaged messages, and in some the envelope of a request."""
    frames = []
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        if chance.random() < 0.3:
            frames.append(chance.randbytes(chance.choice((0, 1, 10, 100, 2000))))
            continue
        octets = bytearray(chance.choice(valid))
        for _ in range(chance.randrange(4)):
            octets[chance.randrange(len(octets))] = chance.randrange(256)
        frames.append(bytes(octets[: chance.randrange(len(octets) + 1)] if chance.random() < 0.2 else octets))
    # Not the commands that end what is measured.
    frames = [b"\x80" if b"shutdown" in frame or b"start" in frame else frame for frame in frames]
    return [b"", *frames] if chance.random() < 0.7 else frames


def strangers(directory: Path, count: int) -> tuple[int, int]:
    """How many got in without being listed; and how many that are listed, given the same time."""
    make_server_keys(directory / "server")
    make_keys(directory, "lab")
    allow_client(directory / "server", directory / "lab.key")
    own = load_client_keys(directory / "lab.key_secret", directory / "server" / "server.key")
    with server("tcp://127.0.0.1:*", "--keys", str(directory / "server")) as (_, endpoint):
        listed = sum(gets_in(endpoint, own) for _ in range(count // 4))
        let_in = 0
        for i in range(count):
            pair = KeyPair(*zmq.curve_keypair())
            if i % 4 == 0:  # a listed public key, and a secret that is not its own
                pair = KeyPair(own.own.public, pair.secret)
            let_in += gets_in(endpoint, ClientKeys(pair, own.server))
    return let_in, listed


def gets_in(endpoint: str, keys: ClientKeys) -> bool:
    with ReplayClient(endpoint, timeout_s=0.25, keys=keys) as client:
        try:
            client.status()
        except ReplayError:
            return False
        return True


def resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / (1 << 20)


if __name__ == "__main__":
    raise SystemExit(run_main(main))
