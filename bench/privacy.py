"""What privacy costs: private fine-tunes of a public seed beside the open one, and beside noisy histograms.

    python bench/privacy.py [TRACE] [--day YYYY-MM-DD] [--public TRACE] [--epsilon 8 --epsilon 2] [--delta 1e-5]
        [--unit host] [--most-conversations 64] [--budget 2m] [--steps 100] [--judge PATH] [--peer-python PATH]
        [--json OUT] [--keep FOLDER]

The seed learns the public trace (the bundled lab capture) for the budget. TRACE, the private one, is then learned from
it openly, for the same budget, and privately at each epsilon; without a TRACE the bundled capture is split, its first
half public and its second private. Where TRACE is a table of flows or a file of nfcapd, the public capture is metered,
and models are of flow records; with --peer-python, a Python where package dpmm is installed, MST and AIM make tables at
the same epsilon, a flow as their unit always: they know no hosts. Where hosts are the units, there stands beside them
what bounding alone leaves: the trace itself with at most so many conversations of each host, without noise. Twins are
scored against the private trace, by `nsstream score` or by an independent --judge, called as
`python PATH REAL SYNTHETIC --json OUT`. All at once in one run, so that seconds and memory can be compared. Exit status
1 when a bar is missed: distances of at most 3 times the open model's at epsilon 8 and above, and of at most 5 times
below. A table needs a --judge.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from bars.bounded import bounded_packets
from bars.dp_flow_marginals import MECHANISMS
from bars.dp_histogram import histogram_twin
from bars.private_flows import measure_flows
from bars.runs import Cost, run_command, run_main, run_nsstream
from bars.traces import cut_day, lab_capture
from bars.verdict import Bar, as_dict, at_most, finish, show

from nsstream.capture import PcapFileSource
from nsstream.chunk import Chunk, ChunkStore
from nsstream.chunk.export import ExportFormat, export_chunks
from nsstream.counters import Tally
from nsstream.encode.encoding import sort_by_start
from nsstream.errors import InputError
from nsstream.pipeline.flow_twin import holds_flows
from nsstream.trace import PacketBatch
from nsstream.trace.grouping import group_conversations

SECOND_NS = 10**9
JUDGED = ("mean_jsd", "structure")
BASELINES = ("histograms", *(f"{mechanism} by flow" for mechanism in MECHANISMS))


def read_packets(trace: Path) -> PacketBatch:
    """All packets of a capture, in time order."""
    source, batches = PcapFileSource(trace), []
    source.open()
    try:
        while (batch := source.read_batch()) is not None:
            batches.append(batch)
    finally:
        source.close()
    if not batches:
        raise InputError(f"{trace} holds no packet")
    packets = PacketBatch.concatenate(batches)
    return packets.take(np.argsort(packets.observation_time_ns, kind="stable"))


def chunk_of(packets: PacketBatch) -> Chunk:
    """All of these packets as one chunk, whose interval is in whole seconds."""
    first, last = int(packets.observation_time_ns[0]), int(packets.observation_time_ns[-1])
    start_ns, end_ns = first // SECOND_NS * SECOND_NS, (last // SECOND_NS + 1) * SECOND_NS
    return Chunk.of(start_ns, end_ns, packets, Tally(offered=len(packets), kept=len(packets)), is_partial=False)


def split(packets: PacketBatch) -> tuple[PacketBatch, PacketBatch]:
    """The packets of the first half of the time, and those of the second, by whole seconds."""
    first, last = int(packets.observation_time_ns[0]), int(packets.observation_time_ns[-1])
    middle = (first + last) // 2 // SECOND_NS * SECOND_NS
    at = int(np.searchsorted(packets.observation_time_ns, middle))
    return packets.take(np.arange(at)), packets.take(np.arange(at, len(packets)))


class Bench:
    """The folder of one run, and what it does there."""

    def __init__(self, folder: Path, given: argparse.Namespace) -> None:
        self._folder, self._given = folder, given
        self._models = folder / "state" / "models"
        self._store = ChunkStore(folder / "state" / "chunks")

    def store(self, chunk: Chunk) -> Path:
        return self._store.write(chunk)

    def export(self, chunk: Chunk, name: str) -> Path:
        output = self._folder / f"{name}.pcap"
        export_chunks([lambda: chunk], output, ExportFormat.PCAP)
        return output

    def train(self, chunk: Path, *options: object) -> tuple[Path, Cost]:
        before = set(self._models.iterdir()) if self._models.is_dir() else set()
        cost = run_nsstream("train", chunk, "-o", self._models, *options)
        return next(iter(set(self._models.iterdir()) - before)), cost

    def draw(self, model: Path, name: str) -> tuple[Path, Cost]:
        output = self._folder / f"{name}.pcap"
        return output, run_nsstream("draw", model, "-o", output, "--mtu", 9000)

    def score(self, real: Path, twin: Path) -> dict[str, float]:
        """Mean distances of a twin, by name; and the detector's AUC."""
        output = twin.with_suffix(".json")
        if self._given.judge is not None:
            run_command(
                [sys.executable, str(self._given.judge), str(real), str(twin), "--json", str(output)], is_quiet=True
            )
            result: dict[str, Any] = json.loads(output.read_text())
            return {name: float(value) for name, value in result["summary"].items()}
        run_nsstream("score", real, twin, "--json", output, "--force")
        result = json.loads(output.read_text())
        found = {name: measure["value"] for name, measure in result["summary"].items()}
        return {name: math.nan if value is None else float(value) for name, value in found.items()} | {
            "detector_auc": result["detector"]["auc"] or math.nan
        }


