"""RayEngine: jobs run on the nodes of a Ray cluster, as the same worker processes with the same bounds.

This process never loads Ray, whose client ends the process that it is in where the cluster is gone for a minute. Each
job has a courier, a child process of ours (`ray_courier`), that speaks to the cluster and passes on lines and files. So
a courier that dies or hangs is a child that failed, and capture goes on.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Event
from typing import Any, Final

from nsstream import __version__
from nsstream.pipeline.child import ChildFailedError, Failure, Leash, run_job
from nsstream.pipeline.engine import Errand, Heard
from nsstream.pipeline.service_config import RaySection, WorkerSection

COURIER: Final = (sys.executable, "-m", "nsstream.pipeline.ray_courier")
PYTHON: Final = "{python}"  # in a command: the node's own
TRAVEL_S: Final = 120.0  # beyond a job's bounds, for connecting and for files on their way
THREADS: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class RayEngine:
    """The nodes of one cluster."""

    settings: RaySection
    courier: Sequence[str] = COURIER
    name: str = "ray"

    @property
    def places(self) -> tuple[WorkerSection, ...]:
        """So many as jobs may be with the cluster at once; which node has room for each is Ray's to say."""
        return (WorkerSection(),) * self.settings.jobs

    def threads(self, place: WorkerSection) -> int:
        """A thread a processor that a job asks for."""
        return self.settings.cpus

    def run(self, errand: Errand, place: WorkerSection, heard: Heard, *, cancelled: Event) -> dict[str, Any]:
        """Send a courier.

        Raises ChildFailedError of kind LOST where the node, its worker or the connection was lost, and UNREACHABLE
        where there is no cluster, or no node with room for so long: neither is the job's fault.
        """
        settings = self.settings
        told = {
            "version": __version__,
            "ray": settings.model_dump(mode="json"),
            "command": [PYTHON if part == sys.executable else part for part in errand.command],
            "told": dict(errand.told),
            "limit_s": errand.limit_s,
            "silence_s": errand.silence_s,
            "most_octets": errand.most_octets,
            "nice": errand.nice,
            "environment": {name: os.environ.get(name) for name in THREADS},
        }
        limit_s = None if errand.limit_s is None else settings.start_timeout_s + errand.limit_s + TRAVEL_S
        leash = Leash(nice=errand.nice, environment={"CUDA_VISIBLE_DEVICES": ""})
        try:
            return run_job(
                self.courier, told, heard,
                cancelled=cancelled, limit_s=limit_s, silence_s=errand.silence_s + TRAVEL_S, leash=leash,
            )  # fmt: skip
        except ChildFailedError as err:
            if err.kind is Failure.DIED and not err.is_told:  # the courier did: where it loses the cluster, Ray ends it
                raise ChildFailedError(f"the courier to {settings.address} ended: {err}", Failure.LOST) from err
            raise
