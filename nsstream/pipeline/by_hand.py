"""One part of the path at a time: train a chunk, draw models; the same workers and replay server as a run's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import time
from pathlib import Path
from threading import Event
from typing import Any, Final

from pydantic import ValidationError

from nsstream.capture.flow_presets import PRESETS
from nsstream.capture.flow_table_file import is_writable, preset_columns
from nsstream.chunk import Kind, read_chunk
from nsstream.clock import Clock
from nsstream.encode.address_map import AddressMap
from nsstream.errors import InputError, OutputError, StateError
from nsstream.pipeline.address_keys import key_beside
from nsstream.pipeline.drawn import check_drawn, publish_drawn
from nsstream.pipeline.engine import Engine, LocalEngine
from nsstream.pipeline.flow_twin import check_flow_model, draw_flows
from nsstream.pipeline.outputs import staging
from nsstream.pipeline.parallel_seed import ParallelSeed, train_parallel_seed
from nsstream.pipeline.playing import play
from nsstream.pipeline.progress import Listener, stopwatch_s
from nsstream.pipeline.ray_engine import RayEngine
from nsstream.pipeline.service_config import RaySection, WorkerSection
from nsstream.pipeline.training import DEFAULT_MODEL, MODELS, TrainJob, device_named, train_one
from nsstream.replay.checkpoints import CheckpointInfo, read_checkpoint

_DAY_NS: Final = 86_400 * 10**9


def train_chunk(
    chunk: Path,
    models: Path,
    *,
    parent: Path | None,
    budget_s: float | None,
    steps: int | None,
    seed: int,
    new_key: bytes,
    cores: int,
    listen: Listener,
    clock: Clock,
    model: str = DEFAULT_MODEL,
    ranges: tuple[str, str] = ("10.0.0.0/8", "fd00::/8"),
    private: dict[str, Any] | None = None,
    device: str = "auto",
) -> Path:
    """Train a model on a chunk file, from `parent` or from nothing, and return its checkpoint.

    With `private` (fields of `train.job.Privacy`) the chunk is learned privately, from a parent that has to be public.

    The address key is the one beside the folder of models; `new_key` is written there if there is none. `ranges` are
    where the hosts of the twin are, of IPv4 and of IPv6; those that follow one another in a twin must have the same.
    """
    held = read_chunk(chunk)
    if not len(held.table):
        raise InputError(f"{chunk} holds nothing to learn from")
    if model not in MODELS:
        raise InputError(f"the model must be one of {', '.join(MODELS)}, got {model!r}")
    if held.kind is Kind.FLOWS:
        check_flow_model(model)
    chosen = device_named(device)
    if parent is not None and not parent.is_dir():
        raise StateError(f"there is no model {parent}")
    try:
        models.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise OutputError(f"cannot make the folder {models}: {err.strerror}") from err
    job = TrainJob(
        chunk=chunk,
        before=None,
        parent=parent,
        models=models,
        seed=seed,
        steps=steps,
        budget_s=budget_s,
        threads=cores,
        address_map=AddressMap(key_beside(models, new_key), *ranges),
        model=model,
        private=private,
        device=chosen,
    )
    return train_one(job, listen, stopwatch_s(clock), cancelled=Event())


def train_chunks(
    chunks: Sequence[Path],
    models: Path,
    *,
    turns: int,
    steps: int,
    seed: int,
    new_key: bytes,
    cores: int,
    ray: str | None,
    listen: Listener,
    clock: Clock,
    ranges: tuple[str, str] = ("10.0.0.0/8", "fd00::/8"),
) -> Path:
    """Train a seed on several chunk files at once, `cores` of them at a time, or all of them on the cluster at `ray`.

    The address key is as of `train_chunk`. Raises as `train_parallel_seed`.
    """
    address_map = AddressMap(key_beside(models, new_key), *ranges)
    plan = ParallelSeed(tuple(chunks), turns, steps, seed, address_map)
    engine: Engine = LocalEngine((WorkerSection(),) * cores)
    if ray is not None:
        try:
            engine = RayEngine(RaySection(address=ray, jobs=min(len(chunks), 64)))
        except ValidationError as err:
            raise InputError(f"{ray!r} is no HOST:PORT") from err
    return train_parallel_seed(plan, models, engine, listen, stopwatch_s(clock))


def draw_models(
    models: Sequence[Path],
    output: Path,
    *,
    seed: int,
    mtu: int,
    replaces: bool,
    listen: Listener,
    clock: Clock,
    scenario: Mapping[str, Any] | None = None,
) -> int:
    """Draw models, in the order of their chunks, into a capture file, with their promise beside it; gives its packets.

    `scenario` has fields of `replay.scenario.Scenario`; None draws what the chunks had.
    """
    check_drawn(output, replaces=replaces)
    with staging(output) as staged:
        drawn = staged / output.name
        packet_count = play(
            models, drawn, seed=seed, mtu=mtu, report=listen, elapsed_s=stopwatch_s(clock), scenario=scenario
        )
        publish_drawn(drawn, output, trash=staged)
    return packet_count


def models_at(models: Sequence[Path], time_of_day: time) -> list[Path]:
    """Those of the models whose chunk has this time of day (UTC), on any day; raises InputError if none has."""
    found = [path for path in models if _has(read_checkpoint(path), time_of_day)]
    if not found:
        raise InputError(f"none of the {len(models)} models is of a chunk that has {time_of_day:%H:%M:%S} UTC")
    return found


def _has(checkpoint: CheckpointInfo, time_of_day: time) -> bool:
    asked_ns = (time_of_day.hour * 3600 + time_of_day.minute * 60 + time_of_day.second) * 10**9
    return (asked_ns - checkpoint.start_ns) % _DAY_NS < checkpoint.end_ns - checkpoint.start_ns


def draw_flow_models(
    models: Sequence[Path],
    output: Path,
    *,
    form: str,
    condition: dict[str, Any] | None,
    seed: int,
    cores: int,
    replaces: bool,
    listen: Listener,
    clock: Clock,
) -> int:
    """Draw models of flows, in the order of their chunks, into a table in a preset's form; gives its lines.

    `condition` holds the fields of `draw.flow_worker.FlowCondition`; None draws what the chunks had.
    """
    if form not in PRESETS or not is_writable(PRESETS[form]):
        known = ", ".join(name for name, preset in PRESETS.items() if is_writable(preset))
        raise InputError(f"no table of the form {form!r} can be written; there are {known}")
    check_drawn(output, replaces=replaces)
    with staging(output) as staged:
        drawn = staged / output.name
        count = draw_flows(
            models, drawn, PRESETS[form], preset_columns(PRESETS[form]), listen, stopwatch_s(clock),
            seed=seed, threads=cores, condition=condition,
        )  # fmt: skip
        publish_drawn(drawn, output, trash=staged)
    return count
