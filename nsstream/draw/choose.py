"""Choose: each conversation's packets are drawn a few times, and the critic has a say in which stay.

Sampling importance resampling (Rubin 1988): with candidates from the generator and the critic's logit as the log of the
density ratio measured / drawn, choosing a candidate with probability proportional to the ratio brings the drawn
distribution closer to the measured one, wherever the critic sees a difference; `even_out` adds that connections are as
complete as the chunk's. Elephants are drawn once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.draw.even_out import shown_by, weights
from nsstream.encode.codec import Codec
from nsstream.model.checkpoint import Model
from nsstream.model.conversations import Conversations
from nsstream.model.portrait import ELEPHANT, portrait_of_drawn
from nsstream.model.sample_packets import DrawnPackets, draw_packets
from nsstream.model.trees import FIRMEST, choose_by_lot
from nsstream.trace.completeness import COMPLETENESS
from nsstream.trace.conversations import TcpEvent

CANDIDATES: Final = 16
_EVENT: Final = 6  # column of a kind's value, `codec.kind_values`


def draw_chosen(
    model: Model,
    conversations: Conversations,
    rng: np.random.Generator,
    candidates: int = CANDIDATES,
    share: float = 1.0,
) -> DrawnPackets:
    """Draw the packets of n conversations, each the best of so many candidates by lot.

    TCP events come as often as the chunk had them at most: what elephants show is taken off, and conversations go back
    to their first drawing where the lot gave more.

    share: what these n are of the chunk's conversations; its TCP events are bounded in proportion.
    """
    events = np.ceil(np.array(model.codec.endings.events) * share).astype(np.int64)
    attributes, start_ns, counts = conversations.attributes, conversations.start_ns, conversations.counts
    stack = conversations.ends.stack
    packets = draw_packets(model.packets, model.codec, attributes, stack, start_ns, counts, rng, events=events)
    small = np.flatnonzero(counts <= ELEPHANT)
    if not len(small) or candidates == 1:
        return packets
    given = attributes[small], stack[small], start_ns[small], counts[small]
    drawn = [packets.take(small)]
    shown = [_events_of(drawn[0], model.codec)]
    left = np.maximum(events - _events_of(packets, model.codec).sum(axis=0) + shown[0].sum(axis=0), 0)
    for _ in range(candidates - 1):
        drawn.append(draw_packets(model.packets, model.codec, *given, rng, events=left))
        shown.append(_events_of(drawn[-1], model.codec))
    logits = np.stack([model.trees(portrait_of_drawn(d, given[0], model.codec)) for d in drawn], axis=1)
    scores = logits.clip(-FIRMEST, FIRMEST)
    scores += _evened_out(scores, drawn, packets, counts > ELEPHANT, model.codec)
    chosen = choose_by_lot(scores, rng)
    _keep_within(chosen, np.stack(shown, axis=1), left, rng)
    which = np.repeat(chosen, given[3])
    best = {f.name: np.choose(which, [getattr(d, f.name) for d in drawn]) for f in fields(DrawnPackets)[1:]}
    return packets.put(small, DrawnPackets(drawn[0].packet_offset, **best))


def _evened_out(
    scores: NDArray[np.float64],
    drawn: Sequence[DrawnPackets],
    packets: DrawnPackets,
    is_elephant: NDArray[np.bool_],
    codec: Codec,
) -> NDArray[np.float64]:
    """What is added to the scores (n, candidates), so that TCP conversations are as complete as the chunk's."""
    wanted = np.array(codec.endings.completeness, np.int64)
    if not wanted.any():
        return np.zeros_like(scores)
    shown = np.stack([shown_by(d, codec) for d in drawn], axis=1)
    is_tcp = shown[:, 0] > 0
    of_elephants = np.bincount(shown_by(packets, codec)[is_elephant], minlength=COMPLETENESS)
    told = weights(scores[is_tcp], shown[is_tcp], np.maximum(wanted - of_elephants, 0))
    told[0] = 0.0
    out: NDArray[np.float64] = told[shown]
    return out


def _events_of(packets: DrawnPackets, codec: Codec) -> NDArray[np.int64]:
    """How often each of n conversations shows each `TcpEvent`, (n, events); `FRESH` is not counted."""
    n = len(packets.packet_offset) - 1
    owner = np.repeat(np.arange(n), np.diff(packets.packet_offset))
    event = codec.kind.table()[packets.kind, _EVENT]
    out = np.bincount(owner * len(TcpEvent) + event, minlength=n * len(TcpEvent)).reshape(n, len(TcpEvent))
    out[:, TcpEvent.FRESH] = 0
    return out


def _keep_within(
    chosen: NDArray[np.int64], shown: NDArray[np.int64], most: NDArray[np.int64], rng: np.random.Generator
) -> None:
    """Send conversations back to candidate 0, by lot, until no event comes more often than it may.

    Args:
        chosen: (n,) candidates, changed in place.
        shown: (n, candidates, events) how often each shows each.
        most: (events,).
        rng: casts the lot.
    """
    rows = np.arange(len(chosen))
    while True:
        more = shown[rows, chosen] - shown[:, 0]
        over = (shown[:, 0] + more).sum(axis=0) - most
        over[(more <= 0).all(axis=0)] = 0
        event = int(np.argmax(over))
        if over[event] <= 0:
            return
        back = rng.permutation(np.flatnonzero(more[:, event] > 0))
        enough = int(np.searchsorted(np.cumsum(more[back, event]), over[event])) + 1
        chosen[back[:enough]] = 0
