"""What `bench/privacy.py` does where the trace is a table of flows: seed, open and private models, and baselines."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from bars.bounded import bounded_flows
from bars.dp_flow_histogram import histogram_flows
from bars.dp_flow_marginals import MECHANISMS, marginal_flows
from bars.flow_tables import write_judged
from bars.runs import Cost, RunFailedError, run_command, run_nsstream
from nsstream.chunk import Chunk, ChunkStore
from nsstream.chunk.interval import SECOND_NS
from nsstream.counters import Tally
from nsstream.encode.flow_clients import group_by_client, unit_keys
from nsstream.errors import InputError
from nsstream.pipeline.flow_twin import read_flows


class FlowBench:
    """The folder of one run, and what it does there."""

    def __init__(self, folder: Path, given: argparse.Namespace) -> None:
        if given.judge is None:
            raise InputError("nsstream score reads captures only: for a table give a --judge")
        self._folder, self._given, self._models = folder, given, folder / "state" / "models"

    def train(self, chunk: Path, *options: object) -> tuple[Path, Cost]:
        before = set(self._models.iterdir()) if self._models.is_dir() else set()
        cost = run_nsstream("train", chunk, "-o", self._models, "--cores", 1, *options)
        return next(iter(set(self._models.iterdir()) - before)), cost

    def draw(self, model: Path, name: str) -> Path:
        output = self._folder / f"{name}.csv"
        run_nsstream("draw", model, "-o", output)
        return self.judged(output, name)

    def judged(self, table: Path, name: str) -> Path:
        output = self._folder / f"{name}.judged.csv"
        write_judged(read_flows(table).table, output)
        return output

    def score(self, real: Path, twin: Path) -> dict[str, float]:
        output = twin.with_suffix(".json")
        command = [sys.executable, str(self._given.judge), str(real), str(twin), "--json", str(output)]
        run_command(command, is_quiet=True)
        result: dict[str, Any] = json.loads(output.read_text())
        return {name: float(value) for name, value in result["summary"].items()}


def measure_flows(given: argparse.Namespace, folder: Path, public: Path) -> dict[str, Any]:
    """Train, draw and score all; gives every figure. `public` is a capture, which is metered."""
    bench, store = FlowBench(folder, given), ChunkStore(folder / "state" / "chunks")
    table = read_flows(given.trace).table
    table = table.take(np.argsort(table.flow_end_ns, kind="stable"))
    start_ns = int(table.flow_end_ns[0]) // SECOND_NS * SECOND_NS
    end_ns = (int(table.flow_end_ns[-1]) // SECOND_NS + 1) * SECOND_NS
    tally = Tally(offered=len(table), kept=len(table))
    lesson = store.write(Chunk.of(start_ns, end_ns, table, tally, is_partial=False))
    real = folder / "real.csv"
    write_judged(table, real)
    flows = group_by_client(table)
    hosts = len(np.unique(unit_keys(flows, "host"), axis=0))
    figures: dict[str, Any] = {
        "conversations": len(flows),
        "packets": len(table),
        "hosts": hosts,
        "models": {},
        "failed": {},
    }

    def note(name: str, twin: Path, cost: Cost | None) -> None:
        spent = (
            {}
            if cost is None
            else {"seconds": cost.elapsed_s, "cpu_s": cost.cpu_s, "peak_mib": cost.peak_bytes / 2**20}
        )
        figures["models"][name] = bench.score(real, twin) | spent
        print(name, figures["models"][name], flush=True)

    if given.unit == "host":
        bounded = folder / "bounded.judged.csv"
        write_judged(bounded_flows(table, given.most_conversations), bounded)
        note("bounded, no noise", bounded, None)
    metered = folder / "public"
    run_nsstream("chunk", "meter", public, "-o", metered)
    seed, _ = bench.train(next(metered.glob("*.arrow")), "--budget", given.budget)
    note("seed", bench.draw(seed, "seed"), None)
    opened, cost = bench.train(lesson, "--from", seed, "--budget", given.budget)
    note("open", bench.draw(opened, "open"), cost)
    for epsilon in given.epsilon:
        options = ("--private", epsilon, "--delta", given.delta, "--unit", given.unit, "--steps", given.steps)
        model, cost = bench.train(lesson, "--from", seed, *options, "--most-conversations", given.most_conversations)
        note(f"private, epsilon {epsilon:g}", bench.draw(model, f"private-{epsilon:g}"), cost)
        drawn = histogram_flows(table, (start_ns, end_ns), given.unit, epsilon, given.delta, given.most_conversations)
        twin = folder / f"histograms-{epsilon:g}.judged.csv"
        write_judged(drawn, twin)
        note(f"histograms, epsilon {epsilon:g}", twin, None)
    for epsilon in given.epsilon if given.peer_python is not None else ():
        for mechanism in MECHANISMS:
            name, twin = f"{mechanism} by flow, epsilon {epsilon:g}", folder / f"{mechanism}-{epsilon:g}.judged.csv"
            try:
                drawn, cost = marginal_flows(
                    table, (start_ns, end_ns), mechanism, epsilon, given.delta, given.peer_python, folder
                )
                write_judged(drawn, twin)
                note(name, twin, cost)
            except RunFailedError as err:
                figures["failed"][name] = str(err)
                print(name, "made nothing:", err, flush=True)
    return figures
