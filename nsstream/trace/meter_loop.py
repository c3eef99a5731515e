"""The loops of a flow meter: what `metering` promises, one packet after another.

They work on the arrays of a `FlowCache` and a `FragmentTable`, and write records (the words of a slot, then the flow
end reason) until the records are full; who calls them makes room and calls again. Nothing is done twice: a row whose
records would not fit is left for the next call.
"""

from __future__ import annotations

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


@njit(cache=True)
def meter(
    time_ns: NDArray[np.int64],
    source: NDArray[np.int64],
    destination: NDArray[np.int64],
    source_port: NDArray[np.uint16],
    destination_port: NDArray[np.uint16],
    protocols: NDArray[np.uint8],
    version: NDArray[np.uint8],
    vlan_id: NDArray[np.uint16],
    class_of_service: NDArray[np.uint8],
    total_length: NDArray[np.uint32],
    control_bits: NDArray[np.uint16],
    icmp_type: NDArray[np.uint8],
    icmp_code: NDArray[np.uint8],
    fragment_offset: NDArray[np.uint16],
    fragment_flags: NDArray[np.uint8],
    identification: NDArray[np.uint32],
    first_row: int,
    slots: NDArray[np.int64],
    links: NDArray[np.int32],
    heads: NDArray[np.int32],
    ends: NDArray[np.int32],
    state: NDArray[np.int64],
    k0: np.uint64,
    k1: np.uint64,
    datagrams: NDArray[np.int64],
    datagram_behind: NDArray[np.int32],
    datagram_heads: NDArray[np.int32],
    datagrams_written: NDArray[np.int64],
    timeouts_ns: NDArray[np.int64],
    is_biflow: bool,
    by_class_of_service: bool,
    records: NDArray[np.int64],
) -> tuple[int, int]:
    """Meter from `first_row` until the rows or the records are full: the next row, and how many records there are."""
    count = 0
    words = np.empty(KEY_WORDS, np.int64)
    for row in range(first_row, len(time_ns)):
        now = int(time_ns[row])
        if state[fc.IS_STARTED] == 0:
            state[fc.IS_STARTED] = 1
            state[fc.CLOCK] = now
        if now < state[fc.CLOCK] - timeouts_ns[1]:
            count = end_all(slots, links, heads, ends, state, k0, k1, records, count)
            if state[fc.OPEN] > 0:
                return row, count
            state[fc.CLOCK] = now
            state[fc.CLOCK_STEPS_BACK] += 1
            state[fc.NEXT_DUE] = fc.NEVER
            fragments.forget_all(datagram_heads, datagrams_written)
        state[fc.CLOCK] = max(state[fc.CLOCK], now)
        clock = int(state[fc.CLOCK])
        if clock >= state[fc.NEXT_DUE]:
            count, is_done = expire(slots, links, heads, ends, state, k0, k1, timeouts_ns, records, count)
            if not is_done:
                return row, count
        if count + 2 > len(records):  # one that a SYN ends, and one that makes room
            return row, count

        # The key.
        protocol = int(np.int64(protocols[row]))
        vlan = int(np.int64(vlan_id[row])) & 0xFFF
        type_code = 0
        ports = (int(np.int64(source_port[row])) << 48) | (int(np.int64(destination_port[row])) << 32)
        if protocol in (ICMP, ICMPV6):
            type_code = (int(np.int64(icmp_type[row])) << 8) | int(np.int64(icmp_code[row]))
            ports = type_code << 32
        if fragment_offset[row] != 0 or fragment_flags[row] & 1:
            words[0], words[1] = source[row, 0], source[row, 1]
            words[2], words[3] = destination[row, 0], destination[row, 1]
            words[4] = (int(np.int64(identification[row])) << 24) | (protocol << 12) | vlan
            if fragment_offset[row] == 0:
                fragments.remember(
                    datagrams, datagram_behind, datagram_heads, datagrams_written, k0, k1, words, ports, clock
                )
            else:
                ports = fragments.recall(datagrams, datagram_behind, datagram_heads, k0, k1, words, clock)
                if protocol in (ICMP, ICMPV6):
                    type_code = (ports >> 32) & 0xFFFF
        if is_biflow and protocol in (ICMP, ICMPV6):
            ports = 0
        tail = (protocol << 24) | (int(np.int64(version[row])) << 12) | vlan
        if by_class_of_service:
            tail |= int(np.int64(class_of_service[row])) << 16
        is_high = is_biflow and _is_high(source, destination, row, ports)
        if is_high:
            _set_key(words, destination, source, row, _swapped(ports) | tail)
        else:
            _set_key(words, source, destination, row, ports | tail)

        # The flow.
        is_segment = protocol == TCP and fragment_offset[row] == 0
        bits = int(np.int64(control_bits[row])) if is_segment else 0
        bucket = fc.bucket_of(heads, k0, k1, words)
        slot = fc.find(slots, links, heads, bucket, words)
        if slot >= 0 and slots[slot, fc.CLOSED] != fc.NOT_CLOSED and bits & (SYN | RST) == SYN:
            fc.end_flow(slots, links, heads, ends, state, k0, k1, slot, _END, records[count])
            count += 1
            slot = -1
        if slot < 0:
            if state[fc.OPEN] == len(slots):
                oldest = int(ends[fc.IDLE, 0])
                fc.end_flow(slots, links, heads, ends, state, k0, k1, oldest, _NO_ROOM, records[count])
                count += 1
            slot = fc.open_slot(slots, links, heads, ends, state, bucket, words)
            slots[slot, fc.START] = now
            slots[slot, fc.END] = now
            slots[slot, fc.PACKETS : fc.REVERSE_OCTETS + 1] = 0
            slots[slot, fc.BITS] = (int(np.int64(class_of_service[row])) << 32) | (fc.IS_HIGH if is_high else 0)
            slots[slot, fc.ICMP_TYPE_CODE] = type_code
            state[fc.NEXT_DUE] = min(state[fc.NEXT_DUE], _later(clock, int(timeouts_ns[0])))
        elif ends[fc.IDLE, 1] != slot:
            fc.unlink(links, ends, fc.IDLE, slot)
            fc.append(links, ends, fc.IDLE, slot)
        slots[slot, fc.TOUCHED] = clock
        slots[slot, fc.START] = min(slots[slot, fc.START], now)
        slots[slot, fc.END] = max(slots[slot, fc.END], now)
        is_reverse = is_biflow and is_high != (slots[slot, fc.BITS] & fc.IS_HIGH != 0)
        if is_reverse:
            slots[slot, fc.REVERSE_PACKETS] += 1
            slots[slot, fc.REVERSE_OCTETS] += int(np.int64(total_length[row]))
            slots[slot, fc.BITS] |= bits << 16
        else:
            slots[slot, fc.PACKETS] += 1
            slots[slot, fc.OCTETS] += int(np.int64(total_length[row]))
            slots[slot, fc.BITS] |= bits

        # The end of a connection.
        if bits & (FIN | RST):
            other = -1
            seen = int(slots[slot, fc.BITS])
            seen_back = seen >> 16
            if not is_biflow:
                _set_key(words, destination, source, row, _swapped(ports) | tail)
                other = fc.find(slots, links, heads, fc.bucket_of(heads, k0, k1, words), words)
                seen_back = int(slots[other, fc.BITS]) if other >= 0 else 0
            if bits & RST or seen & seen_back & FIN:
                _close(slots, links, ends, state, slot, int(timeouts_ns[2]))
                if other >= 0:
                    _close(slots, links, ends, state, other, int(timeouts_ns[2]))
    return len(time_ns), count


