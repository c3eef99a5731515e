"""ParallelSeed: a seed model learned on several chunks at once, by the places of an engine (`train.parallel`).

    all chunks -> begin -> learn, a job a chunk -> learn, a job a chunk -> ... -> finish -> one checkpoint

What each job made stands in a folder of its own until all are done; only the last is kept. A job that fails, or that
the engine loses, is tried again.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from typing import Any, Final

from nsstream.chunk import ChunkStore, Kind, read_chunk
from nsstream.encode.address_map import AddressMap
from nsstream.errors import InputError, OutputError, TrainError
from nsstream.pipeline.child import CancelledError, ChildFailedError
from nsstream.pipeline.engine import Engine, Errand
from nsstream.pipeline.ingest import merge_chunks
from nsstream.pipeline.progress import Listener, Progress, Stage
from nsstream.pipeline.service_config import TrainingSection, WorkerSection
from nsstream.pipeline.training import SILENCE_S, WORKER, address_map_as_dict

TRIES: Final = 3
MEMORY_OCTETS: Final = int(TrainingSection.model_fields["memory_octets"].default)


@dataclass(frozen=True, slots=True)
class ParallelSeed:
    """What is to be learned, and for how long."""

    chunks: tuple[Path, ...]  # of packets, by start
    turns: int  # after each of which weights are averaged
    steps: int  # of a turn, on each chunk
    seed: int
    address_map: AddressMap
    command: Sequence[str] = WORKER


def train_parallel_seed(
    plan: ParallelSeed, models: Path, engine: Engine, listen: Listener, elapsed_s: Callable[[], float]
) -> Path:
    """Train the seed and give its checkpoint; on any error, Ctrl-C included, all workers are gone when this returns.

    Raises InputError where the chunks are not such as can be learned together, TrainError where a job fails again and
    again, OutputError where there is no room.
    """
    chunks = [read_chunk(path) for path in plan.chunks]
    if any(chunk.kind is not Kind.PACKETS for chunk in chunks):
        raise InputError("only chunks of packets are learned together")
    if len({chunk.id for chunk in chunks}) < len(chunks):
        raise InputError("a chunk is named twice")
    try:
        models.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".seed-", dir=models))
    except OSError as err:
        raise OutputError(f"cannot make a folder in {models}: {err.strerror}") from err
    cancelled, places = Event(), SimpleQueue[WorkerSection]()
    for place in engine.places:
        places.put(place)
    numbers = itertools.count()

    def run(does: str, turn: int, chunk: Path, made: Sequence[Path], at: int | None) -> Path:
        place = places.get()
        try:
            out = work / f"job-{next(numbers)}"
            told = _told(plan, does, turn, chunk, made, out, engine.threads(place))
            done = _insist(engine, told, place, plan, cancelled, _heard(plan, turn, at, listen, elapsed_s))
            return Path(str(done["checkpoint"]))
        finally:
            places.put(place)

    try:
        merged = ChunkStore(work / "chunks").write(merge_chunks(chunks))
        made = [run("begin", 0, merged, [], None)]
        with ThreadPoolExecutor(len(plan.chunks), thread_name_prefix="seed") as pool:
            try:
                for turn in range(plan.turns):
                    jobs = [pool.submit(run, "learn", turn, chunk, made, at) for at, chunk in enumerate(plan.chunks)]
                    made = [job.result() for job in jobs]
            finally:
                cancelled.set()
        cancelled.clear()
        last = run("finish", plan.turns - 1, merged, made, None)
        listen(Progress(Stage.SEED, elapsed_s(), chunk_count=len(chunks), is_done=True))
        target = models / last.name
        if not target.exists():
            last.rename(target)
        return target
    except CancelledError as err:
        raise TrainError("the run was stopped") from err
    finally:
        cancelled.set()
        shutil.rmtree(work, ignore_errors=True)


def _told(
    plan: ParallelSeed, does: str, turn: int, chunk: Path, made: Sequence[Path], out: Path, threads: int
) -> dict[str, object]:
    return {
        "chunk": str(chunk),
        "models": [str(path) for path in made],
        "part": {"does": does, "turn": turn, "turns": plan.turns},
        "out": str(out),
        "seed": plan.seed,
        "steps": plan.steps,
        "threads": threads,
        "address_map": address_map_as_dict(plan.address_map),
    }


def _insist(
    engine: Engine,
    told: dict[str, object],
    place: WorkerSection,
    plan: ParallelSeed,
    cancelled: Event,
    heard: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Have a job done, in a few tries."""
    errand = Errand(plan.command, told, None, SILENCE_S, MEMORY_OCTETS)
    for tries in itertools.count(1):
        try:
            return engine.run(errand, place, heard, cancelled=cancelled)
        except ChildFailedError as err:
            if tries == TRIES:
                raise TrainError(f"a worker failed {TRIES} times: {err}") from err
    raise AssertionError("unreachable")


def _heard(
    plan: ParallelSeed, turn: int, at: int | None, listen: Listener, elapsed_s: Callable[[], float]
) -> Callable[[dict[str, Any]], None]:
    def heard(line: dict[str, Any]) -> None:
        step = line.get("step")
        listen(
            Progress(
                Stage.SEED,
                elapsed_s(),
                chunk=None if at is None else at + 1,
                chunk_count=len(plan.chunks),
                phase=line.get("stage"),
                step=None if step is None else turn * plan.steps + step,
                steps=plan.turns * plan.steps,
                loss=line.get("loss"),
            )
        )

    return heard
