"""The run that takes a private table of flows to a twin that keeps to (epsilon, delta): one interval, learned once.

As `private_twin` does with captures, and by its rules. The interval is of the ends of flows, as everywhere. The twin is
a table in the form of the input's header where that can be written, which is public as every schema is; an input
without a header (nfcapd) gives the form `plain`. The state directory holds the interval's flows and the key of the
address map: it is no part of the release.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np

from nsstream.capture.flow_presets import PRESETS
from nsstream.capture.flow_table_file import PLAIN, is_writable
from nsstream.chunk import Chunk, ChunkStore
from nsstream.clock import Clock
from nsstream.counters import Tally
from nsstream.errors import InputError, OutputError, StateError, TrainError
from nsstream.pipeline.flow_twin import DRAWER, TABLE_SUFFIXES, draw_flows, is_table, read_flows, verify_flows
from nsstream.pipeline.private_twin import PrivateTwinConfig
from nsstream.pipeline.progress import Listener, Progress, Stage, one_at_a_time, stopwatch_s
from nsstream.pipeline.training import TrainJob, train_one
from nsstream.pipeline.twin_places import TwinPlaces
from nsstream.replay.checkpoints import read_checkpoint
from nsstream.replay.promise_file import promise_beside


@dataclass(frozen=True, slots=True)
class PrivateFlowTwin:
    """What a run made; nothing of it tells more of the table than the model does."""

    output: Path
    config: Path
    state: Path
    model: Path
    promise: Mapping[str, Any]  # as it stands beside the twin
    record_count: int  # of the twin


def make_private_flow_twin(
    config: PrivateTwinConfig, listen: Listener, clock: Clock, drawer: Sequence[str] = DRAWER
) -> PrivateFlowTwin:
    """Run the whole path.

    Raises:
        InputError: the table cannot be read, or holds nothing of the interval.
        StateError: there is no model of flows to start from.
        OutputError: an output exists already, or cannot be written.
        TrainError: the worker failed.
        ReplayError: the drawing failed, or what it wrote cannot be read as it was drawn.
    """
    report, elapsed_s = one_at_a_time(listen), stopwatch_s(clock)
    if not is_table(config.output):
        raise OutputError(f"{config.output}: the name of a table of flows ends in {', '.join(TABLE_SUFFIXES)}")
    places = TwinPlaces(config.trace, config.output, config.state, config.replaces)
    places.check()
    check_flow_seed(config.parent)
    report(Progress(Stage.IMPORT, elapsed_s()))
    given = read_flows(config.trace)
    with places.staged(config.address_map.key) as staged:
        start_ns, end_ns = config.interval_ns
        ends_ns = given.table.flow_end_ns
        rows = np.flatnonzero((ends_ns >= start_ns) & (ends_ns < end_ns))
        if not len(rows):
            raise InputError(f"{config.trace} holds no flow that ended in that time to learn from")
        table = given.table.take(rows[np.argsort(ends_ns[rows], kind="stable")])
        tally = Tally(offered=len(table), kept=len(table))
        chunk = ChunkStore(staged.state / "chunks").write(Chunk.of(start_ns, end_ns, table, tally, is_partial=False))
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
        count = draw_flows(
            [checkpoint], staged.twin, given.mapping, given.header, report, elapsed_s,
            seed=config.seed, threads=config.cores, command=drawer,
        )  # fmt: skip
        form = given.mapping if is_writable(given.mapping) else PRESETS[PLAIN]
        verify_flows(staged.twin, form, count)
        report(Progress(Stage.VERIFY, elapsed_s(), packet_count=count, is_done=True))
        promise = promise_beside(staged.twin)
        if promise is None:
            raise TrainError(f"the checkpoint {checkpoint.name} does not say what was done to learn it privately")
        told = {name: value for name, value in config.as_dict().items() if name != "mtu"}
        staged.publish(told | {"form": form.name})
    model = config.state / "models" / checkpoint.name
    return PrivateFlowTwin(config.output, places.config, config.state, model, promise, count)


def check_flow_seed(parent: Path) -> None:
    """Raise StateError unless this is a checkpoint of flows."""
    if not parent.is_dir():
        raise StateError(f"there is no model {parent}")
    try:
        is_of_flows = read_checkpoint(parent).is_of_flows
    except InputError as err:
        raise StateError(str(err)) from err
    if not is_of_flows:
        raise StateError(f"{parent} is a model of packets: flow records go on from one of public flow records")
