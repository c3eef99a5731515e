"""Point-to-point links made of two TAP devices: delay, jitter, rate, queue, loss and an 802.1Q tag.

Runs as a child process inside its own network namespace: it reads one JSON list of links on stdin, creates the TAP
devices, prints ``ready`` and carries frames until stdin closes, so that a killed parent leaves no device behind.

Promises: each direction keeps the order of its frames; a frame is delivered whole or dropped; nothing is duplicated.
A TAP device has no offloads: the kernel cuts segments to the MTU and computes every checksum before a frame comes here.

Why not netem and a VLAN device: kernels of small virtual machines are often built without ``sch_netem`` and ``8021q``.
TAP and bridge are nearly always there, and this way the lab behaves the same on every kernel.
"""

from __future__ import annotations

import fcntl
import heapq
import json
import os
import random
import select
import signal
import struct
import sys
import time
from dataclasses import asdict, dataclass, field

TUNSETIFF = 0x400454CA
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000
LARGEST_FRAME_BYTES = 2048
TPID_8021Q = b"\x81\x00"


@dataclass(frozen=True)
class Impairment:
    """What one direction of a link does to frames.

    ``jitter_s`` is the greatest extra delay (uniform); ``queue_s`` is the longest wait for the serialiser before a
    frame is dropped at the tail; ``loss`` is the chance of each frame to vanish.
    """

    delay_s: float = 0.0
    jitter_s: float = 0.0
    rate_bits_per_s: float = 1e9
    queue_s: float = 0.1
    loss: float = 0.0


@dataclass(frozen=True)
class Link:
    """One link between the devices ``a`` and ``b``.

    With ``vlan`` the side ``a`` is untagged and the side ``b`` carries that 802.1Q tag; without it no tagged frame
    passes, as on an access port.
    """

    a: str
    b: str
    a_to_b: Impairment = field(default_factory=Impairment)
    b_to_a: Impairment = field(default_factory=Impairment)
    vlan: int | None = None


def dump_links(links: list[Link], seed: int) -> str:
    """Write the child's one line of configuration."""
    return json.dumps({"seed": seed, "links": [asdict(link) for link in links]}) + "\n"


def load_links(line: str) -> tuple[list[Link], int]:
    """Read what `dump_links` wrote."""
    config = json.loads(line)
    links = [
        Link(
            a=one["a"],
            b=one["b"],
            a_to_b=Impairment(**one["a_to_b"]),
            b_to_a=Impairment(**one["b_to_a"]),
            vlan=one["vlan"],
        )
        for one in config["links"]
    ]
    return links, config["seed"]


def push_tag(frame: bytes, vlan: int) -> bytes:
    """Return the frame with an 802.1Q tag of that VLAN, priority 0."""
    return frame[:12] + TPID_8021Q + struct.pack("!H", vlan) + frame[12:]


def pop_tag(frame: bytes, vlan: int) -> bytes | None:
    """Return the frame without its tag, or None if it does not carry that VLAN."""
    if frame[12:14] != TPID_8021Q or struct.unpack("!H", frame[14:16])[0] & 0x0FFF != vlan:
        return None
    return frame[:12] + frame[16:]


class Direction:
    """One way over a link: reads frames of ``source``, hands them to ``sink`` when they are due."""

    def __init__(self, source: int, sink: int, impairment: Impairment, rng: random.Random) -> None:
        self.source = source
        self.sink = sink
        self.impairment = impairment
        self.rng = rng
        self.free_at_s = 0.0
        self.last_due_s = 0.0

    def due_at(self, now_s: float, octets: int) -> float | None:
        """Return when a frame that enters now comes out, or None if it is lost."""
        way = self.impairment
        starts_s = max(now_s, self.free_at_s)
        if starts_s - now_s > way.queue_s:
            return None
        self.free_at_s = starts_s + 8 * octets / way.rate_bits_per_s
        if self.rng.random() < way.loss:
            return None
        due_s = self.free_at_s + way.delay_s + way.jitter_s * self.rng.random()
        self.last_due_s = max(due_s, self.last_due_s)
        return self.last_due_s


def open_tap(name: str) -> int:
    """Create the TAP device in the namespace of this process; return its descriptor (not blocking)."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return descriptor


def carry(links: list[Link], rng: random.Random, control: int) -> None:
    """Carry frames until the control descriptor becomes readable (its writer went away)."""
    directions: dict[int, tuple[Direction, int | None, int | None]] = {}
    for link in links:
        a, b = open_tap(link.a), open_tap(link.b)
        directions[a] = (Direction(a, b, link.a_to_b, rng), link.vlan, None)
        directions[b] = (Direction(b, a, link.b_to_a, rng), None, link.vlan)
    print("ready", flush=True)

    waiting: list[tuple[float, int, int, bytes]] = []  # (due_s, serial, sink, frame)
    serial = 0
    sources = [*directions, control]
    while True:
        timeout_s = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        readable, _, _ = select.select(sources, [], [], timeout_s)
        if control in readable:
            return
        for source in readable:
            direction, push, pop = directions[source]
            for frame in _frames(source):
                due_s = direction.due_at(time.monotonic(), len(frame))
                passed = _retag(frame, push, pop)
                if due_s is None or passed is None:
                    continue
                serial += 1
                heapq.heappush(waiting, (due_s, serial, direction.sink, passed))
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, sink, frame = heapq.heappop(waiting)
            _deliver(sink, frame)


def _frames(source: int) -> list[bytes]:
    frames: list[bytes] = []
    while len(frames) < 64:  # then look at the clock again
        try:
            frames.append(os.read(source, LARGEST_FRAME_BYTES))
        except OSError:  # nothing more to read, or the device is down
            break
    return frames


def _retag(frame: bytes, push: int | None, pop: int | None) -> bytes | None:
    if push is not None:
        return None if frame[12:14] == TPID_8021Q else push_tag(frame, push)
    if pop is not None:
        return pop_tag(frame, pop)
    return None if frame[12:14] == TPID_8021Q else frame


def _deliver(sink: int, frame: bytes) -> None:
    try:
        os.write(sink, frame)
    except OSError:  # the device is down or its queue is full: lost on the link
        return


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the parent, which then closes stdin
    links, seed = load_links(sys.stdin.readline())
    carry(links, random.Random(seed), sys.stdin.fileno())


if __name__ == "__main__":
    main()
