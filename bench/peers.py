"""Hold nsstream beside its peers: every generator gets the same processor minutes, and one judge scores them all.

    python bench/peers.py TRACE ... --judge PATH [--minutes 5] [--day YYYY-MM-DD] [--only NAME ...] [--json OUT]

A trace is a capture file (packets) or a table of flow records that nsstream reads; --first N takes the first N records
of a table. The judge is an independent script, called as `python PATH REAL SYNTHETIC --json OUT`. The generators:

    nsstream       `nsstream twin` with its default model
    doppelganger   `nsstream twin --model doppelganger`: NetShare's architecture (packets only)
    ctgan, tvae    of package ctgan (`pip install nsstream[bench]`), on rows of packets or of flows
    resample       real rows drawn with replacement; independent: each column on its own

nsstream's budget is of time, not of processor time, so it runs on one core for as many minutes: it never gets more than
the others, and what each really took stands in the table. Exit status 1 when nsstream is not ahead of every generative
peer in structure and detector on every trace.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from bars.runs import Cost, RunFailedError, run_command, run_main, run_nsstream
from bars.traces import cut_day
from bars.verdict import Bar, as_dict, finish, is_number, show
from peer.generators import GENERATORS
from peer.rows import read_flows, write_flows
from rich import box
from rich.console import Console
from rich.table import Table

from nsstream.errors import InputError

OURS = "nsstream"
DOPPELGANGER = "doppelganger"
GENERATIVE = (DOPPELGANGER, "ctgan", "tvae")
NAMES = (OURS, DOPPELGANGER, *sorted(GENERATORS))
FIGURES = ("mean_jsd", "mean_emd", "structure", "volume")
WIDTH = 130


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one generator made of one trace; `judge` is None where it made nothing, and `failure` says why."""

    cost: Cost | None
    judge: dict[str, Any] | None
    facts: dict[str, Any]
    failure: str = ""

    def x_floor(self, name: str) -> float | None:
        return self.judge["x_floor"][name] if self.judge else None

    def auc(self) -> float | None:
        return self.judge["detector"]["auc"] if self.judge else None


