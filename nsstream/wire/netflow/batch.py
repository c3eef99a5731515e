"""Batch: the data sets of one call, each with the plan that reads it and the context that holds for it.

Sets that waited for their template are added behind the octets and messages of the call, and stand in the order of sets
where their template came. `lay_out` gives everything as arrays for the loops.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nsstream.wire.netflow import messages, sampling
from nsstream.wire.netflow.parking import ParkedSet
from nsstream.wire.netflow.plan import Plan
from nsstream.wire.netflow.plan import lay_out as lay_out_plans
from nsstream.wire.netflow.sampling import Context
from nsstream.wire.netflow.sequence import UNKNOWN_UNITS
from nsstream.wire.netflow.sessions import Session

_IPFIX = 10

Choice = tuple[Plan, Context]


@dataclass(frozen=True, slots=True)
class LaidOut:
    """A batch as arrays; `sets` are the chosen ones only, in the order of their rows."""

    octets: NDArray[np.uint8]
    messages: NDArray[np.int64]
    exporter: NDArray[np.uint64]  # (messages, 2)
    slot_of_message: NDArray[np.int64]
    sets: NDArray[np.int64]
    plan_of_set: NDArray[np.int64]
    context_of_set: NDArray[np.int64]
    facts: NDArray[np.int64]
    fields: NDArray[np.int64]
    first: NDArray[np.int64]
    contexts: NDArray[np.int64]
    samplers: NDArray[np.int64]


class Batch:
    """The sets of one call, in order."""

    def __init__(
        self,
        octets: NDArray[np.uint8],
        message_facts: NDArray[np.int64],
        exporter: NDArray[np.uint8],
        sessions: list[Session],
        session_of_message: NDArray[np.int64],
        sets: NDArray[np.int64],
    ) -> None:
        self.octets = octets
        self.messages = message_facts
        self.exporter = exporter
        self.sessions = sessions
        self.session_of_message = session_of_message  # index; -1: the message could not be read
        self.sets = sets
        self.options_records: dict[int, int] = {}  # by message
        self.unread: set[int] = set()  # messages with a set whose template is not known
        self._chosen: list[int] = []
        self._plan_of_set: list[int] = []
        self._context_of_set: list[int] = []
        self._by_kind: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]] | None = None
        self._plans: dict[Plan, int] = {}
        self._contexts: dict[int, int] = {}  # by identity
        self._context_list: list[Context] = []
        self._added: list[tuple[ParkedSet, Session]] = []

    def body(self, s: int) -> bytes:
        """The octets of set s behind its header."""
        return self.octets[self.sets[s, messages.START] : self.sets[s, messages.END]].tobytes()

    def choose(self, s: int, how: Plan, context: Context) -> None:
        """Have set s read by this plan, in this context."""
        self._chosen.append(s)
        plan_index, context_index = self._indices_of(how, context)
        self._plan_of_set.append(plan_index)
        self._context_of_set.append(context_index)

    def choose_by_kind(self, kind_of_set: NDArray[np.int64], choices: Sequence[Choice | None]) -> None:
        """Have all sets read by the plan and in the context of their kind; those of a kind without one not at all."""
        indices = np.array([(-1, -1) if choice is None else self._indices_of(*choice) for choice in choices], np.int64)
        plan_of_set, context_of_set = indices.reshape(-1, 2).T[:, kind_of_set]
        chosen = np.flatnonzero(plan_of_set >= 0)
        self._by_kind = chosen, plan_of_set[chosen], context_of_set[chosen]

    @property
    def latest_ns(self) -> int:
        """The latest time of receipt of a message that has a set of v9 or IPFIX; 0 where none has."""
        message_of_set = self.sets[self.sets[:, messages.ID] != messages.V5_SET, messages.MESSAGE]
        return int(self.messages[message_of_set, messages.RECEIVE_NS].max(initial=0))

    def add(self, parked: ParkedSet, session: Session, how: Plan) -> None:
        """Have a set that has waited read here."""
        self.choose(len(self.sets) + len(self._added), how, session.context)
        self._added.append((parked, session))

    def _indices_of(self, how: Plan, context: Context) -> tuple[int, int]:
        plan_index = self._plans.setdefault(how, len(self._plans))
        context_index = self._contexts.get(id(context))
        if context_index is None:
            context_index = self._contexts[id(context)] = len(self._context_list)
            self._context_list.append(context)
        return plan_index, context_index

    def lay_out(self) -> LaidOut:
        """Everything as arrays."""
        octets, message_facts, exporter, sets = self.octets, self.messages, self.exporter, self.sets
        slots = np.array([*(session.slot for session in self.sessions), 0], np.int64)[self.session_of_message]
        chosen, plan_of_set, context_of_set = self._by_kind or (
            np.array(self._chosen, np.int64),
            np.array(self._plan_of_set, np.int64),
            np.array(self._context_of_set, np.int64),
        )
        if self._added:
            bodies = [parked.body for parked, _ in self._added]
            end = len(octets) + np.cumsum([len(body) for body in bodies])
            rows = np.zeros((len(bodies), messages.SET_FACT_COUNT), np.int64)
            rows[:, messages.MESSAGE] = len(message_facts) + np.arange(len(bodies))
            rows[:, messages.START] = end - [len(body) for body in bodies]
            rows[:, messages.END] = end
            sets = np.concatenate([sets, rows])
            octets = np.concatenate([octets, np.frombuffer(b"".join(bodies), np.uint8)])
            message_facts = np.concatenate([message_facts, [parked.message for parked, _ in self._added]])
            exporters = b"".join(parked.exporter for parked, _ in self._added)
            exporter = np.concatenate([exporter, np.frombuffer(exporters, np.uint8).reshape(-1, 16)])
            slots = np.concatenate([slots, [session.slot for _, session in self._added]])
        if len(chosen) < len(sets) or self._added:
            sets = sets[chosen]
        plans = lay_out_plans(self._plans)
        contexts, samplers = sampling.lay_out(self._context_list)
        return LaidOut(
            octets=octets,
            messages=message_facts,
            exporter=np.ascontiguousarray(exporter).view(np.uint64),
            slot_of_message=slots,
            sets=sets,
            plan_of_set=plan_of_set,
            context_of_set=context_of_set,
            facts=plans["facts"],
            fields=plans["fields"],
            first=plans["first"],
            contexts=contexts,
            samplers=samplers,
        )

    def units(self, message_of_set: NDArray[np.int64], record_count: NDArray[np.int64]) -> NDArray[np.int64]:
        """By how much each message's sequence number should be exceeded by the next one's; UNKNOWN_UNITS."""
        units = self.messages[:, messages.UNITS].copy()
        is_ipfix = self.messages[:, messages.VERSION] == _IPFIX
        if is_ipfix.any():
            records = np.zeros(max(len(units), int(message_of_set.max(initial=-1)) + 1), np.int64)
            np.add.at(records, message_of_set, record_count)
            for m, count in self.options_records.items():
                records[m] += count
            records[list(self.unread)] = UNKNOWN_UNITS
            units[is_ipfix] = records[: len(units)][is_ipfix]
        return units
