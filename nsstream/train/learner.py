"""Learner: one network, its optimiser, the moving average of its weights, and the best of them by held-out loss.

A chunk is small and a network learns it by heart if it is let; so the average is judged on held-out conversations every
few steps, the best one is kept, and learning stops when it has not improved for a while.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Final, Generic, TypeVar

import torch
from torch import Tensor, nn

from nsstream.errors import TrainError
from nsstream.train.device import compact

CHECK_EVERY: Final = 20  # steps, unless told otherwise
PATIENCE: Final = 5  # checks without improvement, at least
Network = TypeVar("Network", bound=nn.Module)


class Learner(Generic[Network]):
    """Steps a network towards lower loss.

    Args:
        network: trained in place, where its weights are.
        learning_rate, weight_decay: of AdamW.
        decay: of the moving average, a step.
        held_out: the loss of a network on held-out data; None where there is none.
        check_every: steps from one look at held-out data to the next.
    """

    def __init__(
        self,
        network: Network,
        learning_rate: float,
        weight_decay: float,
        decay: float,
        held_out: Callable[[Network], float] | None,
        check_every: int = CHECK_EVERY,
    ) -> None:
        self.network = network
        self.average = compact(copy.deepcopy(network)).eval()
        self.best = compact(copy.deepcopy(network)).eval()
        self.best_loss = float("inf")
        self.best_step = self.step_count = 0
        self._check_every = check_every
        self._learning_rate, self._decay, self._held_out = learning_rate, decay, held_out
        self._optimiser = torch.optim.AdamW(
            network.parameters(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=weight_decay
        )

    @property
    def is_done(self) -> bool:
        """Whether held-out loss has not improved for long."""
        waited = self.step_count - self.best_step
        return self._held_out is not None and waited > max(PATIENCE * self._check_every, self.best_step // 2)

    def step(self, loss: Tensor, rate: float) -> float:
        """Follow a loss () at `rate` (0..1) times the learning rate; raises TrainError if it is not finite."""
        value = float(loss.detach())
        if not value == value or abs(value) == float("inf"):
            raise TrainError(f"training diverged: the loss is {value} at step {self.step_count}")
        warm = min(1.0, (self.step_count + 1) / 20)
        for group in self._optimiser.param_groups:
            group["lr"] = self._learning_rate * rate * warm
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self._optimiser.step()
        self.step_count += 1
        decay = min(self._decay, self.step_count / (self.step_count + 9))
        with torch.no_grad():
            for kept, new in zip(self.average.parameters(), self.network.parameters(), strict=True):
                kept.lerp_(new, 1 - decay)
        if self.step_count % self._check_every == 0:
            self.check()
        return value

    def check(self) -> None:
        """Judge the average on held-out data, and keep it if it is the best so far."""
        with torch.no_grad():
            loss = self._held_out(self.average) if self._held_out else -float(self.step_count)
        if loss < self.best_loss:
            self.best_loss, self.best_step = loss, self.step_count
            self.best.load_state_dict(self.average.state_dict())

    def back_to_best(self) -> None:
        """Go on from the best average."""
        self.check()
        self.network.load_state_dict(self.best.state_dict())
        self.average.load_state_dict(self.best.state_dict())
