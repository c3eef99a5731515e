"""The loop that draws packets, compiled: a fixed number of conversations side by side, the next taken in when one ends.

Each conversation has a random generator of its own, and the recurrence's matrix products run over all conversations at
once; everything else is a pass over one conversation's tokens (`choose_packet`).
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.encode.schema import TIMES_LEFT
from nsstream.model.choose_packet import choose_gap, choose_kind, choose_size
from nsstream.model.frozen_packets import FrozenPackets
from nsstream.model.lawful import allow, say
from nsstream.model.makeup_urns import note_packet
from nsstream.model.packet_meaning import PacketMeaning
from nsstream.model.profile_urns import ProfileUrns
from nsstream.model.recurrent import Matrix, recur
from nsstream.model.soften import chance
from nsstream.model.wait_urns import WaitUrns

SLOTS: Final = 128  # conversations side by side
_NONE = np.float32(0.0)


class Asked(NamedTuple):
    """What is asked of n conversations.

    Attributes:
        stack, start_ns, counts: (n,) as of `sample_packets.draw_packets`.
        lengths: (n,) packets to draw, at most `counts`.
        offset: (n + 1,) where in `Columns` they go.
        order: (n,) in which conversations are taken in.
        described: (n, 3 d) of `freeze_conversations`.
        law: (n, COLUMNS) of `lawful.begin_law`; changed.
        budget: of `lawful.law_budget`; changed.
        waits: how long they wait; changed.
        makeup: what they are made of; changed.
        generators: (n,) seeds; changed.
    """

    stack: NDArray[np.int64]
    start_ns: NDArray[np.int64]
    counts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    offset: NDArray[np.int64]
    order: NDArray[np.int64]
    described: Matrix
    law: NDArray[np.int32]
    budget: NDArray[np.int64]
    waits: WaitUrns
    makeup: ProfileUrns
    generators: NDArray[np.uint64]


class Columns(NamedTuple):
    """Where what is drawn goes: (m,) each."""

    kind: NDArray[np.int64]
    size: NDArray[np.int64]
    gap: NDArray[np.int64]
    octets: NDArray[np.int64]
    time_ns: NDArray[np.int64]


class Slots(NamedTuple):
    """Conversations side by side, c at most, of a network of width d; k kinds, s sizes, g gaps may be drawn.

    Attributes:
        owner, step, now_ns: (c,) which conversation, its next packet's place, its last packet's time.
        previous: (c, 3) kind, size and gap of its last packet.
        last_ns: (c, 2) when each side last spoke, -1 if never.
        state: (c, d).
        kind: (c,) which of the k its packet has.
        gates: (c, 3 d); told: (c, k + 2 d) products with the state.
        seen: (c, d); rows: (c,) what a head reads, and whose it is; sized: (c, s); timed: (c, g) what it says.
        read: (3 d,); may: (k,); power: work space.
    """

    owner: NDArray[np.int64]
    step: NDArray[np.int64]
    now_ns: NDArray[np.int64]
    previous: NDArray[np.int64]
    last_ns: NDArray[np.int64]
    state: Matrix
    kind: NDArray[np.int64]
    gates: Matrix
    told: Matrix
    seen: Matrix
    rows: NDArray[np.int64]
    sized: Matrix
    timed: Matrix
    read: Matrix
    may: NDArray[np.bool_]
    power: NDArray[np.int32]


def empty_slots(frozen: FrozenPackets, conversations: int) -> Slots:
    """Slots for that many conversations, `SLOTS` at most, none of which is taken."""
    c, d = min(SLOTS, conversations), len(frozen.recur)
    k, s, g = len(frozen.kinds), len(frozen.sizes), len(frozen.gaps)

    def numbers(*shape: int) -> Matrix:
        return np.zeros(shape, np.float32)

    return Slots(
        owner=np.zeros(c, np.int64),
        step=np.zeros(c, np.int64),
        now_ns=np.zeros(c, np.int64),
        previous=np.zeros((c, 3), np.int64),
        last_ns=np.zeros((c, 2), np.int64),
        state=numbers(c, d),
        kind=np.zeros(c, np.int64),
        gates=numbers(c, 3 * d),
        told=numbers(c, k + 2 * d),
        seen=numbers(c, d),
        rows=np.zeros(c, np.int64),
        sized=numbers(c, s),
        timed=numbers(c, g),
        read=numbers(3 * d),
        may=np.zeros(k, np.bool_),
        power=np.zeros(max(k, s, g, 3 * d), np.int32),
    )


@njit(cache=True, nogil=True)
def run(frozen: FrozenPackets, meaning: PacketMeaning, asked: Asked, slots: Slots, out: Columns) -> None:
    """Draw the packets of n conversations into `out`, with the network `frozen` and the tokens of `meaning`."""
    taken = n = 0
    while True:
        while n < len(slots.owner) and taken < len(asked.order):
            c = asked.order[taken]
            taken += 1
            if asked.lengths[c] > 0:
                _take_in(slots, n, c, asked.start_ns[c], frozen.no_packet)
                n += 1
        if n == 0:
            return
        np.dot(slots.state[:n], frozen.recur, slots.gates[:n])
        for i in range(n):
            c = slots.owner[i]
            _recur(frozen, meaning, slots, i, asked.counts[c] - slots.step[i], asked.described[c])
        np.dot(slots.state[:n], frozen.read, slots.told[:n])
        _say_kinds(frozen, meaning, asked, slots, n, out)
        with_octets = _look_at_sizes(frozen, meaning, slots, n)
        if with_octets:
            np.dot(slots.seen[:with_octets], frozen.size_head, slots.sized[:with_octets])
            _say_sizes(frozen, meaning, asked, slots, with_octets, out)
        later = _look_at_gaps(frozen, asked, slots, n, out)
        if later:
            np.dot(slots.seen[:later], frozen.gap_head, slots.timed[:later])
            _say_gaps(frozen, meaning, asked, slots, later, out)
        n = _go_on(meaning, asked, slots, n, out)


@njit(cache=True)
def _take_in(slots: Slots, i: int, c: int, start_ns: int, no_packet: NDArray[np.int64]) -> None:
    """Begin conversation c in slot i."""
    slots.owner[i], slots.step[i], slots.now_ns[i] = c, 0, start_ns
    for j in range(3):
        slots.previous[i, j] = no_packet[j]
    slots.last_ns[i, 0] = slots.last_ns[i, 1] = -1
    for j in range(slots.state.shape[1]):
        slots.state[i, j] = _NONE


@njit(cache=True, fastmath=True, error_model="numpy")
def _recur(frozen: FrozenPackets, meaning: PacketMeaning, slots: Slots, i: int, left: int, described: Matrix) -> None:
    """What slot i's recurrence reads, and its step; the product with its state was made before."""
    previous, read = slots.previous[i], slots.read
    of_kind, of_size, of_gap = frozen.of_kind[previous[0]], frozen.of_size[previous[1]], frozen.of_gap[previous[2]]
    of_countdown = frozen.of_countdown[_token_of(meaning.countdown, left)]
    of_position = frozen.of_position[_token_of(meaning.position, slots.step[i])]
    of_time_left = frozen.of_time_left[_time_left(meaning.end_ns - slots.now_ns[i])]
    for j in range(len(read)):
        read[j] = of_kind[j] + of_size[j] + of_gap[j] + of_countdown[j] + of_position[j] + of_time_left[j]
        read[j] += described[j]
    recur(read, slots.gates[i], frozen.recur_bias, slots.state[i], slots.power)


