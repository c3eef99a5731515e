"""One packet's tokens by their logits, compiled: the kind under the law, the size, the gap by the packet's clock.

What the protocols forbid is never said (`lawful`), and a gap is one that the chunk shows by that packet's clock
(`encode.clocks`).
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.encode.bins import rank_of, value_at
from nsstream.model.lawful import IS_FILLER
from nsstream.model.makeup_urns import weigh_kinds, weigh_sizes
from nsstream.model.networks import FORBIDDEN
from nsstream.model.packet_meaning import PacketMeaning
from nsstream.model.profile_urns import ProfileUrns
from nsstream.model.recurrent import Matrix
from nsstream.model.soften import chance, exponentiate, pick
from nsstream.model.wait_urns import WaitUrns, note_wait, time_to_wait, weigh_waits

_NONE, _FORBIDDEN = np.float32(0.0), np.float32(FORBIDDEN)
_HOPELESS = np.float32(60.0)  # what is lawful is less likely than the rest by so many nats, or more
_SCARCE = np.float32(np.exp(-60.0))


@njit(cache=True)
def choose_kind(
    logits: Matrix,
    otherwise: NDArray[np.bool_],
    may: NDArray[np.bool_],
    meaning: PacketMeaning,
    makeup: ProfileUrns,
    urn: int,
    share_left: float,
    at: float,
    power: NDArray[np.int32],
) -> int:
    """A kind that may be said. What the law forbids must not turn into filler: that stays as likely as it was.

    Args:
        logits: (>= k,) of the k kinds; destroyed.
        otherwise: (k,) kinds that go with the conversation's stack.
        may: (k,) those of them that the law allows.
        meaning: of the tokens.
        makeup: of all conversations.
        urn: the row of this one's, -1 if it has none.
        share_left: of the conversation's packets, this one included.
        at: where in [0, 1) of the cumulated weights.
        power: work space of `exponentiate`.
    """
    k, most, lawful_most = len(may), _FORBIDDEN, _FORBIDDEN
    for j in range(k):
        if otherwise[j]:
            most = max(most, logits[j])
        if may[j]:
            lawful_most = max(lawful_most, logits[j])
    is_hopeless = most - lawful_most > _HOPELESS
    for j in range(k):
        if not (may[j] if is_hopeless else otherwise[j]):
            logits[j] = _FORBIDDEN
    exponentiate(logits, k, power)
    if urn >= 0:
        weigh_kinds(makeup, urn, share_left, meaning.rules.side, meaning.is_bare, logits)
    share = _SCARCE
    if not is_hopeless:
        total, lawful = _NONE, _NONE
        for j in range(k):
            total += logits[j]
            if not may[j]:
                logits[j] = _NONE
            lawful += logits[j]
        share = lawful / total
    for j in range(k):
        if meaning.rules.traits[j] & IS_FILLER:
            logits[j] *= share
    return max(pick(logits, k, at), 0)


@njit(cache=True)
def choose_size(
    meaning: PacketMeaning,
    logits: Matrix,
    makeup: ProfileUrns,
    urn: int,
    share_left: float,
    side: int,
    power: NDArray[np.int32],
    generators: NDArray[np.uint64],
    c: int,
) -> tuple[int, int]:
    """Which of s sizes, by its logits (s,), which are destroyed, and the datagram's octets; c's generator decides.

    makeup, urn, share_left: as of `choose_kind`; `side` sends the packet.
    """
    s = len(meaning.exact)
    exponentiate(logits, s, power)
    if urn >= 0:
        weigh_sizes(makeup, urn, share_left, side, meaning.size_step, logits)
    size = max(pick(logits, s, chance(generators, c)), 0)
    octets = meaning.exact[size]
    if octets < 0:
        octets = int(value_at(meaning.octets[size], chance(generators, c)))
    return size, octets


@njit(cache=True)
def choose_gap(
    meaning: PacketMeaning,
    kind: int,
    now_ns: int,
    last_ns: NDArray[np.int64],
    logits: Matrix,
    power: NDArray[np.int32],
    generators: NDArray[np.uint64],
    c: int,
    waits: WaitUrns,
    packets_left: int,
    packets: int,
) -> tuple[int, int]:
    """Which of g gaps comes before a packet of a kind, and the packet's time.

    Gaps that the chunk shows by the packet's clock and that go with its kind, and end before the chunk does, if there
    are such; a gap that would end after it ends anywhere before. What is over already was meant to come at once: it is
    the soonest that may be, not one of the few long ones that are left.

    Args:
        meaning: of the tokens.
        kind: of the k that may be drawn.
        now_ns: when the packet before came.
        last_ns: (2,) when each side last spoke, negative if never.
        logits: (g,); destroyed.
        power: work space of `exponentiate`.
        generators: of all conversations.
        c: the conversation.
        waits: of all conversations; changed.
        packets_left: of the conversation, this one included.
        packets: of it.
    """
    g = len(meaning.gap_least)
    last = last_ns[meaning.rules.side[kind]]
    elapsed = now_ns - last
    by_own = 1 if meaning.own_clock[kind] and last >= 0 and elapsed < meaning.longest_own_ns else 0
    if by_own == 0:
        elapsed = 0
    left, urn = meaning.end_ns - now_ns, waits.urns.row[c]
    if urn >= 0:
        left = time_to_wait(waits, urn, left, packets_left)
    active, shown = meaning.gap_active[by_own], meaning.gap_shown[kind, by_own]
    is_known = is_in_time = is_shown = False
    for j in range(g):
        fits = active[j] and meaning.gap_end[j] > elapsed
        is_known |= fits
        in_time = fits and meaning.gap_least[j] < elapsed + left
        is_in_time |= in_time
        is_shown |= in_time and shown[j]
    soonest = g
    for j in range(g):
        fits = active[j] and (shown[j] or not is_shown)
        if not fits or (is_in_time and meaning.gap_least[j] >= elapsed + left):
            logits[j] = _FORBIDDEN
        elif soonest == g and meaning.gap_end[j] > elapsed:
            soonest = j
    exponentiate(logits, g, power)
    if soonest < g:
        for j in range(soonest):
            logits[soonest] += logits[j]
            logits[j] = _NONE
    if urn >= 0:
        weigh_waits(waits, urn, packets_left / packets)
        step = 0
        for j in range(min(soonest, g - 1), g):
            wait = meaning.gap_middle[j] - elapsed
            while step < len(waits.upper_ns) - 1 and wait >= waits.upper_ns[step]:
                step += 1
            logits[j] *= waits.urns.weight[step]
    gap = max(pick(logits, g, chance(generators, c)), 0) if is_known else g - 1  # this clock has no gap left
    inside, at = meaning.gap_inside[meaning.gap_shape[kind, by_own, gap]], chance(generators, c)
    if by_own:
        below = rank_of(inside, elapsed)
        at = below + (1 - below) * at
    wait = max(int(value_at(inside, at)), elapsed) - elapsed
    if wait >= left:
        wait = int(left * chance(generators, c))
    if urn >= 0:
        note_wait(waits, urn, wait)
    return gap, now_ns + wait
