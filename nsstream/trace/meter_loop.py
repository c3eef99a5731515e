"""The loops of a flow meter: what `metering` promises, one packet after another.

They work on the arrays of a `FlowCache` and a `FragmentTable`, and write records (the words of a slot, then the flow
end reason) until the records are full; who calls them makes room and calls again. Nothing is done twice: a row whose
records would not fit is left for the next call.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.trace import flow_cache as fc
from nsstream.trace import fragments
from nsstream.trace.fields import FIN, ICMP, ICMPV6, RST, SYN, TCP
from nsstream.trace.flows import FlowEndReason
from nsstream.trace.keyed_hash import KEY_WORDS

_IDLE = int(FlowEndReason.IDLE_TIMEOUT)
_ACTIVE = int(FlowEndReason.ACTIVE_TIMEOUT)
_END = int(FlowEndReason.END_OF_FLOW)
_FORCED = int(FlowEndReason.FORCED_END)
_NO_ROOM = int(FlowEndReason.LACK_OF_RESOURCES)


class Packets(NamedTuple):
    """The columns of a `PacketBatch` that metering reads; an address is two words."""

    time_ns: NDArray[np.int64]
    source: NDArray[np.int64]  # (n, 2)
    destination: NDArray[np.int64]  # (n, 2)
    source_port: NDArray[np.uint16]
    destination_port: NDArray[np.uint16]
    protocol: NDArray[np.uint8]
    version: NDArray[np.uint8]
    vlan_id: NDArray[np.uint16]
    class_of_service: NDArray[np.uint8]
    total_length: NDArray[np.uint32]
    control_bits: NDArray[np.uint16]
    icmp_type: NDArray[np.uint8]
    icmp_code: NDArray[np.uint8]
    fragment_offset: NDArray[np.uint16]
    fragment_flags: NDArray[np.uint8]
    identification: NDArray[np.uint32]


class Rules(NamedTuple):
    """What a flow is, and when it ends."""

    idle_ns: int
    active_ns: int
    linger_ns: int
    is_biflow: bool
    by_class_of_service: bool


@njit(cache=True, nogil=True)
def meter(
    packets: Packets,
    first_row: int,
    cache: fc.FlowCache,
    datagrams: fragments.FragmentTable,
    rules: Rules,
    records: NDArray[np.int64],
) -> tuple[int, int]:
    """Meter from `first_row` until the rows or the records are full: the next row, and how many records there are."""
    slots, ends, state = cache.slots, cache.ends, cache.state
    source, destination = packets.source, packets.destination
    is_biflow = rules.is_biflow
    count = 0
    words = np.empty(KEY_WORDS, np.int64)
    for row in range(first_row, len(packets.time_ns)):
        now = int(packets.time_ns[row])
        if state[fc.IS_STARTED] == 0:
            state[fc.IS_STARTED] = 1
            state[fc.CLOCK] = now
        if now < state[fc.CLOCK] - rules.active_ns:
            count = end_all(cache, records, count)
            if state[fc.OPEN] > 0:
                return row, count
            state[fc.CLOCK] = now
            state[fc.CLOCK_STEPS_BACK] += 1
            state[fc.NEXT_DUE] = fc.NEVER
            fragments.forget_all(datagrams)
        state[fc.CLOCK] = max(state[fc.CLOCK], now)
        clock = int(state[fc.CLOCK])
        if clock >= state[fc.NEXT_DUE]:
            count, is_done = expire(cache, rules, records, count)
            if not is_done:
                return row, count
        if count + 2 > len(records):  # one that a SYN ends, and one that makes room
            return row, count

        # The key.
        protocol = int(np.int64(packets.protocol[row]))
        vlan = int(np.int64(packets.vlan_id[row])) & 0xFFF
        type_code = 0
        ports = (int(np.int64(packets.source_port[row])) << 48) | (int(np.int64(packets.destination_port[row])) << 32)
        if protocol in (ICMP, ICMPV6):
            type_code = (int(np.int64(packets.icmp_type[row])) << 8) | int(np.int64(packets.icmp_code[row]))
            ports = type_code << 32
        is_later_fragment = packets.fragment_offset[row] != 0
        if is_later_fragment or packets.fragment_flags[row] & 1:
            datagram = (int(np.int64(packets.identification[row])) << 24) | (protocol << 12) | vlan
            _set_key(words, source, destination, row, datagram)
            if is_later_fragment:
                ports = fragments.recall(datagrams, words, clock)
                if protocol in (ICMP, ICMPV6):
                    type_code = (ports >> 32) & 0xFFFF
            else:
                fragments.remember(datagrams, words, ports, clock)
        if is_biflow and protocol in (ICMP, ICMPV6):
            ports = 0
        tail = (protocol << 24) | (int(np.int64(packets.version[row])) << 12) | vlan
        if rules.by_class_of_service:
            tail |= int(np.int64(packets.class_of_service[row])) << 16
        is_high = is_biflow and _is_high(source, destination, row, ports)
        if is_high:
            _set_key(words, destination, source, row, _swapped(ports) | tail)
        else:
            _set_key(words, source, destination, row, ports | tail)

        # The flow.
        bits = int(np.int64(packets.control_bits[row])) if protocol == TCP and not is_later_fragment else 0
        key_hash = fc.hash_of(cache, words)
        slot = fc.find(cache, key_hash, words)
        if slot >= 0 and slots[slot, fc.CLOSED] != fc.NOT_CLOSED and bits & (SYN | RST) == SYN:
            fc.end_flow(cache, slot, _END, records[count])
            count += 1
            slot = -1
        if slot < 0:
            if state[fc.OPEN] == len(slots):
                fc.end_flow(cache, int(ends[fc.IDLE, 0]), _NO_ROOM, records[count])
                count += 1
            slot = fc.open_slot(cache, key_hash, words)
            slots[slot, fc.START] = now
            slots[slot, fc.END] = now
            slots[slot, fc.PACKETS : fc.REVERSE_OCTETS + 1] = 0
            slots[slot, fc.BITS] = (int(np.int64(packets.class_of_service[row])) << 32) | (fc.IS_HIGH if is_high else 0)
            slots[slot, fc.ICMP_TYPE_CODE] = type_code
            state[fc.NEXT_DUE] = min(state[fc.NEXT_DUE], _later(clock, rules.idle_ns))
        elif ends[fc.IDLE, 1] != slot:
            fc.unlink(cache, fc.IDLE, slot)
            fc.append(cache, fc.IDLE, slot)
        slots[slot, fc.TOUCHED] = clock
        slots[slot, fc.START] = min(slots[slot, fc.START], now)
        slots[slot, fc.END] = max(slots[slot, fc.END], now)
        is_reverse = is_biflow and is_high != (slots[slot, fc.BITS] & fc.IS_HIGH != 0)
        way = fc.REVERSE_PACKETS if is_reverse else fc.PACKETS
        slots[slot, way] += 1
        slots[slot, way + 1] += int(np.int64(packets.total_length[row]))
        slots[slot, fc.BITS] |= bits << 16 if is_reverse else bits

        # The end of a connection.
        if bits & (FIN | RST):
            other = -1
            seen = int(slots[slot, fc.BITS])
            seen_back = seen >> 16
            if not is_biflow:
                _set_key(words, destination, source, row, _swapped(ports) | tail)
                other = fc.find(cache, fc.hash_of(cache, words), words)
                seen_back = int(slots[other, fc.BITS]) if other >= 0 else 0
            if bits & RST or seen & seen_back & FIN:
                _close(cache, slot, rules.linger_ns)
                if other >= 0:
                    _close(cache, other, rules.linger_ns)
    return len(packets.time_ns), count


@njit(cache=True, forceinline=True)
def expire(cache: fc.FlowCache, rules: Rules, records: NDArray[np.int64], count: int) -> tuple[int, bool]:
    """End the flows that are due by the clock, in that order: how many records there are, and whether that was all."""
    slots, ends, state = cache.slots, cache.ends, cache.state
    while True:
        due, which, reason = fc.NEVER, -1, 0
        if ends[fc.CLOSING, 0] >= 0:
            due = _later(int(slots[ends[fc.CLOSING, 0], fc.CLOSED]), rules.linger_ns)
            which, reason = fc.CLOSING, _END
        if ends[fc.ACTIVE, 0] >= 0:
            at = _later(int(slots[ends[fc.ACTIVE, 0], fc.BORN]), rules.active_ns)
            if at < due:
                due, which, reason = at, fc.ACTIVE, _ACTIVE
            at = _later(int(slots[ends[fc.IDLE, 0], fc.TOUCHED]), rules.idle_ns)
            if at < due:
                due, which, reason = at, fc.IDLE, _IDLE
        state[fc.NEXT_DUE] = due
        if which < 0 or due > state[fc.CLOCK]:
            return count, True
        if count == len(records):
            return count, False
        fc.end_flow(cache, int(ends[which, 0]), reason, records[count])
        count += 1


@njit(cache=True, forceinline=True)
def end_all(cache: fc.FlowCache, records: NDArray[np.int64], count: int) -> int:
    """End flows in order of birth until there are none or the records are full; how many records there are."""
    while cache.state[fc.OPEN] > 0 and count < len(records):
        fc.end_flow(cache, int(cache.ends[fc.ACTIVE, 0]), _FORCED, records[count])
        count += 1
    return count


@njit(cache=True, forceinline=True)
def _close(cache: fc.FlowCache, slot: int, linger_ns: int) -> None:
    slots, state = cache.slots, cache.state
    if slots[slot, fc.CLOSED] == fc.NOT_CLOSED:
        slots[slot, fc.CLOSED] = state[fc.CLOCK]
        fc.append(cache, fc.CLOSING, slot)
        state[fc.NEXT_DUE] = min(state[fc.NEXT_DUE], _later(int(state[fc.CLOCK]), linger_ns))


@njit(cache=True, inline="always")
def _later(time_ns: int, by_ns: int) -> int:
    return fc.NEVER if time_ns > fc.NEVER - by_ns else time_ns + by_ns


@njit(cache=True, inline="always")
def _swapped(ports: int) -> int:
    return ((ports >> 16) & (0xFFFF << 32)) | ((ports & (0xFFFF << 32)) << 16)


@njit(cache=True, inline="always")
def _is_high(source: NDArray[np.int64], destination: NDArray[np.int64], row: int, ports: int) -> bool:
    """Whether the source is the higher end; any total order will do."""
    for k in range(2):
        if source[row, k] != destination[row, k]:
            return bool(source[row, k] > destination[row, k])
    return bool((ports >> 48) & 0xFFFF > (ports >> 32) & 0xFFFF)


@njit(cache=True, inline="always")
def _set_key(words: NDArray[np.int64], low: NDArray[np.int64], high: NDArray[np.int64], row: int, ends: int) -> None:
    words[0], words[1] = low[row, 0], low[row, 1]
    words[2], words[3] = high[row, 0], high[row, 1]
    words[4] = ends
