"""A packet network as the tables and matrices that drawing needs, in numpy: everything that can be is multiplied out.

What the recurrence reads is a sum of looked-up rows once its input matrix is multiplied into the embeddings, and so is
what the size and gap heads read beside the state. Heads keep only the tokens that a chunk's codec can decode.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from nsstream.encode.codec import Codec
from nsstream.model.networks import PacketNetwork, no_packet
from nsstream.model.recurrent import Matrix, candidate_bias, gate_bias, input_weight, matrix, state_weight


class FrozenPackets(NamedTuple):
    """p(kind, size, gap | ...) of a `PacketNetwork` of width d in evaluation mode.

    Attributes:
        no_packet: (3,) kind, size and gap before the first packet.
        kinds, sizes, gaps: (k,), (s,), (g,) the tokens that may be drawn, rising.
        of_kind, of_size, of_gap, of_countdown, of_position, of_time_left: (tokens, 3 d) shares of the gates.
        recur: (d, 3 d) from state to gates; `recur_bias`: (d,) of the candidate gate, inside its reset.
        read: (d, k + 2 d) from state to the logits of kinds, and to what the size and gap heads read.
        kind_bias: (positions, k).
        size_of_kind: (kinds, d); size_head: (d, s); size_bias: (positions, s).
        gap_of_kind, gap_of_size: (tokens, d); gap_head: (d, g); gap_bias: (positions, g).
    """

    no_packet: NDArray[np.int64]
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
    d, width = network.width, network.kind.embedding_dim
    kinds = np.flatnonzero(codec.kind.is_active())
    sizes = np.flatnonzero(np.concatenate([codec.size.is_active(), codec.octets.is_active()]))
    gaps = np.flatnonzero(codec.packet_gap.is_active() | codec.own_gap.is_active())
    if not len(gaps):
        gaps = np.zeros(1, np.int64)
    kind_correction, size_correction, gap_correction = network.correction
    to_size, to_gap = network.to_size.weight, network.to_gap.weight
    shares = _shares_of_gates(network)
    return FrozenPackets(
        no_packet=np.array(no_packet(network.layout)),
        kinds=kinds,
        sizes=sizes,
        gaps=gaps,
        of_kind=shares[0],
        of_size=shares[1],
        of_gap=shares[2],
        of_countdown=shares[3],
        of_position=shares[4],
        of_time_left=shares[5],
        recur=matrix(state_weight(network.recur).T),
        recur_bias=matrix(candidate_bias(network.recur)),
        read=matrix(torch.cat([network.kind_head.weight[kinds], to_size[:, :d], to_gap[:, :d]]).T),
        kind_bias=matrix((network.kind_head.bias + kind_correction)[:, kinds]),
        size_of_kind=matrix(network.kind.weight @ to_size[:, d:].T + network.to_size.bias),
        size_head=matrix(network.size_head.weight[sizes].T),
        size_bias=matrix((network.size_head.bias + size_correction)[:, sizes]),
        gap_of_kind=matrix(network.kind.weight @ to_gap[:, d : d + width].T + network.to_gap.bias),
        gap_of_size=matrix(network.size.weight @ to_gap[:, d + width :].T),
        gap_head=matrix(network.gap_head.weight[gaps].T),
        gap_bias=matrix((network.gap_head.bias + gap_correction)[:, gaps]),
    )


@torch.no_grad()
def freeze_conversations(network: PacketNetwork, attributes: NDArray[np.int64]) -> Matrix:
    """What a conversation's attributes (n, a) and the biases add to its gates, packet after packet: (n, 3 d)."""
    described = network.describe(torch.from_numpy(attributes))
    weight = input_weight(network.recur)[:, -described.shape[1] :]
    return matrix(described @ weight.T + gate_bias(network.recur))


def _shares_of_gates(network: PacketNetwork) -> list[Matrix]:
    """What each token adds to the gates: (tokens, 3 d) a table, in the order of `PacketNetwork.inputs`."""
    weight, at, shares = input_weight(network.recur), 0, []
    for table in (network.kind, network.size, network.gap, network.countdown, network.position, network.time_left):
        width = table.embedding_dim
        shares.append(matrix(table.weight @ weight[:, at : at + width].T))
        at += width
    return shares
