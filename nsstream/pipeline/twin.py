"""The run that takes a trace to its twin: import, seed, fine-tune a chunk at a time, replay to a capture file, verify.

The same path as a live one, run once. Heavy work is in child processes (workers that train, a replay server that draws,
assembles and writes), so this process loads no torch. The twin, the configuration beside it and the state directory
appear only when the run is complete; on any error, Ctrl-C included, the children have ended and nothing is left behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nsstream.chunk import ChunkStore
from nsstream.chunk.interval import SECOND_NS
from nsstream.clock import Clock
from nsstream.encode.address_map import AddressMap
from nsstream.errors import InputError, ReplayError
from nsstream.pipeline.ingest import Lesson, Survey, import_trace, make_lessons, survey_trace
from nsstream.pipeline.plan import BIN_S, choose_length_s
from nsstream.pipeline.playing import SERVER, play
from nsstream.pipeline.progress import Listener, Progress, Stage, one_at_a_time, stopwatch_s
from nsstream.pipeline.training import DEFAULT_MODEL, MODELS, WORKER, TrainingConfig, device_named, train_lessons
from nsstream.pipeline.twin_places import TwinPlaces
from nsstream.score.verify import Verification, verify_trace

STATE_SUFFIX: Final = ".state"
REPLAY_START_S: Final = 14.0  # the last calibration, start of the replay server and of the verification
USUAL_MTU: Final = 1500
REPLAY_PACKETS_PER_S: Final = 2_000.0  # drawn from 16 candidates, assembled, written, verified; 2 cores, 2026-11


@dataclass(frozen=True, slots=True)
class TwinConfig:
    """One run. Exactly one of `budget_s` and `steps` is set. The key of `address_map` is secret."""

    trace: Path
    output: Path  # .pcap or .pcapng, and .gz, .xz or .zst behind
    state: Path
    seed: int
    address_map: AddressMap
    model: str = DEFAULT_MODEL  # one of `training.MODELS`
    device: str = "auto"  # one of `training.DEVICES`
    budget_s: float | None = 300.0  # from start to verified twin
    steps: int | None = None  # of the seed's training, in place of a budget: the run is then reproducible
    chunk_length_s: int | None = None  # None: chosen from the trace
    mtu: int | None = None  # octets of the longest IP datagram; None: `USUAL_MTU`, or more if the trace has longer ones
    cores: int = 2
    workers: int = 2
    fewest_conversations: int = 50  # smaller chunks are learned together with a neighbour
    replaces: bool = False  # whether an earlier twin and its state are replaced
    worker: Sequence[str] = WORKER
    replay_server: Sequence[str] = SERVER

    def __post_init__(self) -> None:
        if (self.budget_s is None) == (self.steps is None):
            raise InputError("give either a budget or steps, not both")
        if self.model not in MODELS:
            raise InputError(f"the model must be one of {', '.join(MODELS)}, got {self.model!r}")
        device_named(self.device)
        if self.budget_s is not None and self.budget_s <= 0:
            raise InputError(f"the budget must be more than 0 s, got {self.budget_s:g} s")
        if self.steps is not None and self.steps < 1:
            raise InputError(f"steps must be at least 1, got {self.steps}")
        if self.chunk_length_s is not None and self.chunk_length_s < 1:
            raise InputError(f"a chunk must be at least 1 s long, got {self.chunk_length_s} s")

    def as_dict(self) -> dict[str, object]:
        """What a reader of the twin may know: everything but the address key and the programs run."""
        return {
            "trace": str(self.trace),
            "output": str(self.output),
            "state": str(self.state),
            "model": self.model,
            "device": self.device,
            "seed": self.seed,
            "ipv4_range": self.address_map.ipv4_range,
            "ipv6_range": self.address_map.ipv6_range,
            "budget_s": self.budget_s,
            "steps": self.steps,
            "chunk_length_s": self.chunk_length_s,
            "mtu": self.mtu,
            "cores": self.cores,
            "workers": self.workers,
            "fewest_conversations": self.fewest_conversations,
        }


@dataclass(frozen=True, slots=True)
class Twin:
    """What a run made."""

    output: Path
    config: Path
    state: Path
    real_packet_count: int
    packet_count: int
    chunk_count: int
    verification: Verification


def make_twin(config: TwinConfig, listen: Listener, clock: Clock) -> Twin:
    """Run the whole path.

    Raises:
        InputError: the trace cannot be read, or holds nothing to learn.
        OutputError: an output exists already, or cannot be written.
        TrainError: a worker failed twice.
        ReplayError: the replay failed, or what it wrote is not lawful.
    """
    report, elapsed_s = one_at_a_time(listen), stopwatch_s(clock)
    places = TwinPlaces(config.trace, config.output, config.state, config.replaces)
    places.check()
    report(Progress(Stage.IMPORT, elapsed_s()))
    survey = survey_trace(config.trace)
    places.check_time(max(survey.packets_by_bin) * BIN_S * SECOND_NS)
    length_s = config.chunk_length_s or choose_length_s(survey.packets_by_bin)
    mtu = config.mtu or max(USUAL_MTU, survey.longest)
    with places.staged(config.address_map.key) as staged:
        lessons = _ingest(config, staged.state, survey, length_s)
        report(
            Progress(
                Stage.IMPORT,
                elapsed_s(),
                chunk_count=len(lessons),
                packet_count=survey.packet_count,
                is_done=True,
            )
        )
        training = training_of(config, elapsed_s(), REPLAY_START_S + survey.packet_count / REPLAY_PACKETS_PER_S)
        checkpoints = train_lessons(lessons, staged.models, training, report, elapsed_s)
        packet_count = play(
            checkpoints,
            staged.twin,
            seed=config.seed,
            mtu=mtu,
            report=report,
            elapsed_s=elapsed_s,
            command=config.replay_server,
        )
        report(Progress(Stage.VERIFY, elapsed_s(), packet_count=packet_count))
        verification = verify_trace(config.trace, staged.twin)
        if verification.fault_count or verification.not_rising_count:
            raise ReplayError(f"a defect of nsstream: the twin is not lawful: {'; '.join(verification.complaints())}")
        report(Progress(Stage.VERIFY, elapsed_s(), packet_count=packet_count, is_done=True))
        staged.publish(config.as_dict() | {"chunk_length_s": length_s, "mtu": mtu})
    return Twin(
        output=config.output,
        config=places.config,
        state=config.state,
        real_packet_count=survey.packet_count,
        packet_count=packet_count,
        chunk_count=len(lessons),
        verification=verification,
    )


def _ingest(config: TwinConfig, state: Path, survey: Survey, length_s: int) -> list[Lesson]:
    store, merged = ChunkStore(state / "chunks"), ChunkStore(state / "merged")
    chunks = import_trace(config.trace, store, length_s=length_s, disorder_ns=survey.disorder_ns)
    return make_lessons(chunks, store, merged, fewest_conversations=config.fewest_conversations)


def training_of(config: TwinConfig, spent_s: float, set_aside_s: float) -> TrainingConfig:
    """How a run trains, with what is left of its budget once the import is paid and the drawing's part is set aside."""
    budget_s = None
    if config.budget_s is not None:
        budget_s = config.budget_s - spent_s - set_aside_s
        if budget_s <= 0:
            least_s = config.budget_s - budget_s
            raise InputError(
                f"a budget of {config.budget_s:g} s leaves no time to train; give more than {least_s:.0f} s"
            )
    return TrainingConfig(
        seed=config.seed,
        budget_s=budget_s,
        steps=config.steps,
        cores=config.cores,
        workers=config.workers,
        fewest_conversations=config.fewest_conversations,
        address_map=config.address_map,
        model=config.model,
        device=device_named(config.device),
        command=config.worker,
    )
