"""Choose: each conversation's packets are drawn a few times, and the critic has a say in which stay.

Sampling importance resampling (Rubin 1988): with candidates from the generator and the critic's logit as the log of the
density ratio measured / drawn, choosing a candidate with probability proportional to the ratio brings the drawn
distribution closer to the measured one, wherever the critic sees a difference. Elephants are drawn once.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Final

import numpy as np

from nsstream.model.checkpoint import Model
from nsstream.model.conversations import Conversations
from nsstream.model.portrait import portrait_of_drawn
from nsstream.model.sample_packets import DrawnPackets, draw_packets

CANDIDATES: Final = 8
ELEPHANT: Final = 384  # packets
FIRMEST: Final = 12.0  # no logit counts for more


def draw_chosen(
    model: Model,
    conversations: Conversations,
    rng: np.random.Generator,
    candidates: int = CANDIDATES,
    share: float = 1.0,
) -> DrawnPackets:
    """Draw the packets of n conversations, each the best of so many candidates by lot.

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
    drawn += [draw_packets(model.packets, model.codec, *given, rng, events=events) for _ in range(candidates - 1)]
    logits = np.stack([model.trees(portrait_of_drawn(d, given[0], model.codec)) for d in drawn], axis=1)
    chosen = np.argmax(logits.clip(-FIRMEST, FIRMEST) + rng.gumbel(size=logits.shape), axis=1)
    which = np.repeat(chosen, given[3])
    best = {f.name: np.choose(which, [getattr(d, f.name) for d in drawn]) for f in fields(DrawnPackets)[1:]}
    return packets.put(small, DrawnPackets(drawn[0].packet_offset, **best))
