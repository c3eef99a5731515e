"""A gated recurrent unit (Cho et al. 2014, as torch has it) in compiled code: what its step needs, and the step.

Of a unit of width d, the gates are 3 d numbers in torch's order: reset, update, candidate.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import numpy as np
from numba import njit
from numpy.typing import NDArray
from torch import Tensor, nn

from nsstream.model.soften import squash

Matrix = NDArray[np.float32]

_ONE, _TWO = np.float32(1.0), np.float32(2.0)


def input_weight(unit: nn.GRU) -> Tensor:
    """From what a unit of one layer reads to its gates: (3 d, inputs)."""
    return cast(Tensor, unit.weight_ih_l0)


def state_weight(unit: nn.GRU) -> Tensor:
    """From the state to the gates: (3 d, d)."""
    return cast(Tensor, unit.weight_hh_l0)


def gate_bias(unit: nn.GRU) -> Tensor:
    """What both biases add to the gates, but for what the reset gate multiplies: (3 d,)."""
    d, of_input, of_state = unit.hidden_size, cast(Tensor, unit.bias_ih_l0), cast(Tensor, unit.bias_hh_l0)
    bias = of_input.clone()
    bias[: 2 * d] += of_state[: 2 * d]
    return bias


def candidate_bias(unit: nn.GRU) -> Tensor:
    """The state's bias of the candidate, which the reset gate multiplies: (d,)."""
    return cast(Tensor, unit.bias_hh_l0)[2 * unit.hidden_size :]


def matrix(tensor: Tensor) -> Matrix:
    """A tensor as an array whose rows lie one after another."""
    return np.ascontiguousarray(tensor.detach().numpy(), dtype=np.float32)


def matrices(tensors: Iterable[Tensor]) -> tuple[Matrix, ...]:
    """Each tensor as `matrix` has it."""
    return tuple(matrix(tensor) for tensor in tensors)


@njit(cache=True, fastmath=True, error_model="numpy")
def recur(told: Matrix, gates: Matrix, bias: Matrix, state: Matrix, power: NDArray[np.int32]) -> None:
    """Replace the state (d,) by the next one.

    Args:
        told: (3 d,) what the input says to the gates, `gate_bias` included; destroyed.
        gates: (3 d,) the state times `state_weight`; destroyed.
        bias: (d,) `candidate_bias`.
        state: (d,) is written.
        power: work space of `squash`, 2 d at least.
    """
    d = len(state)
    for j in range(2 * d):
        gates[j] += told[j]
    squash(gates, 2 * d, power)
    for j in range(d):
        told[j] = _TWO * (told[2 * d + j] + gates[j] * (gates[2 * d + j] + bias[j]))
    squash(told, d, power)  # tanh(x) = 2 logistic(2 x) - 1
    for j in range(d):
        fresh = _TWO * told[j] - _ONE
        state[j] = fresh + gates[d + j] * (state[j] - fresh)
