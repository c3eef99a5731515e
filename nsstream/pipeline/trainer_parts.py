"""What the threads of one scheduler share: settings that may change, counters, and the ledger's patience."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event

from nsstream.errors import OutputError
from nsstream.pipeline.child import CancelledError
from nsstream.pipeline.service_config import GateSection, TrainingSection

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Settings:
    """By which the next job goes."""

    training: TrainingSection
    gate: GateSection


@dataclass(slots=True)
class Counters:
    """Of this process, since it began."""

    failures: Counter[str] = field(default_factory=Counter)  # of workers and judges, by `child.Failure`
    training_s: float = 0.0
    taken_back: int = 0  # claims of a process that died


def insist(stop: Event, change: Callable[[], object], tries: int | None = None) -> None:
    """Make a change to the ledger, however long it refuses; raises CancelledError where we are to stop meanwhile.

    Then the change is not there, and the next process finds the job as it was.
    """
    while True:
        try:
            change()
            return
        except OutputError as err:
            _log.warning("ledger_refuses error=%s", err)
            tries = None if tries is None else tries - 1
            if tries == 0:
                return
            if stop.wait(0 if tries else 1.0) and tries is None:
                raise CancelledError from err
