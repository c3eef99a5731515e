"""From a specification to a stream: which parts make it, and how they are put together."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from nsstream.clock import Clock
from nsstream.errors import InputError
from nsstream.replay.checkpoints import CheckpointInfo, read_checkpoint, read_checkpoints
from nsstream.replay.framing import Framing
from nsstream.replay.scenario import (
    Attack,
    FollowSpec,
    Limits,
    MixSpec,
    ModelSpec,
    ModelsSpec,
    RecordedSpec,
    Scenario,
    StreamSpec,
    check_agreement,
)
from nsstream.replay.stream import OpenedStream
from nsstream.replay.streams.ahead import AheadLimits, DrawnAhead, PlainStream
from nsstream.replay.streams.blend import Blend
from nsstream.replay.streams.drawn import DrawnStream
from nsstream.replay.streams.effort import AsManyAsKeepUp, SoonFirst
from nsstream.replay.streams.flow_models import FlowModelStream, check_flows_agree
from nsstream.replay.streams.follow import FollowPlan
from nsstream.replay.streams.labels import LabelledStream, Labels
from nsstream.replay.streams.limited import LimitedStream
from nsstream.replay.streams.line import DrawsChunks, Line
from nsstream.replay.streams.plan import Plan, SequencePlan
from nsstream.replay.streams.recorded import RecordedFile
from nsstream.replay.streams.selection import Selection
from nsstream.replay.streams.testbed_stream import TestbedStream
from nsstream.replay.streams.timeline import Timeline

FOLLOWED_AHEAD: Final = 0.5  # of a chunk: so much time there is to draw the next one
MOST_FLOWS_AHEAD: Final = 1 << 17  # records of some 300 octets
_ATTACK_LINE: Final = 1023  # a number that no part of a mix has
_MOST_MODELS_KEPT: Final = 16

DrawnSpec = ModelsSpec | ModelSpec | FollowSpec | MixSpec


def open_parts(
    spec: StreamSpec,
    scenario: Scenario,
    seed: int,
    framing: Framing,
    loop: int | None,
    clock: Clock,
    stopped: threading.Event,
    make_drawer: Callable[[int, int], DrawsChunks] | None = None,
    *,
    starts_soon: bool = False,
) -> OpenedStream:
    """As `stream.open_stream`; `make_drawer` makes a drawer of a seed and of how many models it keeps loaded."""
    try:
        check_agreement(spec, scenario, loop)
    except ValueError as err:
        raise InputError(str(err)) from err
    labels = _open_labels(scenario.attack)  # before anything is drawn: it may not be possible
    limits, effort = AheadLimits(), None
    plain: PlainStream
    if isinstance(spec, RecordedSpec):
        plain = RecordedFile(Path(spec.path), scenario, seed, framing.mtu, loop)
    else:
        plan = _plan(spec, loop, clock, stopped)
        if isinstance(plan, FollowPlan):  # so that a new model is not far behind its promotion
            length_ns = plan.length_ns / scenario.time_compression
            limits = AheadLimits(twin_ns=int(length_ns * FOLLOWED_AHEAD))
        if plan.is_of_flows:
            check_flows_agree(scenario, framing)
            limits = replace(limits, packets=MOST_FLOWS_AHEAD, octets=1 << 62)  # what flows count is not held
            plain = FlowModelStream(plan, _timeline(plan, scenario), scenario, seed, _tallies(plan))
        else:
            kept = min(len(spec.parts) + 1 if isinstance(spec, MixSpec) else 3, _MOST_MODELS_KEPT)
            drawer = (make_drawer or _drawer)(seed, kept)
            if scenario.candidates == "auto":
                effort = AsManyAsKeepUp(drawer)
            elif scenario.candidates is not None:
                drawer.candidates = scenario.candidates
            if starts_soon:
                drawer = SoonFirst(drawer)
            plain = _drawn(spec, plan, scenario, seed, framing, drawer)
    stream: OpenedStream = DrawnAhead(plain, limits, clock, stopped, effort)
    if framing.testbed is not None:
        stream = TestbedStream(stream, framing.testbed)
    if scenario.limits != Limits():
        stream = LimitedStream(stream, scenario.limits)
    return stream if labels is None else LabelledStream(stream, labels)


def _plan(spec: DrawnSpec, loop: int | None, clock: Clock, stopped: threading.Event) -> Plan:
    if isinstance(spec, ModelsSpec):
        return SequencePlan(read_checkpoints(spec.models), gaps=spec.gaps, passes=loop)
    if isinstance(spec, ModelSpec):
        return _endless(read_checkpoint(Path(spec.model)))
    if isinstance(spec, FollowSpec):
        return FollowPlan(Path(spec.directory), spec.wait_s, clock, stopped.wait)
    return _endless(_of_packets(spec.parts[0].model, "a mix"))


def _drawn(
    spec: DrawnSpec,
    plan: Plan,
    scenario: Scenario,
    seed: int,
    framing: Framing,
    drawer: DrawsChunks,
) -> DrawnStream:
    shares, plans = [1.0], [plan]
    if isinstance(spec, MixSpec):
        total = sum(part.weight for part in spec.parts)
        shares = [part.weight / total for part in spec.parts]
        plans += [_endless(_of_packets(part.model, "a mix"), plan.origin_ns) for part in spec.parts[1:]]
    selection = Selection.of(scenario)
    lines = [
        Line(
            number, of_part, drawer, seed, flows=share * scenario.flows, selection=selection,
            has_new_clients=scenario.clients == "more",
        )
        for number, (share, of_part) in enumerate(zip(shares, plans, strict=True))
    ]  # fmt: skip
    return DrawnStream(
        lines,
        drawer,
        _timeline(plan, scenario),
        seed,
        framing,
        None if scenario.attack is None else _blend(scenario.attack, plan.origin_ns, drawer, seed),
        _tallies(plan),
    )


def _timeline(plan: Plan, scenario: Scenario) -> Timeline:
    start_ns = plan.origin_ns if scenario.start_ns is None else scenario.start_ns
    return Timeline(plan.origin_ns, start_ns, scenario.time_compression)


def _tallies(plan: Plan) -> list[Counter[str]]:
    return [plan.tally] if isinstance(plan, FollowPlan) else []


def _blend(attack: Attack, origin_ns: int, drawer: DrawsChunks, seed: int) -> Blend:
    checkpoint = _of_packets(attack.model, "an attack")
    if checkpoint.packet_count == 0:
        raise InputError(f"{checkpoint.directory}: its manifest does not say how many packets its chunk has")
    line = Line(_ATTACK_LINE, _endless(checkpoint, origin_ns), drawer, seed)
    return Blend(attack, line, checkpoint.packet_count / (checkpoint.end_ns - checkpoint.start_ns), seed)


def _of_packets(model: str, what: str) -> CheckpointInfo:
    checkpoint = read_checkpoint(Path(model))
    if checkpoint.is_of_flows:
        raise InputError(f"{model}: is a model of flows, and {what} is of models of packets")
    return checkpoint


def _endless(checkpoint: CheckpointInfo, origin_ns: int | None = None) -> SequencePlan:
    return SequencePlan([checkpoint], gaps="squeezed", passes=None, has_passes=False, origin_ns=origin_ns)


def _drawer(seed: int, models_kept: int) -> DrawsChunks:
    from nsstream.draw import Drawer  # torch

    return Drawer(seed, models_kept=models_kept)


def _open_labels(attack: Attack | None) -> Labels | None:
    if attack is None or attack.labels is None:
        return None
    return Labels(Path(attack.labels), attack.name, overwrite=attack.overwrite)
