"""How many packets a second leave at most over a veth pair: ours, and ``tcpreplay --topspeed -K`` of the same file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from bars.replay_frames import lab_frames, mtu_for, read_frames, write_frames
from bars.replay_timing import sending
from bars.verdict import Bar, equal
from bars.veth import VethPair, veth_pair

LEAST_RATIO = 1.0
PACKETS = 1_000_000
PEER = "tcpreplay --topspeed -K"


@dataclass(frozen=True, slots=True)
class Burst:
    packets_per_s: float
    lost_count: int
    cpu_s: float  # of the sender; of tcpreplay, with its start and preload


def measure_throughput(directory: Path, rounds: int, trace: Path | None) -> tuple[list[Bar], dict[str, object]]:
    """Send the file again and again by each in turn, in an order that alternates; the bars, and all figures."""
    frames = lab_frames(60) if trace is None else read_frames(trace)
    capture = directory / "throughput.pcap"
    write_frames(capture, frames)
    loops = max(1, -(-PACKETS // len(frames)))
    ways = {
        "ours": lambda pair: _ours(pair, capture, len(frames), loops, {}),
        PEER: lambda pair: _tcpreplay(pair, capture, loops),
        "ours, through the qdisc": lambda pair: _ours(pair, capture, len(frames), loops, {"bypass_qdisc": False}),
    }
    found: dict[str, list[Burst]] = {name: [] for name in ways}
    with veth_pair(mtu_for(frames)) as pair:
        for k in range(rounds):
            for name in sorted(ways, reverse=k % 2 == 1):
                found[name].append(ways[name](pair))
    ratios = [
        a.packets_per_s / b.packets_per_s for a, b in zip(found["ours"], found["tcpreplay --topspeed -K"], strict=True)
    ]
    ratio = float(np.median(ratios))
    bars = [
        Bar("packets a second over tcpreplay's, median round", ratio, f">= {LEAST_RATIO:g}", ratio >= LEAST_RATIO),
        Bar("the same, worst and best round", f"{min(ratios):.2f} to {max(ratios):.2f}"),
        equal("packets not received, all rounds", sum(b.lost_count for b in found["ours"]), 0),
    ]
    for name, bursts in found.items():
        cpu = [b.cpu_s for b in bursts if b.cpu_s is not None]
        million = loops * len(frames) / 1e6
        bars.append(Bar(f"{name}: packets a second, median", float(np.median([b.packets_per_s for b in bursts]))))
        bars.append(
            Bar(f"{name}: processor seconds a million, median", float(np.median(cpu)) / million if cpu else None)
        )
    return bars, {name: [asdict(b) for b in bursts] for name, bursts in found.items()}


def _ours(pair: VethPair, capture: Path, count: int, loops: int, spec: dict[str, object]) -> Burst:
    before = pair.received()[0]
    with sending(pair, capture, json.dumps({"loops": loops, "spec": spec})) as sender:
        told = json.loads(sender.communicate("\n")[0])
    written = told["counters"]["frames_written"]
    assert written == count * loops, told
    return Burst(written / told["elapsed_s"], written - pair.wait_for(before + written) + before, told["cpu_s"])


def _tcpreplay(pair: VethPair, capture: Path, loops: int) -> Burst:
    sent = pair.send(capture, "--topspeed", "--preload-pcap", "--quiet", f"--loop={loops}")
    return Burst(sent.successful_count / sent.sending_s, sent.successful_count - sent.received_count, sent.cpu_s)
