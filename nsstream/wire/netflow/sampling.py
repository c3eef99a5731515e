"""What options records say about the records of an exporter: how it samples, and when its system started.

Sources: RFC 3954 8 (elements 34, 48 to 50), RFC 5477 8.2 (selectors: 302 to 311), RFC 5153 4.7 (160). A `Context` never
changes; options that say something new make another one, so that records before and after are read by what held then.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from nsstream.wire.netflow import plan
from nsstream.wire.netflow.plan import Plan
from nsstream.wire.netflow.reading import read_fixed, read_variable, skip_record
from nsstream.wire.netflow.roles import OptionRole

# Columns of the table of contexts.
INTERVAL: Final = 0  # of records that name no sampler; 0: not told
SYSTEM_INIT_MS: Final = 1  # since the Unix epoch; 0: not told
FIRST_SAMPLER: Final = 2  # rows of the table of samplers: id, interval
LAST_SAMPLER: Final = 3
CONTEXT_FACT_COUNT: Final = 4

MAX_SAMPLERS: Final = 256  # of one exporter and domain; a further one takes the place of the oldest
_LARGEST: Final = 0xFFFFFFFF
_LATEST_MS: Final = 9_000_000_000_000


@dataclass(frozen=True, slots=True)
class Context:
    """What the options of one exporter and domain have said so far."""

    interval: int = 0  # of the whole exporter; 0: not told
    system_init_ms: int = 0  # since the Unix epoch; 0: not told
    intervals: dict[int, int] = field(default_factory=dict)  # by sampler, or selector

    def after(self, options: NDArray[np.int64]) -> Self:
        """The context after one options record, ``(len(OptionRole),)``; itself where that says nothing new."""
        init_ms = int(options[OptionRole.SYSTEM_INIT_TIME])
        if not 0 < init_ms < _LATEST_MS:
            init_ms = self.system_init_ms
        sampler = int(options[OptionRole.SAMPLER])
        told = _interval(options)
        interval, intervals = self.interval, self.intervals
        if told and sampler == 0:
            interval = told
        elif told and intervals.get(sampler) != told:
            intervals = intervals | {sampler: told}
            if len(intervals) > MAX_SAMPLERS:
                del intervals[next(iter(intervals))]
        if (interval, init_ms, intervals) == (self.interval, self.system_init_ms, self.intervals):
            return self
        return type(self)(interval, init_ms, intervals)

    @property
    def interval_without_sampler(self) -> int:
        """What holds for records that name no sampler: what was told for all, or by the only sampler that there is."""
        if self.interval == 0 and len(self.intervals) == 1:
            return next(iter(self.intervals.values()))
        return self.interval


def read_options(octets: NDArray[np.uint8], start: int, end: int, how: Plan) -> NDArray[np.int64]:
    """The options records of a set, ``(n, len(OptionRole))``; 0 where a record does not say."""
    length = int(how.facts[plan.RECORD_LENGTH])
    is_variable = bool(how.facts[plan.IS_VARIABLE])
    count, at = (0, start) if is_variable else ((end - start) // length, end)
    while is_variable and end - at >= length:
        at = skip_record(octets, at, end, how.fields, 0, len(how.fields))
        if at < 0:
            break
        count += 1
    values = np.zeros((len(OptionRole), count), np.int64)
    if is_variable:
        read_variable(octets, start, end, count, how.fields, 0, len(how.fields), values)
    else:
        read_fixed(octets, start, length, count, how.fields, 0, len(how.fields), values)
    return values.T


def lay_out(contexts: Iterable[Context]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Contexts as arrays for the loops: (n, CONTEXT_FACT_COUNT), and samplers (m, 2)."""
    rows: list[tuple[int, int, int, int]] = []
    samplers: list[tuple[int, int]] = []
    for context in contexts:
        first = len(samplers)
        samplers += [(_signed(k), v) for k, v in context.intervals.items()]
        rows.append((context.interval_without_sampler, context.system_init_ms, first, len(samplers)))
    return (
        np.array(rows, np.int64).reshape(-1, CONTEXT_FACT_COUNT),
        np.array(samplers, np.int64).reshape(-1, 2),
    )


def _interval(options: NDArray[np.int64]) -> int:
    """One packet in so many, of an options record; 0 where it does not say, or nonsense."""
    interval = int(options[OptionRole.INTERVAL])
    taken, left = int(options[OptionRole.SAMPLED_PACKETS]), int(options[OptionRole.SKIPPED_PACKETS])
    size, population = int(options[OptionRole.SAMPLE_SIZE]), int(options[OptionRole.POPULATION])
    if interval <= 0 and size > 0 and population > 0:  # before the next: Cisco's say both, only this one in full
        interval = round(population / size)
    if interval <= 0 and taken > 0 and left >= 0:
        interval = round((taken + left) / taken)
    if interval <= 0 and options[OptionRole.PROBABILITY]:
        probability = struct.unpack("!d", struct.pack("!q", int(options[OptionRole.PROBABILITY])))[0]
        interval = round(1 / probability) if 1 / _LARGEST <= probability <= 1 else 0
    return interval if 0 < interval <= _LARGEST else 0


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
