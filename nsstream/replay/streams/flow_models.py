"""FlowModelStream: the records that models of flows draw, chunk after chunk, for sinks that take flows.

Each turn of the plan is drawn anew, from chance of the seed and the turn alone; records are given in the order of their
ends, which fall within the turn. What a scenario says of frames alone is refused (`check_flows_agree`).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from nsstream.errors import InputError, StateError
from nsstream.replay.flow_rows import FlowBlock, FlowRows
from nsstream.replay.framing import Framing
from nsstream.replay.scenario import Scenario
from nsstream.replay.streams.plan import Plan, Turn
from nsstream.replay.streams.selection import Selection
from nsstream.replay.streams.timeline import Timeline
from nsstream.trace.flows import FlowTable

BLOCK_FLOWS: Final = 8192


class DrawsFlows(Protocol):
    """What draws: `flow_drawer` makes one of `draw.FlowDrawer`."""

    def __call__(self, checkpoint: Path, seed: int, scale: float, /) -> FlowTable:
        """The records of a checkpoint's chunk, at its own time, for `scale` times its conversations; or StateError."""
        ...


def flow_drawer(checkpoint: Path, seed: int, scale: float, /) -> FlowTable:
    """Draw by `draw.FlowDrawer`."""
    from nsstream.draw.flow_drawer import Condition, FlowDrawer  # torch

    return FlowDrawer(seed).draw(checkpoint, None if scale == 1 else Condition(scale=scale))


def check_flows_agree(scenario: Scenario, framing: Framing) -> None:
    """Raise InputError where a run asks something of a model of flows that only frames have."""
    has_no_frames = "a model of flows draws no frames"
    for name, is_default in (
        ("payload", framing.payload == "template"),
        ("oversize", framing.oversize == "clamp"),
        ("testbed", framing.testbed is None),
        ("scenario.candidates", scenario.candidates is None),
        ("scenario.attack", scenario.attack is None),
        ("scenario.clients", scenario.clients == "same"),
    ):
        if not is_default:
            raise InputError(f"{name}: {has_no_frames}")


class FlowModelStream:
    """Records of models of flows; ends where its plan does.

    Args:
        plan: of its chunks.
        timeline: from the plan's time to the twin's.
        scenario: services, hosts and flows are looked at.
        seed: of all chance.
        tallies: more counts to tell, which others keep.
        draw: draws a chunk.
    """

    def __init__(
        self,
        plan: Plan,
        timeline: Timeline,
        scenario: Scenario,
        seed: int,
        tallies: Sequence[Counter[str]] = (),
        draw: DrawsFlows = flow_drawer,
    ) -> None:
        self._plan = plan
        self._timeline = timeline
        self._selection = Selection.of(scenario)
        self._scale = scenario.flows
        self._seed = seed
        self._draw = draw
        self._tally: Counter[str] = Counter()
        self._more = tallies
        self._ready: deque[FlowBlock] = deque()
        self._from_ns: int | None = None  # what ends before this was sought past

    def read(self) -> FlowBlock | None:
        """The next block; draws a chunk where need be, which takes seconds."""
        while not self._ready:
            turn = self._plan.next()
            if turn is None:
                return None
            self._make(turn)
        return self._ready.popleft()

    def check_seek(self, twin_time_ns: int) -> None:
        """Raise InputError if the stream has no such time."""
        self._plan.check_seek(self._timeline.model_ns(twin_time_ns))

    def seek(self, twin_time_ns: int) -> None:
        """Go on at this time: with the chunk that holds it, of which what ends before goes."""
        time_ns = self._timeline.model_ns(twin_time_ns)
        self._plan.check_seek(time_ns)
        self._plan.seek(time_ns)
        self._ready.clear()
        self._from_ns = twin_time_ns

    def check_loop(self) -> None:
        """Raise InputError if the stream has no passes."""
        self._plan.check_loop()

    def set_loop(self, passes: int | None) -> None:
        """End after so many passes in all; a stream that has ended may go on."""
        self._plan.set_loop(passes)

    def close(self) -> None:
        """Nothing is held that needs to be let go."""

    def _make(self, turn: Turn) -> None:
        """Draw a turn, and put its records where `read` takes them."""
        while True:
            seed = int(np.random.SeedSequence([self._seed, turn.number]).generate_state(1, np.uint64)[0] >> 1)
            try:
                table = self._draw(turn.checkpoint.directory, seed, self._scale)
            except StateError as err:
                turn = self._plan.instead(turn, err)
            else:
                break
        kept = self._selection.rows(
            table.protocol_identifier,
            [table.source_transport_port, table.destination_transport_port],
            [table.source_address, table.destination_address],
        )
        self._tally["flows_not_selected"] += int(np.count_nonzero(~kept))
        table = self._at_twin_time(table.take(np.flatnonzero(kept)), turn.shift_ns)
        if self._from_ns is not None:
            past = int(np.searchsorted(table.flow_end_ns, self._from_ns))
            self._tally["flows_sought_past"] += past
            table = table.take(slice(past, None))
        tally = Counter(self._tally)
        for more in self._more:
            tally.update(more)
        told = {name: count for name, count in tally.items() if count}
        for first in range(0, len(table), BLOCK_FLOWS):
            rows = FlowRows(table.take(slice(first, first + BLOCK_FLOWS)))
            self._ready.append(FlowBlock(turn.number + 1, turn.checkpoint.id, rows, told))

    def _at_twin_time(self, table: FlowTable, shift_ns: int) -> FlowTable:
        """The table at the twin's time, in the order of ends."""
        times = {
            name: self._timeline.twin_times(getattr(table, name) + shift_ns)
            for name in ("flow_start_ns", "flow_end_ns")
        }
        moved = FlowTable.from_columns(table.columns() | times, table.label_names)
        return moved.take(np.argsort(moved.flow_end_ns, kind="stable"))
