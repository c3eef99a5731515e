"""Choose: each conversation's packets are drawn a few times, and the critic has a say in which stay.

Sampling importance resampling (Rubin 1988): with candidates from the generator and the critic's logit as the log of the
density ratio measured / drawn, choosing a candidate with probability proportional to the ratio brings the drawn
distribution closer to the measured one, wherever the critic sees a difference. Elephants, of which the critic reads but
the first packets, are drawn once.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from nsstream.model.checkpoint import Model
from nsstream.model.critic import READS
from nsstream.model.heads import heads_drawn
from nsstream.model.sample_packets import DrawnPackets, draw_packets

CANDIDATES: Final = 3
ELEPHANT: Final = 8 * READS  # packets
ROWS: Final = 1024  # conversations that the critic reads at a time


def draw_chosen(
    model: Model,
    attributes: NDArray[np.int64],
    stack: NDArray[np.int64],
    start_ns: NDArray[np.int64],
    counts: NDArray[np.int64],
    rng: np.random.Generator,
    generator: torch.Generator,
    *,
    share: float = 1.0,
) -> DrawnPackets:
    """Draw the packets of n conversations; arguments as of `draw_packets`, n rows each.

    share: what these n are of the chunk's conversations; its TCP events are bounded in proportion.
    """
    events = np.ceil(np.array(model.codec.endings.events) * share).astype(np.int64)
    packets = draw_packets(
        model.packets, model.codec, attributes, stack, start_ns, counts, rng, generator, events=events
    )
    small = np.flatnonzero(counts <= ELEPHANT)
    if not len(small):
        return packets
    given = attributes[small], stack[small], start_ns[small], counts[small]
    candidates = [packets.take(small)]
    candidates += [
        draw_packets(model.packets, model.codec, *given, rng, generator, events=events) for _ in range(CANDIDATES - 1)
    ]
    logits = torch.stack([_judge(model, c, given[0], given[3]) for c in candidates], dim=1)
    chosen = torch.multinomial(logits.clamp(-6, 6).softmax(-1), 1, generator=generator)[:, 0].numpy()
    which = np.repeat(chosen, given[3])
    best = {f.name: np.choose(which, [getattr(c, f.name) for c in candidates]) for f in fields(DrawnPackets)[1:]}
    return packets.put(small, DrawnPackets(candidates[0].packet_offset, **best))


@torch.no_grad()
def _judge(
    model: Model, packets: DrawnPackets, attributes: NDArray[np.int64], counts: NDArray[np.int64]
) -> torch.Tensor:
    """The critic's logits (n,)."""
    out = []
    for begin in range(0, len(counts), ROWS):
        rows = np.arange(begin, min(begin + ROWS, len(counts)))
        out.append(model.critic(heads_drawn(packets.take(rows), attributes[rows], counts[rows], model.codec)))
    return torch.cat(out)
