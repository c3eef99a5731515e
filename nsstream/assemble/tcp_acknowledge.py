"""TCP, passes two and three: acknowledgement numbers, windows and timestamps; see `tcp` for the rules."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.assemble.octets import signed
from nsstream.assemble.records import Options, Repair
from nsstream.assemble.tcp_sequence import BARE, IDLE, REFUSAL, RESET, UPDATE, Scratch
from nsstream.assemble.transport import WINDOW_SHIFT
from nsstream.trace.fields import ACK, RST, SYN

_HELD_SEGMENTS: Final = 24  # at most so many segments stay unacknowledged for later bare ACKs
_HELD_OCTETS: Final = 16_384
_HOLE: Final = 2  # segments that a selective acknowledgement leaves open: the missing one, and one that came


@njit(cache=True, nogil=True)
def hold_back(packets: Any, first: int, start: int, stop: int, is_swapped: int, scratch: Scratch) -> None:
    """Pass two: turn what could be acknowledged into what may be, so that every later bare ACK finds something."""
    _, reach, kind = scratch
    segments = np.full(2, np.iinfo(np.int64).max, np.int64)  # by side: the highest that leaves enough to later ones
    octets = segments.copy()
    most_segments, most_octets = segments.copy(), segments.copy()  # by side: what is repeated later must stay open
    for i in range(stop - 1, start - 1, -1):
        if not packets[i].is_kept:
            continue
        row = i - first
        side = packets[i].direction ^ is_swapped
        segments[side] = max(min(segments[side], reach[0, row]), reach[0, row] - _HELD_SEGMENTS)
        octets[side] = max(min(octets[side], reach[1, row]), reach[1, row] - _HELD_OCTETS)
        most_segments[1 - side] = min(most_segments[1 - side], reach[4, row])
        most_octets[1 - side] = min(most_octets[1 - side], reach[5, row])
        if sack_room(packets[i]) and reach[0, row] >= _HOLE + 1:
            most_segments[side] = min(most_segments[side], reach[0, row] - _HOLE)
        reach[2, row] = min(segments[side], most_segments[side])
        reach[3, row] = min(octets[side], most_octets[side])
        if kind[row] == BARE:
            segments[side] -= 1
            octets[side] -= 1


@njit(cache=True, nogil=True)
def acknowledge(
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
            if kind[row] == IDLE or kind[row] == UPDATE:
                target = last if last >= 0 else target
            elif kind[row] == RESET or kind[row] == REFUSAL:
                target = sent
            elif kind[row] == BARE and target <= last:
                if sent <= last:
                    packet.is_kept = 0
                    tally[Repair.IDLE_ACK_DROPPED] += 1
                    continue
                target = last + max(1, (reach[3, row] - last + 1) // 2)
            stream.ack[side] = max(target, last)
            packet.acknowledgement = stream.ack[side] & 0xFFFFFFFF
        if kind[row] == UPDATE:
            stream.window[side] += 1 if stream.window[side] < 65_000 else -5000
        elif kind[row] == IDLE and stream.last_row[side] >= 0 and packets[stream.last_row[side]].control & SYN:
            stream.window[side] = stream.syn_window[side]  # a change would make it a window update
        if kind[row] == REFUSAL:
            packet.window = 0
        else:
            packet.window = stream.syn_window[side] if packet.control & SYN else stream.window[side]
        if packet.payload and not packet.control & SYN:
            row_of_peer = stream.last_row[peer]
            if _ends_at_window(packet, peer, stream) and row_of_peer >= 0 and not packets[row_of_peer].control & SYN:
                stream.window[peer] -= 1
                packets[row_of_peer].window = stream.window[peer]
        if packet.transport_header >= 32 and not packet.control & (SYN | RST):
            has_both = stream.options[0] & stream.options[1] & Options.TIMESTAMPS
            if has_both or not (stream.syn[0] and stream.syn[1]):
                packet.options = Options.TIMESTAMPS
        room = signed(packet.transport_header) - (32 if packet.options & Options.TIMESTAMPS else 20)
        if room >= 12 and packet.control & ACK and not packet.control & (SYN | RST):
            _acknowledge_selectively(packet, boundary, reach[0, row], peer, stream.ack[side], stream)
        if packet.options & Options.TIMESTAMPS:
            value = (signed(stream.ts_offset[side]) + packet.time_ns // 1_000_000) & 0xFFFFFFFF
            packet.ts_value = value
            packet.ts_echo = stream.ts_value[peer] if packet.control & ACK else 0
            stream.ts_value[side] = value
        stream.last_row[side] = i


@njit(cache=True, inline="always")
def sack_room(packet: Any) -> bool:
    """Whether the header has octets behind the timestamps that hold a block."""
    return bool(packet.transport_header >= 44 and packet.control & (SYN | RST) == 0)


@njit(cache=True, inline="always")
def _acknowledge_selectively(
    packet: Any, boundary: NDArray[np.int64], count: int, peer: int, acknowledged: int, stream: Any
) -> None:
    """Report what the peer has sent behind a hole of one segment (RFC 2018), where the header has room for it."""
    is_offered = stream.options[0] & stream.options[1] & Options.SACK_PERMITTED or not (stream.syn[0] and stream.syn[1])
    if not is_offered or not stream.seen[peer]:
        return
    hole = count
    while hole > 0 and boundary[peer, hole - 1] > acknowledged:
        hole -= 1
    if boundary[peer, hole] > acknowledged and hole < count:
        packet.sack_left = boundary[peer, hole] & 0xFFFFFFFF
        packet.sack_right = boundary[peer, count] & 0xFFFFFFFF
        packet.options |= Options.SACK


@njit(cache=True, inline="always")
def _ends_at_window(packet: Any, peer: int, stream: Any) -> bool:
    """Whether this segment would end exactly at the edge of the peer's window, which tshark takes for full."""
    shift = WINDOW_SHIFT if stream.options[0] & stream.options[1] & Options.WINDOW_SCALE else 0
    edge = stream.ack[peer] + (signed(stream.window[peer]) << shift)
    return bool((signed(packet.sequence) + packet.payload - edge) & 0xFFFFFFFF == 0)
