"""How well a trace's timing is kept over a veth pair: ours, tcpreplay by the trace's times, and tcpreplay --pps."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bars.replay_frames import lab_frames, mtu_for, read_frames, write_frames
from bars.verdict import Bar, at_most, equal
from bars.veth import VethPair, veth_pair
from nsstream.assemble.frames import Frames
from nsstream.errors import InputError
from nsstream.replay.interface_sink import MAX_SPIN_US

ENDS = Path(__file__).with_name("replay_ends.py")
LONGEST_DRIFT_MS = 1.0
MEDIAN_US = 50.0
REAL_TIME = ("chrt", "-f", "1")


@dataclass(frozen=True, slots=True)
class Timing:
    """Offsets are of each receipt from its instant.

    Our instants are those that were asked of the sender. tcpreplay does not tell when it meant to begin: its offsets
    are counted from its first receipt, or from what makes their median 0, whichever gives the smaller figures.
    """

    count: int
    lost_count: int
    drift_ms: float  # of the last receipt
    median_us: float  # of the absolute offsets
    p99_us: float
    worst_us: float
    cpu_s: float


def measure_timing(
    directory: Path, seconds: float, trace: Path | None, passes: int
) -> tuple[list[Bar], dict[str, object]]:
    """Send the trace by each in turn, by those that are compared so many times; the bars, and all figures."""
    frames = lab_frames(seconds) if trace is None else read_frames(trace)
    capture = directory / "timing.pcap"
    write_frames(capture, frames)
    times_ns = frames.observation_time_ns - frames.observation_time_ns[0]
    per_s = (len(frames) - 1) / (times_ns[-1] * 1e-9)
    even_ns = np.arange(len(frames)) * 1e9 / per_s
    with veth_pair(mtu_for(frames)) as pair:
        pps = f"--pps={per_s:.6f}"
        rounds: list[dict[str, Timing]] = [
            {
                "ours": _ours(pair, capture, times_ns, {}),
                "tcpreplay --pps": _tcpreplay(pair, capture, even_ns, pps),
                "ours, real time": _ours(pair, capture, times_ns, {"real_time": True}),
                "tcpreplay --pps, real time": _tcpreplay(pair, capture, even_ns, pps, under=REAL_TIME),
            }
            for _ in range(passes)
        ]
        found = {name: _middle([one[name] for one in rounds]) for name in rounds[0]} | {
            "ours, asleep where it can": _ours(pair, capture, times_ns, {"spin_us": 500}),
            "ours, never asleep": _ours(pair, capture, times_ns, {"spin_us": MAX_SPIN_US}),
            "tcpreplay": _tcpreplay(pair, capture, times_ns),
        }
    figures = {name: asdict(timing) for name, timing in found.items()}
    return _bars(found, frames), figures | {"passes": [{n: asdict(t) for n, t in one.items()} for one in rounds]}


def _middle(timings: Sequence[Timing]) -> Timing:
    """The median pass, figure by figure: what the machine's other work does to one pass is not the sender's."""
    columns = [[getattr(one, field.name) for one in timings] for field in fields(Timing)]
    count, _, _, *others = (float(np.median(column)) for column in columns)
    drift = sorted((one.drift_ms for one in timings), key=abs)[len(timings) // 2]
    return Timing(int(count), max(one.lost_count for one in timings), drift, *others)


def _bars(found: dict[str, Timing], frames: Frames) -> list[Bar]:
    default = found["tcpreplay"]
    bars = [Bar("packets of the trace", len(frames))]
    for kind in ("", ", real time"):
        ours, even = found["ours" + kind], found["tcpreplay --pps" + kind]
        bars += [
            equal(f"packets lost{kind}", ours.lost_count, 0, default.lost_count),
            at_most(f"|last frame - its instant|{kind}, ms", abs(ours.drift_ms), LONGEST_DRIFT_MS, default.drift_ms),
            at_most(f"median offset{kind}, us", ours.median_us, MEDIAN_US, even.median_us),
            at_most(f"99 % of offsets{kind}, us (bar: --pps)", ours.p99_us, even.p99_us, default.p99_us),
        ]
    for name, timing in found.items():
        figures = f"{timing.drift_ms:.3f} / {timing.median_us:.1f} / {timing.p99_us:.0f} / {timing.worst_us:.0f}"
        bars.append(Bar(f"{name}: end ms / median / 99 % / worst us", figures, beside=f"{timing.cpu_s:.1f} CPU-s"))
    return bars


def _ours(pair: VethPair, capture: Path, instants_ns: NDArray[np.int64], spec: dict[str, object]) -> Timing:
    options = json.dumps({"is_paced": True, "spec": spec})
    with stamped(pair, capture) as stamps, sending(pair, capture, options) as sender:
        told = json.loads(sender.communicate("\n")[0])
    return _timing(stamps, instants_ns, told["starts_ns"][0], told["cpu_s"])


def _tcpreplay(
    pair: VethPair, capture: Path, instants_ns: NDArray[np.float64], *options: str, under: Sequence[str] = ()
) -> Timing:
    with stamped(pair, capture) as stamps:
        before_s = _ended_children_s()
        pair.send(capture, "--quiet", *options, under=under)
        cpu_s = _ended_children_s() - before_s
    return _timing(stamps, instants_ns, None, cpu_s)


def _ended_children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextmanager
def sending(pair: VethPair, capture: Path, options: str) -> Iterator[subprocess.Popen[str]]:
    """Our sender, ready; a line sets it going."""
    command = ["ip", "netns", "exec", pair.sender, sys.executable, str(ENDS), "send", "tx", str(capture), options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        _await(child)
        yield child


@contextmanager
def stamped(pair: VethPair, capture: Path) -> Iterator[list[NDArray[np.int64]]]:
    """Receipts while the context is open, in the list once it has ended; sorted."""
    output = capture.with_name("stamps.npy")
    command = ["ip", "netns", "exec", pair.receiver, sys.executable, str(ENDS), "receive", "rx", str(output)]
    stamps: list[NDArray[np.int64]] = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        _await(child)
        yield stamps
        told = json.loads(child.communicate()[0])
    if told["dropped"]:
        raise InputError(f"the receiver's buffer was full: {told['dropped']} of {told['count']} are missing")
    stamps.append(np.sort(np.load(output)))


def _await(child: subprocess.Popen[str]) -> None:
    assert child.stdout is not None
    if child.stdout.readline() != "ready\n":
        raise InputError(f"{child.args!r} does not start")


def _timing(
    stamps: list[NDArray[np.int64]], instants_ns: NDArray[np.float64], start_ns: int | None, cpu_s: float
) -> Timing:
    received_ns = stamps[0]
    lost = len(instants_ns) - len(received_ns)
    if lost:
        return Timing(len(received_ns), lost, *[float("nan")] * 4, cpu_s)
    since_ns = received_ns - received_ns[0] - (instants_ns - instants_ns[0])
    anchors_ns = [0.0, float(np.median(since_ns))] if start_ns is None else [float(start_ns - received_ns[0])]
    found = []
    for anchor_ns in anchors_ns:
        offset_us = (since_ns - anchor_ns) / 1e3
        median, p99 = np.percentile(np.abs(offset_us), [50, 99])
        found.append((float(p99), float(median), float(np.abs(offset_us).max()), float(offset_us[-1]) / 1e3))
    p99, median, worst, drift = (min(column, key=abs) for column in zip(*found, strict=True))
    return Timing(len(received_ns), 0, drift, median, p99, worst, cpu_s)
