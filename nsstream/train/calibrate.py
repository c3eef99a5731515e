"""Calibrate: corrections to the logits, so that what is drawn has the chunk's own frequencies.

A network that feeds on what it said drifts: each conversation is likely after those before it, and yet some hosts come
too often. The chunk's frequencies are known, so tokens are drawn, counted, and each token's logit is moved by the log
ratio of what should have come to what came (a fixed-point form of iterative proportional fitting, Deming and Stephan
1940), a few times over. Attributes are counted by moment of the chunk; packets' kinds, sizes and gaps by position in
their conversation.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nsstream.encode.codec import Codec, slice_of
from nsstream.encode.tokens import ChunkTokens, moment_of
from nsstream.model.critic import READS
from nsstream.model.networks import AttributeNetwork, PacketNetwork
from nsstream.model.sample_attributes import draw_attributes
from nsstream.model.sample_packets import draw_packets

ROUNDS: Final = 4
FIRMNESS: Final = 0.7  # how much of the log ratio is applied a round
PRIOR: Final = 1.0  # added to every count, so that rare tokens move little
FURTHEST: Final = 3.0  # no logit is moved by more


def reset_corrections(networks: nn.ModuleDict) -> None:
    """Forget the corrections of a parent's chunk."""
    for name, weight in networks.named_parameters():
        if ".correction." in name:
            weight.data.zero_()


@torch.no_grad()
def calibrate_attributes(
    network: AttributeNetwork, tokens: ChunkTokens, codec: Codec, rng: np.random.Generator
) -> None:
    """Correct the attribute network, in evaluation mode, to the chunk's counts by moment."""
    wanted_at = moment_of(slice_of(tokens.start_ns, codec.first_ns, codec.last_ns))
    for _ in range(ROUNDS):
        attributes, start_ns = draw_attributes(network, codec, rng)
        came_at = moment_of(slice_of(start_ns, codec.first_ns, codec.last_ns))
        for i, table in enumerate(network.correction):
            wanted = count_tokens(wanted_at, tokens.attributes[:, i], table)
            correct(table, wanted, count_tokens(came_at, attributes[:, i], table))


@torch.no_grad()
def calibrate_packets(
    network: PacketNetwork,
    tokens: ChunkTokens,
    codec: Codec,
    rows: NDArray[np.int64],
    rng: np.random.Generator,
) -> None:
    """Correct the packet network, in evaluation mode, to the counts by position of these measured conversations."""
    counts = np.diff(tokens.packet_offset)[rows]
    length = np.minimum(counts, READS)
    begin = np.repeat(tokens.packet_offset[rows], length)
    index = np.arange(len(begin)) - np.repeat(np.cumsum(length) - length, length)
    measured = begin + index
    place = tokens.position[measured]
    for _ in range(ROUNDS):
        drawn = draw_packets(
            network, codec, tokens.attributes[rows], tokens.stack[rows], tokens.start_ns[rows], counts, rng,
            most=READS,
        )  # fmt: skip
        sized, timed = tokens.needs_size[measured], index > 0
        drawn_sized = (codec.kind.table()[:, 5] > 0)[drawn.kind]
        columns = (
            (tokens.kind, drawn.kind, np.ones(len(index), bool), np.ones(len(index), bool)),
            (tokens.size, drawn.size, sized, drawn_sized),
            (tokens.gap, drawn.gap, timed, timed),
        )
        for table, (real, came, counts_real, counts_came) in zip(network.correction, columns, strict=True):
            wanted = count_tokens(place[counts_real], real[measured][counts_real], table)
            correct(table, wanted, count_tokens(place[counts_came], came[counts_came], table))


def count_tokens(at: NDArray[np.int64], token: NDArray[np.int64], table: torch.Tensor) -> NDArray[np.float64]:
    """How often each token (n,) stands at each place (n,): the shape of the table."""
    places, size = table.shape
    counts: NDArray[np.int64] = np.bincount(at * size + token, minlength=places * size)
    return counts.reshape(places, size).astype(np.float64)


def correct(table: torch.Tensor, wanted: NDArray[np.float64], came: NDArray[np.float64]) -> None:
    """Move a table of corrections towards what should have come, given what came; both of its shape."""
    came = came * (wanted.sum(axis=1, keepdims=True) / np.maximum(came.sum(axis=1, keepdims=True), 1))
    overall = (wanted.sum(axis=0) + PRIOR) / (came.sum(axis=0) + PRIOR)  # first everywhere alike: rare tokens need it
    ratio = np.log(overall) + np.log((wanted + PRIOR) / (came * overall + PRIOR))
    table.add_(torch.from_numpy((FIRMNESS * ratio).astype(np.float32))).clamp_(-FURTHEST, FURTHEST)
