"""What choosing among drawings gives: the models of one twin drawn with 1, 8, 16 and 32 candidates, and judged.

    python bench/candidates.py STATE REAL --judge PATH [--candidates 1,8,16,32] [--seed 1] [--json OUT]

STATE is the state directory of a twin of REAL (`nsstream twin REAL -o ...`), whose models are drawn and not trained
again. PATH is the judge, called as bench/fidelity.py calls it. The seconds are those of drawing and assembling; the
first row's hold what is compiled on first use. The bars of a twin are bench/fidelity.py's; here are figures alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from nsstream.assemble import Assembler
from nsstream.draw.drawer import Drawer
from nsstream.replay.checkpoints import CheckpointInfo, read_checkpoint
from nsstream.replay.stream import Merger
from nsstream.wire.pcap import pcap_header, write_records


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("state", type=Path)
    parser.add_argument("real", type=Path)
    parser.add_argument("--judge", type=Path, required=True)
    parser.add_argument("--candidates", default="1,8,16,32")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    models = sorted((read_checkpoint(path) for path in (given.state / "models").iterdir()), key=lambda m: m.start_ns)
    figures = {}
    print("candidates  mean_jsd  mean_emd  structure  volume  detector  seconds")
    with tempfile.TemporaryDirectory() as folder:
        for candidates in map(int, given.candidates.split(",")):
            twin, told = Path(folder) / f"{candidates}.pcap", Path(folder) / f"{candidates}.json"
            began = time.monotonic()
            draw(models, twin, given.seed, candidates)
            took_s = time.monotonic() - began
            judging = [sys.executable, str(given.judge), str(given.real), str(twin), "--json", str(told)]
            subprocess.run(judging, stdout=subprocess.DEVNULL, check=True)
            summary = json.loads(told.read_text())["summary"]
            figures[candidates] = summary | {"seconds": took_s}
            columns = [summary[name] for name in ("mean_jsd", "mean_emd", "structure", "volume", "detector_auc")]
            print(f"{candidates:10}", *(f"{value:8.3f}" for value in columns), f"{took_s:8.1f}", sep="  ", flush=True)
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


def draw(models: list[CheckpointInfo], output: Path, seed: int, candidates: int) -> None:
    """Draw models in order into a capture."""
    drawer, assembler, merger = Drawer(seed, candidates=candidates), Assembler(np.random.default_rng(seed)), Merger()
    with output.open("wb") as file:
        file.write(pcap_header())
        for model, later in zip(models, [*models[1:], None], strict=True):
            fresh = assembler.assemble(drawer.draw(model.directory))
            frames = merger.push(fresh, None if later is None else later.start_ns)
            file.write(write_records(frames.observation_time_ns, frames.offset, frames.octets))


if __name__ == "__main__":
    sys.exit(main())
