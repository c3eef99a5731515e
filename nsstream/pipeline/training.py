"""Lessons become checkpoints: the seed first, then every other chunk from the seed, in worker processes.

The pipeline never loads torch: a worker is ``python -m nsstream.train.worker``, one job each. A worker that dies, fails
or hangs is tried once more; then the run ends with a TrainError.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any, Final, get_args

from nsstream.encode.address_map import AddressMap
from nsstream.errors import InputError, TrainError
from nsstream.pipeline.child import CancelledError, ChildFailedError, Failure, run_job
from nsstream.pipeline.ingest import Lesson
from nsstream.pipeline.plan import choose_seed, make_lanes, split_steps, split_time
from nsstream.pipeline.progress import Progress, Stage
from nsstream.train.job import GPU_MEMORY_OCTETS, DeviceName

WORKER: Final = (sys.executable, "-m", "nsstream.train.worker")
SILENCE_S: Final = 180.0  # numba compiles for up to a minute on a first run
DEFAULT_MODEL: Final = "autoregressive"
MODELS: Final = (DEFAULT_MODEL, "doppelganger")
DEVICES: Final[tuple[DeviceName, ...]] = get_args(DeviceName)
START_S: Final = 4.0  # from exec to the first step: imports and encoding


Report = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class TrainJob:
    """What one worker does; exactly one of `budget_s` and `steps` is set."""

    chunk: Path
    before: Path | None  # the chunk before, whose open conversations go on in this one
    parent: Path | None  # the checkpoint to start from; None: from nothing
    models: Path  # the folder that gets the checkpoint
    seed: int
    budget_s: float | None
    steps: int | None
    threads: int
    address_map: AddressMap
    model: str = DEFAULT_MODEL
    private: dict[str, Any] | None = None  # fields of `train.job.Privacy`; None: openly
    device: DeviceName = "auto"  # one of DEVICES
    gpu_memory_octets: int = GPU_MEMORY_OCTETS

    def as_dict(self) -> dict[str, object]:
        """The job as the worker reads it."""
        return {
            "chunk": str(self.chunk),
            "before": str(self.before) if self.before else None,
            "parent": str(self.parent) if self.parent else None,
            "out": str(self.models),
            "model": self.model,
            "seed": self.seed,
            "steps": self.steps,
            "budget_s": self.budget_s,
            "threads": self.threads,
            "address_map": address_map_as_dict(self.address_map),
            "private": self.private,
            "device": self.device,
            "gpu_memory_octets": self.gpu_memory_octets,
        }


def device_named(text: str) -> DeviceName:
    """A device by its name; raises InputError where there is none of it."""
    for device in DEVICES:
        if device == text:
            return device
    raise InputError(f"the device must be one of {', '.join(DEVICES)}, got {text!r}")


def address_map_as_dict(address_map: AddressMap) -> dict[str, str]:
    """An address map as workers read it, its key too: for their pipes alone."""
    ranges = {"ipv4_range": address_map.ipv4_range, "ipv6_range": address_map.ipv6_range}
    return {"key_hex": address_map.key.hex()} | ranges


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """How to train many; exactly one of `budget_s` and `steps` is set."""

    seed: int
    budget_s: float | None  # of all together, from the first worker's start to the last one's end
    steps: int | None  # of the seed
    cores: int  # threads in all
    workers: int  # fine-tunes at once, each with its share of the cores
    fewest_conversations: int  # that the seed's chunk should hold
    address_map: AddressMap
    model: str = DEFAULT_MODEL
    device: DeviceName = "auto"
    command: Sequence[str] = WORKER


def train_lessons(
    lessons: Sequence[Lesson], models: Path, config: TrainingConfig, report: Report, elapsed_s: Callable[[], float]
) -> list[Path]:
    """Train a checkpoint for each lesson, in their order; raises TrainError after a second failure.

    On any error, Ctrl-C included, the workers are gone when this returns.
    """
    seed_at = choose_seed([lesson.conversation_count for lesson in lessons], fewest=config.fewest_conversations)
    lanes = make_lanes([lesson.packet_count for lesson in lessons], seed_at=seed_at, workers=config.workers)
    budgets, steps = _shares(lessons, lanes, config, seed_at)
    threads = max(1, config.cores // max(1, len(lanes)))
    checkpoints: dict[int, Path] = {}
    cancelled = Event()

    def train(at: int, parent: Path | None, threads: int) -> None:
        job = TrainJob(
            chunk=lessons[at].path,
            before=lessons[at - 1].path if at else None,
            parent=parent,
            models=models,
            seed=config.seed,
            budget_s=budgets[at],
            steps=steps[at],
            threads=threads,
            address_map=config.address_map,
            model=config.model,
            device=config.device,
        )

        def number(progress: Progress) -> None:
            report(replace(progress, chunk=at + 1, chunk_count=len(lessons)))

        checkpoints[at] = train_one(job, number, elapsed_s, cancelled=cancelled, command=config.command)

    def train_lane(lane: Sequence[int]) -> None:
        for at in lane:
            train(at, checkpoints[seed_at], threads)

    with ThreadPoolExecutor(max(1, len(lanes)), thread_name_prefix="train") as pool:
        try:
            pool.submit(train, seed_at, None, config.cores).result()
            finished, _ = wait([pool.submit(train_lane, lane) for lane in lanes], return_when=FIRST_EXCEPTION)
            for future in finished:
                future.result()
        finally:
            cancelled.set()
            pool.shutdown(wait=True, cancel_futures=True)
    return [checkpoints[at] for at in range(len(lessons))]


def train_one(
    job: TrainJob,
    report: Report,
    elapsed_s: Callable[[], float],
    *,
    cancelled: Event,
    command: Sequence[str] = WORKER,
) -> Path:
    """Run a worker, once more if it fails, and return its checkpoint; raises TrainError if it fails again.

    Where a GPU had no room for it, and was not insisted on, the second time is on the CPU. What is learned privately is
    not tried again: a worker that failed late may have released something.
    """
    stage = Stage.FINE_TUNE if job.parent else Stage.SEED
    limit_s = None if job.budget_s is None else 1.5 * job.budget_s + SILENCE_S

    def on_line(line: dict[str, Any]) -> None:
        if line.get("event") == "warning":
            report(Progress(stage, elapsed_s(), note=str(line.get("message"))))
            return
        report(
            Progress(
                stage,
                elapsed_s(),
                phase=line.get("stage"),
                step=line.get("step"),
                steps=line.get("steps"),
                loss=line.get("loss"),
                left_s=line.get("left_s"),
            )
        )

    most = 1 if job.private else 2
    for attempt in range(1, most + 1):
        try:
            done = run_job(command, job.as_dict(), on_line, cancelled=cancelled, limit_s=limit_s, silence_s=SILENCE_S)
        except ChildFailedError as err:
            if attempt == most:
                times = "twice" if most > 1 else "and is not tried again"
                raise TrainError(f"the worker on chunk {job.chunk.stem} failed {times}: {err}") from err
            if err.kind is Failure.GPU_MEMORY and job.device == "auto":
                job = replace(job, device="cpu")
            report(Progress(stage, elapsed_s(), note=f"a worker failed and is tried once more: {err}"))
        except CancelledError as err:
            raise TrainError("the run was stopped") from err
        else:
            report(Progress(stage, elapsed_s(), packet_count=done.get("packets"), is_done=True))
            return Path(str(done["checkpoint"]))
    raise AssertionError("unreachable")


def _shares(
    lessons: Sequence[Lesson], lanes: Sequence[Sequence[int]], config: TrainingConfig, seed_at: int
) -> tuple[Sequence[float | None], Sequence[int | None]]:
    """Seconds and steps of each lesson's worker, one of the two None throughout."""
    nothing = [None] * len(lessons)
    if config.steps is not None:
        return nothing, split_steps(config.steps, len(lessons), seed_at=seed_at)
    assert config.budget_s is not None
    sizes = [lesson.packet_count for lesson in lessons]
    shares_s = split_time(config.budget_s, sizes, lanes, seed_at=seed_at)
    return [max(1.0, share_s - START_S) for share_s in shares_s], nothing
