"""TCP, pass one: what each segment is, its flags and its sequence number; see `tcp` for the rules.

The five-tuple's state that is changed here is what each side has sent; what it has acknowledged is `tcp_acknowledge`'s.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.assemble.chance import draw
from nsstream.assemble.octets import signed
from nsstream.assemble.records import Options, Repair
from nsstream.assemble.tcp_repeat import find_repeated, repeated_sequence
from nsstream.trace.conversations import TcpEvent
from nsstream.trace.fields import ACK, FIN, PSH, RST, SYN

# What a segment is to the passes.
FULL: Final = 0  # takes sequence numbers, or need not acknowledge anything new
BARE: Final = 1  # a bare ACK that must acknowledge something new
IDLE: Final = 2  # repeats the last acknowledgement
RESET: Final = 3
REFUSAL: Final = 4  # the RST|ACK of a closed port, from sequence number and window 0
UPDATE: Final = 5  # repeats the last acknowledgement and offers another window

_AFTER_FIN_TRIMMED: Final = int(Repair.AFTER_FIN_TRIMMED)
_KEEP_ALIVE_TRIMMED: Final = int(Repair.KEEP_ALIVE_TRIMMED)
_IDLE_ACK_DROPPED: Final = int(Repair.IDLE_ACK_DROPPED)
NO_LIMIT: Final = 1 << 62
_ASSUMED_SEGMENT: Final = 1448  # octets between two acknowledgements of a side that is not seen

# Ends of the segments of each side (2, n + 2); by packet, how many of them and how many octets the peer had sent, then
# what of both may be acknowledged, then the most of both that the peer may have acknowledged before it (6, n); what
# each segment is (n,).
Scratch = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]


@njit(cache=True, nogil=True)
def sequence(
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
    """Pass one: flags and numbers of ``packets[start:stop]``; returns stop, where the five-tuple is reopened."""
    boundary, reach, kind = scratch
    boundary_count = np.zeros(2, np.int64)
    is_set_up = False
    bare_row = np.full(2, -1, np.int64)  # each side's last ACK of something new
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

        kind[i - first] = FULL
        reach[4, i - first] = reach[5, i - first] = NO_LIMIT
        before = stream.next[side]
        if not stream.seen[side]:
            stream.low[side] = before
        if flags & SYN:
            is_new = stream.syn[side] == 0 and not stream.seen[side] and not stream.rst[side]
            is_first_word = stream.next[side] == stream.syn_sequence[side] + 1 + stream.syn_payload[side]
            if not is_new and not (is_first_word and stream.syn[side] == (2 if flags & ACK else 1) and is_repeat):
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
            packet.options = stream.options[side] & _offered(packet.transport_header - 20)  # a repeat may be shorter
            stream.seen[side] = 1
        elif flags & RST:
            if packet.payload:
                _trim(packet, 0)
                tally[Repair.RESET_TRIMMED] += 1
            kind[i - first] = RESET
            if is_answer:  # a closed port: RFC 9293 3.10.7.1
                if not flags & ACK:
                    flags |= ACK
                    tally[Repair.ACK_ADDED] += 1
                packet.sequence = 0
                kind[i - first] = REFUSAL
            else:
                packet.sequence = stream.next[side] & 0xFFFFFFFF
                stream.seen[side] = 1
            stream.rst[side] = 1
        else:
            if not flags & ACK and (stream.seen[peer] or stream.syn[side]):
                flags |= ACK
                tally[Repair.ACK_ADDED] += 1
            is_done = False
            if is_repeat and packet.payload and (stream.fin[side] or not flags & FIN):
                row = find_repeated(packets, i, stream.data_row[side], bare_row[peer])
                if row >= 0:
                    is_done = True
                    packet.source_row = row
                    start_of = repeated_sequence(packets, i, row, stream.next[side])
                    packet.sequence = start_of & 0xFFFFFFFF
                    limit = boundary_count[side]
                    while limit > 0 and boundary[side, limit] > start_of:
                        limit -= 1
                    reach[4, i - first], reach[5, i - first] = limit, start_of
                else:
                    tally[Repair.REPEAT_FRESH] += 1
            if not is_done:
                flags, kind[i - first], repair = _plan_segment(packet, event[i], flags, side, stream)
                if repair >= 0:
                    tally[repair] += 1
            if not packet.is_kept:
                continue
            if packet.payload and stream.next[side] > before:
                packet.before_row = stream.data_row[side]
                stream.data_row[side] = i
            if kind[i - first] == BARE:
                bare_row[side] = i
            if kind[i - first] == BARE and not stream.seen[peer] and stream.has_acked[side]:
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


@njit(cache=True, inline="always")
def _plan_segment(packet: Any, event: int, flags: int, side: int, stream: Any) -> tuple[int, int, int]:
    """Number a segment that is neither SYN nor RST; returns its flags, its kind, and its repair or -1."""
    kind, repair = FULL, -1
    packet.sequence = stream.next[side] & 0xFFFFFFFF
    is_idle = event == TcpEvent.IDLE_ACK or event == TcpEvent.KEEP_ALIVE or event == TcpEvent.KEEP_ALIVE_ACK
    if stream.fin[side] and (flags & FIN or packet.payload):
        if flags & FIN and event == TcpEvent.RETRANSMISSION:
            _trim(packet, 0)
            packet.sequence = stream.fin_sequence[side] & 0xFFFFFFFF
            return flags, kind, repair
        flags &= ~(FIN | PSH)
        _trim(packet, 0)
        repair = _AFTER_FIN_TRIMMED
        is_idle = False
    if event == TcpEvent.KEEP_ALIVE and is_idle and stream.seen[side] and not flags & FIN:
        if packet.payload > 1:
            _trim(packet, 1)
            repair = _KEEP_ALIVE_TRIMMED
        packet.sequence = (stream.next[side] - 1) & 0xFFFFFFFF
        kind = IDLE
        return flags, kind, repair
    if packet.payload or flags & FIN:
        stream.next[side] += packet.payload
        if flags & FIN:
            stream.fin[side] = 1
            stream.fin_sequence[side] = stream.next[side]
            stream.next[side] += 1
    elif is_idle:
        kind = IDLE
    elif event == TcpEvent.WINDOW_UPDATE:
        kind = UPDATE
    elif flags & ACK:
        kind = BARE
    elif stream.seen[side]:
        packet.is_kept = 0
        repair = _IDLE_ACK_DROPPED
    return flags, kind, repair


@njit(cache=True, nogil=True)
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
        stream.data_row[side] = -1
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


@njit(cache=True, nogil=True)
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


@njit(cache=True, inline="always")
def _trim(packet: Any, payload: int) -> None:
    packet.total_length -= packet.payload - payload
    packet.payload = payload