def measure_packets(given: argparse.Namespace, folder: Path, public: PacketBatch) -> dict[str, Any]:
    """As `measure`, of what the options name."""
    trace = given.trace
    if trace is not None and given.day is not None:
        trace = cut_day(trace, given.day, folder / "day.pcap")
    public, private = split(public) if trace is None else (public, read_packets(trace))
    return measure(given, Bench(folder, given), public, private)


def measure(given: argparse.Namespace, bench: Bench, public: PacketBatch, private: PacketBatch) -> dict[str, Any]:
    """Train, draw and score all; gives every figure."""
    chunk = chunk_of(private)
    lesson, real = bench.store(chunk), bench.export(chunk, "real")
    seed, _ = bench.train(bench.store(chunk_of(public)), "--budget", given.budget)
    table = sort_by_start(group_conversations(private)[0])
    hosts = len(np.unique(table.initiator_address, axis=0))
    figures: dict[str, Any] = {"conversations": len(table), "packets": len(private), "hosts": hosts, "models": {}}

    def note(name: str, twin: Path, cost: Cost | None) -> None:
        figures["models"][name] = bench.score(real, twin) | (
            {}
            if cost is None
            else {"seconds": cost.elapsed_s, "cpu_s": cost.cpu_s, "peak_mib": cost.peak_bytes / 2**20}
        )
        print(name, figures["models"][name], flush=True)

    if given.unit == "host":
        kept = bounded_packets(private, table, given.most_conversations)
        note("bounded, no noise", bench.export(chunk_of(kept), "bounded"), None)
    note("seed", bench.draw(seed, "seed")[0], None)
    opened, cost = bench.train(lesson, "--from", seed, "--budget", given.budget)
    note("open", bench.draw(opened, "open")[0], cost)
    for epsilon in given.epsilon:
        options = ("--private", epsilon, "--delta", given.delta, "--unit", given.unit, "--steps", given.steps)
        model, cost = bench.train(lesson, "--from", seed, *options, "--most-conversations", given.most_conversations)
        note(f"private, epsilon {epsilon:g}", bench.draw(model, f"private-{epsilon:g}")[0], cost)
        drawn = histogram_twin(table, (chunk.start_ns, chunk.end_ns), epsilon, given.delta, given.most_conversations)
        note(f"histograms, epsilon {epsilon:g}", bench.export(drawn, f"histograms-{epsilon:g}"), None)
    return figures


