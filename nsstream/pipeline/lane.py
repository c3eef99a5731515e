"""Lane: one place where jobs are done, and what an operator sees of it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Any, Final, Literal

from nsstream.clock import Clock
from nsstream.pipeline.service_config import WorkerSection

_log = logging.getLogger(__name__)

State = Literal["idle", "training", "judging"]
TOLD: Final = ("stage", "step", "loss", "left_s")  # of a fit


class Lane:
    """Written by one thread, read by any."""

    def __init__(self, name: str, place: WorkerSection, clock: Clock) -> None:
        self.name, self.place = name, place
        self._clock, self._lock = clock, threading.Lock()
        self._state: State = "idle"
        self._chunk: str | None = None
        self._is_seed, self._since_ns = False, 0
        self._told: dict[str, Any] = dict.fromkeys(TOLD)
        self._warning: str | None = None

    def begin(self, chunk: str, *, is_seed: bool) -> None:
        """A training begins."""
        with self._lock:
            self._state = "training"
            self._chunk, self._is_seed, self._since_ns = chunk, is_seed, self._clock.monotonic_ns()

    def judge(self) -> None:
        """What was trained is judged."""
        with self._lock:
            self._state = "judging"

    def hear(self, line: Mapping[str, Any]) -> None:
        """Keep what a worker or a judge says of its progress; of warnings, log each that is not the last one again."""
        if line.get("event") == "warning":
            if (warning := str(line.get("message"))[:500]) != self._warning:
                self._warning = warning
                _log.warning("worker_warns lane=%s message=%s", self.name, warning)
            return
        with self._lock:
            self._told = {name: line.get(name) for name in TOLD}

    def rest(self) -> None:
        """Nothing is done here."""
        with self._lock:
            self._state, self._chunk, self._is_seed, self._since_ns = "idle", None, False, 0
            self._told = dict.fromkeys(TOLD)

    @property
    def seconds(self) -> float:
        """Since the training began; 0 at rest."""
        with self._lock:
            return self._seconds()

    def as_dict(self) -> dict[str, Any]:
        """As plain values."""
        with self._lock:
            return {
                "name": self.name, "state": self._state, "chunk": self._chunk, "is_seed": self._is_seed, **self._told,
                "for_s": self._seconds(),
            }  # fmt: skip

    def _seconds(self) -> float:
        return 0.0 if self._state == "idle" else (self._clock.monotonic_ns() - self._since_ns) * 1e-9
