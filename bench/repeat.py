"""Make the same twin twice: the same --seed and --steps must give it byte for byte. Exit status 1 when they do not.

    python bench/repeat.py [TRACE] [--steps N] [--seed N] [--first SECONDS] [--chunk LENGTH] [--json OUT]

TRACE is the bundled lab capture unless given; --first takes only so many seconds of it (0: all of it). Several chunks
lie in them, so that what is fine-tuned, two workers at once, must be the same as well.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from bars.runs import run_main, run_nsstream
from bars.traces import count_frames, cut_first, lab_capture
from bars.verdict import Bar, as_dict, equal, finish, has_passed, show


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", type=Path, nargs="?")
    parser.add_argument("--steps", type=int, default=30, help="training steps of the seed model")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--first", type=float, default=30.0, help="seconds of the trace; 0 for all")
    parser.add_argument("--chunk", default="10s", help="as nsstream twin takes it")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    given = parser.parse_args(arguments)
    digests, costs, frames = [], [], 0
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nsstream-repeat-")))
        trace = given.trace or stack.enter_context(lab_capture())
        if given.first:
            trace = cut_first(trace, given.first, folder / "real.pcap")
        for run in (1, 2):
            twin = folder / f"twin{run}.pcap"
            options = ("--steps", given.steps, "--seed", given.seed, "--chunk", given.chunk, "--no-score")
            costs.append(run_nsstream("twin", trace, "-o", twin, *options))
            digests.append(hashlib.sha256(twin.read_bytes()).hexdigest())
            frames = count_frames(twin)[0]
    bars = [
        *(Bar(f"sha256 of twin {run}", digest) for run, digest in enumerate(digests, 1)),
        equal("the two are the same", "yes" if digests[0] == digests[1] else "no", "yes"),
        Bar("packets in each", frames),
        *(Bar(f"seconds, run {run}", round(cost.elapsed_s, 1)) for run, cost in enumerate(costs, 1)),
    ]
    print(flush=True)
    show(f"--steps {given.steps} --seed {given.seed}, twice", bars)
    return finish(as_dict(bars), given.json, passed=has_passed(bars))


if __name__ == "__main__":
    raise SystemExit(run_main(main))
