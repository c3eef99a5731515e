"""A packet network as the tables and matrices that drawing needs, in numpy: everything that can be is multiplied out.

What the recurrence reads is a sum of looked-up rows once its input matrix is multiplied into the embeddings, and so is
what the size and gap heads read beside the state. Heads keep only the tokens that a chunk's codec can decode.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nsstream.encode.codec import Codec
from nsstream.model.networks import PacketNetwork

Matrix = NDArray[np.float32]


class FrozenPackets(NamedTuple):
    """p(kind, size, gap | ...) of a `PacketNetwork` of width d in evaluation mode.

    Attributes:
        kinds, sizes, gaps: (k,), (s,), (g,) the tokens that may be drawn, rising.
        of_kind, of_size, of_gap, of_countdown, of_position, of_time_left: (tokens, 3 d) shares of the gates.
        recur: (d, 3 d) from state to gates; `recur_bias`: (d,) of the candidate gate, inside its reset.
        read: (d, k + 2 d) from state to the logits of kinds, and to what the size and gap heads read.
        kind_bias: (positions, k).
        size_of_kind: (kinds, d); size_head: (d, s); size_bias: (positions, s).
        gap_of_kind, gap_of_size: (tokens, d); gap_head: (d, g); gap_bias: (positions, g).
    """

    kinds: NDArray[np.int64]
    sizes: NDArray[np.int64]
    gaps: NDArray[np.int64]
    of_kind: Matrix
    of_size: Matrix
    of_gap: Matrix
    of_countdown: Matrix
    of_position: Matrix
    of_time_left: Matrix
    recur: Matrix
    recur_bias: Matrix
    read: Matrix
    kind_bias: Matrix
    size_of_kind: Matrix
    size_head: Matrix
    size_bias: Matrix
    gap_of_kind: Matrix
    gap_of_size: Matrix
    gap_head: Matrix
    gap_bias: Matrix


@torch.no_grad()
def freeze_packets(network: PacketNetwork, codec: Codec) -> FrozenPackets:
    """The tables of a network for a chunk's tokens."""
    d = network.width
    kinds = np.flatnonzero(codec.kind.is_active())
    sizes = np.flatnonzero(np.concatenate([codec.size.is_active(), codec.octets.is_active()]))
    gaps = np.flatnonzero(codec.packet_gap.is_active() | codec.own_gap.is_active())
    if not len(gaps):
        gaps = np.zeros(1, np.int64)
    tables = (network.kind, network.size, network.gap, network.countdown, network.position, network.time_left)
    weight, at, shares = network.recur.weight_ih_l0, 0, []
    for table in tables:
        width = table.embedding_dim
        shares.append(_numpy(table.weight @ weight[:, at : at + width].T))
        at += width
    kind_correction, size_correction, gap_correction = network.correction
    to_size, to_gap, width = network.to_size.weight, network.to_gap.weight, network.kind.embedding_dim
    return FrozenPackets(
        kinds,
        sizes,
        gaps,
        *shares,
        recur=_numpy(network.recur.weight_hh_l0.T),
        recur_bias=_numpy(network.recur.bias_hh_l0[2 * d :]),
        read=_numpy(torch.cat([network.kind_head.weight[kinds], to_size[:, :d], to_gap[:, :d]]).T),
        kind_bias=_numpy((network.kind_head.bias + kind_correction)[:, kinds]),
        size_of_kind=_numpy(network.kind.weight @ to_size[:, d:].T + network.to_size.bias),
        size_head=_numpy(network.size_head.weight[sizes].T),
        size_bias=_numpy((network.size_head.bias + size_correction)[:, sizes]),
        gap_of_kind=_numpy(network.kind.weight @ to_gap[:, d : d + width].T + network.to_gap.bias),
        gap_of_size=_numpy(network.size.weight @ to_gap[:, d + width :].T),
        gap_head=_numpy(network.gap_head.weight[gaps].T),
        gap_bias=_numpy((network.gap_head.bias + gap_correction)[:, gaps]),
    )


@torch.no_grad()
def freeze_conversations(network: PacketNetwork, attributes: NDArray[np.int64]) -> Matrix:
    """What a conversation's attributes (n, a) and the biases add to its gates, packet after packet: (n, 3 d)."""
    d, recur = network.width, network.recur
    described = network.describe(torch.from_numpy(attributes))
    bias = recur.bias_ih_l0.clone()
    bias[: 2 * d] += recur.bias_hh_l0[: 2 * d]
    return _numpy(described @ recur.weight_ih_l0[:, -described.shape[1] :].T + bias)


def _numpy(tensor: Tensor) -> Matrix:
    return np.ascontiguousarray(tensor.numpy())