def compare(trace: Path, name: str, given: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Run every generator on one trace, print its table, and return every figure."""
    is_packets = _is_capture(trace)
    real, suffix = trace, ".pcap"
    if not is_packets:
        real, suffix = folder / "real.csv", ".csv"
        write_flows(read_flows(trace, given.first), real)
    outcomes = {
        generator: run(generator, real, folder / f"{generator}{suffix}", given, is_packets=is_packets)
        for generator in given.only
        if is_packets or generator != DOPPELGANGER
    }
    print(flush=True)
    _show(f"{name}, {given.minutes:g} processor minutes each, x floor", outcomes)
    bars = _bars(outcomes)
    if bars:
        show(f"{name}: nsstream is ahead", bars)
    return {
        "trace": name,
        "minutes": given.minutes,
        **as_dict(bars),
        "generators": {key: asdict(outcome) for key, outcome in outcomes.items()},
    }


def run(generator: str, real: Path, output: Path, given: argparse.Namespace, *, is_packets: bool) -> Outcome:
    """Make one twin and have it judged; a generator that fails is an outcome too."""
    print(f"{generator} ...", flush=True)
    seconds = given.minutes * 60
    try:
        if generator in (OURS, DOPPELGANGER):
            model = ["--model", "doppelganger"] if generator == DOPPELGANGER else []
            options = ["--budget", f"{seconds:g}s", "--cores", 1, "--workers", 1, "--no-score", "--seed", given.seed]
            cost = run_nsstream("twin", real, "-o", output, *model, *options)
        else:
            kind = "packets" if is_packets else "flows"
            work = [str(Path(__file__).with_name("_peer_work.py")), generator, kind, str(real), str(output)]
            cost = run_command([sys.executable, *work, str(given.seed), str(seconds)])
        judged = output.with_suffix(".judge.json")
        run_command([sys.executable, str(given.judge), str(real), str(output), "--json", str(judged)])
    except RunFailedError as err:
        return Outcome(None, None, {}, str(err))
    facts_path = Path(f"{output}.facts.json")
    facts = json.loads(facts_path.read_text()) if facts_path.exists() else {}
    return Outcome(cost, json.loads(judged.read_text()), facts)


def _bars(outcomes: Mapping[str, Outcome]) -> list[Bar]:
    """Ours against each generative peer that was run; what could not be measured misses."""
    if OURS not in outcomes:
        return []
    ours, bars = outcomes[OURS], []
    for peer in GENERATIVE:
        if peer in outcomes:
            theirs = outcomes[peer]
            pairs = (("structure, x floor", ours.x_floor("structure"), theirs.x_floor("structure")),)
            for what, mine, other in (*pairs, ("detector, AUC", ours.auc(), theirs.auc())):
                passed = is_number(mine) and is_number(other) and mine < other
                bars.append(
                    Bar(f"{what}, below {peer}'s", mine, f"< {other:.3f}" if is_number(other) else "n/a", passed)
                )
    return bars


def _show(title: str, outcomes: Mapping[str, Outcome]) -> None:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    heads = ("jsd", "emd", "structure", "volume", "AUC", "valid", "tuples copied", "records", "CPU s", "s")
    for head in heads:
        table.add_column(head, justify="right")
    for name, outcome in outcomes.items():
        if outcome.judge is None or outcome.cost is None:
            table.add_row(name, "made nothing", *[""] * (len(heads) - 1))
            continue
        judge, records = outcome.judge, outcome.judge["records"]
        figures = [*(outcome.x_floor(key) for key in FIGURES), outcome.auc(), min(judge["validity"].values())]
        table.add_row(
            name,
            *(f"{figure:.2f}" if is_number(figure) else "n/a" for figure in figures),
            f"{judge['copying']['five_tuples']:.1%}",
            f"{records['synthetic'] / records['real']:.0%}",
            f"{outcome.cost.cpu_s:.0f}",
            f"{outcome.cost.elapsed_s:.0f}",
        )
    console = Console()
    (console if console.width >= WIDTH else Console(width=WIDTH)).print(table)


def _is_capture(trace: Path) -> bool:
    return any(suffix in (".pcap", ".pcapng", ".cap") for suffix in trace.suffixes)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", type=Path, nargs="+", metavar="TRACE")
    parser.add_argument("--judge", type=Path, required=True, help="an independent script that scores")
    parser.add_argument("--minutes", type=float, default=5.0, help="of processor time, for each generator")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES), help="these generators")
    parser.add_argument("--day", type=date.fromisoformat, help="take only this day (UTC) of each capture")
    parser.add_argument("--first", type=int, default=50_000, help="records of a flow table that are taken")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="folder for twins and scores; must not exist")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    given = parser.parse_args(arguments)
    for path in (*given.traces, given.judge):
        if not path.is_file():
            raise InputError(f"there is no file {path}")
    if given.keep and given.keep.exists():
        raise InputError(f"{given.keep} exists already; give the name of a new folder")
    if not given.minutes > 0:
        raise InputError(f"--minutes must be more than 0, got {given.minutes:g}")
    results = []
    with tempfile.TemporaryDirectory(prefix="nsstream-peers-") as temporary:
        folder = given.keep or Path(temporary, "kept")
        folder.mkdir()
        for number, trace in enumerate(given.traces):
            place = folder / f"{number}-{trace.name.split('.')[0]}"
            place.mkdir()
            is_cut = given.day is not None and _is_capture(trace)
            name = f"{trace.name}, {given.day}" if is_cut else trace.name
            real = cut_day(trace, given.day, place / "real.pcap") if is_cut else trace
            results.append(compare(real, name, given, place))
    passed = all(result["passed"] for result in results) if OURS in given.only else None
    return finish({"passed": passed, "traces": results}, given.json, passed=passed)


if __name__ == "__main__":
    raise SystemExit(run_main(main))
