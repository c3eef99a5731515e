"""Engine: where the jobs of training and of judging run: on this machine, or on the nodes of a cluster (`ray_engine`).

Whoever needs a job done gives an `Errand` and waits; an engine owes it the same whatever machine it runs on: the bounds
of time, silence and memory are kept there, lines are heard as they come, what is cancelled ends, and the checkpoint is
where the job says (`out`), whole or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import Any, Protocol

from nsstream.clock import Clock, SystemClock
from nsstream.pipeline.child import Leash, run_job
from nsstream.pipeline.service_config import WorkerSection

Heard = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Errand:
    """One job, and its bounds."""

    command: Sequence[str]  # the program, of JSON lines (`child`)
    told: Mapping[str, object]  # what it reads
    limit_s: float | None  # it is killed after this long
    silence_s: float  # it is killed after this long without a line
    most_octets: int | None  # of resident memory, beyond which it is killed
    nice: int = 0


class Engine(Protocol):
    """Runs errands, from several threads at once."""

    @property
    def name(self) -> str:
        """As the configuration says it."""
        ...

    @property
    def places(self) -> tuple[WorkerSection, ...]:
        """Where jobs run side by side; each is given to `run` by one thread at a time."""
        ...

    def threads(self, place: WorkerSection) -> int:
        """How many threads a job there may use."""
        ...

    def run(self, errand: Errand, place: WorkerSection, heard: Heard, *, cancelled: Event) -> dict[str, Any]:
        """Do an errand and give its last line, and with it `took_s`: how long until it was gone, where it ran.

        Raises ChildFailedError, and CancelledError once `cancelled` is set.
        """
        ...


@dataclass(frozen=True, slots=True)
class LocalEngine:
    """Child processes of this one, on its own processors and GPUs."""

    places: tuple[WorkerSection, ...] = (WorkerSection(),)
    name: str = "local"
    clock: Clock = field(default_factory=SystemClock)

    def threads(self, place: WorkerSection) -> int:
        """A thread a processor of the place."""
        return max(1, len(place.cores))

    def run(self, errand: Errand, place: WorkerSection, heard: Heard, *, cancelled: Event) -> dict[str, Any]:
        """Run a child at the place."""
        leash = Leash(place.cores, errand.nice, {"CUDA_VISIBLE_DEVICES": place.gpu or ""}, errand.most_octets)
        began_ns = self.clock.monotonic_ns()
        done = run_job(
            errand.command, errand.told, heard,
            cancelled=cancelled, limit_s=errand.limit_s, silence_s=errand.silence_s, leash=leash,
        )  # fmt: skip
        return done | {"took_s": (self.clock.monotonic_ns() - began_ns) * 1e-9}
