"""Plan: how to read the records of one template, made once when the template comes and used by the loops.

A plan keeps the fields that have a role, and skips the others. Its `facts` are a row of integers, its `fields` a table,
so that the loops take any mix of plans without a Python object.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.wire.netflow import elements, fates
from nsstream.wire.netflow.elements import Element
from nsstream.wire.netflow.roles import OptionRole, Role, TimeKind
from nsstream.wire.netflow.template import VARIABLE, Field

# Columns of `Plan.facts`.
RECORD_LENGTH: Final = 0  # octets; of a variable plan, the least
IS_VARIABLE: Final = 1
FATE: Final = 2  # `fates.KEPT`, or why none of the records can be a flow
START_KIND: Final = 3
END_KIND: Final = 4
DURATION_KIND: Final = 5
HAS_IPV4: Final = 6
HAS_IPV6: Final = 7
HAS_DIRECTION: Final = 8
HAS_SAMPLER: Final = 9
IPV6_FIRST: Final = 10  # of two families, the one that the record has first is that of the outer header
FACT_COUNT: Final = 11

# Columns of `Plan.fields`.
ROLE: Final = 0  # NO_ROLE: skip
AT: Final = 1  # octets from the start of the record; of no meaning in a variable plan
LENGTH: Final = 2  # octets, or VARIABLE
FIELD_FACT_COUNT: Final = 3

NO_ROLE: Final = -1


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What the loops need of a template."""

    facts: NDArray[np.int64]  # (FACT_COUNT,)
    fields: NDArray[np.int64]  # (fields, FIELD_FACT_COUNT), in the order of the record


def plan_flows(fields: Iterable[Field]) -> Plan:
    """The plan of a template whose records may be flows."""
    chosen = _Choice(fields)
    for role, candidates in elements.IPV4_ADDRESSES.items():
        chosen.take(role, candidates, lengths=(4,))
    for role, candidates in elements.IPV6_ADDRESSES.items():
        chosen.take(role, candidates, lengths=(16,))
    for role, candidates in elements.INTEGERS.items():
        chosen.take(role, candidates)
    _choose_counts(chosen)
    facts = np.zeros(FACT_COUNT, np.int64)
    facts[START_KIND] = _choose_time(chosen, Role.START, elements.START_TIMES)
    facts[END_KIND] = _choose_time(chosen, Role.END, elements.END_TIMES)
    facts[DURATION_KIND] = _choose_time(chosen, Role.DURATION, elements.DURATIONS)
    facts[HAS_IPV4] = chosen.has(Role.SOURCE_IPV4) or chosen.has(Role.DESTINATION_IPV4)
    facts[HAS_IPV6] = chosen.has(Role.SOURCE_IPV6_HIGH) or chosen.has(Role.DESTINATION_IPV6_HIGH)
    facts[IPV6_FIRST] = facts[HAS_IPV6] and chosen.first_of(Role.SOURCE_IPV6_HIGH, Role.DESTINATION_IPV6_HIGH) < (
        chosen.first_of(Role.SOURCE_IPV4, Role.DESTINATION_IPV4)
    )
    facts[HAS_DIRECTION] = chosen.has(Role.DIRECTION)
    facts[HAS_SAMPLER] = chosen.has(Role.SAMPLER)
    facts[FATE] = _fate(chosen, has_addresses=bool(facts[HAS_IPV4] or facts[HAS_IPV6]))
    return chosen.plan(facts)


def plan_options(fields: Iterable[Field]) -> Plan:
    """The plan of an options template; its fate is other than kept where none of its options matters to us."""
    chosen = _Choice(fields)
    for role, candidates in elements.OPTIONS.items():
        chosen.take(role, candidates, lengths=(8,) if role == OptionRole.PROBABILITY else _ANY_INTEGER)
    telling = [role for role in OptionRole if role != OptionRole.SAMPLER and chosen.has(role)]
    facts = np.zeros(FACT_COUNT, np.int64)
    facts[FATE] = fates.KEPT if telling else fates.NO_PACKET_COUNT
    return chosen.plan(facts)


_ANY_INTEGER: Final = (1, 2, 3, 4, 5, 6, 7, 8, VARIABLE)


