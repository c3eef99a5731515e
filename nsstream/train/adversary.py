"""The adversary: a critic tells drawn conversations from measured ones, and the generator learns from what it says.

Packets are discrete, so the critic's judgement reaches the generator as a weight and not as a gradient: each of a few
conversations is drawn `group_size` times with the same attributes, each drawing is weighted by the critic's estimate of
the density ratio, normalised in the group, less the mean weight (Che et al. 2017, eq. 8, with the group for a batch).
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nsstream.encode.codec import Codec
from nsstream.encode.tokens import ChunkTokens
from nsstream.model.critic import READS, Critic
from nsstream.model.heads import heads_drawn
from nsstream.model.networks import PacketNetwork, PacketTokens
from nsstream.model.sample_packets import draw_packets
from nsstream.train.device import CPU, device_of


def critic_loss(critic: Critic, measured: PacketTokens, drawn: PacketTokens) -> Tensor:
    """Binary cross-entropy of the critic, both sides weighing the same: result ()."""
    real, fake = critic(measured), critic(drawn)
    return 0.5 * (nn.functional.softplus(-real).mean() + nn.functional.softplus(fake).mean())


def group_weights(critic: Critic, drawn: PacketTokens, group_size: int) -> Tensor:
    """Weights (n,) of drawings, groups one after the other: softmax of the logits in the group less 1 / group_size."""
    with torch.no_grad():
        logits = critic(drawn).view(-1, group_size)
    weights: Tensor = logits.clamp(-4, 4).softmax(-1) - 1 / group_size
    return weights.flatten()


def adversary_loss(network: PacketNetwork, drawn: PacketTokens, weights: Tensor, allowed: Tensor) -> Tensor:
    """MaliGAN's loss (): minus the weighted log-likelihood of the drawings, a packet; allowed (n, kinds)."""
    nll = network.loss(drawn, allowed).sum(-1)
    scale = len(weights) / weights.abs().sum().clamp(min=1e-3)
    out: Tensor = (weights * nll).sum() / drawn.counts.sum() * scale
    return out


def draw_groups(
    network: PacketNetwork,
    tokens: ChunkTokens,
    codec: Codec,
    rows: NDArray[np.int64],
    group_size: int,
    rng: np.random.Generator,
) -> PacketTokens:
    """Draw the packets of measured conversations anew, `group_size` times each, with their own attributes and start.

    They are drawn on the processor, and given where the network is.
    """
    again = np.repeat(rows, group_size)
    counts = np.diff(tokens.packet_offset)[again]
    device, was_training = device_of(network), network.training
    drawer = network.eval() if device == CPU else copy.deepcopy(network).to(CPU).eval()
    drawn = draw_packets(
        drawer, codec, tokens.attributes[again], tokens.stack[again], tokens.start_ns[again], counts, rng,
        most=READS,
    )  # fmt: skip
    network.train(was_training)
    return heads_drawn(drawn, tokens.attributes[again], counts, codec).to(device)
