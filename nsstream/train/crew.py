"""Crew: threads that compute gradients side by side, each of a part of a step.

torch's own threads share one matrix product, which pays for large ones; a recurrence makes small ones, and its threads
wait for each other by spinning, which on a machine that others use costs more than it gains. Threads that each take
some of a step's windows need one another once a step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from nsstream.model.noise import noise_of


class Task(NamedTuple):
    """A loss (), and the parameters whose gradient is asked for."""

    loss: Callable[[], Tensor]
    parameters: Sequence[nn.Parameter]


class Gradient(NamedTuple):
    """The value of a task's loss, and its gradient; None for a parameter that the loss does not depend on."""

    loss: float
    of_parameters: tuple[Tensor | None, ...]


class Crew:
    """Threads with random generators of their own; the same seed, number of threads and tasks give the same gradients.

    Args:
        threads: how many tasks are computed at once.
        seed: of all noise in tasks.
    """

    def __init__(self, threads: int, seed: int) -> None:
        self.threads = threads
        self._seeds = torch.Generator().manual_seed(seed)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="gradient") if threads > 1 else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def run(self, tasks: Sequence[Task]) -> list[Gradient]:
        """The gradients of tasks, in their order; raises what a loss raises."""
        seeds = [int(torch.randint(1 << 62, (), generator=self._seeds)) for _ in tasks]
        if self._pool is None:
            return [_gradient(task, seed) for task, seed in zip(tasks, seeds, strict=True)]
        return list(self._pool.map(_gradient, tasks, seeds))


def _gradient(task: Task, seed: int) -> Gradient:
    with noise_of(torch.Generator().manual_seed(seed)):
        loss = task.loss()
        return Gradient(float(loss.detach()), torch.autograd.grad(loss, list(task.parameters), allow_unused=True))