@njit(cache=True)
def expire(
    slots: NDArray[np.int64],
    links: NDArray[np.int32],
    heads: NDArray[np.int32],
    ends: NDArray[np.int32],
    state: NDArray[np.int64],
    k0: np.uint64,
    k1: np.uint64,
    timeouts_ns: NDArray[np.int64],
    records: NDArray[np.int64],
    count: int,
) -> tuple[int, bool]:
    """End the flows that are due by the clock, in that order: how many records there are, and whether that was all."""
    while True:
        due, which, reason = fc.NEVER, -1, 0
        if ends[fc.CLOSING, 0] >= 0:
            due, which, reason = (
                _later(int(slots[ends[fc.CLOSING, 0], fc.CLOSED]), int(timeouts_ns[2])),
                fc.CLOSING,
                _END,
            )
        if ends[fc.ACTIVE, 0] >= 0:
            at = _later(int(slots[ends[fc.ACTIVE, 0], fc.BORN]), int(timeouts_ns[1]))
            if at < due:
                due, which, reason = at, fc.ACTIVE, _ACTIVE
            at = _later(int(slots[ends[fc.IDLE, 0], fc.TOUCHED]), int(timeouts_ns[0]))
            if at < due:
                due, which, reason = at, fc.IDLE, _IDLE
        state[fc.NEXT_DUE] = due
        if which < 0 or due > state[fc.CLOCK]:
            return count, True
        if count == len(records):
            return count, False
        fc.end_flow(slots, links, heads, ends, state, k0, k1, int(ends[which, 0]), reason, records[count])
        count += 1


@njit(cache=True)
def end_all(
    slots: NDArray[np.int64],
    links: NDArray[np.int32],
    heads: NDArray[np.int32],
    ends: NDArray[np.int32],
    state: NDArray[np.int64],
    k0: np.uint64,
    k1: np.uint64,
    records: NDArray[np.int64],
    count: int,
) -> int:
    """End flows in order of birth until there are none or the records are full; how many records there are."""
    while state[fc.OPEN] > 0 and count < len(records):
        fc.end_flow(slots, links, heads, ends, state, k0, k1, int(ends[fc.ACTIVE, 0]), _FORCED, records[count])
        count += 1
    return count


@njit(cache=True)
def _close(
    slots: NDArray[np.int64],
    links: NDArray[np.int32],
    ends: NDArray[np.int32],
    state: NDArray[np.int64],
    slot: int,
    linger_ns: int,
) -> None:
    if slots[slot, fc.CLOSED] == fc.NOT_CLOSED:
        slots[slot, fc.CLOSED] = state[fc.CLOCK]
        fc.append(links, ends, fc.CLOSING, slot)
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
