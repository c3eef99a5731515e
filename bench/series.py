"""Chunk after chunk: what fine-tuning keeps of a training from nothing, and whether a long line of fine-tunes drifts.

    python bench/series.py TRACE --judge PATH [--length S] [--chunks N] [--budget S] [--share 0.2] [--no-scratch]
                           [--plot OUT.svg] [--json OUT]

The trace is cut into chunks of --length seconds; those with fewer packets than --fewest are left out, and where
--chunks asks for more than there are, the trace's are taken from the first on again. The first is learned from nothing
within --budget seconds. Each that follows is fine-tuned from the model before it within --share of that, and, unless
--no-scratch, learned from nothing as well. Every model is drawn and held by the judge, an independent script called as
`python PATH REAL SYNTHETIC --json OUT`, to the packets of its own chunk.

Bars: in the median over the chunks each figure of the fine-tuned is at most a tenth above that of those learned from
nothing; no fine-tuned model falls apart (detector above 0.99 where the other is below 0.9); and in the line's last
quarter no figure is more than a tenth above what the same chunks give from nothing, or, with --no-scratch, above that
of the line's first quarter. Exit status 1 when one is missed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median

from bars.runs import RunFailedError, run_command, run_main
from bars.traces import cut_between
from bars.verdict import Bar, as_dict, at_most, equal, finish, has_passed, show
from fidelity import MOST_X_FLOOR, Fidelity

from nsstream.chunk import ChunkStore
from nsstream.chunk.chunk_file import ChunkInfo
from nsstream.clock import SystemClock
from nsstream.errors import InputError
from nsstream.pipeline.by_hand import draw_models, train_chunk
from nsstream.pipeline.ingest import import_trace, survey_trace

NAMES = (*MOST_X_FLOOR, "detector")
MORE = 1.1  # a tenth above
APART, SOUND = 0.99, 0.9
LEAST_QUARTER = 3  # chunks
TUNED, SCRATCH = "fine-tuned", "from nothing"
KEY = hashlib.sha256(b"nsstream bench series").digest()


@dataclass(frozen=True, slots=True)
class Learned:
    """One model of one chunk; distances in multiples of the floor, None where the judge found nothing to judge."""

    seconds: float
    figures: dict[str, float | None]  # of `NAMES`
    five_tuples_copied: float | None


class Series:
    """Trains, draws and judges in a folder of its own."""

    def __init__(self, given: argparse.Namespace, folder: Path) -> None:
        self._given, self._folder = given, folder
        survey = survey_trace(given.trace)
        store = ChunkStore(folder / "chunks")
        found = import_trace(given.trace, store, length_s=given.length, disorder_ns=survey.disorder_ns)
        self.chunks = [info for info in found if info.packet_count >= given.fewest]
        if len(self.chunks) < 2:
            raise InputError(f"{given.trace} has {len(self.chunks)} chunks of {given.fewest} packets; make them longer")
        self._mtu = max(1500, survey.longest)
        self._clock = SystemClock()

    def learn(self, number: int, kind: str, parent: Path | None, budget_s: float) -> tuple[Learned, Path]:
        """Train a model of the chunk of this number, and judge what it draws."""
        chunk, given = self.chunks[number % len(self.chunks)], self._given
        began_s = time.perf_counter()
        model = train_chunk(
            chunk.path, self._folder / kind / "models", parent=parent, budget_s=budget_s, steps=None,
            seed=given.seed + number, new_key=KEY, cores=given.cores, listen=_hear_nothing, clock=self._clock,
        )  # fmt: skip
        seconds = time.perf_counter() - began_s
        twin, judged = self._folder / "twin.pcap", self._folder / "judged.json"
        draw_models(
            [model], twin, seed=given.seed, mtu=self._mtu, replaces=True, listen=_hear_nothing, clock=self._clock
        )
        try:
            command = [sys.executable, str(given.judge), str(self._real(chunk)), str(twin), "--json", str(judged)]
            run_command(command, is_quiet=True)
        except RunFailedError as err:
            print(f"chunk {number + 1}, {kind}: {err}", file=sys.stderr, flush=True)
            return Learned(seconds, dict.fromkeys(NAMES), None), model
        found = Fidelity.of_judge(json.loads(judged.read_text()))
        return Learned(seconds, found.x_floor | {"detector": found.detector_auc}, found.five_tuples[0]), model

    def _real(self, chunk: ChunkInfo) -> Path:
        """The packets of a chunk as a capture."""
        path = self._folder / f"{chunk.id}.pcap"
        return path if path.exists() else cut_between(self._given.trace, chunk.start_ns, chunk.end_ns, path)


def run_series(given: argparse.Namespace, folder: Path) -> list[dict[str, Learned]]:
    """For each chunk what was learned, by kind: `fine-tuned`, and `from nothing`."""
    series = Series(given, folder)
    count = given.chunks or len(series.chunks)
    packets = [info.packet_count for info in series.chunks]
    print(f"{len(packets)} chunks of {min(packets):,} to {max(packets):,} packets", flush=True)
    lines, parent = [], None
    for number in range(count):
        line = {}
        share = 1.0 if parent is None else given.share
        line[TUNED], parent = series.learn(number, TUNED, parent, given.budget * share)
        if number and given.scratch:
            line[SCRATCH], _ = series.learn(number, SCRATCH, None, given.budget)
        lines.append(line)
        told = "   ".join(f"{kind}: {_figures(one)}" for kind, one in line.items())
        print(f"chunk {number + 1} of {count}   {told}", flush=True)
    return lines


def bars_of(lines: Sequence[dict[str, Learned]]) -> list[Bar]:
    """The medians, and the bars."""
    tuned = [line[TUNED] for line in lines[1:]]
    scratch = [line[SCRATCH] for line in lines[1:] if SCRATCH in line]
    bars = [Bar("chunks fine-tuned", len(tuned)), Bar(f"seconds, {TUNED}", _median([one.seconds for one in tuned]))]
    if scratch:
        bars.append(Bar(f"seconds, {SCRATCH}", _median([one.seconds for one in scratch])))
        for name in NAMES:
            wanted = _median([one.figures[name] for one in scratch])
            limit = float("nan") if wanted is None else round(MORE * wanted, 3)
            bars.append(at_most(f"{name}, {TUNED}", _median([one.figures[name] for one in tuned]), limit, wanted))
        fallen = [
            number
            for number, line in enumerate(lines[1:], 2)
            if (line[TUNED].figures["detector"] or 1) > APART and (line[SCRATCH].figures["detector"] or 1) < SOUND
        ]
        bars.append(equal("fine-tuned models that fell apart", ", ".join(map(str, fallen)) or "none", "none"))
    quarter = len(tuned) // 4
    if quarter >= LEAST_QUARTER:
        other, beside = (scratch[-quarter:], SCRATCH) if scratch else (tuned[:quarter], "its first")
        for name in NAMES:
            wanted, last = (_median([one.figures[name] for one in part]) for part in (other, tuned[-quarter:]))
            limit = float("nan") if wanted is None else round(MORE * wanted, 3)
            bars.append(at_most(f"{name}, last quarter of the line, beside {beside}", last, limit, wanted))
    bars.append(Bar("five-tuples copied, most", max((one.five_tuples_copied or 0 for one in tuned), default=None)))
    return bars


def plot(lines: Sequence[dict[str, Learned]], title: str, output: Path) -> None:
    """Draw every figure over the chunks; needs matplotlib (`pip install nsstream[bench]`)."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(NAMES), 1, sharex=True, figsize=(9, 11), layout="constrained")
    for name, axis in zip(NAMES, axes, strict=True):
        for kind, style in ((SCRATCH, "C7o-"), (TUNED, "C0o-")):
            points = [(n, line[kind].figures[name]) for n, line in enumerate(lines, 1) if kind in line]
            if points:
                axis.plot(*zip(*points, strict=True), style, label=kind, markersize=3, linewidth=1)
        axis.set_ylabel("AUC" if name == "detector" else f"{name}, x floor")
        axis.set_ylim(bottom=0)
    axes[0].legend()
    axes[0].set_title(title)
    axes[-1].set_xlabel("chunk")
    figure.savefig(output)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", type=Path, help="a capture")
    parser.add_argument("--judge", type=Path, required=True, help="an independent script that scores")
    parser.add_argument("--length", type=int, default=60, help="seconds of a chunk")
    parser.add_argument("--fewest", type=int, default=500, help="packets of a chunk; others are left out")
    parser.add_argument("--chunks", type=int, help="how many; all of the trace's unless given")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds to learn a chunk from nothing")
    parser.add_argument("--share", type=float, default=0.2, help="of the budget, for a fine-tune")
    parser.add_argument("--no-scratch", dest="scratch", action="store_false", help="fine-tune only")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--plot", type=Path, help="write a picture (SVG) to this file")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    given = parser.parse_args(arguments)
    for path in (given.trace, given.judge):
        if not path.is_file():
            raise InputError(f"there is no file {path}")
    if given.plot and find_spec("matplotlib") is None:
        raise InputError("--plot needs matplotlib: pip install nsstream[bench]")
    with tempfile.TemporaryDirectory(prefix="nsstream-series-") as folder:
        lines = run_series(given, Path(folder))
    bars = bars_of(lines)
    title = (
        f"{given.trace.name}, chunks of {given.length} s, {given.budget:g} s from nothing, {given.share:g} of it after"
    )
    show(title, bars, beside=SCRATCH if given.scratch else " ")
    if given.plot:
        plot(lines, title, given.plot)
    told = [{kind: asdict(one) for kind, one in line.items()} for line in lines]
    return finish(as_dict(bars) | {"chunks": told}, given.json, passed=has_passed(bars))


def _figures(learned: Learned) -> str:
    said = [f"{name} {'n/a' if (f := learned.figures[name]) is None else format(f, '.2f')}" for name in NAMES]
    return f"{learned.seconds:.0f} s, {', '.join(said)}"


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(median(known), 3) if known else None


def _hear_nothing(progress: object) -> None:
    """The reports of one model are not shown."""


if __name__ == "__main__":
    raise SystemExit(run_main(main))
