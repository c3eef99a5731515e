"""FitTime: what is left of a training's budget for its fit, by what the trainings before took beside theirs.

A worker loads its libraries and the chunk first, saves its checkpoint last, and is gone a while behind that: four
seconds in all on a quiet machine, ten and more on one that is busy with other work. What is set aside for it is the
second longest of the newest few: so that most trainings, and not just half of them, end within the budget, and one that
was held up shortens none. A job that had to wait is learned for so much less time, so that a lane that fell behind
catches up before it has to leave chunks out.
"""

from __future__ import annotations

from collections import deque
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

    def of(self, budget_s: float, used_s: float = 0.0) -> float:
        """How long a fit may take, so that the budget is the time of all of the training, and of `used_s` before it."""
        return max(LEAST_FIT_S, LEAST_SHARE * budget_s, budget_s - self._set_aside_s() - used_s)

    def note(self, fit_s: float, took_s: float) -> None:
        """A training whose fit was given `fit_s` took so long; one whose fit ended early tells nothing."""
        if took_s > fit_s:
            with self._lock:
                self._beside_s.append(took_s - fit_s)

    def _set_aside_s(self) -> float:
        with self._lock:
            longest_first = sorted(self._beside_s, reverse=True)
        if not longest_first:
            return START_S
        return max(START_S, longest_first[min(1, len(longest_first) - 1)])
