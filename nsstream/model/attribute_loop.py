"""The loop that draws conversations' attributes, compiled: runs of slices side by side, conversation by conversation.

Each run has a random generator of its own; within a run, every conversation is drawn knowing those before it, by the
rules of `attribute_rules`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.encode.bins import value_at
from nsstream.encode.schema import ATTRIBUTE_INDEX, MOMENTS, SLICES
from nsstream.model.attribute_rules import AttributeRules, choose_attribute, is_spelt_out
from nsstream.model.attribute_urns import SAID, AttributeUrns, row_of, weigh
from nsstream.model.frozen_attributes import FrozenAttributes
from nsstream.model.recurrent import Matrix, recur
from nsstream.model.soften import chance

_GAP = ATTRIBUTE_INDEX["start_gap"]
_NONE = np.float32(0.0)


class Runs(NamedTuple):
    """r runs side by side, of a network of width d; whose turn it is in slot i of n is run slot[i].

    Attributes:
        pieces: (p, 4) begin and end in nanoseconds since the chunk's first packet, conversations, slice.
        at, end: (r,) a run's piece, and the one after its last.
        done: (r,) conversations drawn of its piece.
        row: (r,) where its next conversation goes.
        previous_ns: (r,) when its last began, or the piece.
        generators: (r,) seeds; changed.
        urns: what is still to be said; changed.
        slot, moment, room_ns: (r,) by slot: run, part of the chunk, time in which its conversation must begin.
        state, known, summary: (r, d) by slot: the history, that and what is said, the sum of what is said.
        gates, told: (r, 3 d); base, hidden: (r, d); rows: (r,); power: work space.
    """

    pieces: NDArray[np.int64]
    at: NDArray[np.int64]
    end: NDArray[np.int64]
    done: NDArray[np.int64]
    row: NDArray[np.int64]
    previous_ns: NDArray[np.float64]
    generators: NDArray[np.uint64]
    urns: AttributeUrns
    slot: NDArray[np.int64]
    moment: NDArray[np.int64]
    room_ns: NDArray[np.float64]
    state: Matrix
    known: Matrix
    summary: Matrix
    gates: Matrix
    told: Matrix
    base: Matrix
    hidden: Matrix
    rows: NDArray[np.int64]
    power: NDArray[np.int32]


def begin_runs(
    frozen: FrozenAttributes,
    pieces: NDArray[np.int64],
    runs: NDArray[np.int64],
    generators: NDArray[np.uint64],
    urns: AttributeUrns,
) -> Runs:
    """Runs of which nothing is drawn.

    Args:
        frozen: the network.
        pieces: (p, 4) as of `Runs`.
        runs: (r, 3) first piece, last piece + 1, and how many conversations come in runs before.
        generators: (r,) seeds.
        urns: of `attribute_urns`, full.
    """
    r, d = len(runs), len(frozen.recur)

    def numbers(*shape: int) -> Matrix:
        return np.zeros(shape, np.float32)

    return Runs(
        pieces=pieces,
        at=runs[:, 0].copy(),
        end=runs[:, 1].copy(),
        done=np.zeros(r, np.int64),
        row=runs[:, 2].copy(),
        previous_ns=pieces[runs[:, 0], 0].astype(np.float64),
        generators=generators,
        urns=urns,
        slot=np.arange(r),
        moment=np.zeros(r, np.int64),
        room_ns=np.zeros(r, np.float64),
        state=numbers(r, d),
        known=numbers(r, d),
        summary=numbers(r, d),
        gates=numbers(r, 3 * d),
        told=numbers(r, 3 * d),
        base=numbers(r, d),
        hidden=numbers(r, d),
        rows=np.zeros(r, np.int64),
        power=np.zeros(max(3 * d, *(len(tokens) for tokens in frozen.tokens)), np.int32),
    )


@njit(cache=True, nogil=True)
def run(
    frozen: FrozenAttributes,
    rules: AttributeRules,
    runs: Runs,
    attributes: NDArray[np.int64],
    starts: NDArray[np.float64],
) -> None:
    """Draw n conversations.

    Args:
        frozen: the network.
        rules: of the codec.
        runs: of `begin_runs`; changed.
        attributes: (n, a) tokens, written.
        starts: (n,) nanoseconds since the chunk's first packet, written.
    """
    n = len(runs.slot)
    while n > 0:
        np.dot(runs.state[:n], frozen.recur, runs.gates[:n])
        np.dot(runs.summary[:n], frozen.history, runs.told[:n])
        for i in range(n):
            _begin(frozen, rules, runs, i)
        for a in range(len(frozen.tokens)):
            m = _look_at(frozen, rules, runs, a, n, attributes)
            if m:
                np.dot(runs.base[:m], frozen.hidden[a], runs.hidden[:m])
                _think(runs, frozen.hidden_bias[a], m)
                logits = np.dot(runs.hidden[:m], frozen.head[a])
                _say(frozen, rules, runs, a, m, logits, attributes)
            _remember(runs, frozen.said[a], a, n, attributes)
        for i in range(n):
            _start(frozen, rules, runs, i, attributes, starts)
        n = _go_on(runs, n)


@njit(cache=True)
def _begin(frozen: FrozenAttributes, rules: AttributeRules, runs: Runs, i: int) -> None:
    """What slot i knows before its conversation starts: the history, and `tokens.start_features`."""
    b = runs.slot[i]
    piece, done = runs.pieces[runs.at[b]], runs.done[b]
    left_ns = max(piece[1] - runs.previous_ns[b], 1.0)
    later = max(piece[2] - done - 1, 0)
    runs.room_ns[i] = max(left_ns - later * rules.usual_gap_ns, left_ns / (later + 1))
    runs.moment[i] = piece[3] * MOMENTS // SLICES
    told, state = runs.told[i], runs.state[i]
    for j in range(len(told)):
        told[j] += frozen.history_bias[j]
    recur(told, runs.gates[i], frozen.recur_bias, state, runs.power)
    count = np.float32(np.log10(max(piece[2] - done, 1)) / 2)
    left = np.float32(np.log10(max(left_ns, 1e3)) / 4 - 1)
    first = np.float32(1.0 if done == 0 else 0.0)
    length = np.float32(np.log10(max(rules.slice_ns, 1)) / 4 - 1)
    start, moment, known, summary = frozen.start, runs.moment[i], runs.known[i], runs.summary[i]
    for j in range(len(known)):
        known[j] = state[j] + frozen.start_bias[j] + start[4 + moment, j]
        known[j] += count * start[0, j] + left * start[1, j] + first * start[2, j] + length * start[3, j]
        summary[j] = _NONE


@njit(cache=True)
def _look_at(
    frozen: FrozenAttributes, rules: AttributeRules, runs: Runs, a: int, n: int, attributes: NDArray[np.int64]
) -> int:
    """What attribute a's layers read, of the slots that say it: how many are these. The others say 0."""
    m = 0
    for i in range(n):
        tokens, known, base = attributes[runs.row[runs.slot[i]]], runs.known[i], runs.base[m]
        if not is_spelt_out(rules, a, tokens):
            tokens[a] = 0
            continue
        for j in range(len(base)):
            base[j] = _NONE if a == frozen.narrow else known[j]
        if a == frozen.narrow:
            for about in range(len(frozen.narrow_knows)):
                said = frozen.narrow_said[about][tokens[frozen.narrow_knows[about]]]
                for j in range(len(base)):
                    base[j] += said[j]
        runs.rows[m] = i
        m += 1
    return m


