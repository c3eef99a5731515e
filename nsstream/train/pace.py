"""Pace: how fast a learner should go on: slower whenever held-out loss has not improved, and at last not at all.

A learner that has come to a plateau goes back to its best average and on with a third of the rate. On a small chunk a
rate that falls by the clock alone comes too late: the chunk is known by heart before it is small.
"""

from __future__ import annotations

import math
from typing import Any, Final

from nsstream.train.learner import CHECK_EVERY, Learner

PATIENCE: Final = 4 * CHECK_EVERY  # steps without improvement
SLOWER: Final = 0.35
MOST_DROPS: Final = 4


class Pace:
    """The rate of one learner."""

    def __init__(self, learner: Learner[Any]) -> None:
        self._learner = learner
        self._since = 0
        self._drops = 0

    @property
    def is_done(self) -> bool:
        """Whether slowing down has stopped to help."""
        return self._drops > MOST_DROPS

    def rate(self, progress: float) -> float:
        """The share (0..1] of the learning rate for the next step, `progress` (0..1) of the time being used up."""
        learner = self._learner
        if learner.step_count - max(self._since, learner.best_step) >= PATIENCE:
            learner.back_to_best()
            self._since = learner.step_count
            self._drops += 1
        share: float = SLOWER**self._drops
        return min(share, 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))
