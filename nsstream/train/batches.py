"""Batches: tokens of a chunk as padded tensors, drawn at random by a generator.

Packets are learned in windows of at most `WINDOW` packets, so that an elephant costs no more than its share and none
is cut off: a conversation longer than that gives several windows, each with `LEAD` packets of run-up that are read and
not learned. `reading` says which windows a step learns.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nsstream.encode.tokens import ChunkTokens
from nsstream.model.networks import Layout, PacketTokens, no_packet
from nsstream.train.device import CPU, tensor_of

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


@dataclass(frozen=True)
class TensorTokens:
    """A chunk's tokens as tensors of one device, brought there once; shapes and names as of `ChunkTokens`."""

    attributes: Tensor
    start_features: Tensor
    stack: Tensor
    packet_offset: Tensor
    kind: Tensor
    size: Tensor
    gap: Tensor
    needs_size: Tensor
    countdown: Tensor
    position: Tensor
    time_left: Tensor

    @classmethod
    def of(cls, tokens: ChunkTokens, device: torch.device = CPU) -> Self:
        """The tokens there."""
        return cls(**{f.name: tensor_of(getattr(tokens, f.name), device) for f in fields(cls)})

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.kind.device


def packet_batch(tokens: ChunkTokens, windows: Windows, chosen: NDArray[np.int64], layout: Layout) -> PacketTokens:
    """The chosen windows as one padded batch, on the processor."""
    return window_batch(TensorTokens.of(tokens), windows, chosen, layout)


def window_batch(tokens: TensorTokens, windows: Windows, chosen: NDArray[np.int64], layout: Layout) -> PacketTokens:
    """The chosen windows as one padded batch, where the tokens are: the windows' bounds alone travel."""
    bounds = (windows.owner, windows.read_from, windows.learn_from, windows.end)
    told = np.stack([bound[chosen] for bound in bounds])
    length = int((told[3] - told[1]).max())
    owner, read, learn, end = torch.from_numpy(told).to(tokens.device).unbind()
    at = read[:, None] + torch.arange(length, device=tokens.device)
    inside = at < end[:, None]
    at = at.clamp(max=len(tokens.kind) - 1)
    first = tokens.packet_offset[owner]
    lead = (read - 1).clamp(min=0)
    before = torch.stack([tokens.kind[lead], tokens.size[lead], tokens.gap[lead]], dim=1)
    nothing = tensor_of(np.array(no_packet(layout)), tokens.device)
    counts = inside & (at >= learn[:, None])
    running = torch.stack([tokens.countdown[at], tokens.position[at], tokens.time_left[at]], dim=-1)

    def padded(column: Tensor) -> Tensor:
        return column[at].masked_fill(~inside, 0)

    return PacketTokens(
        attributes=tokens.attributes[owner],
        kind=padded(tokens.kind),
        size=padded(tokens.size),
        gap=padded(tokens.gap),
        before=torch.where((read == first)[:, None], nothing, before),
        running=running,
        counts=counts,
        needs_size=counts & tokens.needs_size[at],
        needs_gap=counts & (at > first[:, None]),
    )
