"""The loop that draws packets, compiled: a fixed number of conversations side by side, the next taken in when one ends.

Each conversation has a random generator of its own, and the recurrence's matrix products run over all conversations at
once; everything else is a pass over one conversation's tokens. What the protocols forbid is never said (`lawful`), and a
gap is one that the chunk shows by that packet's clock (`encode.clocks`).
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.encode.bins import QUANTILES, Bins
from nsstream.encode.codec import Codec
from nsstream.encode.encoding import allowed_kinds, size_tokens
from nsstream.encode.schema import COUNTDOWNS, POSITIONS, SIZE_SLOTS, TIMES_LEFT
from nsstream.encode.tokens import countdown_token, position_token
from nsstream.model.frozen import FrozenPackets
from nsstream.model.lawful import IS_FILLER, KindRules, allow, kind_rules, say
from nsstream.model.soften import chance, exponentiate, pick, squash

SLOTS: Final = 128  # conversations side by side


class PacketMeaning(NamedTuple):
    """What a codec's packet tokens mean; k, s, g tokens may be drawn, as in `FrozenPackets`.

    Attributes:
        rules: of the k kinds.
        of_stack: (6, k) kinds that go with each stack.
        header: (k,) octets of headers.
        is_bare, is_tcp, own_clock: (k,) no octets behind the headers; TCP; timed by its own side.
        bare_size: (k,) the size token of the headers alone.
        exact: (s,) octets of a frequent size, -1 for a bin; octets: (s, QUANTILES) of the bins.
        gap_active: (2, g) gaps that the chunk shows since the packet before, and since the own side's last.
        gap_inside: (2, g, QUANTILES) nanoseconds.
        gap_least, gap_end: (g,) edges of the gaps in nanoseconds.
        countdown, position: tokens by number, the last for all beyond.
        longest_own_ns: beyond every gap since the own side's last.
        end_ns: the first nanosecond after the chunk's last packet.
    """

    rules: KindRules
    of_stack: NDArray[np.bool_]
    header: NDArray[np.int64]
    is_bare: NDArray[np.bool_]
    is_tcp: NDArray[np.bool_]
    own_clock: NDArray[np.bool_]
    bare_size: NDArray[np.int64]
    exact: NDArray[np.int64]
    octets: NDArray[np.float64]
    gap_active: NDArray[np.bool_]
    gap_inside: NDArray[np.float64]
    gap_least: NDArray[np.float64]
    gap_end: NDArray[np.float64]
    countdown: NDArray[np.int64]
    position: NDArray[np.int64]
    longest_own_ns: float
    end_ns: int


def meaning_of(codec: Codec, frozen: FrozenPackets) -> PacketMeaning:
    """What the tokens mean that a frozen network may draw."""
    kinds, sizes, gaps = frozen.kinds, frozen.sizes, frozen.gaps
    table = codec.kind.table()[kinds]
    header = table[:, 3] + table[:, 4]
    is_exact = sizes < SIZE_SLOTS
    exact = np.full(len(sizes), -1, np.int64)
    exact[is_exact] = codec.size.table()[sizes[is_exact], 0]
    clocks: tuple[Bins, Bins] = (codec.packet_gap, codec.own_gap)
    edges = codec.packet_gap.grid.edges
    end = np.append(edges[1:], np.inf)
    own = codec.own_gap.is_active()
    return PacketMeaning(
        rules=kind_rules(table, codec.endings),
        of_stack=np.ascontiguousarray(allowed_kinds(codec)[:, kinds]),
        header=header,
        is_bare=table[:, 5] == 0,
        is_tcp=table[:, 0] % 3 == 1,
        own_clock=codec.own_clock[kinds],
        bare_size=size_tokens(header, codec),
        exact=exact,
        octets=codec.octets.quantiles[np.where(is_exact, 0, sizes - SIZE_SLOTS)],
        gap_active=np.stack([bins.is_active()[gaps] for bins in clocks]),
        gap_inside=np.stack([bins.quantiles[gaps] for bins in clocks]),
        gap_least=edges[gaps],
        gap_end=end[gaps],
        countdown=countdown_token(np.arange(_settles(countdown_token, COUNTDOWNS))),
        position=position_token(np.arange(_settles(position_token, POSITIONS))),
        longest_own_ns=float(end[own].max()) if own.any() else 0.0,
        end_ns=codec.last_ns + 1,
    )


def _settles(token, count: int) -> int:  # type: ignore[no-untyped-def]
    """A number from which on a token of `count` values is the last one."""
    number = 1
    while token(np.array([number]))[0] < count - 1:
        number *= 2
    return number + 1


class Columns(NamedTuple):
    """Where what is drawn goes: (m,) each."""

    kind: NDArray[np.int64]
    size: NDArray[np.int64]
    gap: NDArray[np.int64]
    octets: NDArray[np.int64]
    time_ns: NDArray[np.int64]


@njit(cache=True, nogil=True)
def run(
    frozen: FrozenPackets,
    meaning: PacketMeaning,
    stack: NDArray[np.int64],
    start_ns: NDArray[np.int64],
    counts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    offset: NDArray[np.int64],
    order: NDArray[np.int64],
    described: NDArray[np.float32],
    law: NDArray[np.int32],
    budget: NDArray[np.int64],
    generators: NDArray[np.uint64],
    no_packet: tuple[int, int, int],
    out: Columns,
) -> None:
    """Draw the packets of n conversations.

    Args:
        frozen, meaning: the network and the tokens.
        stack, start_ns, counts: (n,) as of `sample_packets.draw_packets`.
        lengths: (n,) packets to draw, at most `counts`.
        offset: (n + 1,) where in `out` they go.
        order: (n,) in which conversations are taken in.
        described: (n, 3 d) of `freeze_conversations`.
        law: (n, COLUMNS) of `lawful.begin_law`; budget: of `lawful.law_budget`. Both are changed.
        generators: (n,) seeds; changed.
        no_packet: kind, size and gap before the first.
        out: is written.
    """
    d, k, s, g = len(frozen.recur), len(frozen.kinds), len(frozen.sizes), len(frozen.gaps)
    slots = min(SLOTS, len(order))
    owner, step = np.empty(slots, np.int64), np.zeros(slots, np.int64)
    previous, now = np.empty((slots, 3), np.int64), np.empty(slots, np.int64)
    last_ns = np.full((slots, 2), -1, np.int64)
    state, gates = np.zeros((slots, d), np.float32), np.empty((slots, 3 * d), np.float32)
    told, seen = np.empty((slots, k + 2 * d), np.float32), np.empty((slots, d), np.float32)
    sized, timed = np.empty((slots, s), np.float32), np.empty((slots, g), np.float32)
    read, reset = np.empty(3 * d, np.float32), np.empty(2 * d, np.float32)
    power = np.empty(max(k, s, g, 3 * d), np.int32)
    may, kind, rows = np.empty(k, np.bool_), np.empty(slots, np.int64), np.empty(slots, np.int64)
    taken = n = 0
    while True:
        while n < slots and taken < len(order):
            c = order[taken]
            taken += 1
            if lengths[c] > 0:
                owner[n], step[n], now[n] = c, 0, start_ns[c]
                previous[n, 0], previous[n, 1], previous[n, 2] = no_packet
                last_ns[n] = -1
                state[n] = 0.0
                n += 1
        if n == 0:
            return
        np.dot(state[:n], frozen.recur, gates[:n])
        for i in range(n):
            _recur(frozen, meaning, i, counts[owner[i]] - step[i], step[i], now[i], previous, described[owner[i]],
                   gates, state, read, reset, power)  # fmt: skip
        np.dot(state[:n], frozen.read, told[:n])
        with_octets = 0
        for i in range(n):
            c = owner[i]
            allow(meaning.rules, law[c], counts[c] - step[i] - 1, budget, meaning.of_stack[stack[c]], may)
            place = meaning.position[min(step[i], len(meaning.position) - 1)]
            at = chance(generators, c)
            kind[i] = _kind(told[i], frozen.kind_bias[place], meaning.of_stack[stack[c]], may, meaning.rules.traits,
                            at, power)  # fmt: skip
            say(meaning.rules, law[c], budget, kind[i])
            if not meaning.is_bare[kind[i]]:
                of_kind = frozen.size_of_kind[frozen.kinds[kind[i]]]
                for j in range(d):
                    seen[with_octets, j] = max(told[i, k + j] + of_kind[j], np.float32(0.0))
                rows[with_octets] = i
                with_octets += 1
        if with_octets:
            np.dot(seen[:with_octets], frozen.size_head, sized[:with_octets])
        for i in range(n):
            _place(out, offset[owner[i]] + step[i], frozen.kinds[kind[i]], meaning.bare_size[kind[i]], 0,
                   meaning.header[kind[i]], now[i])  # fmt: skip
        for r in range(with_octets):
            i = rows[r]
            c, what = owner[i], kind[i]
            bias = frozen.size_bias[meaning.position[min(step[i], len(meaning.position) - 1)]]
            for j in range(s):
                sized[r, j] += bias[j]
            exponentiate(sized[r], s, power)
            size = pick(sized[r], s, chance(generators, c))
            octets = meaning.exact[size]
            if octets < 0:
                octets = _inside(meaning.octets[size], chance(generators, c))
            to = offset[c] + step[i]
            out.size[to] = frozen.sizes[size]
            out.octets[to] = max(octets, meaning.header[what] + (1 if meaning.is_tcp[what] else 0))
        later = 0
        for i in range(n):
            if step[i] == 0:
                continue
            of_kind = frozen.gap_of_kind[frozen.kinds[kind[i]]]
            of_size = frozen.gap_of_size[out.size[offset[owner[i]] + step[i]]]
            for j in range(d):
                seen[later, j] = max(told[i, k + d + j] + of_kind[j] + of_size[j], np.float32(0.0))
            rows[later] = i
            later += 1
        if later:
            np.dot(seen[:later], frozen.gap_head, timed[:later])
        for r in range(later):
            i = rows[r]
            c, to = owner[i], offset[owner[i]] + step[i]
            bias = frozen.gap_bias[meaning.position[min(step[i], len(meaning.position) - 1)]]
            for j in range(g):
                timed[r, j] += bias[j]
            gap, now[i] = _wait(meaning, kind[i], now[i], last_ns[i], timed[r], power, generators, c)
            out.gap[to], out.time_ns[to] = frozen.gaps[gap], now[i]
        for i in range(n):
            to = offset[owner[i]] + step[i]
            last_ns[i, meaning.rules.side[kind[i]]] = now[i]
            previous[i, 0], previous[i, 1], previous[i, 2] = out.kind[to], out.size[to], out.gap[to]
            step[i] += 1
        i = 0
        while i < n:  # who has ended makes room: the last of the row takes the place
            if step[i] < lengths[owner[i]]:
                i += 1
                continue
            n -= 1
            if i < n:
                owner[i], step[i], now[i] = owner[n], step[n], now[n]
                previous[i], last_ns[i], state[i] = previous[n], last_ns[n], state[n]


@njit(cache=True)
def _place(out: Columns, to: int, kind: int, size: int, gap: int, octets: int, time_ns: int) -> None:
    out.kind[to], out.size[to], out.gap[to], out.octets[to], out.time_ns[to] = kind, size, gap, octets, time_ns


@njit(cache=True, fastmath=True, error_model="numpy")
def _recur(
    frozen: FrozenPackets,
    meaning: PacketMeaning,
    i: int,
    left: int,
    step: int,
    now_ns: int,
    previous: NDArray[np.int64],
    described: NDArray[np.float32],
    gates: NDArray[np.float32],
    state: NDArray[np.float32],
    read: NDArray[np.float32],
    reset: NDArray[np.float32],
    power: NDArray[np.int32],
) -> None:
    """One step of slot i's gated recurrent unit (Cho et al. 2014, as torch has it), its state's product made before."""
    d = len(frozen.recur)
    of_kind, of_size = frozen.of_kind[previous[i, 0]], frozen.of_size[previous[i, 1]]
    of_gap = frozen.of_gap[previous[i, 2]]
    of_countdown = frozen.of_countdown[meaning.countdown[min(left, len(meaning.countdown) - 1)]]
    of_position = frozen.of_position[meaning.position[min(step, len(meaning.position) - 1)]]
    of_time_left = frozen.of_time_left[_time_left(meaning.end_ns - now_ns)]
    mine, hidden, bias = gates[i], state[i], frozen.recur_bias
    for j in range(3 * d):
        read[j] = of_kind[j] + of_size[j] + of_gap[j] + of_countdown[j] + of_position[j] + of_time_left[j]
        read[j] += described[j]
    for j in range(2 * d):
        reset[j] = read[j] + mine[j]
    squash(reset, 2 * d, power)
    for j in range(d):
        read[j] = np.float32(2.0) * (read[2 * d + j] + reset[j] * (mine[2 * d + j] + bias[j]))
    squash(read, d, power)  # tanh(x) = 2 logistic(2 x) - 1
    for j in range(d):
        fresh = np.float32(2.0) * read[j] - np.float32(1.0)
        hidden[j] = fresh + reset[d + j] * (hidden[j] - fresh)


@njit(cache=True)
def _time_left(left_ns: int) -> int:
    """`tokens.time_left_token` of one number."""
    return min(int(np.log10(max(left_ns, 10_000) / 1e4) * 4), TIMES_LEFT - 1)


@njit(cache=True)
def _kind(
    logits: NDArray[np.float32],
    bias: NDArray[np.float32],
    otherwise: NDArray[np.bool_],
    may: NDArray[np.bool_],
    traits: NDArray[np.uint32],
    at: float,
    power: NDArray[np.int32],
) -> int:
    """A kind that may be said. What the law forbids must not turn into filler: that stays as likely as it was."""
    k = len(may)
    for j in range(k):
        logits[j] = logits[j] + bias[j] if otherwise[j] else np.float32(-1e9)
    exponentiate(logits, k, power)
    total, lawful = np.float32(0.0), np.float32(0.0)
    for j in range(k):
        if not otherwise[j]:
            logits[j] = 0.0
        total += logits[j]
        if not may[j]:
            logits[j] = 0.0
        lawful += logits[j]
    share = lawful / total
    for j in range(k):
        if traits[j] & IS_FILLER:
            logits[j] *= share
    chosen = pick(logits, k, at)
    return chosen if chosen >= 0 else _first(may)


@njit(cache=True)
def _wait(
    meaning: PacketMeaning,
    kind: int,
    now_ns: int,
    last_ns: NDArray[np.int64],
    logits: NDArray[np.float32],
    power: NDArray[np.int32],
    generators: NDArray[np.uint64],
    c: int,
) -> tuple[int, int]:
    """The gap before a packet of a kind, and the packet's time.

    Gaps that the chunk shows by the packet's clock, that are not over yet, and end before the chunk does, if there are
    such; a gap that would end after it ends anywhere before.
    """
    g = len(meaning.gap_least)
    last = last_ns[meaning.rules.side[kind]]
    elapsed = now_ns - last
    by_own = 1 if meaning.own_clock[kind] and last >= 0 and elapsed < meaning.longest_own_ns else 0
    if by_own == 0:
        elapsed = 0
    left = meaning.end_ns - now_ns
    is_any = False
    active = meaning.gap_active[by_own]
    for j in range(g):
        is_any |= active[j] and meaning.gap_end[j] > elapsed and meaning.gap_least[j] < elapsed + left
    exponentiate(logits, g, power)
    for j in range(g):
        ok = active[j] and meaning.gap_end[j] > elapsed and (not is_any or meaning.gap_least[j] < elapsed + left)
        if not ok:
            logits[j] = 0.0
    gap = pick(logits, g, chance(generators, c))
    if gap < 0:  # this clock has no gap left
        gap = int(np.argmax(meaning.gap_end))
    inside, at = meaning.gap_inside[by_own, gap], chance(generators, c)
    if by_own:
        below = _rank(inside, elapsed)
        at = below + (1 - below) * at
    wait = max(_inside(inside, at), elapsed) - elapsed
    if wait >= left:
        wait = int(left * chance(generators, c))
    return gap, now_ns + wait


@njit(cache=True)
def _inside(quantiles: NDArray[np.float64], at: float) -> int:
    """The value at the rank `at` in [0, 1] of a bin's quantiles."""
    at *= QUANTILES - 1
    low = min(int(at), QUANTILES - 2)
    return int(np.rint(quantiles[low] + (quantiles[low + 1] - quantiles[low]) * (at - low)))


@njit(cache=True)
def _rank(quantiles: NDArray[np.float64], value: float) -> float:
    """The inverse of `_inside`, as `Bins` has it."""
    low = 0
    for q in range(QUANTILES):
        low += quantiles[q] <= value
    low = min(max(low - 1, 0), QUANTILES - 2)
    part = (value - quantiles[low]) / max(quantiles[low + 1] - quantiles[low], 1.0)
    return (low + min(max(part, 0.0), 1.0)) / (QUANTILES - 1)


@njit(cache=True)
def _first(may: NDArray[np.bool_]) -> int:
    for j in range(len(may)):
        if may[j]:
            return j
    return 0