def bars_of(figures: dict[str, Any], epsilons: Sequence[float]) -> list[Bar]:
    models, opened = figures["models"], figures["models"]["open"]
    bars = [
        Bar(
            "conversations, packets or records, hosts that start some",
            f"{figures['conversations']:,}, {figures['packets']:,}, {figures['hosts']:,}",
        )
    ]
    for name, found in models.items():
        for measure_name in (*JUDGED, "mean_emd", "volume", "detector_auc"):
            if measure_name in found:
                bars.append(Bar(f"{name}: {measure_name}", round(found[measure_name], 4)))
    bars += [Bar(f"{name}: made nothing", why) for name, why in figures.get("failed", {}).items()]
    for epsilon in epsilons:
        found, most = models[f"private, epsilon {epsilon:g}"], 3.0 if epsilon >= 8 else 5.0
        for name in JUDGED:
            ratio, *theirs = (
                models[who][name] / max(opened[name], 1e-9)
                for who in (f"{maker}, epsilon {epsilon:g}" for maker in ("private", *BASELINES))
                if who in models
            )
            beside = " / ".join(f"{each:.2f}" for each in theirs)
            bars.append(at_most(f"epsilon {epsilon:g}: {name}, x the open model's", round(ratio, 2), most, beside))
        for name in ("seconds", "cpu_s", "peak_mib"):
            bars.append(Bar(f"epsilon {epsilon:g}: {name}, x the open model's", round(found[name] / opened[name], 2)))
    return bars


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", type=Path, nargs="?", help="the private capture; none: half of the bundled one")
    parser.add_argument("--day", type=date.fromisoformat, help="take only this day (UTC) of the private capture")
    parser.add_argument("--public", type=Path, help="the public capture; the bundled one")
    parser.add_argument("--epsilon", type=float, action="append")
    parser.add_argument("--delta", type=float, default=1e-5)
    parser.add_argument("--unit", default="host", choices=("host", "flow"))
    parser.add_argument("--most-conversations", type=int, default=64, help="of a host that are learned privately")
    parser.add_argument("--budget", default="2m", help="of the seed and of the open fine-tune")
    parser.add_argument("--steps", type=int, default=100, help="of the private ones")
    parser.add_argument("--judge", type=Path, help="an independent script that scores")
    parser.add_argument("--peer-python", type=Path, help="Python with package dpmm: MST and AIM beside a table")
    parser.add_argument("--keep", type=Path, help="folder for models and twins; must not exist")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    given = parser.parse_args(arguments)
    given.epsilon = given.epsilon or [8.0, 2.0]
    for path in (given.trace, given.public, given.judge, given.peer_python):
        if path is not None and not path.is_file():
            raise InputError(f"there is no file {path}")
    with ExitStack() as stack:
        folder = given.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nsstream-privacy-")))
        folder.mkdir(exist_ok=given.keep is None)
        capture = given.public or stack.enter_context(lab_capture())
        if given.trace is not None and holds_flows(given.trace):
            if given.day is not None:
                raise InputError("--day is for captures")
            figures = measure_flows(given, folder, capture)
        else:
            if given.peer_python is not None:
                raise InputError("--peer-python is for tables of flows")
            figures = measure_packets(given, folder, read_packets(capture))
    bars = bars_of(figures, given.epsilon)
    made = [name for name in BASELINES if any(model.startswith(f"{name},") for model in figures["models"])]
    show(f"{given.trace.name if given.trace else 'bundled capture'}, {given.unit}", bars, beside=" / ".join(made))
    passed = all(bar.passed is not False for bar in bars)
    return finish(as_dict(bars) | figures, given.json, passed=passed)


if __name__ == "__main__":
    raise SystemExit(run_main(main))