@njit(cache=True)
def _say_kinds(frozen: FrozenPackets, meaning: PacketMeaning, asked: Asked, slots: Slots, n: int, out: Columns) -> None:
    """A kind for each of n slots; the packet is as if it had no octets behind its headers, and came at once."""
    rules = meaning.rules
    for i in range(n):
        c, step, logits = slots.owner[i], slots.step[i], slots.told[i]
        otherwise = meaning.of_stack[asked.stack[c]]
        allow(rules, asked.law[c], asked.counts[c] - step - 1, asked.budget, otherwise, slots.may)
        _add(logits, frozen.kind_bias[_token_of(meaning.position, step)])
        urn, left = asked.makeup.row[c], (asked.counts[c] - step) / asked.counts[c]
        at = chance(asked.generators, c)
        kind = choose_kind(logits, otherwise, slots.may, meaning, asked.makeup, urn, left, at, slots.power)
        say(rules, asked.law[c], asked.budget, kind)
        if urn >= 0 and meaning.is_bare[kind]:
            note_packet(asked.makeup, urn, rules.side[kind], 0)
        slots.kind[i] = kind
        to = asked.offset[c] + step
        out.kind[to], out.size[to], out.gap[to] = frozen.kinds[kind], meaning.bare_size[kind], 0
        out.octets[to], out.time_ns[to] = meaning.header[kind], slots.now_ns[i]


@njit(cache=True)
def _look_at_sizes(frozen: FrozenPackets, meaning: PacketMeaning, slots: Slots, n: int) -> int:
    """What the size head reads, of slots whose packet has octets behind its headers: how many are these."""
    k, m = len(frozen.kinds), 0
    for i in range(n):
        kind = slots.kind[i]
        if meaning.is_bare[kind]:
            continue
        of_kind, told, seen = frozen.size_of_kind[frozen.kinds[kind]], slots.told[i], slots.seen[m]
        for j in range(len(seen)):
            seen[j] = max(told[k + j] + of_kind[j], _NONE)
        slots.rows[m] = i
        m += 1
    return m


