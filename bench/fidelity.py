"""Make twins of traces with `nsstream twin` and hold them to the bars of fidelity. Exit status 1 when one is missed.

    python bench/fidelity.py TRACE ... [--budget 5m | --steps N] [--day YYYY-MM-DD] [--judge PATH] [--json OUT]

A trace is a capture, or a table of flows, which needs --judge and is handed to it in the form ``plain``; of a table
with labels, classifiers that learned from the twin are tried on the real one too. The twin is made and scored by the
command line, as a user would. --day takes that day (UTC) out of each trace first.
--judge names an independent script, called as `python PATH REAL SYNTHETIC --json OUT`; the verdict is then its, and our
own score is shown beside it. Without it the verdict is our own score's. --keep leaves the twins in a folder.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any, Self

from bars.downstream import classify, downstream_bars
from bars.flow_tables import write_judged
from bars.runs import Cost, run_command, run_main, run_nsstream
from bars.traces import cut_day
from bars.verdict import Bar, as_dict, at_most, between, finish, show

from nsstream.capture.flow_table_file import one_way
from nsstream.errors import InputError
from nsstream.pipeline.flow_twin import holds_flows, read_flows

COPYING_MARGIN = 0.02
MOST_X_FLOOR = {"mean_jsd": 1.2, "mean_emd": 1.7, "structure": 1.7, "volume": 2.0}


@dataclass(frozen=True, slots=True)
class Fidelity:
    """What a judge says of one twin; distances are in multiples of its floor, pairs are (twin, real by real)."""

    real_count: int
    twin_count: int
    x_floor: dict[str, float | None]  # of each of `MOST_X_FLOOR`
    detector_auc: float | None
    five_tuples: tuple[float, float]
    fingerprints: tuple[float, float]

    @classmethod
    def of_score(cls, score: dict[str, Any]) -> Self:
        """From what `nsstream score --json` writes."""
        records, copying = score["records"]["packets"], score["copying"]
        synthetic, real = copying["synthetic"], copying["real_by_real"]
        return cls(
            records["real"],
            records["synthetic"],
            {name: score["summary"][name]["x_floor"] for name in MOST_X_FLOOR},
            score["detector"]["auc"],
            (synthetic["five_tuples"], real["five_tuples"]),
            (synthetic["flow_fingerprints"], real["flow_fingerprints"]),
        )

    @classmethod
    def of_judge(cls, result: dict[str, Any]) -> Self:
        """From what the independent script writes."""
        synthetic, real = result["copying"], result["copying_held_out"]
        return cls(
            result["records"]["real"],
            result["records"]["synthetic"],
            {name: result["x_floor"][name] for name in MOST_X_FLOOR},
            result["detector"]["auc"],
            (synthetic["five_tuples"], real["five_tuples"]),
            (synthetic["flow_fingerprints"], real["flow_fingerprints"]),
        )

    def flow_bars(self) -> list[Bar]:
        """The bars of a table of flows, each as the worst of all tables has to be."""
        return [
            between("records, of the real number", self.twin_count / self.real_count, 0.9, 1.1),
            *(at_most(f"{name}, x floor", self.x_floor[name], 2.0) for name in MOST_X_FLOOR),
            at_most("detector, AUC", self.detector_auc, 0.8),
            at_most("five-tuples copied", self.five_tuples[0], round(self.five_tuples[1] + 0.01, 4)),
            at_most("flow fingerprints copied", self.fingerprints[0], round(self.fingerprints[1] + 0.01, 4)),
        ]

    def bars(self, other: Fidelity | None) -> list[Bar]:
        """The bars; `other` is another judge's opinion, shown beside."""
        beside = {bar.name: bar.gave for bar in other.bars(None)} if other else {}
        found = [
            between("records, of the real number", self.twin_count / self.real_count, 0.9, 1.1),
            *(at_most(f"{name}, x floor", self.x_floor[name], most) for name, most in MOST_X_FLOOR.items()),
            at_most("detector, AUC", self.detector_auc, 0.85),
            at_most("five-tuples copied", self.five_tuples[0], round(self.five_tuples[1] + COPYING_MARGIN, 4)),
            at_most("flow fingerprints copied", self.fingerprints[0], round(self.fingerprints[1] + COPYING_MARGIN, 4)),
        ]
        return [Bar(bar.name, bar.gave, bar.wanted, bar.passed, beside.get(bar.name, "")) for bar in found]


