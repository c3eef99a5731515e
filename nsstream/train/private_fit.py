"""DP-SGD: fixed steps of clipped and noised sums of gradients, a unit each, over Poisson samples of units.

A step: each unit is in by a coin of its own; `opacus` keeps the gradient of each (`GradSampleModule`), clips it as one
over all heads, and adds up (`DPOptimizer`); the noise is ours (`private_chance`). What is kept is the mean of the
second half of the iterates. No held-out data, no early end, no best of several: nothing is chosen by private data.
The learning rate follows from public numbers and the noisy number of units: it is such that the noise of all steps
moves a logit's bias by so many nats (`drift`), and `FASTEST` at most.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn

from nsstream.train.private_chance import Chance
from nsstream.train.private_heads import Lesson, PrivateHead, unit_losses

FASTEST: Final = 1.0
AT_ONCE: Final = 32  # units whose gradients are held at a time, unless the caller knows better


class SecureOptimizer(DPOptimizer):  # type: ignore[misc]
    """opacus' optimiser with noise of our own: a flat clip over all parameters, and sums, not means."""

    def __init__(self, optimizer: torch.optim.Optimizer, noise_multiplier: float, clip: float, chance: Chance) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=noise_multiplier,
            max_grad_norm=clip,
            expected_batch_size=None,
            loss_reduction="sum",
        )
        self._chance = chance

    def add_noise(self) -> None:
        """Add normal noise to the sum of clipped gradients."""
        for p in self.params:
            noise = self._chance.normal(p.summed_grad.numel()) * (self.noise_multiplier * self.max_grad_norm)
            noised = p.summed_grad.double() + torch.from_numpy(noise).view_as(p.summed_grad)
            p.grad = noised.to(p.dtype).view_as(p)


class Learned(nn.Module):
    """What opacus watches: the changes of all heads, and the loss of units by them."""

    def __init__(self, heads: nn.ModuleDict) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, lessons: dict[str, Lesson], units: NDArray[np.int64]) -> Tensor:
        """The loss of each unit by all heads: (b,)."""
        losses = [unit_losses(cast(PrivateHead, head), lessons[name], units) for name, head in self.heads.items()]
        return torch.stack(losses).sum(dim=0)


def learn_privately(
    heads: nn.ModuleDict,
    lessons: dict[str, Lesson],
    coins: NDArray[np.bool_],
    noise_multiplier: float,
    clip: float,
    drift: float,
    expected: float,
    chance: Chance,
    report: Callable[[int], None],
    watch: Callable[[DPOptimizer], None] | None = None,
    at_once: int = AT_ONCE,
    fastest: float = FASTEST,
) -> None:
    """Learn the heads' changes and keep them in the layers.

    Args:
        heads: as of `private_heads`.
        lessons: of each.
        coins: (steps, u) which units are in which step.
        noise_multiplier: noise's standard deviation in multiples of `clip`.
        clip: the most that a unit's gradient is long (l2, over all heads).
        drift: by how many nats the noise of all steps may move a bias (standard deviation).
        expected: units of a step, about; public or noisy.
        chance: of the noise.
        report: is told each step's number.
        watch: is handed the optimiser as each step's noisy sum is ready; for tests.
        at_once: units whose gradients are held at a time.
        fastest: how far a step may move at most, in clips (l2).
    """
    rate = learning_rate(noise_multiplier, clip, drift, expected, len(coins), fastest)
    module = GradSampleModule(Learned(heads), loss_reduction="sum")
    module.train()
    for buffer in heads.buffers():
        buffer.requires_grad_(False)
    changed = [p for p in module.parameters() if p.requires_grad]
    optimiser = SecureOptimizer(torch.optim.SGD(changed, lr=rate), noise_multiplier, clip, chance)
    if watch is not None:
        optimiser.attach_step_hook(watch)
    mean = [torch.zeros_like(p) for p in changed]
    kept = 0
    for step, is_in in enumerate(coins):
        _step(module, optimiser, lessons, np.flatnonzero(is_in), at_once)
        if 2 * step >= len(coins) - 1:
            kept += 1
            with torch.no_grad():
                for average, p in zip(mean, changed, strict=True):
                    average.lerp_(p, 1 / kept)
        report(step + 1)
    with torch.no_grad():
        for average, p in zip(mean, changed, strict=True):
            p.copy_(average)
    module.remove_hooks()
    for head in heads.values():
        cast(PrivateHead, head).keep()


def learning_rate(
    noise_multiplier: float, clip: float, drift: float, expected: float, steps: int, fastest: float = FASTEST
) -> float:
    """Of a sum of clipped gradients of about so many units."""
    by_noise = drift / (noise_multiplier * clip * math.sqrt(max(steps, 1)))
    return min(fastest / (clip * max(expected, 1.0)), by_noise)


def _step(
    module: Any, optimiser: SecureOptimizer, lessons: dict[str, Lesson], units: NDArray[np.int64], at_once: int
) -> None:
    """One step on these units, so many of them at a time; where there are none, of noise alone."""
    groups = [units[i : i + at_once] for i in range(0, len(units), at_once)] or [np.array([-1])]
    optimiser.zero_grad()
    for number, group in enumerate(groups):
        is_last = number == len(groups) - 1
        optimiser.signal_skip_step(do_skip=not is_last)
        module(lessons, group).sum().backward()
        optimiser.step()
        if not is_last:
            optimiser.zero_grad()
