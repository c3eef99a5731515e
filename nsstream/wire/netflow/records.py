"""Records: data sets in, flow columns out. One loop over a batch, whatever exporters and templates it has.

Promises: rows come in the order of the records; every record is a row or a counted fate; start <= end, and the end lies
within `max_clock_error_ns` of the time of receipt, moved there with the start and flagged where it did not.

Each block of records is read role by role and stored column by column, so that the inner loops are short and have no
choice to make; that is what makes them fast.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.wire.netflow import fates, messages, plan, sampling, state, times
from nsstream.wire.netflow.columns import QUALITY, SAMPLING_INTERVAL
from nsstream.wire.netflow.reading import BLOCK, read_fixed, read_variable
from nsstream.wire.netflow.roles import Role
from nsstream.wire.netflow.storing import store_addresses, store_counts, store_rest

_ROLES: Final = len(Role)
_GUESS_RESET_MS: Final = 600_000

# As plain integers, for the loops.
_PACKETS: Final = int(Role.PACKETS)
_OTHER_PACKETS: Final = int(Role.OTHER_PACKETS)
_OCTETS: Final = int(Role.OCTETS)
_OTHER_OCTETS: Final = int(Role.OTHER_OCTETS)
_REVERSE_PACKETS: Final = int(Role.REVERSE_PACKETS)
_START: Final = int(Role.START)
_END: Final = int(Role.END)
_DURATION: Final = int(Role.DURATION)
_SYSTEM_INIT_TIME: Final = int(Role.SYSTEM_INIT_TIME)
_SAMPLER: Final = int(Role.SAMPLER)
_SAMPLING_INTERVAL: Final = int(Role.SAMPLING_INTERVAL)


@njit(cache=True)
def read_records(
    octets: NDArray[np.uint8],
    message_facts: NDArray[np.int64],
    exporter: NDArray[np.uint64],
    slot_of_message: NDArray[np.int64],
    sets: NDArray[np.int64],
    plan_of_set: NDArray[np.int64],
    context_of_set: NDArray[np.int64],
    record_count: NDArray[np.int64],
    facts: NDArray[np.int64],
    fields: NDArray[np.int64],
    first: NDArray[np.int64],
    contexts: NDArray[np.int64],
    samplers: NDArray[np.int64],
    session_facts: NDArray[np.int64],
    max_clock_error_ns: int,
    counts: NDArray[np.int64],
    int64: NDArray[np.int64],
    uint64: NDArray[np.uint64],
    uint32: NDArray[np.uint32],
    uint16: NDArray[np.uint16],
    uint8: NDArray[np.uint8],
    addresses: NDArray[np.uint64],
) -> int:
    """Read all records of `sets` into the columns; the number of rows written. `counts` grows by fate code."""
    values = np.zeros((_ROLES, BLOCK), np.int64)
    read_plan = -1
    row = 0
    for s in range(len(sets)):
        p = plan_of_set[s]
        m = sets[s, messages.MESSAGE]
        if facts[p, plan.FATE] != fates.KEPT:
            counts[facts[p, plan.FATE]] += record_count[s]
            continue
        if p != read_plan:  # roles that this plan has not must read as 0
            values[:] = 0
            read_plan = p
        at = sets[s, messages.START]
        left = record_count[s]
        while left > 0:
            n = min(left, BLOCK)
            left -= n
            if facts[p, plan.IS_VARIABLE]:
                at = read_variable(octets, at, sets[s, messages.END], n, fields, first[p], first[p + 1], values)
            else:
                read_fixed(octets, at, facts[p, plan.RECORD_LENGTH], n, fields, first[p], first[p + 1], values)
                at += n * facts[p, plan.RECORD_LENGTH]
            kept = choose_flows(values, n)
            counts[fates.NO_PACKETS] += n - kept
            counts[fates.KEPT] += kept
            if kept == 0:
                continue
            store_times(
                values,
                kept,
                facts[p],
                message_facts[m],
                contexts[context_of_set[s]],
                session_facts[slot_of_message[m]],
                max_clock_error_ns,
                row,
                int64,
                uint8[QUALITY],
            )
            store_sampling(
                values,
                kept,
                facts[p, plan.HAS_SAMPLER],
                message_facts[m, messages.SAMPLING],
                contexts[context_of_set[s]],
                samplers,
                row,
                uint32[SAMPLING_INTERVAL],
            )
            store_counts(values, kept, row, uint64)
            store_addresses(values, kept, facts[p], exporter[m, 0], exporter[m, 1], row, addresses, uint8)
            is_directed = facts[p, plan.HAS_DIRECTION] != 0
            store_rest(values, kept, is_directed, message_facts[m, messages.DOMAIN], row, uint8, uint16, uint32)
            row += kept
    return row


@njit(cache=True)
def choose_flows(values: NDArray[np.int64], n: int) -> int:
    """Move the records that count a packet to the front, in order, and settle their counts; how many there are."""
    kept = 0
    for r in range(n):
        if values[_PACKETS, r] == 0 and values[_OTHER_PACKETS, r] != 0:
            values[_PACKETS, r] = values[_OTHER_PACKETS, r]
            values[_OCTETS, r] = values[_OTHER_OCTETS, r]
        if values[_PACKETS, r] == 0 and values[_REVERSE_PACKETS, r] == 0:
            continue
        if kept < r:
            for role in range(_ROLES):
                values[role, kept] = values[role, r]
        kept += 1
    return kept


@njit(cache=True)
def store_times(
    values: NDArray[np.int64],
    n: int,
    facts: NDArray[np.int64],
    message: NDArray[np.int64],
    context: NDArray[np.int64],
    session: NDArray[np.int64],
    max_clock_error_ns: int,
    row: int,
    int64: NDArray[np.int64],
    quality: NDArray[np.uint8],
) -> None:
    """Store start, end and `TimeQuality` of n flows."""
    start_kind = facts[plan.START_KIND]
    end_kind = facts[plan.END_KIND]
    duration_kind = facts[plan.DURATION_KIND]
    export_ns = message[messages.EXPORT_NS]
    receive_ns = message[messages.RECEIVE_NS]
    needs_uptime = times.UPTIME in (start_kind, end_kind)
    uptime_ms = message[messages.UPTIME_MS]
    knows_uptime = uptime_ms != messages.NO_UPTIME
    flags = 0
    if needs_uptime and not knows_uptime:
        uptime_ms, flags = infer_uptime(values, n, end_kind, export_ns // 1_000_000, context, session)
    for r in range(n):
        flags_here = flags
        uptime_here = uptime_ms
        if needs_uptime and not knows_uptime and values[_SYSTEM_INIT_TIME, r] > 0:
            uptime_here = (export_ns // 1_000_000 - values[_SYSTEM_INIT_TIME, r]) & times.UPTIME_MASK
            flags_here = 0
        start, end, flags_here = times.flow_times(
            times.to_ns(start_kind, values[_START, r], export_ns, uptime_here),
            times.to_ns(end_kind, values[_END, r], export_ns, uptime_here),
            times.duration_to_ns(duration_kind, values[_DURATION, r]),
            flags_here,
            export_ns,
            receive_ns,
            max_clock_error_ns,
        )
        int64[0, row + r] = start
        int64[1, row + r] = end
        quality[row + r] = flags_here


@njit(cache=True)
def infer_uptime(
    values: NDArray[np.int64],
    n: int,
    end_kind: int,
    export_ms: int,
    context: NDArray[np.int64],
    session: NDArray[np.int64],
) -> tuple[int, int]:
    """The uptime of an IPFIX exporter at the export, modulo 2**32, and what that rests on (`TimeQuality`).

    An options record tells when the system started (element 160). Where none did, the newest end in a message is taken
    for the time of its export, and the earliest start of the system that follows from that is kept, since no flow ends
    after it was exported.
    """
    if context[sampling.SYSTEM_INIT_MS] != 0:
        return (export_ms - context[sampling.SYSTEM_INIT_MS]) & times.UPTIME_MASK, 0
    newest = np.int64(0)
    role = _END if end_kind == times.UPTIME else _START
    for r in range(n):
        newest = max(newest, values[role, r] & times.UPTIME_MASK)
    started_ms = export_ms - newest
    guess = session[state.STARTED_MS]
    if guess == state.UNKNOWN or started_ms < guess or started_ms - guess > _GUESS_RESET_MS:
        session[state.STARTED_MS] = started_ms
    return (export_ms - session[state.STARTED_MS]) & times.UPTIME_MASK, times.GUESSED_UPTIME


@njit(cache=True)
def store_sampling(
    values: NDArray[np.int64],
    n: int,
    has_sampler: int,
    header_interval: int,
    context: NDArray[np.int64],
    samplers: NDArray[np.int64],
    row: int,
    column: NDArray[np.uint32],
) -> None:
    """Store one packet in how many: by the record, its sampler, the exporter's options, or v5's header; else 1."""
    untold = context[sampling.INTERVAL]
    if untold <= 0:
        untold = max(header_interval, 1)
    for r in range(n):
        interval = values[_SAMPLING_INTERVAL, r]
        if interval <= 0:
            interval = untold
            if has_sampler:
                for k in range(context[sampling.FIRST_SAMPLER], context[sampling.LAST_SAMPLER]):
                    if samplers[k, 0] == values[_SAMPLER, r]:
                        interval = samplers[k, 1]
                        break
        column[row + r] = min(interval, 0xFFFFFFFF)
