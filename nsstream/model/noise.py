"""Noise for learning, from the generator of whoever computes: threads that compute side by side stay reproducible."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

import torch
from torch import Tensor, nn

_GENERATOR: Final[ContextVar[torch.Generator | None]] = ContextVar("generator", default=None)


@contextmanager
def noise_of(generator: torch.Generator) -> Iterator[None]:
    """Within it, this thread's noise is of the generator; without, of torch's own."""
    token = _GENERATOR.set(generator)
    try:
        yield
    finally:
        _GENERATOR.reset(token)


def uniform(shape: torch.Size, device: torch.device) -> Tensor:
    """Numbers in [0, 1) of a shape, on a device, which has to be the generator's."""
    return torch.rand(shape, generator=_GENERATOR.get(), device=device)


class Dropout(nn.Module):
    """Each number is forgotten with probability p while learning, and the others make up for it."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """What is left of x (...)."""
        if not self.training or self.p == 0:
            return x
        return x * ((uniform(x.shape, x.device) >= self.p) * (1 / (1 - self.p)))
