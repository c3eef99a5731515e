"""The Wasserstein loss with gradient penalty (Gulrajani et al., 2017, equation 3)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def critic_distance(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor:
    """How much higher the critic values real rows (n, d) than fake ones: (), an estimate of their distance."""
    out: Tensor = critic(real).mean() - critic(fake).mean()
    return out


def gradient_penalty(
    critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, generator: torch.Generator
) -> Tensor:
    """Mean squared departure from 1 of the critic's gradient's norm, at random points between real and fake: ().

    Shapes: real, fake (n, d), both without history. Each pair has one point, uniform on the line between the two.
    """
    at = torch.rand(len(real), 1, generator=generator, device=real.device)
    between = (at * real + (1 - at) * fake).requires_grad_()
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    norm = (slope.square().sum(dim=1) + 1e-12).sqrt()  # a root has no slope at 0
    return (norm - 1).square().mean()
