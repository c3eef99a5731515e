"""Measure how fast a model's traffic is drawn, assembled and written, in packets a second, and where the time goes.

Bars: packets drawn, assembled and written a second on one core, each conversation drawn once, and what one conversation
of a million packets takes in memory. Beside it stands the same with as many drawings as a twin chooses from.

    python bench/draw.py [--steps N] [--first SECONDS] [--rounds N] [--threads N] [--json OUT]

Trains a model in a few steps on the first part of the bundled lab capture, which makes poor traffic but takes the same
time to draw. Then it draws the model, assembles what was drawn and writes it to a pcap, each by the part of nsstream
that a replay uses, one after another. A first round is not counted: it compiles, or loads what was compiled. Of the
others, the best stands. Drawing packets is measured again alone, in processor time, and in it the law and the matrix
products, run again by themselves on what was drawn and in the same shapes.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from bars.drawing import Elephant, draw_elephant, time_packets
from bars.runs import run_main
from bars.traces import cut_first, lab_capture
from bars.verdict import Bar, as_dict, at_least, at_most, finish, show

from nsstream.assemble import Assembler
from nsstream.chunk import ChunkStore
from nsstream.clock import SystemClock
from nsstream.draw import Drawer
from nsstream.draw.choose import CANDIDATES
from nsstream.pipeline import Progress
from nsstream.pipeline.by_hand import train_chunk
from nsstream.pipeline.ingest import import_trace, survey_trace
from nsstream.replay.pcap_sink import PcapSink, PcapSinkSpec
from nsstream.replay.sink import SinkContext

SEED = 1
HOUR_S = 3600
PARTS = ("draw", "assemble", "write")
LEAST_PER_S = 50_000
ELEPHANT_PACKETS = 1_000_000
ELEPHANT_MIB = 100


def make_model(folder: Path, first_s: float, steps: int, threads: int) -> Path:
    """Train a model on the first seconds of the lab capture; one chunk, if no full hour lies in them."""
    with lab_capture() as lab:
        trace = cut_first(lab, first_s, folder / "real.pcap")
    survey = survey_trace(trace)
    store = ChunkStore(folder / "chunks")
    chunks = import_trace(trace, store, length_s=HOUR_S, disorder_ns=survey.disorder_ns)
    return train_chunk(
        max(chunks, key=lambda info: info.packet_count).path,
        folder / "models",
        parent=None,
        budget_s=None,
        steps=steps,
        seed=SEED,
        new_key=hashlib.sha256(b"nsstream bench draw").digest(),
        cores=threads,
        listen=_say,
        clock=SystemClock(),
    )


def one_round(model: Path, output: Path, threads: int, candidates: int) -> tuple[int, list[float]]:
    """Packets of one drawing of the model, and the seconds of each of `PARTS`."""
    drawer = Drawer(SEED, threads, candidates=candidates)
    assembler = Assembler(np.random.default_rng(SEED))
    sink = PcapSink(PcapSinkSpec(path=str(output.absolute()), overwrite=True), SinkContext())
    at_s = [time.perf_counter()]
    table = drawer.draw(model)
    at_s.append(time.perf_counter())
    frames = assembler.assemble(table)
    at_s.append(time.perf_counter())
    sink.open()
    sink.write(frames)
    sink.close()
    at_s.append(time.perf_counter())
    return len(frames), np.diff(at_s).tolist()


def elephant_of(model: Path) -> Elephant:
    """Drawn in a process of its own, whose memory holds nothing else."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(draw_elephant, (model, SEED, ELEPHANT_PACKETS))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="training steps")
    parser.add_argument("--first", type=float, default=120.0, help="seconds of the lab capture to learn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of torch, in training and drawing")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="nsstream-draw-") as temporary:
        folder = Path(temporary)
        model = make_model(folder, given.first, given.steps, given.threads)
        best = {}
        for candidates in (1, CANDIDATES):
            rounds = [
                one_round(model, folder / "drawn.pcap", given.threads, candidates) for _ in range(given.rounds + 1)
            ]
            best[candidates] = min(rounds[1:], key=lambda found: sum(found[1]))
        alone = min((time_packets(model, SEED) for _ in range(given.rounds)), key=lambda found: found.packets_s)
        elephant = elephant_of(model)
    bars = []
    for candidates, (count, parts_s) in best.items():
        total_s = sum(parts_s)
        bars.append(Bar(f"packets, each of {candidates} drawing(s)", count))
        for part, seconds in zip(PARTS, parts_s, strict=True):
            beside = f"{seconds / total_s:.0%} of the time"
            bars.append(Bar(f"{part}: packets a second", round(count / seconds), beside=beside))
        per_s = round(count / total_s)
        name = "all three: packets a second"
        bars.append(at_least(name, per_s, LEAST_PER_S) if candidates == 1 else Bar(name, per_s))
    bars.append(Bar("packets alone: a second", round(alone.count / alone.packets_s)))
    for what, seconds in (("matrix products", alone.products_s), ("law", alone.law_s)):
        bars.append(Bar(f"packets alone: {what}", seconds, beside=f"{seconds / alone.packets_s:.0%} of the time"))
    rest_s = alone.packets_s - alone.products_s - alone.law_s
    bars.append(Bar("packets alone: sampling, rest", rest_s, beside=f"{rest_s / alone.packets_s:.0%} of the time"))
    bars.append(Bar("attributes alone: seconds", alone.attributes_s, beside=f"{alone.conversations} conversations"))
    bars.append(Bar(f"{ELEPHANT_PACKETS:,} packets of one: a second", round(ELEPHANT_PACKETS / elephant.seconds)))
    bars.append(at_most(f"{ELEPHANT_PACKETS:,} packets of one: MiB", round(elephant.octets / 2**20), ELEPHANT_MIB))
    show(f"drawing, best of {given.rounds} rounds, {given.threads} thread(s)", bars, beside=" ")
    return finish(as_dict(bars), given.json, passed=all(bar.passed is not False for bar in bars))


def _say(progress: Progress) -> None:
    if progress.note or progress.is_done:
        print(
            progress.note or f"trained on {progress.packet_count:,} packets in {progress.elapsed_s:.0f} s", flush=True
        )


if __name__ == "__main__":
    raise SystemExit(run_main(main))
