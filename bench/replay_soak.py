"""Every sink for long, while clients come, die and stall: does memory stay, and do the counters add up?

    nice python bench/replay_soak.py [--minutes 60] [--rate 20000] [--sinks pcap,fifo,...] [--at-once N]
                                     [--warm-up MINUTES] [--json OUT]

Needs root, iproute2, tcpreplay, nfdump and capinfos. Each sink has a replay server of its own, in a network namespace
with a veth pair to another, and an other end that counts what comes: files that rotate, read by capinfos and nfdump; a
reader of the FIFO and of standard output that stalls; the device at the other end of the pair; nfcapd; subscribers,
one of whom falls behind. The stream is the lab capture (or --capture), looped without end, new flows in every pass;
for `model` one model of it (or --model), drawn with as many candidates as keep up with the rate (`candidates: auto`).
Sinks come in waves of --at-once, each of --minutes.

Four times a second a client comes that dies within a greeting or half a message, stalls, talks nonsense, asks much and
reads nothing, subscribes and gives no more credit, or is polite. Half-way one tcpreplay is killed. At the end the run
is told to end with its pass, so that all of it can be counted. Memory is read ten times a second; its slope is Theil's
and Sen's, of the least of each half minute, behind a warm-up of half of the run, of 30 minutes at most, unless told.
Beside it stand the interval that holds it with 95 %, whose upper end says whether this run was long and quiet enough to
exclude two megabytes an hour (a bar of its own), and how much the last fifth has above the first, since one step is
no slope; and how much of that is pages of programs and libraries, which the kernel reads when they are first used.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bars.replay_frames import lab_frames, write_frames
from bars.runs import RunFailedError, run_main
from bars.soak_lane import NAMES, Lane
from bars.verdict import Bar, as_dict, at_least, at_most, equal, finish, has_passed, show
from rich import box
from rich.console import Console
from rich.table import Table

LANE = Path(__file__).resolve().parent / "bars" / "soak_lane.py"
BAR_GROWTH = 1.0  # MB an hour
BAR_END = 2.0  # of the interval that holds it with 95 %
BAR_RATE = 0.99  # of what was asked for
BAR_ANSWER_MS = 1000.0
AT_ONCE = 3
TRACE_S = 60.0
MODEL_S, MODEL_STEPS = 60.0, 20
Found = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0, help="of each wave")
    parser.add_argument(
        "--warm-up", type=float, help="minutes of each wave in which growth is not looked at; half, 30 at most"
    )
    parser.add_argument("--rate", type=float, default=20_000.0, help="packets a second, of each sink")
    parser.add_argument("--sinks", default=",".join(NAMES), help=f"of {', '.join(NAMES)}; all unless told")
    parser.add_argument("--at-once", type=int, default=AT_ONCE, help="sinks in one wave")
    parser.add_argument("--capture", type=Path, help="an Ethernet pcap, not compressed, instead of the lab's")
    parser.add_argument("--model", type=Path, help="a checkpoint; by default one is trained for some steps")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    given = parser.parse_args(arguments)
    names = given.sinks.split(",")
    if unknown := set(names) - set(NAMES):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    waves = [names[i : i + given.at_once] for i in range(0, len(names), given.at_once)]
    with tempfile.TemporaryDirectory(prefix="nsstream-soak-") as folder:
        capture = given.capture or Path(folder, "lab.pcap")
        if given.capture is None:
            write_frames(capture, lab_frames(TRACE_S))
        model = given.model
        if model is None and "model" in names:
            model = _make_model(Path(folder))
        seconds = given.minutes * 60
        behind_s = None if given.warm_up is None else given.warm_up * 60
        if behind_s is not None and behind_s >= seconds:
            parser.error(f"a warm-up of {behind_s:.0f} s leaves nothing of a wave of {seconds:.0f} s")
        found = []
        for wave in waves:
            print(f"{', '.join(wave)}: {seconds:.0f} s", flush=True)
            told = (seconds, given.rate, str(capture.absolute()), None if model is None else str(model), behind_s)
            lanes = [Lane(name, *told) for name in wave]
            found += _run(lanes)
            _show_lanes(found[-len(wave) :])
    bars = judge(found, given.rate)
    show(f"a soak: {len(waves)} waves of {given.minutes:g} minutes", bars, beside="where")
    return finish(as_dict(bars) | {"sinks": found}, given.json, passed=has_passed(bars))


def judge(found: Sequence[Found], rate: float) -> list[Bar]:
    """The bars, of the worst of all sinks each."""
    paced = [one for one in found if one["name"] != "model"]
    disagreeing = [
        f"{one['name']}: {what}: {came} came, {said} said" for one in found
        for what, (came, said) in one["agreement"].items() if came != said
    ]  # fmt: skip
    disagreeing += [f"{one['name']}: nothing was counted" for one in found if not one["agreement"]]
    growth = max(found, key=lambda one: math.inf if math.isnan(g := one["growth_mb_an_hour"]) else g)
    vague = max(found, key=lambda one: math.inf if math.isnan(w := _end(one)) else w)
    risen = max(found, key=lambda one: one["risen_mb"])
    slow = max(found, key=lambda one: one["slowest_answer_ms"])
    bars = [
        equal("runs that ended otherwise than told", _count(found, _ended_badly), 0, _names(found, _ended_badly)),
        equal("servers that ended with another status than 0", _count(found, _exited), 0, _names(found, _exited)),
        at_most("memory, worst slope (MB an hour)", growth["growth_mb_an_hour"], BAR_GROWTH, growth["name"]),
        at_most("upper end of a slope's interval, the highest (MB an hour)", _end(vague), BAR_END, vague["name"]),
        Bar("memory, last fifth above the first, most (MB)", round(risen["risen_mb"], 2), beside=risen["name"]),
        equal("descriptors kept of clients that are gone", _kept(found, "descriptors"), 0),
        equal("threads kept", _kept(found, "threads"), 0),
        equal("counts that do not agree with the other end's", len(disagreeing), 0, "; ".join(disagreeing)),
        equal("status whose counters do not add up", sum(len(one["violations"]) for one in found), 0),
        equal("published status that was skipped", sum(one["statuses_skipped"] for one in found), 0),
        equal("polite clients without an answer", sum(one["polite_clients_unanswered"] for one in found), 0),
        at_most("slowest answer to `status` (ms)", round(slow["slowest_answer_ms"], 1), BAR_ANSWER_MS, slow["name"]),
        Bar("clients that came", sum(sum(one["clients"].values()) for one in found)),
        Bar("packets", sum(one["packets"] for one in found)),
    ]  # fmt: skip
    if paced:
        slow = min(paced, key=lambda one: one["packets_per_s"])
        bars.insert(2, at_least("packets a second, the slowest", slow["packets_per_s"], BAR_RATE * rate, slow["name"]))
    return bars


def _run(lanes: Sequence[Lane]) -> list[Found]:
    """Run lanes side by side; all of them end where one fails, or we are told to end."""
    with ExitStack() as stack:
        children = []
        for lane in lanes:
            command = [sys.executable, str(LANE), json.dumps(asdict(lane))]
            child = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
            stack.callback(child.terminate)
            children.append(child)
        found: list[Found] = []
        for lane, child in zip(lanes, children, strict=True):
            told, _ = child.communicate()
            if child.returncode:
                raise RunFailedError(f"the soak of {lane.name} ended with status {child.returncode}")
            found.append(json.loads(told))
    return found


def _make_model(folder: Path) -> Path:
    from bars.traces import cut_first, lab_capture

    from nsstream.chunk import ChunkStore
    from nsstream.clock import SystemClock
    from nsstream.pipeline.by_hand import train_chunk
    from nsstream.pipeline.ingest import import_trace, survey_trace

    with lab_capture() as lab:
        trace = cut_first(lab, MODEL_S, folder / "real.pcap")
    found = survey_trace(trace)
    chunks = import_trace(trace, ChunkStore(folder / "chunks"), length_s=60, disorder_ns=found.disorder_ns)
    return train_chunk(
        max(chunks, key=lambda info: info.packet_count).path, folder / "models", parent=None, budget_s=None,
        steps=MODEL_STEPS, seed=1, new_key=hashlib.sha256(b"nsstream bench soak").digest(), cores=1,
        listen=lambda progress: None, clock=SystemClock(),
    )  # fmt: skip


def _show_lanes(found: Sequence[Found]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in (
        "sink",
        "state",
        "packets",
        "a second",
        "core",
        "MB",
        "MB/h",
        "95 %",
        "risen",
        "mapped",
        "fds",
        "threads",
        "clients",
        "lost",
    ):
        table.add_column(column, justify="left" if column in ("sink", "state", "lost") else "right")
    for one in found:
        lost = [f"{n:,} {name}" for name, n in one["counters"].items() if n and _is_loss(name)]
        table.add_row(
            one["name"], one["state"], f"{one['packets']:,}", f"{one['packets_per_s']:,.0f}",
            f"{one['processor_share']:.2f}", f"{one['resident_mb'][1]:.0f}", f"{one['growth_mb_an_hour']:.2f}",
            "{:.2f} {:.2f}".format(*one["growth_between"]), f"{one['risen_mb']:.2f}",
            f"{one['mapped_risen_mb']:.2f}",
            "{} {}".format(*one["descriptors"]), "{} {}".format(*one["threads"]), str(sum(one["clients"].values())),
            ", ".join(lost),
        )  # fmt: skip
        if one["error"]:
            print(f"{one['name']}: {one['error']}")
    Console(width=160).print(table)


def _end(one: Found) -> float:
    return float(one["growth_between"][1])


def _is_loss(name: str) -> bool:
    return any(word in name for word in ("lost", "failed", "undone", "oversize", "unsupported", "missed", "deaths"))


def _ended_badly(one: Found) -> bool:
    return one["state"] != ("stopped" if one["name"] == "model" else "done")


def _exited(one: Found) -> bool:
    return one["exit_status"] != 0


def _count(found: Sequence[Found], is_so: Any) -> int:
    return sum(map(is_so, found))


def _names(found: Sequence[Found], is_so: Any) -> str:
    return ", ".join(one["name"] for one in found if is_so(one))


def _kept(found: Sequence[Found], what: str) -> int:
    return max(max(one[what][1] - one[what][0], 0) for one in found)


if __name__ == "__main__":
    raise SystemExit(run_main(main))
