"""Progress: what a long run tells whoever watches it. The pipeline reports; the command line draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from threading import Lock
from typing import Protocol

from nsstream.clock import Clock


class Stage(StrEnum):
    """The stages of a run, in order."""

    IMPORT = "import"
    SEED = "seed"
    FINE_TUNE = "fine-tune"
    REPLAY = "replay"
    VERIFY = "verify"
    SCORE = "score"


@dataclass(frozen=True, slots=True)
class Progress:
    """One report; None where a figure does not apply or is not known yet."""

    stage: Stage
    elapsed_s: float  # since the run began
    chunk: int | None = None  # 1 .. chunk_count
    chunk_count: int | None = None
    packet_count: int | None = None  # packets read or written so far
    phase: str | None = None  # of training: likelihood, adversary
    step: int | None = None
    steps: int | None = None
    loss: float | None = None
    left_s: float | None = None  # time left of this stage
    note: str | None = None  # one sentence worth keeping, such as a retry
    is_done: bool = False  # the stage, or the chunk's part of it, has ended


class Listener(Protocol):
    """Takes reports; called from several threads, one at a time."""

    def __call__(self, progress: Progress, /) -> None:
        """Take one report, and return soon."""
        ...


def one_at_a_time(listen: Listener) -> Listener:
    """A listener that several threads may tell, and that passes each report on before it takes the next."""
    lock = Lock()

    def report(progress: Progress, /) -> None:
        with lock:
            listen(progress)

    return report


def stopwatch_s(clock: Clock) -> Callable[[], float]:
    """Seconds since this call."""
    began_ns = clock.monotonic_ns()
    return lambda: (clock.monotonic_ns() - began_ns) * 1e-9
