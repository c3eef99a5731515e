"""Heads taught by noisy counts of pairs: what goes with what is learned, and what noise hides stays as it was."""

import numpy as np
import pytest
import torch
from torch import nn

from nsstream.train.private_flow_pairs import Pairs, teach

ROWS, WIDTH, TOKENS = 600, 8, 6


def head_and_pairs(noisy, std):
    """A head that says all tokens alike, over rows of three groups that it can tell apart; two tokens to a cell."""
    generator = torch.Generator().manual_seed(2)
    layer = nn.Linear(WIDTH, TOKENS + 1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    group = np.arange(ROWS) % 3
    reads = torch.randn(3, WIDTH, generator=generator)[torch.from_numpy(group)]
    reads = reads + 0.05 * torch.randn(ROWS, WIDTH, generator=generator)
    said = np.random.default_rng(3).integers(0, TOKENS, ROWS)
    pairs = Pairs(
        layer=layer, shown=torch.arange(TOKENS), reads=reads, extra=torch.zeros(ROWS, TOKENS), said=said, group=group,
        cell=np.arange(TOKENS + 1) // 2, noisy=np.array(noisy, float), std=std,
    )  # fmt: skip
    return layer, pairs


def shares(layer, pairs):
    """How often each cell is said in each group: (3, 3)."""
    said = nn.functional.linear(pairs.reads, layer.weight[:TOKENS], layer.bias[:TOKENS]).softmax(-1).detach().numpy()
    by_cell = said.reshape(ROWS, 3, 2).sum(axis=2)
    return np.stack([by_cell[pairs.group == g].mean(axis=0) for g in range(3)])


def test_each_group_is_taught_its_own_and_tokens_of_a_cell_stay_alike():
    wanted = [[900, 50, 50, 0], [100, 800, 100, 0], [300, 300, 400, 0]]
    layer, pairs = head_and_pairs(wanted, 0.1)
    teach(pairs, steps=400)
    assert np.allclose(shares(layer, pairs), np.array(wanted)[:, :3] / 1000, atol=0.02)
    assert torch.allclose(layer.weight[0], layer.weight[1], atol=1e-5)
    assert not layer.weight[TOKENS].any()


def test_groups_that_noise_hides_and_heads_of_such_groups_alone_stay():
    layer, pairs = head_and_pairs([[9, -5, 3, 0], [1, 8, 1, 0], [-3, 3, 4, 0]], 50.0)
    teach(pairs)
    assert not layer.weight.any()
    assert not layer.bias.any()
    layer, pairs = head_and_pairs([[90_000, 5_000, 5_000, 0], [0, 0, 0, 0], [0, 0, 0, 0]], 10.0)
    teach(pairs, steps=400)
    assert shares(layer, pairs)[0] == pytest.approx([0.9, 0.05, 0.05], abs=0.02)
