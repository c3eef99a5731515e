"""Batches: tokens of a chunk as padded tensors, drawn at random by a generator.

Packets are learned in windows of at most `WINDOW` packets, so that an elephant costs no more than its share and none
is cut off: a conversation longer than that gives several windows, each with `LEAD` packets of run-up that are read and
not learned. The conversations of a batch are of similar length every other time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from nsstream.encode.tokens import ChunkTokens
from nsstream.model.networks import Layout, PacketTokens, no_packet

WINDOW: Final = 96  # packets learned at a time
LEAD: Final = 16  # packets read before a later window


@dataclass(frozen=True)
class Windows:
    """Windows of packets: conversation, first row read, first row learned, row after the last."""

    owner: NDArray[np.int64]
    read_from: NDArray[np.int64]
    learn_from: NDArray[np.int64]
    end: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.owner)


def cut_windows(tokens: ChunkTokens, rows: NDArray[np.int64]) -> Windows:
    """The windows of these conversations, in order."""
    begin, stop = tokens.packet_offset[rows], tokens.packet_offset[rows + 1]
    pieces = (stop - begin + WINDOW - 1) // WINDOW
    owner = np.repeat(rows, pieces)
    index = np.arange(len(owner)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    first = np.repeat(begin, pieces)
    learn_from = first + index * WINDOW
    return Windows(
        owner=owner,
        read_from=np.maximum(learn_from - LEAD, first),
        learn_from=learn_from,
        end=np.minimum(learn_from + WINDOW, np.repeat(stop, pieces)),
    )


def packet_batch(tokens: ChunkTokens, windows: Windows, chosen: NDArray[np.int64], layout: Layout) -> PacketTokens:
    """The chosen windows as one padded batch."""
    read, end = windows.read_from[chosen], windows.end[chosen]
    owner = windows.owner[chosen]
    length = int((end - read).max())
    at = read[:, None] + np.arange(length)
    inside = at < end[:, None]
    at = np.minimum(at, len(tokens.kind) - 1)
    first = tokens.packet_offset[owner]
    lead = np.maximum(read - 1, 0)
    before = np.stack([tokens.kind[lead], tokens.size[lead], tokens.gap[lead]], axis=1)
    before[read == first] = no_packet(layout)
    counts = inside & (at >= windows.learn_from[chosen][:, None])
    running = np.stack([tokens.countdown[at], tokens.position[at], tokens.time_left[at]], axis=-1)

    def padded(column: NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(np.where(inside, column[at], 0))

    return PacketTokens(
        attributes=torch.from_numpy(tokens.attributes[owner]),
        kind=padded(tokens.kind),
        size=padded(tokens.size),
        gap=padded(tokens.gap),
        before=torch.from_numpy(before),
        running=torch.from_numpy(running),
        counts=torch.from_numpy(counts),
        needs_size=torch.from_numpy(counts & tokens.needs_size[at]),
        needs_gap=torch.from_numpy(counts & (at > first[:, None])),
    )


def choose_windows(windows: Windows, count: int, rng: np.random.Generator, packets: int = 8192) -> NDArray[np.int64]:
    """About `count` windows at random, every other time of similar length; at most `packets` after padding."""
    length = windows.end - windows.read_from
    if rng.random() < 0.5:
        order = np.argsort(length + rng.random(len(windows)), kind="stable")
        centre = int(rng.integers(len(windows)))
        low = max(0, min(centre - count // 2, len(windows) - count))
        chosen = order[low : low + count]
    else:
        chosen = rng.choice(len(windows), size=min(count, len(windows)), replace=False)
    fits = max(1, packets // int(length[chosen].max()))
    return chosen if len(chosen) <= fits else rng.choice(chosen, size=fits, replace=False)