def measure(trace: Path, name: str, given: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Make one twin in a folder, score it, print its table, and return every figure."""
    if holds_flows(trace):
        return measure_table(trace, name, given, folder)
    twin, score_path, judge_path = folder / "twin.pcap", folder / "score.json", folder / "judge.json"
    length = ["--budget", given.budget] if given.steps is None else ["--steps", given.steps]
    options = ["--no-score", "--force", *length, *(["--seed", given.seed] if given.seed is not None else [])]
    cost = run_nsstream("twin", trace, "-o", twin, *options)
    run_nsstream("score", trace, twin, "--json", score_path, "--force")
    own = Fidelity.of_score(json.loads(score_path.read_text()))
    judged = None
    if given.judge is not None:
        run_command([sys.executable, str(given.judge), str(trace), str(twin), "--json", str(judge_path)])
        judged = Fidelity.of_judge(json.loads(judge_path.read_text()))
    bars = judged.bars(own) if judged else own.bars(None)
    bars += cost_rows(cost, own)
    print(flush=True)
    show(f"{name}, {' '.join(map(str, length))}", bars, beside="our own score" if judged else "")
    figures = {"trace": name, "own": asdict(own), "judge": asdict(judged) if judged else None, "cost": asdict(cost)}
    return as_dict(bars) | figures


def measure_table(trace: Path, name: str, given: argparse.Namespace, folder: Path) -> dict[str, object]:
    """The same of a table of flows."""
    if given.judge is None:
        raise InputError(f"{trace} is a table of flows, which only a --judge can score")
    twin, judge_path = folder / "twin.csv", folder / "judge.json"
    length = ["--budget", given.budget] if given.steps is None else ["--steps", given.steps]
    options = ["--force", *length, *(["--seed", given.seed] if given.seed is not None else [])]
    cost = run_nsstream("twin", trace, "-o", twin, *options)
    real, drawn = read_flows(trace).table, read_flows(twin).table
    if real.reverse_packet_delta_count.any() and not drawn.reverse_packet_delta_count.any():
        real = one_way(real)  # of a form that cannot be written as it was, such as Zeek's
    given_real, given_twin = folder / "real.judged.csv", folder / "twin.judged.csv"
    write_judged(real, given_real)
    write_judged(drawn, given_twin)
    run_command([sys.executable, str(given.judge), str(given_real), str(given_twin), "--json", str(judge_path)])
    judged = Fidelity.of_judge(json.loads(judge_path.read_text()))
    classified = classify(real, drawn) if real.label_names else []
    bars = [*judged.flow_bars(), *downstream_bars(classified), *cost_rows(cost, judged)]
    print(flush=True)
    show(f"{name}, {' '.join(map(str, length))}", bars)
    figures = {"trace": name, "judge": asdict(judged), "cost": asdict(cost)}
    return as_dict(bars) | figures | {"downstream": [asdict(one) for one in classified]}


def cost_rows(cost: Cost, own: Fidelity) -> list[Bar]:
    return [
        Bar("records, twin and real", f"{own.twin_count:,} and {own.real_count:,}"),
        Bar("seconds", round(cost.elapsed_s, 1)),
        Bar("CPU-seconds", round(cost.cpu_s, 1)),
        Bar("peak memory of a process, MiB", round(cost.peak_bytes / 2**20)),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", type=Path, nargs="+", metavar="TRACE")
    parser.add_argument("--budget", default="5m", help="as nsstream twin takes it")
    parser.add_argument("--steps", type=int, help="training steps in place of a budget")
    parser.add_argument("--seed", type=int, help="of nsstream twin; random unless given")
    parser.add_argument("--day", type=date.fromisoformat, help="take only this day (UTC) of each trace")
    parser.add_argument("--judge", type=Path, help="an independent script that scores")
    parser.add_argument("--keep", type=Path, help="folder for twins, cuts and scores; must not exist")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    given = parser.parse_args(arguments)
    for path in (*given.traces, *([given.judge] if given.judge else [])):
        if not path.is_file():
            raise InputError(f"there is no file {path}")
    if given.keep and given.keep.exists():
        raise InputError(f"{given.keep} exists already; give the name of a new folder")
    results = []
    with tempfile.TemporaryDirectory(prefix="nsstream-fidelity-") as temporary:
        folder = given.keep or Path(temporary, "kept")
        folder.mkdir()
        for number, trace in enumerate(given.traces):
            place = folder / f"{number}-{trace.name.split('.')[0]}"
            place.mkdir()
            name = trace.name if given.day is None else f"{trace.name}, {given.day}"
            real = trace if given.day is None else cut_day(trace, given.day, place / "real.pcap")
            results.append(measure(real, name, given, place))
    passed = all(result["passed"] for result in results)
    return finish({"passed": passed, "traces": results}, given.json, passed=passed)


if __name__ == "__main__":
    raise SystemExit(run_main(main))
