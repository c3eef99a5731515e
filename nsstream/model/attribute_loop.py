"""The loop that draws conversations' attributes, compiled: runs of slices side by side, conversation after conversation.

Each run has a random generator of its own; within a run, every conversation is drawn knowing those before it.

Rules: what the codec cannot decode is never said; no conversation starts so late that those after it in the slice have
no room; the service and the responder are of the initiator's IP family; nobody talks to itself, unless the chunk shows
that; a port is spelt out only where the service does not name it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from nsstream.encode.bins import QUANTILES
from nsstream.encode.codec import Codec
from nsstream.encode.encoding import allowed_attributes, hosts_by_family, services_by_family
from nsstream.encode.schema import ATTRIBUTE_INDEX, HOST_SLOTS, MOMENTS, RARE_PORT, SERVICE_SLOTS, SLICES
from nsstream.model.networks import AttributeNetwork
from nsstream.model.soften import chance, exponentiate, pick, squash

Matrix = NDArray[np.float32]
_GAP, _INITIATOR, _SERVICE, _RESPONDER, _PORT_HIGH, _PORT_LOW = (
    ATTRIBUTE_INDEX[name]
    for name in (
        "start_gap", "initiator_host", "service", "responder_host", "responder_port_high", "responder_port_low",
    )
)  # fmt: skip


class FrozenAttributes(NamedTuple):
    """An `AttributeNetwork` of width d; one array an attribute i with a_i tokens, of which t_i may be drawn.

    Attributes:
        tokens: (t_i,) rising.
        said: (a_i, d); narrow_said: (a_j, d) for each j of narrow_knows; narrow: which attribute knows only those.
        history, recur: (d, 3 d) from summary and state to gates; history_bias (3 d,), recur_bias (d,).
        start: (features, d); start_bias: (d,).
        hidden: (d, d); hidden_bias: (d,); head: (d, t_i); head_bias: (moments, t_i).
    """

    tokens: tuple[NDArray[np.int64], ...]
    said: tuple[Matrix, ...]
    narrow: int
    narrow_knows: tuple[int, ...]
    narrow_said: tuple[Matrix, ...]
    history: Matrix
    recur: Matrix
    history_bias: Matrix
    recur_bias: Matrix
    start: Matrix
    start_bias: Matrix
    hidden: tuple[Matrix, ...]
    hidden_bias: tuple[Matrix, ...]
    head: tuple[Matrix, ...]
    head_bias: tuple[Matrix, ...]


class AttributeRules(NamedTuple):
    """What a codec knows of attributes.

    Attributes:
        gap_least: edge of each gap that may be drawn, nanoseconds; gap_inside: (gaps, QUANTILES).
        host_is_ipv6: of each host token; initiator_*: of those that may be drawn, likewise service and responder.
        is_rare_port: of each service token, whether its port is spelt out.
        talks_to_itself: whether an address is both ends.
        slice_ns: length of a slice; usual_gap_ns: between two starts.
    """

    gap_least: NDArray[np.float64]
    gap_inside: NDArray[np.float64]
    host_is_ipv6: NDArray[np.bool_]
    host_families: NDArray[np.bool_]
    service_families: NDArray[np.bool_]
    is_rare_port: NDArray[np.bool_]
    talks_to_itself: bool
    slice_ns: int
    usual_gap_ns: float


@torch.no_grad()
def freeze_attributes(network: AttributeNetwork, codec: Codec) -> FrozenAttributes:
    """The matrices of a network for a chunk's tokens."""
    d, masks = network.width, [np.flatnonzero(m) for m in allowed_attributes(codec)]
    bias = network.history.bias_ih_l0.clone()
    bias[: 2 * d] += network.history.bias_hh_l0[: 2 * d]
    corrected = [h.bias + c for h, c in zip(network.head, network.correction, strict=True)]
    return FrozenAttributes(
        tokens=tuple(masks),
        said=_all(table.weight for table in network.said),
        narrow=network.layout.narrow,
        narrow_knows=tuple(network.layout.narrow_knows),
        narrow_said=_all(table.weight for table in network.narrow_said),
        history=_numpy(network.history.weight_ih_l0.T),
        recur=_numpy(network.history.weight_hh_l0.T),
        history_bias=_numpy(bias),
        recur_bias=_numpy(network.history.bias_hh_l0[2 * d :]),
        start=_numpy(network.start.weight.T),
        start_bias=_numpy(network.start.bias),
        hidden=_all(layer.weight.T for layer in network.hidden),
        hidden_bias=_all(layer.bias for layer in network.hidden),
        head=_all(layer.weight[may].T for layer, may in zip(network.head, masks, strict=True)),
        head_bias=_all(bias[:, may] for bias, may in zip(corrected, masks, strict=True)),
    )


