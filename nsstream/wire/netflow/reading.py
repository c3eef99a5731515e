"""Reading records: the fields of a set's records into a matrix, one row a role. For numba loops.

A block is a run of records of one set, few enough that its matrix stays in the first cache. Every value is an int64
that holds the bits of an unsigned integer, network order, of 1 to 8 octets (reduced-size encoding, RFC 7011 6.2).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.wire.netflow import fates, messages, plan
from nsstream.wire.netflow.template import VARIABLE
from nsstream.wire.octets import u8, u16

BLOCK: Final = 64  # records

_LONGEST_PADDING: Final = 3  # octets that may follow the last record of a set and mean nothing


@njit(cache=True)
def count_records(
    octets: NDArray[np.uint8],
    sets: NDArray[np.int64],
    plan_of_set: NDArray[np.int64],
    facts: NDArray[np.int64],
    fields: NDArray[np.int64],
    first: NDArray[np.int64],
    record_count: NDArray[np.int64],
    counts: NDArray[np.int64],
) -> None:
    """Count the whole records of each set into `record_count`, and what is left over, if it is no padding, by fate."""
    for s in range(len(sets)):
        p = plan_of_set[s]
        start = sets[s, messages.START]
        end = sets[s, messages.END]
        length = facts[p, plan.RECORD_LENGTH]
        if facts[p, plan.IS_VARIABLE] == 0:
            record_count[s] = (end - start) // length
        else:
            n = 0
            at = start
            while end - at >= length:
                at = skip_record(octets, at, end, fields, first[p], first[p + 1])
                if at < 0:
                    counts[fates.CUT_RECORD] += 1
                    break
                n += 1
            record_count[s] = n
            if at < 0:
                continue
        if record_count[s] == 0 and end - start > _LONGEST_PADDING:
            counts[fates.SHORT_SET] += 1


@njit(cache=True)
def skip_record(octets: NDArray[np.uint8], at: int, end: int, fields: NDArray[np.int64], first: int, last: int) -> int:
    """Where a record of a variable plan ends; -1 if it does so beyond `end`."""
    for f in range(first, last):
        length = fields[f, plan.LENGTH]
        if length == VARIABLE:
            length, at = variable_length(octets, at, end)
        at += length
        if at > end:
            return -1
    return int(at)


@njit(cache=True, inline="always")
def variable_length(octets: NDArray[np.uint8], at: int, end: int) -> tuple[int, int]:
    """A field's length and where its octets start (RFC 7011 7); the start is beyond `end` if the length is."""
    if at >= end:
        return 0, end + 1
    length = u8(octets, at)
    if length < 255:
        return length, at + 1
    if at + 3 > end:
        return 0, end + 1
    return u16(octets, at + 1), at + 3


@njit(cache=True)
def read_fixed(
    octets: NDArray[np.uint8],
    start: int,
    record_length: int,
    count: int,
    fields: NDArray[np.int64],
    first: int,
    last: int,
    values: NDArray[np.int64],
) -> None:
    """Read `count` records of a fixed plan, the first at `start`, into ``values[role, :count]``."""
    n = np.uint64(count)
    step = np.uint64(record_length)
    for f in range(first, last):
        role = np.uint64(fields[f, plan.ROLE])
        length = fields[f, plan.LENGTH]
        at = np.uint64(start + fields[f, plan.AT])
        if length == 4:
            for r in range(n):
                values[role, r] = _four(octets, at)
                at += step
        elif length == 2:
            for r in range(n):
                values[role, r] = _two(octets, at)
                at += step
        elif length == 1:
            for r in range(n):
                values[role, r] = octets[at]
                at += step
        elif length == 8:
            for r in range(n):
                values[role, r] = np.int64((_four(octets, at) << np.uint64(32)) | _four(octets, at + np.uint64(4)))
                at += step
        else:
            for k in range(count):
                values[role, k] = unsigned(octets, start + fields[f, plan.AT] + k * record_length, length)


# An index of an unsigned type spares the loops the question whether it counts from the end (twice as fast, measured).
@njit(cache=True, inline="always")
def _two(octets: NDArray[np.uint8], at: np.uint64) -> np.uint64:
    return (np.uint64(octets[at]) << np.uint64(8)) | np.uint64(octets[at + np.uint64(1)])


@njit(cache=True, inline="always")
def _four(octets: NDArray[np.uint8], at: np.uint64) -> np.uint64:
    return (
        (np.uint64(octets[at]) << np.uint64(24))
        | (np.uint64(octets[at + np.uint64(1)]) << np.uint64(16))
        | (np.uint64(octets[at + np.uint64(2)]) << np.uint64(8))
        | np.uint64(octets[at + np.uint64(3)])
    )


@njit(cache=True)
def read_variable(
    octets: NDArray[np.uint8],
    at: int,
    end: int,
    count: int,
    fields: NDArray[np.int64],
    first: int,
    last: int,
    values: NDArray[np.int64],
) -> int:
    """Read `count` records of a variable plan, which are whole, into ``values[role, :count]``; where they end.

    A value of no octets, or of more than 8, is 0.
    """
    for r in range(count):
        for f in range(first, last):
            role = fields[f, plan.ROLE]
            length = fields[f, plan.LENGTH]
            if length == VARIABLE:
                length, at = variable_length(octets, at, end)
            if role >= 0:
                values[role, r] = unsigned(octets, at, length) if length <= 8 else 0
            at += length
    return at


@njit(cache=True)
def unsigned(octets: NDArray[np.uint8], at: int, length: int) -> int:
    """The bits of an unsigned integer of 0 to 8 octets in network order."""
    value = np.int64(0)
    for k in range(length):
        value = (value << 8) | np.int64(octets[at + k])
    return int(value)
