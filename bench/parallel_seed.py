"""A seed of several chunks beside a seed of one: how likely each finds the conversations of all the chunks.

    python bench/parallel_seed.py TRACE [--length S] [--chunks N] [--turns N] [--steps N] [--ray HOST:PORT] [--json OUT]

The trace is cut into chunks of --length seconds; the first --chunks of at least --fewest packets are learned, all at
once (`pipeline.parallel_seed`), and the first of them alone, for as many steps a worker, over the same vocabulary: so
both are judged on the same tokens. The measure is the gate's, nats a conversation that was held out (`train.evaluate`).

Bar: the seed of all is better on each chunk but the first. Exit status 1 when it is missed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from threading import Event
from typing import Any

from bars.runs import run_main
from bars.verdict import Bar, as_dict, at_most, finish, has_passed, show

from nsstream.chunk import ChunkStore
from nsstream.encode.address_map import AddressMap
from nsstream.errors import InputError
from nsstream.pipeline.engine import Engine, Errand, LocalEngine
from nsstream.pipeline.ingest import import_trace, merge_chunks, survey_trace
from nsstream.pipeline.parallel_seed import ParallelSeed, train_parallel_seed
from nsstream.pipeline.progress import Progress
from nsstream.pipeline.ray_engine import RayEngine
from nsstream.pipeline.service_config import RaySection, WorkerSection
from nsstream.pipeline.training import WORKER, address_map_as_dict
from nsstream.train.evaluate import EvaluateJob, evaluate

SEED = 1
ADDRESS_MAP = AddressMap(bytes(range(32)))


def main() -> int:
    told = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        store = ChunkStore(work / "chunks")
        survey = survey_trace(told.trace)
        infos = import_trace(told.trace, store, length_s=told.length, disorder_ns=survey.disorder_ns)
        chunks = [store.path_of(info.id) for info in infos if info.row_count >= told.fewest][: told.chunks]
        if len(chunks) < 2:
            raise InputError(f"{told.trace} has fewer than two chunks of {told.fewest} packets")
        engine: Engine = LocalEngine((WorkerSection(),) * told.places)
        if told.ray:
            engine = RayEngine(RaySection(address=told.ray, jobs=len(chunks)))
        plan = ParallelSeed(tuple(chunks), told.turns, told.steps, SEED, ADDRESS_MAP)
        began_s = time.perf_counter()
        seed = train_parallel_seed(plan, work / "models", engine, _silent, time.perf_counter)
        took_s = time.perf_counter() - began_s
        merged = ChunkStore(work / "merged").write(merge_chunks([store.read(chunk) for chunk in chunks]))
        begun = _part(plan, "begin", 0, merged, [], work / "alone")
        alone = begun
        for turn in range(told.turns):
            alone = _part(plan, "learn", turn, chunks[0], [alone], work / "alone")
        figures, bars = [], []
        for at, chunk in enumerate(chunks):
            # A model of the chunk, over the common vocabulary, whose tokens both are asked about.
            judged = _part(plan, "learn", 0, chunk, [begun], work / "judged", steps=1)
            one, several = (_loss(chunk, judged, model) for model in (alone, seed))
            figures.append({"chunk": chunk.stem, "seed_of_one": one, "seed_of_several": several})
            name = f"chunk {at + 1}, {store.info(chunk).row_count:,} packets: nats a conversation"
            of_one = round(one, 3)
            bars.append(
                at_most(name, round(several, 3), of_one, of_one) if at else Bar(name, round(several, 3), beside=of_one)
            )
        show(f"a seed of {len(chunks)} chunks, in {took_s:.0f} s", bars, beside="of the first alone")
        out = as_dict(bars) | {"figures": figures, "seconds": took_s, "turns": told.turns, "steps": told.steps}
        return finish(out, told.json, passed=has_passed(bars))


def _part(
    plan: ParallelSeed, does: str, turn: int, chunk: Path, models: list[Path], out: Path, steps: int | None = None
) -> Path:
    job: dict[str, Any] = {
        "chunk": str(chunk), "models": [str(model) for model in models], "out": str(out), "seed": plan.seed,
        "part": {"does": does, "turn": turn, "turns": plan.turns}, "steps": steps or plan.steps,
        "address_map": address_map_as_dict(plan.address_map),
    }  # fmt: skip
    errand = Errand(WORKER, job, None, 600, None)
    done = LocalEngine().run(errand, WorkerSection(), lambda line: None, cancelled=Event())
    return Path(str(done["checkpoint"]))


def _loss(chunk: Path, judged: Path, model: Path) -> float:
    """The model's loss on the chunk's held-out conversations."""
    job = {"chunk": chunk, "candidate": judged, "parent": model, "seed": SEED}
    told = evaluate(EvaluateJob.model_validate(job | {"address_map": address_map_as_dict(ADDRESS_MAP)}))
    return float(told["parent_loss"])


def _silent(progress: Progress) -> None:
    """Listen to nothing."""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", type=Path)
    parser.add_argument("--length", type=int, default=60, help="seconds of a chunk")
    parser.add_argument("--fewest", type=int, default=1000, help="packets of a chunk that is learned")
    parser.add_argument("--chunks", type=int, default=3)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--steps", type=int, default=100, help="of a turn")
    parser.add_argument("--places", type=int, default=2, help="workers at once, without --ray")
    parser.add_argument("--ray", metavar="HOST:PORT")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(run_main(main))
