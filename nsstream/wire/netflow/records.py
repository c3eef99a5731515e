"""Records: data sets in, flow columns out. One loop over a batch, whatever exporters and templates it has.

Promises: rows come in the order of the records; every record is a row or a counted fate; start <= end, and both lie
within `max_clock_error_ns` of the time of receipt, moved there and flagged where they did not.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.trace import TimeQuality
from nsstream.wire.netflow import columns as c
from nsstream.wire.netflow import fates, messages, plan, sampling, state, times
from nsstream.wire.netflow.reading import BLOCK, read_fixed, read_variable
from nsstream.wire.netflow.roles import Role

_ROLES: Final = len(Role)
_MAX_DURATION_NS: Final = (1 << 32) * 1_000_000  # of a flow: the uptime's wrap
_GUESS_RESET_MS: Final = 600_000
_V4_MAPPED: Final = 0xFFFF << 32
_ICMP: Final = 1
_ICMPV6: Final = 58

_GUESSED: Final = int(TimeQuality.GUESSED_UPTIME)
_EXPORT_TIME: Final = int(TimeQuality.EXPORT_TIME)
_CLAMPED: Final = int(TimeQuality.CLAMPED)

# Roles, and rows of the columns, as plain integers for the loops.
_SOURCE_IPV4, _DESTINATION_IPV4 = int(Role.SOURCE_IPV4), int(Role.DESTINATION_IPV4)
_SOURCE_IPV6, _DESTINATION_IPV6 = int(Role.SOURCE_IPV6_HIGH), int(Role.DESTINATION_IPV6_HIGH)
_NEXT_HOP_IPV4, _NEXT_HOP_IPV6 = int(Role.NEXT_HOP_IPV4), int(Role.NEXT_HOP_IPV6_HIGH)
_IP_VERSION, _PROTOCOL = int(Role.IP_VERSION), int(Role.PROTOCOL)
_SOURCE_PORT, _DESTINATION_PORT = int(Role.SOURCE_PORT), int(Role.DESTINATION_PORT)
_ICMP_TYPE_CODE, _ICMP_TYPE, _ICMP_CODE = int(Role.ICMP_TYPE_CODE), int(Role.ICMP_TYPE), int(Role.ICMP_CODE)
_PACKETS, _OCTETS = int(Role.PACKETS), int(Role.OCTETS)
_OTHER_PACKETS, _OTHER_OCTETS = int(Role.OTHER_PACKETS), int(Role.OTHER_OCTETS)
_REVERSE_PACKETS, _REVERSE_OCTETS = int(Role.REVERSE_PACKETS), int(Role.REVERSE_OCTETS)
_TCP_BITS, _MORE_TCP_BITS = int(Role.TCP_BITS), int(Role.MORE_TCP_BITS)
_REVERSE_TCP_BITS, _MORE_REVERSE_TCP_BITS = int(Role.REVERSE_TCP_BITS), int(Role.MORE_REVERSE_TCP_BITS)
_CLASS_OF_SERVICE, _END_REASON, _DIRECTION = int(Role.CLASS_OF_SERVICE), int(Role.END_REASON), int(Role.DIRECTION)
_INGRESS, _EGRESS = int(Role.INGRESS), int(Role.EGRESS)
_SOURCE_AS, _DESTINATION_AS = int(Role.SOURCE_AS), int(Role.DESTINATION_AS)
_SOURCE_PREFIX, _DESTINATION_PREFIX = int(Role.SOURCE_PREFIX_IPV4), int(Role.DESTINATION_PREFIX_IPV4)
_SOURCE_PREFIX_IPV6, _DESTINATION_PREFIX_IPV6 = int(Role.SOURCE_PREFIX_IPV6), int(Role.DESTINATION_PREFIX_IPV6)
_VLAN, _SAMPLING_INTERVAL, _SAMPLER = int(Role.VLAN), int(Role.SAMPLING_INTERVAL), int(Role.SAMPLER)
_START, _END, _DURATION = int(Role.START), int(Role.END), int(Role.DURATION)
_SYSTEM_INIT_TIME: Final = int(Role.SYSTEM_INIT_TIME)

_C_PACKETS, _C_OCTETS, _C_REVERSE_PACKETS, _C_REVERSE_OCTETS = range(len(c.UINT64))
_C_INGRESS, _C_EGRESS, _C_SOURCE_AS, _C_DESTINATION_AS, _C_SAMPLING, _C_DOMAIN = range(len(c.UINT32))
_C_SOURCE_PORT, _C_DESTINATION_PORT, _C_ICMP, _C_TCP, _C_REVERSE_TCP, _C_VLAN, _C_LABEL = range(len(c.UINT16))
_C_VERSION, _C_PROTOCOL, _C_TOS, _C_REASON, _C_DIRECTION, _C_SOURCE_PREFIX, _C_DESTINATION_PREFIX, _C_QUALITY = range(
    len(c.UINT8)
)
_C_SOURCE, _C_DESTINATION, _C_NEXT_HOP, _C_EXPORTER = range(len(c.ADDRESSES))


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
            uptime_ms, quality = uptime_at_export(
                values, n, facts[p], message_facts[m], contexts[context_of_set[s]], session_facts[slot_of_message[m]]
            )
            row_before = row
            for r in range(n):
                # Counts decide whether there is a row; each column is written once it is known that there is.
                packets = values[_PACKETS, r]
                total = values[_OCTETS, r]
                if packets == 0:
                    packets = values[_OTHER_PACKETS, r]
                    if packets != 0:
                        total = values[_OTHER_OCTETS, r]
                if packets == 0 and values[_REVERSE_PACKETS, r] == 0:
                    counts[fates.NO_PACKETS] += 1
                    continue
                uint64[_C_PACKETS, row] = packets
                uint64[_C_OCTETS, row] = total
                uint64[_C_REVERSE_PACKETS, row] = values[_REVERSE_PACKETS, r]
                uint64[_C_REVERSE_OCTETS, row] = values[_REVERSE_OCTETS, r]
                start, end, flags = flow_times(
                    values, r, facts[p], message_facts[m], uptime_ms, quality, max_clock_error_ns
                )
                int64[0, row] = start
                int64[1, row] = end
                uint8[_C_QUALITY, row] = flags
                _store_addresses(values, r, facts[p], addresses, uint8, row)
                addresses[_C_EXPORTER, row, 0] = exporter[m, 0]
                addresses[_C_EXPORTER, row, 1] = exporter[m, 1]
                _store_small(values, r, facts[p], uint8, uint16, uint32, row)
                uint32[_C_DOMAIN, row] = message_facts[m, messages.DOMAIN]
                uint32[_C_SAMPLING, row] = sampling_interval(
                    values, r, facts[p], message_facts[m], contexts[context_of_set[s]], samplers
                )
                row += 1
            counts[fates.KEPT] += row - row_before
    return row


@njit(cache=True)
def uptime_at_export(
    values: NDArray[np.int64],
    n: int,
    facts: NDArray[np.int64],
    message: NDArray[np.int64],
    context: NDArray[np.int64],
    session: NDArray[np.int64],
) -> tuple[int, int]:
    """The exporter's uptime when it sent the message, modulo 2**32, and what that rests on (`TimeQuality`).

    v5 and v9 tell it in the header. In IPFIX an options record tells when the system started (element 160). Where none
    did, the newest end in a message is taken for the time of its export, and the earliest start of the system that
    follows from it is kept: no flow ends after it was exported.
    """
    if message[messages.UPTIME_MS] != messages.NO_UPTIME:
        return message[messages.UPTIME_MS], 0
    if facts[plan.START_KIND] != times.UPTIME and facts[plan.END_KIND] != times.UPTIME:
        return 0, 0
    export_ms = message[messages.EXPORT_NS] // 1_000_000
    if context[sampling.SYSTEM_INIT_MS] != 0:
        return (export_ms - context[sampling.SYSTEM_INIT_MS]) & times.UPTIME_MASK, 0
    newest = np.int64(0)
    role = _END if facts[plan.END_KIND] == times.UPTIME else _START
    for r in range(n):
        newest = max(newest, values[role, r] & times.UPTIME_MASK)
    started_ms = export_ms - newest
    guess = session[state.STARTED_MS]
    if guess == state.UNKNOWN or started_ms < guess or started_ms - guess > _GUESS_RESET_MS:
        session[state.STARTED_MS] = started_ms
    return (export_ms - session[state.STARTED_MS]) & times.UPTIME_MASK, _GUESSED


@njit(cache=True)
def flow_times(
    values: NDArray[np.int64],
    r: int,
    facts: NDArray[np.int64],
    message: NDArray[np.int64],
    uptime_ms: int,
    quality: int,
    max_clock_error_ns: int,
) -> tuple[int, int, int]:
    """Start, end and `TimeQuality` of record r."""
    export_ns = message[messages.EXPORT_NS]
    receive_ns = message[messages.RECEIVE_NS]
    start_kind = facts[plan.START_KIND]
    end_kind = facts[plan.END_KIND]
    flags = 0
    if start_kind == times.UPTIME or end_kind == times.UPTIME:
        flags = quality
        init_ms = values[_SYSTEM_INIT_TIME, r]
        if init_ms > 0 and message[messages.UPTIME_MS] == messages.NO_UPTIME:
            uptime_ms = (export_ns // 1_000_000 - init_ms) & times.UPTIME_MASK
            flags = 0
    start = times.to_ns(start_kind, values[_START, r], export_ns, uptime_ms)
    end = times.to_ns(end_kind, values[_END, r], export_ns, uptime_ms)
    if start == times.ABSURD or end == times.ABSURD:
        flags |= _CLAMPED
        start = times.MISSING if start == times.ABSURD else start
        end = times.MISSING if end == times.ABSURD else end
        if start == times.MISSING and end == times.MISSING:
            return receive_ns, receive_ns, flags
    if start == times.MISSING or end == times.MISSING:
        duration = times.duration_to_ns(facts[plan.DURATION_KIND], values[_DURATION, r])
        if start == times.MISSING and end == times.MISSING:
            flags |= _EXPORT_TIME
            end = export_ns
            start = export_ns - max(duration, 0)
        elif start == times.MISSING:
            start = end - max(duration, 0)
        else:
            end = start + max(duration, 0)
    if start > end:
        start = end
        flags |= _CLAMPED
    if abs(end - receive_ns) > max_clock_error_ns:
        start = receive_ns - min(end - start, _MAX_DURATION_NS)
        end = receive_ns
        flags |= _CLAMPED
    if end - start > _MAX_DURATION_NS:
        start = end - _MAX_DURATION_NS
        flags |= _CLAMPED
    return start, end, flags


@njit(cache=True)
def sampling_interval(
    values: NDArray[np.int64],
    r: int,
    facts: NDArray[np.int64],
    message: NDArray[np.int64],
    context: NDArray[np.int64],
    samplers: NDArray[np.int64],
) -> int:
    """One packet in so many: by the record, its sampler, the exporter's options, or v5's header; else 1."""
    interval = values[_SAMPLING_INTERVAL, r]
    if interval <= 0 and facts[plan.HAS_SAMPLER]:
        for k in range(context[sampling.FIRST_SAMPLER], context[sampling.LAST_SAMPLER]):
            if samplers[k, 0] == values[_SAMPLER, r]:
                interval = samplers[k, 1]
                break
    if interval <= 0:
        interval = context[sampling.INTERVAL]
    if interval <= 0:
        interval = message[messages.SAMPLING]
    return int(min(max(interval, 1), 0xFFFFFFFF))


@njit(cache=True, inline="always")
def _store_addresses(
    values: NDArray[np.int64],
    r: int,
    facts: NDArray[np.int64],
    addresses: NDArray[np.uint64],
    uint8: NDArray[np.uint8],
    row: int,
) -> None:
    is_ipv6 = facts[plan.HAS_IPV6] != 0
    if is_ipv6 and facts[plan.HAS_IPV4]:  # one template for both: the record must tell
        version = values[_IP_VERSION, r]
        if version == 4 or version == 6:
            is_ipv6 = version == 6
        else:
            is_ipv6 = values[_SOURCE_IPV4, r] == 0 and values[_DESTINATION_IPV4, r] == 0
    if is_ipv6:
        uint8[_C_VERSION, row] = 6
        uint8[_C_SOURCE_PREFIX, row] = values[_SOURCE_PREFIX_IPV6, r]
        uint8[_C_DESTINATION_PREFIX, row] = values[_DESTINATION_PREFIX_IPV6, r]
        addresses[_C_SOURCE, row, 0] = network_order(values[_SOURCE_IPV6, r])
        addresses[_C_SOURCE, row, 1] = network_order(values[_SOURCE_IPV6 + 1, r])
        addresses[_C_DESTINATION, row, 0] = network_order(values[_DESTINATION_IPV6, r])
        addresses[_C_DESTINATION, row, 1] = network_order(values[_DESTINATION_IPV6 + 1, r])
    else:
        uint8[_C_VERSION, row] = 4
        uint8[_C_SOURCE_PREFIX, row] = values[_SOURCE_PREFIX, r]
        uint8[_C_DESTINATION_PREFIX, row] = values[_DESTINATION_PREFIX, r]
        addresses[_C_SOURCE, row, 0] = 0
        addresses[_C_SOURCE, row, 1] = network_order(_V4_MAPPED | values[_SOURCE_IPV4, r])
        addresses[_C_DESTINATION, row, 0] = 0
        addresses[_C_DESTINATION, row, 1] = network_order(_V4_MAPPED | values[_DESTINATION_IPV4, r])
    high = values[_NEXT_HOP_IPV6, r]
    low = values[_NEXT_HOP_IPV6 + 1, r]
    if high == 0 and low == 0 and values[_NEXT_HOP_IPV4, r] != 0:
        low = _V4_MAPPED | values[_NEXT_HOP_IPV4, r]
    addresses[_C_NEXT_HOP, row, 0] = network_order(high)
    addresses[_C_NEXT_HOP, row, 1] = network_order(low)


@njit(cache=True, inline="always")
def _store_small(
    values: NDArray[np.int64],
    r: int,
    facts: NDArray[np.int64],
    uint8: NDArray[np.uint8],
    uint16: NDArray[np.uint16],
    uint32: NDArray[np.uint32],
    row: int,
) -> None:
    protocol = values[_PROTOCOL, r]
    type_code = values[_ICMP_TYPE_CODE, r]
    if type_code == 0:
        type_code = (values[_ICMP_TYPE, r] << 8) | (values[_ICMP_CODE, r] & 0xFF)
    if type_code == 0 and protocol in (_ICMP, _ICMPV6):
        type_code = values[_DESTINATION_PORT, r]  # where v5, and many a v9, has it
    uint8[_C_PROTOCOL, row] = protocol
    uint8[_C_TOS, row] = values[_CLASS_OF_SERVICE, r]
    reason = values[_END_REASON, r]
    uint8[_C_REASON, row] = reason if 0 <= reason <= 5 else 0
    direction = values[_DIRECTION, r]
    uint8[_C_DIRECTION, row] = direction if facts[plan.HAS_DIRECTION] and 0 <= direction <= 1 else 255
    uint16[_C_SOURCE_PORT, row] = values[_SOURCE_PORT, r]
    uint16[_C_DESTINATION_PORT, row] = values[_DESTINATION_PORT, r]
    uint16[_C_ICMP, row] = type_code
    uint16[_C_TCP, row] = (values[_TCP_BITS, r] | values[_MORE_TCP_BITS, r]) & 0x0FFF
    uint16[_C_REVERSE_TCP, row] = (values[_REVERSE_TCP_BITS, r] | values[_MORE_REVERSE_TCP_BITS, r]) & 0x0FFF
    uint16[_C_VLAN, row] = values[_VLAN, r] & 0x0FFF
    uint32[_C_INGRESS, row] = values[_INGRESS, r]
    uint32[_C_EGRESS, row] = values[_EGRESS, r]
    uint32[_C_SOURCE_AS, row] = values[_SOURCE_AS, r]
    uint32[_C_DESTINATION_AS, row] = values[_DESTINATION_AS, r]


@njit(cache=True, inline="always")
def network_order(value: int) -> int:
    """The value whose octets in this machine's memory (little endian) are those of `value` in network order."""
    return int(
        ((value >> 56) & 0xFF)
        | ((value >> 40) & 0xFF00)
        | ((value >> 24) & 0xFF0000)
        | ((value >> 8) & 0xFF000000)
        | ((value & 0xFF000000) << 8)
        | ((value & 0xFF0000) << 24)
        | ((value & 0xFF00) << 40)
        | ((value & 0xFF) << 56)
    )
