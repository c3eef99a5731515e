"""Succession: which job is next, and what it goes on from: the promoted model, a seed, or nothing.

While there is no seed, one place alone trains. A seed of captures comes before any job.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from pathlib import Path
from typing import Final

from nsstream.errors import NsstreamError
from nsstream.pipeline.capture_seed import CaptureSeed
from nsstream.pipeline.child import CancelledError, ChildFailedError
from nsstream.pipeline.job_runner import JobRunner
from nsstream.pipeline.lane import Lane
from nsstream.pipeline.ledger import Ledger
from nsstream.pipeline.model_records import ModelRecords
from nsstream.pipeline.promoter import Promoter
from nsstream.pipeline.trainer_parts import Counters, Settings
from nsstream.pipeline.training_queue import Job, TrainingQueue

_log = logging.getLogger(__name__)

CAPTURES = "captures"  # what a lane learns that is no chunk
CHECK_EVERY_S: Final = 5.0  # models, while nothing is to be learned


class Succession:
    """Asked by every lane's thread."""

    def __init__(
        self,
        ledger: Ledger,
        queue: TrainingQueue,
        models: ModelRecords,
        promoter: Promoter,
        seed_of_captures: CaptureSeed,
        settings: Settings,
        counters: Counters,
        *,
        may_reseed: bool = True,
    ) -> None:
        self._may_reseed = may_reseed  # else there is always something to go on from, or nothing is learned
        self._ledger, self._queue, self._models, self._promoter = ledger, queue, models, promoter
        self._captures, self._settings, self._counters = seed_of_captures, settings, counters
        self._lock, self._is_seeding = threading.Lock(), False
        self._checked_s = -math.inf

    @property
    def public_seed(self) -> Path | None:
        """The seed of captures, where there is one."""
        return self._captures.checkpoint

    def learn_captures(self, runner: JobRunner, lane: Lane) -> bool:
        """Learn the seed of captures, if it is wanted and no other place does; whether it was tried."""
        with self._lock:
            if self._is_seeding or not self._captures.is_due():
                return False
            self._is_seeding = True
        training, gate = self._settings.training, self._settings.gate
        lane.begin(CAPTURES, is_seed=True)
        try:
            seed = self._captures.train(runner, training, gate, lane.place, lane.hear)
            self._counters.training_s += (seconds := lane.seconds)
            _log.info("seed_of_captures id=%s training_s=%.1f", seed.name, seconds)
        except CancelledError:
            pass
        except (ChildFailedError, NsstreamError) as err:
            if isinstance(err, ChildFailedError):
                self._counters.failures[err.kind] += 1
            is_given_up = self._captures.fail(training.attempts, training.backoff_s)
            _log.warning("seed_of_captures_%s reason=%s", "given_up" if is_given_up else "failed", err)
        finally:
            lane.rest()
            self.end_seeding()
        return True

    def claim(self) -> tuple[Job, Path | None] | None:
        """The next job, which is ours now, and its parent; raises OutputError. `end_seeding` once it is done."""
        with self._lock:
            if self._is_seeding or self._captures.is_wanted:
                return None
            if not self._queue.is_due():
                self._check_models_now_and_then()
                return None
            parent = self._parent()
            # The first seed is of the oldest chunk. Another one is trained since the traffic has changed: of the
            # newest, or it would be older than what is promoted, and never be so itself.
            is_first = parent is None and self._models.promoted() is None
            job = self._queue.claim(oldest=is_first, most_waiting=self._settings.training.most_waiting)
            if job is None:
                return None
            if parent is not None and parent == self._captures.checkpoint and self._is_of_flows(job):
                _log.warning("seed_of_captures_unused job=%d reason=it is of packets, the chunk of flows", job.id)
                self._captures.disown()
                parent = None
            self._is_seeding = parent is None
            return job, parent

    def end_seeding(self) -> None:
        """What was claimed without a parent is done, or is not: others may claim."""
        with self._lock:
            self._is_seeding = False

    def _check_models_now_and_then(self) -> None:
        """Notice a model that is damaged also while nothing is to be learned; each octet of it is read for that."""
        now_s = time.monotonic()
        if now_s - self._checked_s >= CHECK_EVERY_S:
            self._checked_s = now_s
            self._promoter.promoted()
            self._promoter.seed()

    def _is_of_flows(self, job: Job) -> bool:
        return bool(self._ledger.rows("SELECT 1 FROM chunk WHERE job = ? AND kind = 'flows'", (job.id,)))

    def _parent(self) -> Path | None:
        """The checkpoint to go on from, None where a seed is to be trained."""
        training = self._settings.training
        if self._may_reseed and self._is_worn():
            return None
        promoted = self._promoter.promoted()
        if training.start_from == "newest" and promoted is not None:
            return self._promoter.folder / promoted.id
        if training.seed_model is not None:
            return training.seed_model
        seed = self._promoter.seed()
        return self._captures.checkpoint if seed is None else self._promoter.folder / seed.id

    def _is_worn(self) -> bool:
        """Whether what was learned no longer suits the traffic, so that a seed is to be learned anew."""
        gate = self._settings.gate
        if gate.reseed_after and self._models.failures_in_a_row() >= gate.reseed_after:
            return True
        if (bound := gate.reseed_drift) is not None and self._models.has_drifted(bound):
            _log.warning("reseeding drift_above=%g", bound)
            return True
        return False
