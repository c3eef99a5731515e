"""TCP life cycle: from flags, lengths and events to sequence numbers, acknowledgements, options and windows.

Rules:

1. Sequence numbers follow from what was sent. SYN and FIN take one number each; a repeated SYN or FIN takes its old one.
2. Nothing is acknowledged that was not sent. Where the other side was never seen, its octets are assumed.
3. A bare ACK that is `FRESH` acknowledges something new. Between two segments of the peer there may be several, so every
   packet holds back as many segments (or, if there are too few of them, octets) as later ones need.
4. What cannot be made lawful is dropped or trimmed, and counted under its name in `records.Repair`.

A run of packets of one conversation is planned in three passes. `_sequence` goes forward: what each segment is, its
sequence number, how much of the peer is there to acknowledge. `_hold_back` goes backward: the highest acknowledgement that
leaves enough to later ones. `_acknowledge` goes forward again and writes the numbers. A SYN that opens the five-tuple anew
ends a run. Sources: RFC 9293, RFC 7323; the tests hold it against the analysis of tshark.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.assemble.chance import draw
from nsstream.assemble.octets import signed
from nsstream.assemble.records import Options, Repair
from nsstream.trace.conversations import TcpEvent
from nsstream.trace.fields import ACK, FIN, PSH, RST, SYN

# What a segment is to the passes.
_FULL: Final = 0  # takes sequence numbers, or need not acknowledge anything new
_BARE: Final = 1  # a bare ACK that must acknowledge something new
_IDLE: Final = 2  # repeats the last acknowledgement
_RESET: Final = 3
_REFUSAL: Final = 4  # the RST|ACK of a closed port, from sequence number and window 0
_UPDATE: Final = 5  # repeats the last acknowledgement and offers another window

_WINDOW_SHIFT: Final = 7  # window scale of every SYN that offers one, as Linux does
_ASSUMED_SEGMENT: Final = 1448  # octets between two acknowledgements of a side that is not seen
_HELD_SEGMENTS: Final = 24  # at most so many segments stay unacknowledged for later bare ACKs
_HELD_OCTETS: Final = 16_384

Scratch = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]


def make_scratch(longest: int) -> Scratch:
    """Work space of `plan_tcp` for conversations of up to `longest` packets."""
    return np.zeros((2, longest + 2), np.int64), np.zeros((4, longest), np.int64), np.zeros(longest, np.uint8)


@njit(cache=True)
def plan_tcp(
    packets: Any,
    event: NDArray[np.uint8],
    first: int,
    end: int,
    is_swapped: int,
    stream: Any,
    scratch: Scratch,
    tally: NDArray[np.int64],
) -> None:
    """Plan the segments ``packets[first:end]`` of one conversation.

    Args:
        packets: `PACKET` rows, lengths already lawful; sequence numbers, flags, options and windows are written.
        event: `TcpEvent` of each row of `packets`.
        first: first row of the conversation.
        end: one past its last.
        is_swapped: 1 if direction 0 of the conversation is side 1 of the stream.
        stream: `STREAM` row of its five-tuple, carried on.
        scratch: from `make_scratch`, at least ``end - first`` long.
        tally: counts by `Repair`.
    """
    last_of_side = np.full(2, -1, np.int64)
    for i in range(first, end):
        if packets[i].is_kept:
            last_of_side[packets[i].direction ^ is_swapped] = i
    stream.last_row[0] = -1
    stream.last_row[1] = -1
    start = first
    while start < end:
        stop = _sequence(packets, event, first, start, end, is_swapped, last_of_side, stream, scratch, tally)
        _hold_back(packets, first, start, stop, is_swapped, scratch)
        _acknowledge(packets, first, start, stop, is_swapped, stream, scratch, tally)
        start = stop


@njit(cache=True)
def open_stream(stream: Any, opener: int) -> None:
    """Give both sides fresh numbers: random, or above the old ones where the five-tuple was used before.

    An observer who saw nothing of the opener takes its SYN for part of the old stream: then the peer's numbers go on.
    """
    goes_on = stream.is_active and not stream.seen[opener] and not stream.has_acked[1 - opener]
    for side in range(2):
        if goes_on and side != opener:
            isn = stream.next[side]
        elif stream.is_active:
            isn = (stream.next[side] + 65_536 + draw(stream, 1 << 24)) & 0xFFFFFFFF
        else:
            isn = 1 + draw(stream, 0xFFFFFFFE)
        stream.next[side] = isn
        stream.ack[side] = -1
        stream.ts_offset[side] = draw(stream, 1 << 31)
        stream.ts_value[side] = 0
        stream.window[side] = 60_000 + draw(stream, 5536)
        stream.syn_window[side] = 64_240 if draw(stream, 2) else 65_535
        stream.options[side] = 0
        stream.syn[side] = 0
        stream.fin[side] = 0
        stream.rst[side] = 0
        stream.seen[side] = 0
        stream.has_acked[side] = 0
    stream.is_active = 1


@njit(cache=True)
def _sequence(
    packets: Any,
    event: NDArray[np.uint8],
    first: int,
    start: int,
    end: int,
    is_swapped: int,
    last_of_side: NDArray[np.int64],
    stream: Any,
    scratch: Scratch,
    tally: NDArray[np.int64],
) -> int:
    """Pass one: flags and sequence numbers of ``packets[start:stop]``; returns stop, where the five-tuple is reopened."""
    boundary, reach, kind = scratch
    boundary_count = np.zeros(2, np.int64)
    is_set_up = False
    for i in range(start, end):
        packet = packets[i]
        if not packet.is_kept:
            continue
        side = packet.direction ^ is_swapped
        peer = 1 - side
        flags = signed(packet.control) & 0x1FF
        is_repeat = event[i] == TcpEvent.RETRANSMISSION
        if flags & SYN and flags & (FIN | RST):
            flags &= ~(FIN | RST)
            tally[Repair.FLAGS_REPAIRED] += 1
        if flags & RST and flags & FIN:
            flags &= ~FIN
            tally[Repair.FLAGS_REPAIRED] += 1

        if flags & (SYN | ACK) == SYN:
            is_copy = is_repeat and stream.is_active and stream.syn[side] == 1
            if stream.is_active and not is_copy:
                is_over = stream.rst[0] or stream.rst[1] or stream.fin[0] or stream.fin[1]
                is_unanswered = stream.syn[side] == 1 and not stream.seen[peer]
                if not (is_over or is_unanswered or i == first):
                    packet.is_kept = 0
                    tally[Repair.SYN_DROPPED] += 1
                    continue
                if i > start:
                    return i
                tally[Repair.PORT_REUSED] += 1
                open_stream(stream, side)
        if not stream.is_active:
            open_stream(stream, side)
        if not is_set_up:
            boundary[0, 0] = stream.next[0]
            boundary[1, 0] = stream.next[1]
            is_set_up = True

        # The first answer to a SYN is SYN|ACK or RST; until it comes the opener waits, unless the answer is never seen.
        is_answer = stream.syn[peer] == 1 and not stream.seen[side]
        if is_answer and not flags & (SYN | RST):
            flags = SYN | ACK
            _trim(packet, 0)
            tally[Repair.HANDSHAKE_REPAIRED] += 1
        is_waiting = stream.syn[side] == 1 and not stream.seen[peer] and not flags & (SYN | RST)
        if (stream.rst[side] or (is_waiting and stream.rst[peer])) and not flags & (SYN | RST):
            packet.is_kept = 0
            tally[Repair.AFTER_RESET_DROPPED] += 1
            continue
        if is_waiting and last_of_side[peer] > i:
            packet.is_kept = 0
            tally[Repair.BEFORE_HANDSHAKE_DROPPED] += 1
            continue

        kind[i - first] = _FULL
        before = stream.next[side]
        if not stream.seen[side]:
            stream.low[side] = before
        if flags & SYN:
            is_new = stream.syn[side] == 0 and not stream.seen[side] and not stream.rst[side]
            if not is_new and not (stream.syn[side] == (2 if flags & ACK else 1) and is_repeat):
                packet.is_kept = 0
                tally[Repair.SYN_DROPPED] += 1
                continue
            if is_new:
                if stream.has_acked[peer]:  # what was acknowledged unseen was this SYN
                    stream.next[side] -= 1
                    _trim(packet, 0)
                stream.syn[side] = 2 if flags & ACK else 1
                stream.syn_sequence[side] = stream.next[side]
                stream.syn_payload[side] = packet.payload
                stream.low[side] = stream.next[side] + 1
                stream.next[side] += 1 + packet.payload
                stream.options[side] = _offered(packet.transport_header - 20)
                if stream.syn[peer] == 1:
                    stream.options[side] &= stream.options[peer]
                if stream.options[side] & Options.WINDOW_SCALE:
                    stream.window[side] = 32_768 + draw(stream, 32_767)
            else:
                _trim(packet, min(packet.payload, stream.syn_payload[side]))
            packet.sequence = stream.syn_sequence[side] & 0xFFFFFFFF
            packet.options = stream.options[side]
            stream.seen[side] = 1
        elif flags & RST:
            if packet.payload:
                _trim(packet, 0)
                tally[Repair.RESET_TRIMMED] += 1
            kind[i - first] = _RESET
            if is_answer:  # a closed port: RFC 9293 3.10.7.1
                if not flags & ACK:
                    flags |= ACK
                    tally[Repair.ACK_ADDED] += 1
                packet.sequence = 0
                kind[i - first] = _REFUSAL
            else:
                packet.sequence = stream.next[side] & 0xFFFFFFFF
                stream.seen[side] = 1
            stream.rst[side] = 1
        else:
            if not flags & ACK and (stream.seen[peer] or stream.syn[side]):
                flags |= ACK
                tally[Repair.ACK_ADDED] += 1
            flags = _plan_segment(packet, event[i], flags, side, stream, kind, i - first, tally)
            if not packet.is_kept:
                continue
            if kind[i - first] == _BARE and not stream.seen[peer] and stream.has_acked[side]:
                stream.next[peer] += _ASSUMED_SEGMENT
                boundary_count[peer] += 1
                boundary[peer, boundary_count[peer]] = stream.next[peer]
            stream.seen[side] = 1
        packet.control = flags
        if flags & ACK:
            stream.has_acked[side] = 1
        if stream.next[side] > before:
            boundary_count[side] += 1
            boundary[side, boundary_count[side]] = stream.next[side]
        reach[0, i - first] = boundary_count[peer]
        reach[1, i - first] = stream.next[peer]
    return end


@njit(cache=True)
def _plan_segment(
    packet: Any,
    event: int,
    flags: int,
    side: int,
    stream: Any,
    kind: NDArray[np.uint8],
    row: int,
    tally: NDArray[np.int64],
) -> int:
    """Number a segment that is neither SYN nor RST, and say of which kind it is; returns its flags."""
    packet.sequence = stream.next[side] & 0xFFFFFFFF
    is_idle = event == TcpEvent.IDLE_ACK or event == TcpEvent.KEEP_ALIVE or event == TcpEvent.KEEP_ALIVE_ACK
    if event == TcpEvent.RETRANSMISSION and packet.payload > 1 and (stream.fin[side] or not flags & FIN):
        # The last octets again; a single one would look like a keep-alive.
        start = stream.next[side] - stream.fin[side] - packet.payload
        if start >= stream.low[side] and stream.seen[side]:
            packet.sequence = start & 0xFFFFFFFF
            return flags
    if stream.fin[side] and (flags & FIN or packet.payload):
        if flags & FIN and event == TcpEvent.RETRANSMISSION:
            _trim(packet, 0)
            packet.sequence = stream.fin_sequence[side] & 0xFFFFFFFF
            return flags
        flags &= ~(FIN | PSH)
        _trim(packet, 0)
        tally[Repair.AFTER_FIN_TRIMMED] += 1
        is_idle = False
    if event == TcpEvent.KEEP_ALIVE and is_idle and stream.seen[side] and not flags & FIN:
        if packet.payload > 1:
            _trim(packet, 1)
            tally[Repair.KEEP_ALIVE_TRIMMED] += 1
        packet.sequence = (stream.next[side] - 1) & 0xFFFFFFFF
        kind[row] = _IDLE
        return flags
    if packet.payload or flags & FIN:
        stream.next[side] += packet.payload
        if flags & FIN:
            stream.fin[side] = 1
            stream.fin_sequence[side] = stream.next[side]
            stream.next[side] += 1
    elif is_idle:
        kind[row] = _IDLE
    elif event == TcpEvent.WINDOW_UPDATE:
        kind[row] = _UPDATE
    elif flags & ACK:
        kind[row] = _BARE
    elif stream.seen[side]:
        packet.is_kept = 0
        tally[Repair.IDLE_ACK_DROPPED] += 1
    return flags


@njit(cache=True)
def _hold_back(packets: Any, first: int, start: int, stop: int, is_swapped: int, scratch: Scratch) -> None:
    """Pass two: turn what could be acknowledged into what may be, so that every later bare ACK finds something."""
    _, reach, kind = scratch
    segments = np.full(
        2, np.iinfo(np.int64).max, np.int64
    )  # of each side: the highest that leaves enough to later ones
    octets = segments.copy()
    for i in range(stop - 1, start - 1, -1):
        if not packets[i].is_kept:
            continue
        row = i - first
        side = packets[i].direction ^ is_swapped
        segments[side] = max(min(segments[side], reach[0, row]), reach[0, row] - _HELD_SEGMENTS)
        octets[side] = max(min(octets[side], reach[1, row]), reach[1, row] - _HELD_OCTETS)
        reach[2, row] = segments[side]
        reach[3, row] = octets[side]
        if kind[row] == _BARE:
            segments[side] -= 1
            octets[side] -= 1


@njit(cache=True)
def _acknowledge(
    packets: Any,
    first: int,
    start: int,
    stop: int,
    is_swapped: int,
    stream: Any,
    scratch: Scratch,
    tally: NDArray[np.int64],
) -> None:
    """Pass three: acknowledgement numbers and timestamps; bare ACKs with nothing left to acknowledge are dropped."""
    boundary, reach, kind = scratch
    for i in range(start, stop):
        packet = packets[i]
        if not packet.is_kept:
            continue
        row = i - first
        side = packet.direction ^ is_swapped
        peer = 1 - side
        last = stream.ack[side]
        if packet.control & ACK:
            sent = reach[1, row]
            target = boundary[peer, max(reach[2, row], 0)]
            if stream.syn[peer] and stream.seen[peer]:
                floor = stream.syn_sequence[peer] + 1 + stream.syn_payload[peer]
                if sent >= floor:
                    target = max(target, floor)
            if kind[row] == _IDLE or kind[row] == _UPDATE:
                target = last if last >= 0 else target
            elif kind[row] == _RESET or kind[row] == _REFUSAL:
                target = sent
            elif kind[row] == _BARE and target <= last:
                if sent <= last:
                    packet.is_kept = 0
                    tally[Repair.IDLE_ACK_DROPPED] += 1
                    continue
                target = last + max(1, (reach[3, row] - last + 1) // 2)
            stream.ack[side] = max(target, last)
            packet.acknowledgement = stream.ack[side] & 0xFFFFFFFF
        if kind[row] == _UPDATE:
            stream.window[side] += 1 if stream.window[side] < 65_000 else -5000
        if kind[row] == _REFUSAL:
            packet.window = 0
        else:
            packet.window = stream.syn_window[side] if packet.control & SYN else stream.window[side]
        if packet.payload and not packet.control & SYN:
            _avoid_full_window(packets, packet, peer, stream)
        if packet.transport_header >= 32 and not packet.control & (SYN | RST):
            has_both = stream.options[0] & stream.options[1] & Options.TIMESTAMPS
            if has_both or not (stream.syn[0] and stream.syn[1]):
                packet.options = Options.TIMESTAMPS
        if packet.options & Options.TIMESTAMPS:
            value = (signed(stream.ts_offset[side]) + packet.time_ns // 1_000_000) & 0xFFFFFFFF
            packet.ts_value = value
            packet.ts_echo = stream.ts_value[peer] if packet.control & ACK else 0
            stream.ts_value[side] = value
        stream.last_row[side] = i


@njit(cache=True)
def _avoid_full_window(packets: Any, packet: Any, peer: int, stream: Any) -> None:
    """Take one off the peer's window where this segment would end exactly at its edge."""
    row = stream.last_row[peer]
    if row < 0 or packets[row].control & SYN:
        return
    shift = _WINDOW_SHIFT if stream.options[0] & stream.options[1] & Options.WINDOW_SCALE else 0
    edge = stream.ack[peer] + (signed(stream.window[peer]) << shift)
    if (signed(packet.sequence) + packet.payload) & 0xFFFFFFFF == edge & 0xFFFFFFFF:
        stream.window[peer] -= 1
        packets[row].window = stream.window[peer]


@njit(cache=True)
def _offered(length: int) -> int:
    """The options of a SYN that fit into so many octets, as common stacks choose them."""
    options = 0
    if length >= 4:
        options |= Options.MSS
    if length >= 8:
        options |= Options.SACK_PERMITTED
    if length >= 16:
        options |= Options.TIMESTAMPS
    if length == 12 or length >= 20:
        options |= Options.WINDOW_SCALE
    return options


@njit(cache=True)
def _trim(packet: Any, payload: int) -> None:
    packet.total_length -= packet.payload - payload
    packet.payload = payload
