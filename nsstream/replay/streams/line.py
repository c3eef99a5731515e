"""Line: the conversations of one plan, chunk after chunk, selected, scaled and brought to the twin's time.

Flows are scaled by whole chunks: what is beyond the first is drawn as another chunk of the same model, with chance of
its own, and what is a fraction is that share of a chunk's conversations. So bursts and lulls stay what they are. All
that is left out is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from nsstream.errors import StateError
from nsstream.replay.streams.clients import NewClients
from nsstream.replay.streams.plan import Plan, Turn
from nsstream.replay.streams.selection import Selection
from nsstream.replay.streams.timeline import Timeline
from nsstream.trace import ConversationTable

if TYPE_CHECKING:
    from nsstream.encode.decoding import Endpoints

    Select = Callable[[Endpoints], NDArray[np.bool_]]

LINES_APART: Final = 1 << 20  # a line's replicas are numbered from its own number times this
MOST_REPLICAS: Final = 1024


class DrawsChunks(Protocol):
    """What draws: `draw.Drawer` is one.

    Attributes:
        candidates: drawings of each short conversation, of which one is chosen; may be changed by another thread, and
            holds from the next chunk on.
    """

    candidates: int

    def draw(self, checkpoint: Path, *, line: int, turn: int, select: Select | None) -> ConversationTable:
        """The conversations of a checkpoint's chunk, at its own time; raises StateError if it cannot be loaded."""
        ...

    def hosts(self, checkpoint: Path) -> Iterable[bytes]:
        """The addresses that a checkpoint's model knows, 16 octets each."""
        ...

    def forget(self) -> None:
        """Begin anew."""
        ...


class Line:
    """Conversations of one plan.

    Args:
        number: tells the chance of this line from that of others.
        plan: of its chunks; the line alone asks it for turns.
        drawer: draws them.
        seed: of what is left out at random.
        flows: how many conversations for one of the model's, > 0.
        selection: which are wanted.
        has_new_clients: whether the conversations of further replicas have clients of their own.

    Attributes:
        tally: what was left out, and what was added, by name.
    """

    def __init__(
        self,
        number: int,
        plan: Plan,
        drawer: DrawsChunks,
        seed: int,
        *,
        flows: float = 1.0,
        selection: Selection | None = None,
        has_new_clients: bool = False,
    ) -> None:
        self.tally: Counter[str] = Counter()
        self.plan = plan
        self.flows = flows
        self._number = number
        self._drawer = drawer
        self._seed = seed
        self._selection = selection or Selection(None, None)
        self._has_new_clients = has_new_clients
        self._clients: dict[int, NewClients] = {}
        self._waiting = ConversationTable.empty()
        self._drawn_until_ns: int | None = None

    def next(self) -> tuple[Turn, ConversationTable] | None:
        """The next turn and its conversations, in the plan's time; None at the plan's end. Takes seconds."""
        turn = self.plan.next()
        while turn is not None:
            try:
                table = self._draw(turn)
            except StateError as err:
                turn = self.plan.instead(turn, err)
            else:
                return turn, table
        return None

    def take(self, until_ns: int) -> ConversationTable:
        """The conversations that start before a time (of the plan) and were not taken yet; of a plan without end."""
        tables = [self._waiting]
        while self._drawn_until_ns is None or self._drawn_until_ns < until_ns:
            drawn = self.next()
            if drawn is None:
                break
            self._drawn_until_ns = drawn[0].end_ns
            tables.append(drawn[1])
        table = ConversationTable.concatenate([t for t in tables if len(t)])
        is_due = starts_of(table) < until_ns
        self._waiting = table.take(np.flatnonzero(~is_due))
        return table.take(np.flatnonzero(is_due))

    def seek(self, time_ns: int) -> None:
        """Go on with the turn that holds this time."""
        self.plan.seek(time_ns)
        self._waiting = ConversationTable.empty()
        self._drawn_until_ns = None

    def _draw(self, turn: Turn) -> ConversationTable:
        replicas = min(int(np.ceil(self.flows)), MOST_REPLICAS)
        tables = []
        for replica in range(replicas):
            share = min(self.flows - replica, 1.0)
            line = self._number * LINES_APART + replica
            thinning = np.random.default_rng([self._seed, 2, line, turn.number])
            table = self._drawer.draw(
                turn.checkpoint.directory, line=line, turn=turn.number, select=self._select(share, thinning)
            )
            if replica and self._has_new_clients and len(table):
                table = self._new_clients(replica, line).replace(table, self._drawer.hosts(turn.checkpoint.directory))
            tables.append(table)
        table = ConversationTable.concatenate(tables)
        return replace(table, observation_time_ns=table.observation_time_ns + turn.shift_ns)

    def _select(self, share: float, rng: np.random.Generator) -> Select | None:
        """What the drawer asks for the conversations that are wanted; None where all are."""
        if share >= 1 and self._selection.takes_all:
            return None

        def select(ends: Endpoints) -> NDArray[np.bool_]:
            wanted = self._selection.rows(
                ends.protocol_identifier, [ends.responder_port], [ends.initiator_address, ends.responder_address]
            )
            self.tally["flows_not_selected"] += int(np.count_nonzero(~wanted))
            if share < 1:
                kept = wanted & (rng.random(len(wanted)) < share)
                self.tally["flows_thinned_out"] += int(np.count_nonzero(wanted & ~kept))
                wanted = kept
            return wanted

        return select

    def _new_clients(self, replica: int, line: int) -> NewClients:
        if replica not in self._clients:
            self._clients[replica] = NewClients(f"{self._seed} {line}".encode())
        return self._clients[replica]


def starts_of(table: ConversationTable) -> NDArray[np.int64]:
    """The time of each conversation's first packet: (n,)."""
    return table.observation_time_ns[table.packet_offset[:-1]]


def at_twin_time(table: ConversationTable, timeline: Timeline) -> ConversationTable:
    """The table at the twin's time."""
    return replace(table, observation_time_ns=timeline.twin_times(table.observation_time_ns))
