"""What each part of the method gives: the model learned with and without them on the same chunk, one judge for all.

    python bench/ablation.py TRACE ... --judge PATH [--budget S] [--seed N] [--json OUT]

Of each trace the day with most packets is learned three times within --budget seconds, on one core each: by likelihood,
by likelihood and then against the recurrent critic, and against that critic from the first tenth on without likelihood
(the packets; attributes are always learned by likelihood). What is drawn of these is judged with and without the
corrections of the calibration, and with each conversation drawn once or chosen by the trees among as many drawings as a
twin's are. The judge is an independent script, called as `python PATH REAL SYNTHETIC --json OUT`; the distances are in
multiples of its floor. Processor seconds are those of learning, and of drawing. Figures alone, no bars.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bars.runs import run_command, run_main
from bars.traces import cut_between
from candidates import draw
from fidelity import MOST_X_FLOOR, Fidelity
from rich import box
from rich.console import Console
from rich.table import Table

from nsstream.chunk import ChunkStore
from nsstream.clock import SystemClock
from nsstream.draw.choose import CANDIDATES
from nsstream.encode.codec import Codec
from nsstream.encode.encoding import encode
from nsstream.errors import InputError
from nsstream.model.checkpoint import load_checkpoint, new_networks, save_checkpoint
from nsstream.model.portrait import portrait_of_measured
from nsstream.pipeline.ingest import import_trace, survey_trace
from nsstream.replay.checkpoints import read_checkpoint
from nsstream.train.calibrate import reset_corrections
from nsstream.train.chunk_table import load_conversations
from nsstream.train.config import FitConfig
from nsstream.train.fit import Fit
from nsstream.train.job import AddressMapConfig

DAY_S = 86_400
KEY = AddressMapConfig(key_hex=hashlib.sha256(b"nsstream bench ablation").hexdigest())
ADVERSARY_FROM = 0.1  # of the time, where likelihood is left out
LEARNED: dict[str, dict[str, Any]] = {
    "likelihood": {},
    "adversary": {"has_adversary": True, "likelihood_share": ADVERSARY_FROM, "adversary_likelihood": 0.0},
    "both": {"has_adversary": True, "likelihood_share": 0.5},
}
DRAWN = (  # name, whether corrected, candidates
    ("", False, 1),
    (", calibrated", True, 1),
    (", calibrated, chosen", True, CANDIDATES),
)


def learn(chunk: Path, models: Path, config: FitConfig, seed: int) -> tuple[dict[bool, Path], float]:
    """Train once; the checkpoint without and with its corrections, and what it took in processor seconds."""
    torch.manual_seed(seed)
    _, table, start_ns, end_ns = load_conversations(chunk, None, KEY)
    codec = Codec.fit(table, start_ns, end_ns, None)
    tokens = encode(table, codec)
    networks, began_s = new_networks(), time.process_time()
    portraits = portrait_of_measured(table, tokens, codec)
    fit = Fit(networks, tokens, portraits, codec, config, seed, SystemClock(), lambda progress: None)
    fit.run()
    took_s = time.process_time() - began_s
    facts: dict[str, Any] = {"chunk": chunk.stem, "seed": seed}
    corrected = save_checkpoint(models, networks, fit.trees, codec, facts)
    reset_corrections(networks)
    return {
        True: corrected,
        False: save_checkpoint(models, networks, fit.trees, codec, facts | {"plain": True}),
    }, took_s


def measure(trace: Path, given: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """A row for each way of learning and drawing."""
    survey = survey_trace(trace)
    found = import_trace(trace, ChunkStore(folder / "chunks"), length_s=DAY_S, disorder_ns=survey.disorder_ns)
    chunk = max(found, key=lambda info: info.packet_count)
    real = cut_between(trace, chunk.start_ns, chunk.end_ns, folder / "real.pcap")
    rows = []
    for name, options in LEARNED.items():
        config = replace(FitConfig(budget_s=given.budget), **options)
        models, learned_s = learn(chunk.path, folder / name, config, given.seed)
        load_checkpoint(models[True])
        for how, is_corrected, candidates in DRAWN:
            twin, told = folder / "twin.pcap", folder / "judged.json"
            began_s = time.process_time()
            draw([read_checkpoint(models[is_corrected])], twin, given.seed, candidates)
            drawn_s = time.process_time() - began_s
            command = [sys.executable, str(given.judge), str(real), str(twin), "--json", str(told)]
            run_command(command, is_quiet=True)
            judged = Fidelity.of_judge(json.loads(told.read_text()))
            row = {"way": name + how, "learned_cpu_s": learned_s, "drawn_cpu_s": drawn_s}
            rows.append(row | judged.x_floor | {"detector": judged.detector_auc})
            print(trace.name, row["way"], rows[-1]["detector"], flush=True)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", type=Path, nargs="+", metavar="TRACE")
    parser.add_argument("--judge", type=Path, required=True, help="an independent script that scores")
    parser.add_argument("--budget", type=float, default=300.0, help="seconds of each learning, on one core")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    given = parser.parse_args(arguments)
    for path in (*given.traces, given.judge):
        if not path.is_file():
            raise InputError(f"there is no file {path}")
    torch.set_num_threads(1)
    figures = {}
    for trace in given.traces:
        with tempfile.TemporaryDirectory(prefix="nsstream-ablation-") as folder:
            figures[trace.name] = measure(trace, given, Path(folder))
        _show(f"{trace.name}, {given.budget:g} s each, x floor", figures[trace.name])
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


def _show(title: str, rows: Sequence[dict[str, Any]]) -> None:
    names = (*MOST_X_FLOOR, "detector")
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for head in (*names, "learned, CPU s", "drawn, CPU s"):
        table.add_column(head, justify="right")
    for row in rows:
        figures = ["n/a" if row[name] is None else f"{np.round(row[name], 3):g}" for name in names]
        table.add_row(row["way"], *figures, f"{row['learned_cpu_s']:.0f}", f"{row['drawn_cpu_s']:.0f}")
    Console(width=130).print(table)


if __name__ == "__main__":
    raise SystemExit(run_main(main))