@njit(cache=True)
def _say_sizes(frozen: FrozenPackets, meaning: PacketMeaning, asked: Asked, slots: Slots, m: int, out: Columns) -> None:
    """A size for each of the m slots that `_look_at_sizes` found."""
    for r in range(m):
        i, logits = slots.rows[r], slots.sized[r]
        c, kind = slots.owner[i], slots.kind[i]
        _add(logits, frozen.size_bias[_token_of(meaning.position, slots.step[i])])
        urn, left = asked.makeup.row[c], (asked.counts[c] - slots.step[i]) / asked.counts[c]
        side = meaning.rules.side[kind]
        size, octets = choose_size(meaning, logits, asked.makeup, urn, left, side, slots.power, asked.generators, c)
        if urn >= 0:
            note_packet(asked.makeup, urn, side, meaning.size_step[size])
        to = asked.offset[c] + slots.step[i]
        out.size[to] = frozen.sizes[size]
        out.octets[to] = max(octets, meaning.header[kind] + (1 if meaning.is_tcp[kind] else 0))


@njit(cache=True)
def _look_at_gaps(frozen: FrozenPackets, asked: Asked, slots: Slots, n: int, out: Columns) -> int:
    """What the gap head reads, of slots whose packet is not the first: how many are these."""
    k, m = len(frozen.kinds), 0
    for i in range(n):
        if slots.step[i] == 0:
            continue
        to = asked.offset[slots.owner[i]] + slots.step[i]
        of_kind, of_size = frozen.gap_of_kind[out.kind[to]], frozen.gap_of_size[out.size[to]]
        told, seen = slots.told[i], slots.seen[m]
        d = len(seen)
        for j in range(d):
            seen[j] = max(told[k + d + j] + of_kind[j] + of_size[j], _NONE)
        slots.rows[m] = i
        m += 1
    return m


@njit(cache=True)
def _say_gaps(frozen: FrozenPackets, meaning: PacketMeaning, asked: Asked, slots: Slots, m: int, out: Columns) -> None:
    """A gap for each of the m slots that `_look_at_gaps` found."""
    for r in range(m):
        i, logits = slots.rows[r], slots.timed[r]
        c, kind = slots.owner[i], slots.kind[i]
        _add(logits, frozen.gap_bias[_token_of(meaning.position, slots.step[i])])
        gap, now_ns = choose_gap(
            meaning, kind, slots.now_ns[i], slots.last_ns[i], logits, slots.power, asked.generators, c,
            asked.waits, asked.counts[c] - slots.step[i], asked.counts[c],
        )  # fmt: skip
        slots.now_ns[i] = now_ns
        to = asked.offset[c] + slots.step[i]
        out.gap[to], out.time_ns[to] = frozen.gaps[gap], now_ns


@njit(cache=True)
def _go_on(meaning: PacketMeaning, asked: Asked, slots: Slots, n: int, out: Columns) -> int:
    """Note n packets that were said. Who has ended makes room, and the last takes the place: how many are left."""
    for i in range(n):
        to = asked.offset[slots.owner[i]] + slots.step[i]
        slots.last_ns[i, meaning.rules.side[slots.kind[i]]] = slots.now_ns[i]
        slots.previous[i, 0], slots.previous[i, 1], slots.previous[i, 2] = out.kind[to], out.size[to], out.gap[to]
        slots.step[i] += 1
    i = 0
    while i < n:
        if slots.step[i] < asked.lengths[slots.owner[i]]:
            i += 1
            continue
        n -= 1
        slots.owner[i], slots.step[i], slots.now_ns[i] = slots.owner[n], slots.step[n], slots.now_ns[n]
        for j in range(3):
            slots.previous[i, j] = slots.previous[n, j]
        for j in range(2):
            slots.last_ns[i, j] = slots.last_ns[n, j]
        for j in range(slots.state.shape[1]):
            slots.state[i, j] = slots.state[n, j]
    return n


@njit(cache=True)
def _add(logits: Matrix, bias: Matrix) -> None:
    for j in range(len(bias)):
        logits[j] += bias[j]


@njit(cache=True)
def _token_of(tokens: NDArray[np.int64], number: int) -> int:
    """The token of a number; all beyond the last known have the last one."""
    return int(tokens[min(number, len(tokens) - 1)])


@njit(cache=True)
def _time_left(left_ns: int) -> int:
    """`tokens.time_left_token` of one number."""
    return min(int(np.log10(max(left_ns, 10_000) / 1e4) * 4), TIMES_LEFT - 1)
