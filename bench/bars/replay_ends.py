"""The two ends of a replay in namespaces, as processes of their own: one sends a pcap by our sink, one stamps receipts.

    python bench/bars/replay_ends.py send tx FILE '{"loops": 1, "is_paced": true, "spec": {...}}'
    python bench/bars/replay_ends.py receive rx OUT.npy

The sender says a line when it is ready, goes on a line of standard input, stops on another, and tells what it did as
JSON. The receiver is ready likewise, and writes the kernel's times of receipt (SO_TIMESTAMPNS) when its
standard input ends; it sleeps between looks, so that it takes no processor from who sends.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import sys
import threading
import time
from pathlib import Path

import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bars.replay_frames import read_frames
from nsstream.clock import SystemClock
from nsstream.errors import OutputError
from nsstream.replay.interface_sink import InterfaceSink, InterfaceSinkSpec
from nsstream.replay.rate_cap import RateCap
from nsstream.replay.safety import SendingRules
from nsstream.replay.sink import SinkContext

LOOK_S = 0.1
SLICE_NS = 10_000_000
LEAD_NS = 20_000_000
BURST = 4096
BUFFER_BYTES = 256 << 20
_SO_TIMESTAMPNS = 35
_SO_RCVBUFFORCE = 33


def send(interface: str, path: Path, options: dict[str, object]) -> None:
    frames = read_frames(path)
    stopped = threading.Event()
    rules = SendingRules(frozenset({interface}), cap=RateCap(options.get("packets_per_s")))
    spec = InterfaceSinkSpec(interface=interface, **options.get("spec", {}))
    sink = InterfaceSink(spec, SinkContext(stopped.is_set, SystemClock(), rules=rules))
    sink.open()
    print("ready", flush=True)
    sys.stdin.readline()
    stop_ns: list[int] = []

    def wait_for_stop() -> None:
        if sys.stdin.readline():
            stop_ns.append(time.time_ns())
            stopped.set()

    threading.Thread(target=wait_for_stop, daemon=True).start()
    starts_ns: list[int] = []
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    try:
        for _ in range(int(options.get("loops", 1))):
            if options.get("is_paced"):
                starts_ns.append(_send_paced(sink, frames))
            else:
                for at in range(0, len(frames), BURST):
                    sink.write(frames.slice(at, at + BURST))
        sink.close()
    except OutputError:
        sink.abort()
    elapsed_s, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    told = {"elapsed_s": elapsed_s, "cpu_s": cpu_s}
    told |= {"starts_ns": starts_ns, "stop_ns": stop_ns, "counters": dict(sink.counters)}
    print(json.dumps(told), flush=True)


def _send_paced(sink: InterfaceSink, frames: object) -> int:
    """As the player does: slices of some milliseconds, handed over before they are due. Gives the first's instant."""
    times_ns = frames.observation_time_ns
    start_ns = time.monotonic_ns() + LEAD_NS
    due_ns = times_ns - times_ns[0] + start_ns
    at = 0
    while at < len(times_ns):
        end = max(int(np.searchsorted(due_ns, due_ns[at] + SLICE_NS)), at + 1)
        while (left_ns := int(due_ns[at]) - LEAD_NS - time.monotonic_ns()) > 0:
            time.sleep(left_ns * 1e-9)
        sink.write_due(frames.slice(at, end), due_ns[at:end])
        at = end
    return _wall_ns(start_ns)


def _wall_ns(monotonic_ns: int) -> int:
    """The same instant on the clock of the kernel's stamps, by the closest of some readings of both."""
    readings = [(time.monotonic_ns(), time.time_ns(), time.monotonic_ns()) for _ in range(1000)]
    before, wall, after = min(readings, key=lambda r: r[2] - r[0])
    return wall - (before + after) // 2 + monotonic_ns


def receive(interface: str, output: Path) -> None:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, BUFFER_BYTES)
    sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    sock.bind((interface, 3))
    sock.setblocking(False)
    print("ready", flush=True)
    stamps_ns: list[int] = []
    is_last = False
    while not is_last:
        is_last = bool(select.select([0], [], [], LOOK_S)[0])
        while True:
            try:
                _, control, _, _ = sock.recvmsg(1, 64)
            except BlockingIOError:
                break
            seconds, ns = struct.unpack("qq", control[0][2])
            stamps_ns.append(seconds * 10**9 + ns)
    np.save(output, np.array(stamps_ns, np.int64))
    # PACKET_STATISTICS: packets and drops
    dropped = struct.unpack("2I", sock.getsockopt(263, 6, 8))[1]
    print(json.dumps({"count": len(stamps_ns), "dropped": dropped}), flush=True)


if __name__ == "__main__":
    role, device, where = sys.argv[1:4]
    if role == "send":
        send(device, Path(where), json.loads(sys.argv[4]))
    else:
        receive(device, Path(where))
    os._exit(0)  # a thread may wait for standard input