@njit(cache=True)
def _think(runs: Runs, bias: Matrix, m: int) -> None:
    """The layer of which m products were made."""
    for r in range(m):
        hidden, base = runs.hidden[r], runs.base[r]
        for j in range(len(bias)):
            hidden[j] = max(hidden[j] + bias[j], _NONE) + base[j]


@njit(cache=True)
def _say(
    frozen: FrozenAttributes,
    rules: AttributeRules,
    runs: Runs,
    a: int,
    m: int,
    logits: Matrix,
    attributes: NDArray[np.int64],
) -> None:
    """Attribute a of the m slots that `_look_at` found."""
    for r in range(m):
        i, weight = runs.rows[r], logits[r]
        b = runs.slot[i]
        tokens, bias = attributes[runs.row[b]], frozen.head_bias[a][runs.moment[i]]
        for j in range(len(weight)):
            weight[j] += bias[j]
        urns, moment = runs.urns, runs.moment[i]
        for urn in range(len(SAID)):
            if SAID[urn] == a:
                row = row_of(urns, urn, moment, tokens)
                if row >= 0:
                    weigh(urns, urn, row, weight)
        at = chance(runs.generators, b)
        tokens[a] = choose_attribute(rules, frozen.tokens[a], a, weight, tokens, runs.room_ns[i], at, runs.power)
        for urn in range(len(SAID)):
            if SAID[urn] == a:
                row = row_of(urns, urn, moment, tokens)
                if row >= 0:
                    urns.wanting[urn][row, np.searchsorted(frozen.tokens[a], tokens[a])] -= 1


@njit(cache=True)
def _remember(runs: Runs, said: Matrix, a: int, n: int, attributes: NDArray[np.int64]) -> None:
    """Attribute a, looked up in `said`, is known from now on."""
    for i in range(n):
        word, known, summary = said[attributes[runs.row[runs.slot[i]], a]], runs.known[i], runs.summary[i]
        for j in range(len(word)):
            known[j] += word[j]
            summary[j] += word[j]


@njit(cache=True)
def _start(
    frozen: FrozenAttributes,
    rules: AttributeRules,
    runs: Runs,
    i: int,
    attributes: NDArray[np.int64],
    starts: NDArray[np.float64],
) -> None:
    """When slot i's conversation starts."""
    b, gaps = runs.slot[i], frozen.tokens[_GAP]
    row, gap = runs.row[b], 0
    while gaps[gap] != attributes[row, _GAP]:
        gap += 1
    wait = value_at(rules.gap_inside[gap], chance(runs.generators, b))
    if wait >= runs.room_ns[i]:
        wait = np.floor(runs.room_ns[i] * chance(runs.generators, b))
    runs.previous_ns[b] += wait
    starts[row] = runs.previous_ns[b]


@njit(cache=True)
def _go_on(runs: Runs, n: int) -> int:
    """Note n conversations. A run that has ended makes room, and the last takes the place: how many are left."""
    for i in range(n):
        b = runs.slot[i]
        runs.row[b] += 1
        runs.done[b] += 1
        if runs.done[b] >= runs.pieces[runs.at[b], 2]:
            runs.at[b] += 1
            runs.done[b] = 0
            if runs.at[b] < runs.end[b]:
                runs.previous_ns[b] = runs.pieces[runs.at[b], 0]
    i = 0
    while i < n:
        if runs.at[runs.slot[i]] < runs.end[runs.slot[i]]:
            i += 1
            continue
        n -= 1
        runs.slot[i] = runs.slot[n]
        for j in range(runs.state.shape[1]):
            runs.state[i, j], runs.summary[i, j] = runs.state[n, j], runs.summary[n, j]
    return n
