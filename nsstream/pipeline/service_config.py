"""The service's configuration: one frozen model a component, every key with its unit, its default and what it means.

`docs/configuration.md` is made from these models (`nsstream_daemon.config_page`), so what a field says here is what an
operator reads. Unknown keys are refused. A key that is marked live is applied by a reload; all others need a restart.
Durations are seconds, or a text such as ``90s``, ``5m``, ``7d``; sizes are octets, or a text such as ``512M``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator

from nsstream.encode.address_map import AddressMap
from nsstream.errors import InputError
from nsstream.pipeline.config_fields import LIVE, MOST_LENGTH_S, Core, Duration, Positive, Section, Size, whole
from nsstream.pipeline.privacy_config import PrivacySection
from nsstream.train.job import GPU_MEMORY_OCTETS

MOST_SOCKET_OCTETS: Final = 107  # of a path: sun_path of unix(7), less its last zero


def _is_range_of(name: str) -> Callable[[str], str]:
    """What refuses a range that the address map has no use for."""

    def check(text: str) -> str:
        try:
            AddressMap(bytes(16), **{name: text})
        except InputError as err:
            raise ValueError(str(err)) from err
        return text

    return check


class SourceSection(Section):
    """Where packets or flow records come from."""

    input: str = Field(
        min_length=1, description="A capture file or FIFO, or NAME:TARGET of a source (sources.md), such as live:eth0."
    )
    options: dict[str, bool | int | float | str] = Field(default={}, description="Options of the source's own.")
    live: bool | None = Field(
        default=None,
        description="Whether rows come as they happen: then idle chunks close on the clock, and what the disk is too "
        "slow for is dropped and counted, unless it waits in a file that is followed. Without it, that is so but for "
        "files that are not followed, folders and pipes.",
    )
    at_end: Literal["restart", "stay", "drain"] | None = Field(
        default=None,
        description="What follows the source's end: open it again, stay for the training and for commands, or end "
        "once everything is learned. Without it, a live source is opened again, any other stays.",
    )
    flows: bool = Field(default=False, description="Whether packets are metered into flow records, and those kept.")
    active_timeout_s: Duration = Field(default=1800.0, ge=1, description="Of flows: how long a record may last.")
    idle_timeout_s: Duration = Field(default=15.0, ge=1, description="Of flows: how long a flow may be silent.")

    @model_validator(mode="after")
    def _timeouts_agree(self) -> SourceSection:
        if self.idle_timeout_s > self.active_timeout_s:
            raise ValueError("idle_timeout_s must not be more than active_timeout_s")
        return self


class ChunksSection(Section):
    """How rows become chunks, and how long those are kept."""

    length_s: Annotated[Duration, Field(ge=1, le=MOST_LENGTH_S), AfterValidator(whole)] = Field(
        default=60.0, description="Length of a chunk; boundaries are multiples of it since the Unix epoch."
    )
    lateness_s: Duration | None = Field(
        default=None,
        ge=0,
        description="How long a chunk waits for stragglers. Without it, 5 s of packets, and more of flows.",
    )
    future_s: Duration = Field(
        default=3600.0, ge=0, description="How far ahead of the clock, or of the other rows, a row may be."
    )
    max_rows: int = Field(default=4 << 20, ge=1, description="Rows of one chunk; beyond, conversations are sampled.")
    max_memory_octets: Size = Field(
        default=768 << 20, ge=1, description="Of the rows of all open chunks, most of which wait in files."
    )
    apart_rows: int = Field(
        default=1 << 16, ge=0, description="Late rows, and future rows, that are stored apart from a chunk; 0: none."
    )
    queue_rows: int | None = Field(
        default=None,
        ge=1,
        description="Rows that may wait for the disk. Without it 65536, of what comes live 262144.",
    )
    keep_for_s: Positive | None = Field(
        default=None, description="Age at which stored chunks expire. Without it, never.", json_schema_extra=LIVE
    )
    keep_octets: Annotated[Size, Field(ge=1)] | None = Field(
        default=None, description="Total above which the oldest expire. Without it, no cap.", json_schema_extra=LIVE
    )


class WorkerSection(Section):
    """One place where a training may run: a job at a time, on these processors or on this GPU."""

    cores: tuple[Core, ...] = Field(
        default=(), description="Processors that the worker is pinned to; none: any. Their number is its threads."
    )
    gpu: str | None = Field(
        default=None,
        pattern=r"^[0-9A-Za-z-]{1,64}$",
        description="The GPU that trains, as CUDA_VISIBLE_DEVICES names it: a number or a UUID. Several places may "
        "share one. Where torch cannot use it the worker says so, and trains on the CPU, as without it.",
    )


class TrainingSection(Section):
    """What is learned, by whom, and within which bounds."""

    enabled: bool = Field(default=True, description="Whether chunks are learned at all.")
    engine: Literal["local", "ray"] = Field(
        default="local",
        description="Where jobs run: as children of the daemon, in the places of `[[training.workers]]`, or on a Ray "
        "cluster as `[ray]` says.",
    )
    start_from: Literal["seed", "newest"] = Field(
        default="seed",
        description="What a chunk's training goes on from: the seed model, or the newest that was promoted.",
        json_schema_extra=LIVE,
    )
    seed_model: Path | None = Field(
        default=None, description="A checkpoint to fine-tune from. Without it, the first good chunk gives the seed."
    )
    seed_captures: Annotated[tuple[Path, ...], Field(max_length=64)] = Field(
        default=(),
        description="Public captures of packets. At its first start the daemon learns a seed from their first minutes, "
        "all together, before anything else.",
    )
    seed_budget_s: Positive = Field(
        default=240.0, description="Wall-clock time of the seed's training, from its start.", json_schema_extra=LIVE
    )
    budget_s: Positive = Field(
        default=40.0,
        description="Wall-clock time of a fine-tune, from its start; less, but half at least, for a chunk that waited.",
        json_schema_extra=LIVE,
    )
    seed_steps: int | None = Field(
        default=None,
        ge=1,
        description="Steps of the seed's training in place of its budget: then it can be repeated.",
        json_schema_extra=LIVE,
    )
    steps: int | None = Field(
        default=None, ge=1, description="Steps of a fine-tune in place of its budget.", json_schema_extra=LIVE
    )
    random_seed: int = Field(default=0, ge=0, lt=2**63, description="Fixes the chance in training.")
    fewest_conversations: int = Field(
        default=50,
        ge=16,
        description="A chunk of fewer is learned together with the next one, or left out if that is far.",
        json_schema_extra=LIVE,
    )
    most_waiting: int = Field(
        default=4,
        ge=1,
        description="Jobs that may wait; when training is behind, the oldest beyond are skipped, and counted.",
        json_schema_extra=LIVE,
    )
    attempts: int = Field(
        default=3, ge=1, description="Failures after which a job is given up.", json_schema_extra=LIVE
    )
    backoff_s: Duration = Field(
        default=10.0,
        ge=0,
        description="Wait before a failed job is tried again; doubled each time, up to an hour.",
        json_schema_extra=LIVE,
    )
    silence_s: Positive = Field(
        default=180.0,
        description="A worker that says nothing for so long is killed; numba compiles for a minute on a first run.",
        json_schema_extra=LIVE,
    )
    time_limit_s: Positive | None = Field(
        default=None,
        description="A worker that runs longer is killed. Without it, one and a half budgets and silence_s.",
        json_schema_extra=LIVE,
    )
    memory_octets: Size = Field(
        default=4 << 30,
        ge=64 << 20,
        description="A worker whose resident memory is larger is killed.",
        json_schema_extra=LIVE,
    )
    gpu_memory_octets: Size = Field(
        default=GPU_MEMORY_OCTETS,
        ge=0,
        description="Memory that a training on a GPU waits for, a minute at most, and takes before it begins. A job "
        "that does not get it, or uses it up, has failed and waits; the last of its attempts is on the CPU.",
        json_schema_extra=LIVE,
    )
    nice: int = Field(default=10, ge=0, le=19, description="Niceness of workers.")
    keep_models: int = Field(
        default=20,
        ge=1,
        description="Models kept; of the rest the oldest are removed. Seed and promoted model always stay.",
        json_schema_extra=LIVE,
    )
    address_key: str | None = Field(
        default=None,
        min_length=1,
        description="Key of the address map: a file (`nsstream keys address`), or credential:NAME of the service "
        "manager's. Without it, STATE/address.key, which is made.",
    )
    remember_s: Positive = Field(
        default=90 * 86_400.0,
        description="Age at which the ledger drops chunks, jobs and models of which no file is left; counts stay.",
        json_schema_extra=LIVE,
    )
    ipv4_range: Annotated[str, AfterValidator(_is_range_of("ipv4_range"))] = Field(
        default="10.0.0.0/8", description="Where IPv4 addresses are mapped to: unicast, /16 or shorter."
    )
    ipv6_range: Annotated[str, AfterValidator(_is_range_of("ipv6_range"))] = Field(
        default="fd00::/8", description="Where IPv6 addresses are mapped to: unicast, /48 or shorter."
    )
    workers: Annotated[tuple[WorkerSection, ...], Field(min_length=1, max_length=64)] = Field(
        default=(WorkerSection(),), description="Places where trainings run side by side; see `[[training.workers]]`."
    )


class RaySection(Section):
    """Where jobs run if `training.engine` is `"ray"`: on a cluster that this machine has joined. See operations.md."""

    address: str = Field(
        default="127.0.0.1:6379",
        pattern=r"^(\[[0-9a-fA-F:.]+\]|[0-9A-Za-z._-]+):[0-9]{1,5}$",
        description="HOST:PORT of the cluster's head, as `ray start --address` has it.",
    )
    jobs: int = Field(default=2, ge=1, le=64, description="Jobs that are with the cluster at once.")
    cpus: int = Field(default=1, ge=1, le=256, description="Processors that a job asks Ray for, and its threads.")
    gpus: float = Field(
        default=0.0,
        ge=0,
        le=16,
        description="GPUs that a job asks Ray for, and trains on the first of; 0.25: four jobs share one.",
    )
    files: Literal["store", "shared"] = Field(
        default="store",
        description="How chunks and checkpoints get to a node and back: through Ray's object store, or not at all: "
        "every node has the state directory at the same path.",
    )
    start_timeout_s: Positive = Field(
        default=300.0, description="How long a job waits for a node with room; then it is given back, and no failure."
    )


class GateSection(Section):
    """Which candidates are promoted. All held-out figures are of conversations that the candidate did not learn."""

    worst_ratio: float = Field(
        default=1.0,
        gt=0,
        description="The most that the candidate's held-out loss may be, in multiples of its parent's on this chunk.",
        json_schema_extra=LIVE,
    )
    most_faults: int = Field(
        default=0, ge=0, description="Unlawful frames that the judged drawing may have.", json_schema_extra=LIVE
    )
    most_copied: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="The share of drawn flows, of six packets or more, that may be the chunk's size by size, beyond "
        "what two halves of the chunk share.",
        json_schema_extra=LIVE,
    )
    drawn_conversations: int = Field(
        default=2000, ge=16, description="Conversations that are drawn to be judged.", json_schema_extra=LIVE
    )
    reseed_after: int = Field(
        default=5,
        ge=0,
        description="Candidates in a row that fail, after which a new seed is trained; 0: never.",
        json_schema_extra=LIVE,
    )
    reseed_drift: float | None = Field(
        default=None,
        gt=0,
        description="Drift above which three models in a row let a new seed be trained. Without it, never.",
        json_schema_extra=LIVE,
    )


class ControlSection(Section):
    """How the daemon is asked and seen."""

    socket: Path | None = Field(
        default=None, description="Unix socket of `nsstream ctl`, mode 0660. Without it, STATE/control.sock."
    )
    metrics_port: int = Field(
        default=9741,
        ge=0,
        le=65535,
        description="TCP port on 127.0.0.1 of /metrics, /healthz and /readyz; 0: none.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="What is logged to standard error.", json_schema_extra=LIVE
    )
    stop_timeout_s: Positive = Field(
        default=30.0, description="How long an orderly stop may take before the daemon ends as if it was killed."
    )


class ServiceConfig(Section):
    """The whole file."""

    state: Path = Field(description="The state directory: chunks, models, the ledger; one daemon each.")
    source: SourceSection
    chunks: ChunksSection = ChunksSection()
    training: TrainingSection = TrainingSection()
    gate: GateSection = GateSection()
    ray: RaySection = RaySection()
    privacy: PrivacySection = PrivacySection()
    control: ControlSection = ControlSection()

    @property
    def socket(self) -> Path:
        """Where the daemon listens for commands."""
        return self.control.socket or self.state / "control.sock"

    @model_validator(mode="after")
    def _paths_fit(self) -> ServiceConfig:
        if not self.state.is_absolute():
            raise ValueError(f"state must be an absolute path, got {str(self.state)!r}")
        if self.training.seed_model is not None and self.training.seed_captures:
            raise ValueError("training.seed_model is the seed, or training.seed_captures give it: leave one out")
        if self.training.engine == "ray" and self.training.workers != (WorkerSection(),):
            raise ValueError("training.workers are places of the local engine; with Ray, ray.jobs says how many")
        if len(str(self.socket).encode()) > MOST_SOCKET_OCTETS:
            raise ValueError(
                f"the path of the control socket has more than {MOST_SOCKET_OCTETS} octets; "
                f"give a shorter control.socket: {self.socket}"
            )
        return self


def complaints(err: ValidationError) -> list[str]:
    """What is wrong, a line each: the key's path, its value, and what is allowed."""
    return [_complaint(dict(fault)) for fault in err.errors(include_url=False)]


def _complaint(fault: dict[str, Any]) -> str:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault["loc"]).lstrip(".")
    message = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        known = ", ".join(_section_at(fault["loc"][:-1]).model_fields)
        return f"{path}: there is no such key; there are {known}"
    if fault["type"] == "missing":
        return f"{path}: is missing; it has no default"
    message = message[:1].lower() + message[1:]
    if isinstance(fault["input"], dict) or not path:
        return f"{path}: {message}" if path else message
    return f"{path} = {fault['input']!r:.80}: {message}"


def _section_at(path: tuple[int | str, ...]) -> type[BaseModel]:
    section: type[BaseModel] = ServiceConfig
    for part in path:
        if isinstance(part, str):
            section = WorkerSection if part == "workers" else section.model_fields[part].annotation  # type: ignore[assignment]
    return section
