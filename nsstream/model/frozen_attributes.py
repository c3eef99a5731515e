"""An attribute network as the tables and matrices that drawing needs, for the tokens that a codec can decode."""

from __future__ import annotations

from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nsstream.encode.codec import Codec
from nsstream.encode.encoding import allowed_attributes
from nsstream.model.networks import AttributeNetwork
from nsstream.model.recurrent import Matrix, candidate_bias, gate_bias, input_weight, matrices, matrix, state_weight


class FrozenAttributes(NamedTuple):
    """An `AttributeNetwork` of width d; one array an attribute i with a_i tokens, of which t_i may be drawn.

    Attributes:
        tokens: (t_i,) rising.
        said: (a_i, d); narrow_said: (a_j, d) for each j of narrow_knows; narrow: which attribute knows only those.
        history, recur: (d, 3 d) from summary and state to gates; history_bias (3 d,), recur_bias (d,).
        start: (features, d); start_bias: (d,).
        hidden: (d, d); hidden_bias: (d,); head: (d, t_i); head_bias: (moments, t_i).
    """

    tokens: tuple[NDArray[np.int64], ...]
    said: tuple[Matrix, ...]
    narrow: int
    narrow_knows: tuple[int, ...]
    narrow_said: tuple[Matrix, ...]
    history: Matrix
    recur: Matrix
    history_bias: Matrix
    recur_bias: Matrix
    start: Matrix
    start_bias: Matrix
    hidden: tuple[Matrix, ...]
    hidden_bias: tuple[Matrix, ...]
    head: tuple[Matrix, ...]
    head_bias: tuple[Matrix, ...]


@torch.no_grad()
def freeze_attributes(network: AttributeNetwork, codec: Codec) -> FrozenAttributes:
    """The matrices of a network for a chunk's tokens."""
    masks = [np.flatnonzero(may) for may in allowed_attributes(codec)]
    said, narrow_said = (cast("list[nn.Embedding]", list(m)) for m in (network.said, network.narrow_said))
    hidden, head = (cast("list[nn.Linear]", list(m)) for m in (network.hidden, network.head))
    bias = [layer.bias + correction for layer, correction in zip(head, network.correction, strict=True)]
    return FrozenAttributes(
        tokens=tuple(masks),
        said=matrices(table.weight for table in said),
        narrow=network.layout.narrow,
        narrow_knows=network.layout.narrow_knows,
        narrow_said=matrices(table.weight for table in narrow_said),
        history=matrix(input_weight(network.history).T),
        recur=matrix(state_weight(network.history).T),
        history_bias=matrix(gate_bias(network.history)),
        recur_bias=matrix(candidate_bias(network.history)),
        start=matrix(network.start.weight.T),
        start_bias=matrix(network.start.bias),
        hidden=matrices(layer.weight.T for layer in hidden),
        hidden_bias=matrices(layer.bias for layer in hidden),
        head=matrices(layer.weight[may].T for layer, may in zip(head, masks, strict=True)),
        head_bias=matrices(b[:, may] for b, may in zip(bias, masks, strict=True)),
    )