class _Choice:
    """Which field of a template fills which role."""

    def __init__(self, fields: Iterable[Field]) -> None:
        self._fields = tuple(fields)
        self._index_of: dict[Element, int] = {}
        for index, field in enumerate(self._fields):
            if not field.is_scope and field.length:
                self._index_of.setdefault((field.enterprise, field.element), index)
        self._role_of: dict[int, int] = {}  # by index of field

    def has(self, role: int) -> bool:
        return role in self._role_of.values()

    def first_of(self, *roles: int) -> int:
        """The index of the first field with one of these roles; beyond the last where there is none."""
        return min((index for index, role in self._role_of.items() if role in roles), default=len(self._fields))

    def find(self, element: Element, lengths: tuple[int, ...] = _ANY_INTEGER) -> int | None:
        index = self._index_of.get(element)
        return index if index is not None and self._fields[index].length in lengths else None

    def take(self, role: int, candidates: Iterable[Element], lengths: tuple[int, ...] = _ANY_INTEGER) -> bool:
        """Give the role to the first candidate that is there and has no role yet."""
        for element in candidates:
            index = self.find(element, lengths)
            if index is not None and index not in self._role_of:
                self._role_of[index] = role
                return True
        return False

    def plan(self, facts: NDArray[np.int64]) -> Plan:
        """Lay out the fields, runs of skipped ones as one."""
        facts[RECORD_LENGTH] = sum(1 if f.length == VARIABLE else f.length for f in self._fields)
        facts[IS_VARIABLE] = any(f.length == VARIABLE for f in self._fields)
        rows: list[tuple[int, int, int]] = []
        at = 0
        for index, field in enumerate(self._fields):
            role = self._role_of.get(index, NO_ROLE)
            if role != NO_ROLE and field.length == 16:
                rows += [(role, at, 8), (role + 1, at + 8, 8)]
            elif role != NO_ROLE or field.length == VARIABLE:
                rows.append((role, at, field.length))
            elif rows and rows[-1][0] == NO_ROLE and rows[-1][2] != VARIABLE:
                rows[-1] = (NO_ROLE, rows[-1][1], rows[-1][2] + field.length)
            else:
                rows.append((NO_ROLE, at, field.length))
            at += field.length
        if not facts[IS_VARIABLE]:
            rows = [row for row in rows if row[0] != NO_ROLE]
        return Plan(facts, np.array(rows, np.int64).reshape(-1, FIELD_FACT_COUNT))


def _choose_counts(chosen: _Choice) -> None:
    """Packets and octets of one origin where there are such.

    Where the first choice counts no packet, those that left the middlebox do. Totals do not: a flow whose delta is zero
    has been reported already.
    """
    whole = [pair for pair in elements.COUNT_PAIRS if all(chosen.find(e) is not None for e in pair)]
    packets_only = [pair for pair in elements.COUNT_PAIRS if chosen.find(pair[0]) is not None and pair not in whole]
    pairs = whole + packets_only
    if pairs:
        chosen.take(Role.PACKETS, [pairs[0][0]])
        chosen.take(Role.OCTETS, [pairs[0][1]] if whole else elements.OTHER_OCTET_COUNTS)
    if elements.POST_COUNTS in whole[1:]:
        chosen.take(Role.OTHER_PACKETS, [elements.POST_COUNTS[0]])
        chosen.take(Role.OTHER_OCTETS, [elements.POST_COUNTS[1]])
    for packets, octets in elements.REVERSE_PAIRS:
        if chosen.take(Role.REVERSE_PACKETS, [packets]):
            chosen.take(Role.REVERSE_OCTETS, [octets])
            return


def _choose_time(chosen: _Choice, role: Role, candidates: Iterable[tuple[int, TimeKind]]) -> TimeKind:
    for element, kind in candidates:
        if chosen.take(role, [(0, element)]):
            return kind
    return TimeKind.NONE


def _fate(chosen: _Choice, *, has_addresses: bool) -> int:
    if not (chosen.has(Role.PACKETS) or chosen.has(Role.REVERSE_PACKETS)):
        if chosen.find(elements.NAT_EVENT) is not None:
            return fates.NAT_EVENT
        if any(chosen.find(event) is not None for event in elements.FIREWALL_EVENTS):
            return fates.FIREWALL_EVENT
        return fates.NO_PACKET_COUNT
    return fates.KEPT if has_addresses else fates.NO_ADDRESSES


def lay_out(plans: Iterable[Plan]) -> Mapping[str, NDArray[np.int64]]:
    """Many plans as arrays for the loops: ``facts`` (n, FACT_COUNT), ``fields``, and ``first`` (n + 1,) into those."""
    listed = list(plans)
    first = np.zeros(len(listed) + 1, np.int64)
    np.cumsum([len(plan.fields) for plan in listed], out=first[1:])
    return {
        "facts": np.array([plan.facts for plan in listed], np.int64).reshape(-1, FACT_COUNT),
        "fields": np.concatenate([np.empty((0, FIELD_FACT_COUNT), np.int64), *(plan.fields for plan in listed)]),
        "first": first,
    }
