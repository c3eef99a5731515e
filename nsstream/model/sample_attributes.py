"""Attributes of new conversations, and when they start.

The volume of the chunk is given: the codec's profile says how many conversations start in each slice. Runs of slices
are drawn side by side as the rows of one batch; within a row, conversation follows conversation.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nsstream.encode.codec import Codec, slice_starts
from nsstream.encode.encoding import allowed_attributes, hosts_by_family, services_by_family
from nsstream.encode.schema import ATTRIBUTE_INDEX, HOST_SLOTS
from nsstream.encode.tokens import moment_of, start_features
from nsstream.model.networks import FORBIDDEN, AttributeNetwork

ROW_CONVERSATIONS: Final = 256  # a row of the batch takes slices until it has as many
_GAP: Final = ATTRIBUTE_INDEX["start_gap"]
_INITIATOR: Final = ATTRIBUTE_INDEX["initiator_host"]
_SERVICE: Final = ATTRIBUTE_INDEX["service"]
_RESPONDER: Final = ATTRIBUTE_INDEX["responder_host"]


@torch.no_grad()
def draw_attributes(
    network: AttributeNetwork, codec: Codec, rng: np.random.Generator, generator: torch.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw one chunk's conversations: attributes (n, a) and start times (n,) in nanoseconds, in order of start."""
    pieces = _pieces(codec)  # times since the chunk's first packet, which a float holds to the nanosecond
    rows = _rows(pieces[:, 2])
    law = AttributeLaw(codec)
    batch = len(rows)
    at, done = np.array([r[0] for r in rows]), np.zeros(batch, np.int64)
    last = np.array([r[1] for r in rows])
    previous = pieces[at, 0].astype(np.float64)
    usual_ns = float(codec.start_gap.sample(1)[0])
    state = torch.zeros(1, batch, network.width)
    summary = torch.zeros(batch, 1, network.width)
    attributes, starts, ranks = [], [], []
    for step in range(int(max(pieces[a:b, 2].sum() for a, b in rows))):
        alive = at < last
        where = np.minimum(at, last - 1)
        piece = pieces[where]
        left_ns = np.maximum(piece[:, 1] - previous, 1.0)
        features = start_features(
            piece[:, 3], np.maximum(piece[:, 2] - done, 1).astype(np.float64), left_ns, done == 0, int(codec.slice_ns)
        )
        known, state = network.history(summary, state)
        moment = torch.from_numpy(moment_of(piece[:, 3]))
        later = np.maximum(piece[:, 2] - done - 1, 0)  # conversations of the piece that are still to come need room
        room_ns = np.maximum(left_ns - later * usual_ns, left_ns / (later + 1))
        tokens, summary = _say(network, known[:, 0], features, moment, law, torch.from_numpy(room_ns), generator)
        gap = codec.start_gap.draw(tokens[:, _GAP].numpy(), rng)
        start = previous + np.where(gap < room_ns, gap, np.floor(room_ns * rng.random(batch)))
        attributes.append(tokens.numpy()[alive])
        starts.append(start[alive])
        ranks.append(where[alive] * (1 << 32) + step)
        previous, done = np.where(alive, start, previous), done + alive
        over = alive & (done >= piece[:, 2])
        at, done = at + over, np.where(over, 0, done)
        previous = np.where(over & (at < last), pieces[np.minimum(at, len(pieces) - 1), 0], previous)
    order = np.argsort(np.concatenate(ranks), kind="stable")
    start_ns = codec.first_ns + np.concatenate(starts)[order].astype(np.int64)
    start_ns[0] = codec.first_ns  # the chunk's first packet is somebody's first
    return np.concatenate(attributes)[order], start_ns


def _say(
    network: AttributeNetwork,
    known: Tensor,
    features: NDArray[np.float32],
    moment: Tensor,
    law: AttributeLaw,
    room_ns: Tensor,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """One conversation a row: tokens (n, a) and their summary (n, 1, d) for the history."""
    known = known + network.start(torch.from_numpy(features))
    tokens = torch.zeros(len(known), len(law.masks), dtype=torch.int64)
    summary = torch.zeros_like(known)
    for i in range(len(law.masks)):
        logits = network.logits(i, known, tokens) + network.correction[i][moment]
        logits = logits.masked_fill(~law.allowed(i, tokens, room_ns), FORBIDDEN)
        tokens[:, i] = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
        said = network.said[i](tokens[:, i])
        known, summary = known + said, summary + said
    return tokens, summary[:, None]


class AttributeLaw:
    """Which attribute tokens may be said, given those before.

    Rules: what the codec cannot decode is never said; no conversation starts so late that those after it in the slice
    have no room; the service and the responder are of the initiator's IP family; nobody talks to itself, unless the
    chunk shows that.
    """

    def __init__(self, codec: Codec) -> None:
        self.masks = [torch.from_numpy(m) for m in allowed_attributes(codec)]
        self._gap_edges = torch.from_numpy(codec.start_gap.grid.edges)
        self._talks_to_itself = codec.talks_to_itself
        self._hosts = torch.from_numpy(hosts_by_family(codec))
        self._services = torch.from_numpy(services_by_family(codec))

    def allowed(self, i: int, tokens: Tensor, room_ns: Tensor) -> Tensor:
        """Tokens that attribute i may have (n, size_i) after the tokens (n, a) before it."""
        may = self.masks[i].expand(len(tokens), -1)
        if i == _GAP:
            may = may & ((self._gap_edges < room_ns[:, None]) | (self._gap_edges == 0))
        elif i in (_SERVICE, _RESPONDER):
            initiator = tokens[:, _INITIATOR]
            family = self._hosts[1, initiator].long()
            within = may & (self._services if i == _SERVICE else self._hosts)[family]
            if i == _RESPONDER and not self._talks_to_itself:
                itself = torch.arange(may.shape[1]) == initiator[:, None]
                within &= ~(itself & (initiator < HOST_SLOTS)[:, None])
            may = torch.where(within.any(-1, keepdim=True), within, may)
        return may


def _pieces(codec: Codec) -> NDArray[np.int64]:
    """Slices that hold something, the full ones cut evenly: rows of begin, end, conversations, slice."""
    edges = slice_starts(codec.first_ns, codec.last_ns) - codec.first_ns
    out = []
    for where, (begin, end, count) in enumerate(zip(edges[:-1], edges[1:], codec.profile, strict=True)):
        parts = min(-(-int(count) // (2 * ROW_CONVERSATIONS)), max(1, int(end - begin)))
        for i in range(parts):
            share = int(count) * (i + 1) // parts - int(count) * i // parts
            out.append((begin + (end - begin) * i // parts, begin + (end - begin) * (i + 1) // parts, share, where))
    return np.array(out, np.int64).reshape(-1, 4)


def _rows(counts: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Runs of pieces with at least `ROW_CONVERSATIONS` conversations each: first and last + 1."""
    rows, begin, total = [], 0, 0
    for i, count in enumerate(counts):
        total += int(count)
        if total >= ROW_CONVERSATIONS or i == len(counts) - 1:
            rows.append((begin, i + 1))
            begin, total = i + 1, 0
    return rows