def attribute_rules(codec: Codec, frozen: FrozenAttributes) -> AttributeRules:
    """What the codec knows, for the tokens of a frozen network."""
    gaps, hosts, services = frozen.tokens[_GAP], hosts_by_family(codec), services_by_family(codec)
    port = codec.service.table()[:, 3]
    return AttributeRules(
        gap_least=codec.start_gap.grid.edges[gaps],
        gap_inside=codec.start_gap.quantiles[gaps],
        host_is_ipv6=hosts[1],
        host_families=np.ascontiguousarray(hosts[:, frozen.tokens[_RESPONDER]]),
        service_families=np.ascontiguousarray(services[:, frozen.tokens[_SERVICE]]),
        is_rare_port=port[:SERVICE_SLOTS] == RARE_PORT,
        talks_to_itself=codec.talks_to_itself,
        slice_ns=int(codec.slice_ns),
        usual_gap_ns=float(codec.start_gap.sample(1)[0]),
    )


@njit(cache=True, nogil=True)
def run(
    frozen: FrozenAttributes,
    rules: AttributeRules,
    pieces: NDArray[np.int64],
    runs: NDArray[np.int64],
    generators: NDArray[np.uint64],
    attributes: NDArray[np.int64],
    starts: NDArray[np.float64],
) -> None:
    """Draw n conversations.

    Args:
        frozen, rules: the network and the tokens.
        pieces: (p, 4) begin and end in nanoseconds since the chunk's first packet, conversations, slice.
        runs: (r, 3) first piece, last piece + 1, and how many conversations come in runs before.
        generators: (r,) seeds; changed.
        attributes: (n, a) tokens, written; starts: (n,) nanoseconds since the chunk's first packet, written.
    """
    d, r = len(frozen.recur), len(runs)
    at, row, done = runs[:, 0].copy(), runs[:, 2].copy(), np.zeros(r, np.int64)
    previous, room = np.empty(r, np.float64), np.empty(r, np.float64)
    moment, slot = np.empty(r, np.int64), np.arange(r)
    state, summary = np.zeros((r, d), np.float32), np.zeros((r, d), np.float32)
    known, gates, told = (
        np.empty((r, d), np.float32),
        np.empty((r, 3 * d), np.float32),
        np.empty((r, 3 * d), np.float32),
    )
    most = 0
    for head in frozen.head_bias:
        most = max(most, head.shape[1])
    power = np.empty(max(most, 3 * d), np.int32)
    for b in range(r):
        previous[b] = pieces[at[b], 0]
    n = r
    while n > 0:
        np.dot(state[:n], frozen.recur, gates[:n])
        np.dot(summary[:n], frozen.history, told[:n])
        for i in range(n):
            b = slot[i]
            left = max(pieces[at[b], 1] - previous[b], 1.0)
            later = max(pieces[at[b], 2] - done[b] - 1, 0)
            room[i] = max(left - later * rules.usual_gap_ns, left / (later + 1))
            moment[i] = pieces[at[b], 3] * MOMENTS // SLICES
            _remember(frozen, told[i], gates[i], state[i], power)
            _begin(frozen, known[i], state[i], max(pieces[at[b], 2] - done[b], 1), left, done[b] == 0, rules.slice_ns,
                   moment[i])  # fmt: skip
            summary[i] = 0.0
        _say_all(frozen, rules, slot[:n], row, room, moment, known[:n], summary[:n], generators, attributes, power)
        for i in range(n):
            b = slot[i]
            gap = rules.gap_inside[np.searchsorted(frozen.tokens[_GAP], attributes[row[b], _GAP])]
            wait = _inside(gap, chance(generators, b))
            start = previous[b] + (wait if wait < room[i] else np.floor(room[i] * chance(generators, b)))
            starts[row[b]] = previous[b] = start
            row[b] += 1
            done[b] += 1
            if done[b] >= pieces[at[b], 2]:
                at[b] += 1
                done[b] = 0
                if at[b] < runs[b, 1]:
                    previous[b] = pieces[at[b], 0]
        i = 0
        while i < n:
            if at[slot[i]] < runs[slot[i], 1]:
                i += 1
                continue
            n -= 1
            slot[i], state[i], summary[i] = slot[n], state[n], summary[n]


