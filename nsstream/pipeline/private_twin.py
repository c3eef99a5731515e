"""The run that takes a private capture to a twin that keeps to (epsilon, delta): one interval, learned once, drawn.

As `twin`, but for what that takes from a capture besides the model. Rules, each of which closes a way past the noise:
(1) the interval is given, and public: no length, number or place of chunks is chosen by what the capture holds, and
what is outside of it is left out without a count; (2) the whole interval is one lesson of one worker, which is not
tried again; so its two mechanisms are all that is done; (3) the drawing is told the checkpoint, a seed of its own and
an MTU that is given, and nothing is measured; (4) the twin is verified by itself, and not scored; (5) what is returned,
reported and written beside the twin follows from the checkpoint and from what was given. The state directory holds the
interval's packets and the key of the address map: it is no part of the release.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from nsstream.chunk import ChunkStore
from nsstream.clock import Clock
from nsstream.encode.address_map import AddressMap
from nsstream.errors import ReplayError, StateError, TrainError
from nsstream.pipeline.ingest import import_interval
from nsstream.pipeline.playing import SERVER, play
from nsstream.pipeline.progress import Listener, Progress, Stage, one_at_a_time, stopwatch_s
from nsstream.pipeline.training import WORKER, TrainJob, train_one
from nsstream.pipeline.twin import USUAL_MTU
from nsstream.pipeline.twin_places import TwinPlaces
from nsstream.replay.promise_file import promise_beside
from nsstream.score.verify import Verification, verify_alone


@dataclass(frozen=True, slots=True)
class PrivateTwinConfig:
    """One run. The key of `address_map` is secret; all else is public, and none of it chosen by the capture."""

    trace: Path
    output: Path  # .pcap or .pcapng, and .gz, .xz or .zst behind
    state: Path
    parent: Path  # a model of public traffic
    interval_ns: tuple[int, int]  # [start, end) in whole seconds: what of the trace is learned, and the twin's clock
    private: Mapping[str, Any]  # fields of `train.job.Privacy`, its steps among them
    address_map: AddressMap
    seed: int  # of the drawing
    mtu: int = USUAL_MTU
    cores: int = 2
    replaces: bool = False  # whether an earlier twin and its state are replaced
    worker: Sequence[str] = WORKER
    replay_server: Sequence[str] = SERVER

    def as_dict(self) -> dict[str, object]:
        """What a reader of the twin may know: everything but the address key and the programs run."""
        return {
            "trace": str(self.trace),
            "output": str(self.output),
            "state": str(self.state),
            "parent": str(self.parent),
            "start_ns": self.interval_ns[0],
            "end_ns": self.interval_ns[1],
            "private": dict(self.private),
            "seed": self.seed,
            "ipv4_range": self.address_map.ipv4_range,
            "ipv6_range": self.address_map.ipv6_range,
            "mtu": self.mtu,
            "cores": self.cores,
        }


@dataclass(frozen=True, slots=True)
class PrivateTwin:
    """What a run made; nothing of it tells more of the capture than the model does."""

    output: Path
    config: Path
    state: Path
    model: Path
    promise: Mapping[str, Any]  # as it stands beside the twin
    packet_count: int  # of the twin
    verification: Verification


def make_private_twin(config: PrivateTwinConfig, listen: Listener, clock: Clock) -> PrivateTwin:
    """Run the whole path.

    Raises:
        InputError: the trace cannot be read, or holds nothing of the interval.
        StateError: there is no model to start from, or it is none.
        OutputError: an output exists already, or cannot be written.
        TrainError: the worker failed.
        ReplayError: the replay failed, or what it wrote is not lawful.
    """
    report, elapsed_s = one_at_a_time(listen), stopwatch_s(clock)
    places = TwinPlaces(config.trace, config.output, config.state, config.replaces)
    places.check()
    places.check_time(config.interval_ns[0])
    if not config.parent.is_dir():
        raise StateError(f"there is no model {config.parent}")
    with places.staged(config.address_map.key) as staged:
        report(Progress(Stage.IMPORT, elapsed_s()))
        chunk = import_interval(config.trace, ChunkStore(staged.state / "chunks"), config.interval_ns)
        report(Progress(Stage.IMPORT, elapsed_s(), is_done=True))
        job = TrainJob(
            chunk=chunk,
            before=None,
            parent=config.parent,
            models=staged.models,
            seed=0,  # has no say in what is learned privately
            budget_s=None,
            steps=int(config.private["steps"]),
            threads=config.cores,
            address_map=config.address_map,
            private=dict(config.private),
        )
        checkpoint = train_one(job, report, elapsed_s, cancelled=Event(), command=config.worker)
        packet_count = play(
            [checkpoint],
            staged.twin,
            seed=config.seed,
            mtu=config.mtu,
            report=report,
            elapsed_s=elapsed_s,
            command=config.replay_server,
        )
        report(Progress(Stage.VERIFY, elapsed_s(), packet_count=packet_count))
        verification = verify_alone(staged.twin)
        if verification.fault_count or verification.not_rising_count:
            raise ReplayError(f"a defect of nsstream: the twin is not lawful: {'; '.join(verification.complaints())}")
        report(Progress(Stage.VERIFY, elapsed_s(), packet_count=packet_count, is_done=True))
        promise = promise_beside(staged.twin)
        if promise is None:
            raise TrainError(f"the checkpoint {checkpoint.name} does not say what was done to learn it privately")
        staged.publish(config.as_dict())
    model = config.state / "models" / checkpoint.name
    return PrivateTwin(config.output, places.config, config.state, model, promise, packet_count, verification)
