"""The critic: tells whole conversations that were measured from ones that were drawn.

It reads a conversation's attributes and its first `READS` packets, with the running totals that a detector would look
at, and gives one logit: log D / (1 - D), an estimate of the log density ratio measured / drawn (Goodfellow et al. 2014,
proposition 1).
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from nsstream.model.networks import Layout, PacketTokens, sum_of_embeddings

READS: Final = 48  # packets


class Critic(nn.Module):
    """One logit a conversation."""

    def __init__(self, layout: Layout, width: int = 96) -> None:
        super().__init__()
        self.attribute = nn.ModuleList(nn.Embedding(size, 32) for size in layout.attributes)
        self.kind = nn.Embedding(layout.kinds, 24)
        self.size = nn.Embedding(layout.sizes, 24)
        self.gap = nn.Embedding(layout.gaps, 16)
        self.running = nn.Embedding(layout.countdowns, 16)
        self.described = nn.Linear(32, 32)
        self.recur = nn.GRU(24 + 24 + 16 + 16 + 32, width, batch_first=True)
        self.judge = nn.Sequential(nn.Linear(2 * width + 32, width), nn.LeakyReLU(0.2), nn.Linear(width, 1))
        self.drop = nn.Dropout(0.2)

    def forward(self, batch: PacketTokens) -> Tensor:
        """Logits (n,) of a batch of whole conversations, of which the first `READS` packets are read."""
        described = torch.relu(self.described(sum_of_embeddings(self.attribute, batch.attributes)))  # (n, 32)
        t = min(READS, batch.kind.shape[1])
        here = batch.counts[:, :t, None]
        parts = [
            self.kind(batch.kind[:, :t]),
            self.size(batch.size[:, :t]),
            self.gap(batch.gap[:, :t]),
            self.running(batch.running[:, :t, 0]),
            described[:, None].expand(-1, t, -1),
        ]
        h, _ = self.recur(self.drop(torch.cat(parts, dim=-1)))  # (n, t, d)
        mean = (h * here).sum(1) / here.sum(1)
        most = h.masked_fill(~here, float("-inf")).amax(1)
        out: Tensor = self.judge(torch.cat([mean, most, described], dim=-1))[:, 0]
        return out