@njit(cache=True)
def _say_all(
    frozen: FrozenAttributes,
    rules: AttributeRules,
    slot: NDArray[np.int64],
    row: NDArray[np.int64],
    room: NDArray[np.float64],
    moment: NDArray[np.int64],
    known: NDArray[np.float32],
    summary: NDArray[np.float32],
    generators: NDArray[np.uint64],
    attributes: NDArray[np.int64],
    power: NDArray[np.int32],
) -> None:
    """One conversation of each of n runs, attribute by attribute; its summary is added up."""
    n, d = known.shape
    base, hidden = np.empty((n, d), np.float32), np.empty((n, d), np.float32)
    rows = np.empty(n, np.int64)
    for a in range(len(frozen.tokens)):
        m = 0
        for i in range(n):
            tokens = attributes[row[slot[i]]]
            if a in (_PORT_HIGH, _PORT_LOW) and not rules.is_rare_port[tokens[_SERVICE]]:
                tokens[a] = 0
            else:
                if a == frozen.narrow:
                    base[m] = 0.0
                    for j in range(len(frozen.narrow_knows)):
                        base[m] += frozen.narrow_said[j][tokens[frozen.narrow_knows[j]]]
                else:
                    base[m] = known[i]
                rows[m] = i
                m += 1
        if m:
            np.dot(base[:m], frozen.hidden[a], hidden[:m])
            bias = frozen.hidden_bias[a]
            for r in range(m):
                for j in range(d):
                    hidden[r, j] = max(hidden[r, j] + bias[j], np.float32(0.0)) + base[r, j]
            logits = np.dot(hidden[:m], frozen.head[a])
            for r in range(m):
                i = rows[r]
                tokens = attributes[row[slot[i]]]
                at = chance(generators, slot[i])
                tokens[a] = _token(frozen, rules, a, logits[r], moment[i], tokens, room[i], at, power)
        for i in range(n):
            said = frozen.said[a][attributes[row[slot[i]], a]]
            for j in range(d):
                known[i, j] += said[j]
                summary[i, j] += said[j]


@njit(cache=True)
def _token(
    frozen: FrozenAttributes,
    rules: AttributeRules,
    a: int,
    logits: NDArray[np.float32],
    moment: int,
    said: NDArray[np.int64],
    room: float,
    at: float,
    power: NDArray[np.int32],
) -> int:
    """A token of attribute a, given those said before it."""
    tokens, bias, t = frozen.tokens[a], frozen.head_bias[a][moment], len(logits)
    for j in range(t):
        logits[j] += bias[j]
    exponentiate(logits, t, power)
    if a == _GAP:
        for j in range(t):
            if rules.gap_least[j] >= room and rules.gap_least[j] != 0:
                logits[j] = 0.0
    elif a in (_SERVICE, _RESPONDER):
        family = 1 if rules.host_is_ipv6[said[_INITIATOR]] else 0
        fits = rules.service_families[family] if a == _SERVICE else rules.host_families[family]
        itself = -1 if a == _SERVICE or rules.talks_to_itself or said[_INITIATOR] >= HOST_SLOTS else said[_INITIATOR]
        is_any = False
        for j in range(t):
            is_any |= fits[j] and tokens[j] != itself
        if is_any:
            for j in range(t):
                if not fits[j] or tokens[j] == itself:
                    logits[j] = 0.0
    chosen = pick(logits, t, at)
    return tokens[max(chosen, 0)]


@njit(cache=True, fastmath=True, error_model="numpy")
def _remember(
    frozen: FrozenAttributes,
    told: NDArray[np.float32],
    gates: NDArray[np.float32],
    state: NDArray[np.float32],
    power: NDArray[np.int32],
) -> None:
    """One step of the history's gated recurrent unit; both matrix products were made before."""
    d, bias = len(state), frozen.recur_bias
    for j in range(3 * d):
        told[j] += frozen.history_bias[j]
    for j in range(2 * d):
        gates[j] += told[j]
    squash(gates, 2 * d, power)
    for j in range(d):
        told[j] = np.float32(2.0) * (told[2 * d + j] + gates[j] * (gates[2 * d + j] + bias[j]))
    squash(told, d, power)
    for j in range(d):
        fresh = np.float32(2.0) * told[j] - np.float32(1.0)
        state[j] = fresh + gates[d + j] * (state[j] - fresh)


@njit(cache=True)
def _begin(
    frozen: FrozenAttributes,
    known: NDArray[np.float32],
    state: NDArray[np.float32],
    left_in_slice: int,
    slice_left_ns: float,
    is_first: bool,
    slice_ns: int,
    moment: int,
) -> None:
    """What is known before a conversation starts: the history and `tokens.start_features`."""
    a = np.float32(np.log10(left_in_slice) / 2)
    b = np.float32(np.log10(max(slice_left_ns, 1e3)) / 4 - 1)
    c = np.float32(1.0 if is_first else 0.0)
    e = np.float32(np.log10(max(slice_ns, 1)) / 4 - 1)
    start = frozen.start
    for j in range(len(known)):
        known[j] = state[j] + frozen.start_bias[j] + start[4 + moment, j]
        known[j] += a * start[0, j] + b * start[1, j] + c * start[2, j] + e * start[3, j]


@njit(cache=True)
def _inside(quantiles: NDArray[np.float64], at: float) -> float:
    """The value at the rank `at` in [0, 1] of a bin's quantiles."""
    at *= QUANTILES - 1
    low = min(int(at), QUANTILES - 2)
    return np.rint(quantiles[low] + (quantiles[low + 1] - quantiles[low]) * (at - low))


def _all(tensors) -> tuple[Matrix, ...]:  # type: ignore[no-untyped-def]
    return tuple(_numpy(t) for t in tensors)


def _numpy(tensor: Tensor) -> Matrix:
    return np.ascontiguousarray(tensor.detach().numpy())
