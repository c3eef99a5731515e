"""FitTime: what is left of a training's budget for its fit, by what the trainings before took beside theirs.

A worker loads its libraries and the chunk first, and saves its checkpoint last: four seconds on a quiet machine, ten on
one that is busy with other work. What it took in all, each worker says as it ends. A job that had to wait is learned
for so much less time, so that a lane that fell behind catches up before it has to leave chunks out.
"""

from __future__ import annotations

from collections import deque
from statistics import median
from threading import Lock
from typing import Final

from nsstream.pipeline.training import START_S

LEAST_FIT_S: Final = 1.0
LEAST_SHARE: Final = 0.5  # of a budget, that is the fit's whatever the rest takes
REMEMBERED: Final = 5


class FitTime:
    """Used by every lane's thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._beside_s: deque[float] = deque(maxlen=REMEMBERED)

    def of(self, budget_s: float, waited_s: float = 0.0) -> float:
        """How long a fit may take, so that the budget is the time of the job's wait and of all of the training."""
        with self._lock:
            beside_s = max(START_S, median(self._beside_s)) if self._beside_s else START_S
        return max(LEAST_FIT_S, LEAST_SHARE * budget_s, budget_s - beside_s - waited_s)

    def note(self, fit_s: float, took_s: float) -> None:
        """A training whose fit was given `fit_s` took so long; one whose fit ended early tells nothing."""
        if took_s > fit_s:
            with self._lock:
                self._beside_s.append(took_s - fit_s)
