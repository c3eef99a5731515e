"""JobSteps: one job to its end, step by step: reserved, trained, judged, placed, settled, promoted.

What goes wrong is written down, and ends nothing but the job: a fault of a worker is counted by kind and costs an
attempt, our own stop and the loss of a machine cost none. In private mode each worker that begins spends, so that there
all of these count for `privacy.attempts`; what was trained is judged again, and not trained again.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import Final

from nsstream.errors import NsstreamError, StateError
from nsstream.pipeline.child import CancelledError, ChildFailedError, Failure
from nsstream.pipeline.chunk_watch import ChunkWatch
from nsstream.pipeline.job_runner import JobRunner
from nsstream.pipeline.lane import Lane
from nsstream.pipeline.privacy_ledger import SpendingRefusedError
from nsstream.pipeline.private_jobs import PrivateJobs, Reserved
from nsstream.pipeline.promoter import Promoter
from nsstream.pipeline.room import Room
from nsstream.pipeline.trainer_parts import Counters, Settings, insist
from nsstream.pipeline.training_queue import Job, TrainingQueue

LET_IN: Final = ".let-in"  # in a job's folder: what of its chunk it may learn

_log = logging.getLogger(__name__)


class JobSteps:
    """Used by every lane's thread."""

    def __init__(
        self,
        runner: JobRunner,
        queue: TrainingQueue,
        promoter: Promoter,
        private: PrivateJobs,
        watch: ChunkWatch,
        room: Room,
        settings: Settings,
        counters: Counters,
        stop: Event,
    ) -> None:
        self._runner, self._queue, self._promoter, self._private = runner, queue, promoter, private
        self._watch, self._room, self._settings, self._counters, self._stop = watch, room, settings, counters, stop

    def do(self, job: Job, parent: Path | None, lane: Lane, public_seed: Path | None) -> None:
        """All of them; raises CancelledError where we are to stop, and the ledger refuses."""
        name, runner, training = job.chunk_ids[-1], self._runner, self._settings.training
        reserved: Reserved | None = None
        try:
            lane.begin(name, is_seed=parent is None)
            candidate = runner.left_candidate(job)
            if candidate is None or not self._private.accepts(candidate):
                candidate = None
                reserved = self._reserve(job, parent, public_seed)
            material = runner.material(job, parent, training.random_seed)
            if self._private.is_private:  # the chunk before is another job's
                material = replace(material, before=None)
            self._insist(lambda: self._queue.run(job))
            if candidate is None:
                shutil.rmtree(runner.folder_of(job), ignore_errors=True)
                if reserved is not None:
                    material = replace(material, chunk=self._let_in(job, material.chunk))
                    self._insist(partial(self._private.ledger.begin, reserved.reservation))
                candidate = runner.train(
                    job, material, training, lane.place, lane.hear,
                    private=None if reserved is None else reserved.plan.told, prepared_s=lane.seconds,
                )  # fmt: skip
                trained = candidate.name
                self._insist(lambda: self._queue.trained(job, trained))
            self._insist(partial(self._private.settle, job, candidate))
            self._counters.training_s += (training_s := lane.seconds)
            lane.judge()
            figures = runner.figures(
                candidate, material, self._settings.gate.drawn_conversations, training, lane.place, lane.hear,
                is_blind=self._private.is_private,
            )  # fmt: skip
            promoter = self._promoter
            verdict = promoter.place(candidate, figures, self._settings.gate)
            self._insist(partial(promoter.settle, job, verdict, training_s))
            promoter.follow_ledger()
            self._insist(partial(promoter.remove_surplus, training.keep_models))
        except CancelledError:
            self._insist(lambda: self._queue.give_back(job), tries=3)
        except SpendingRefusedError as err:
            _log.warning("job_refused job=%d chunk=%s reason=%s error=%s", job.id, name, err.reason, err)
            refused = err.reason
            self._insist(lambda: self._queue.skip(job, refused))
            runner.clean(job)
        except ChildFailedError as err:
            if err.kind in (Failure.LOST, Failure.UNREACHABLE):
                self._counters.failures[err.kind] += 1
                if err.kind is Failure.UNREACHABLE and reserved is not None:
                    self._insist(partial(self._private.ledger.never_began, reserved.reservation), tries=3)
                self._try_elsewhere(job, name, err)
            elif not self._is_skipped(job, name, err):
                self._counters.failures[err.kind] += 1
                self._fail(job, name, str(err))
        except StateError as err:
            if not self._is_skipped(job, name, err):
                self._fail(job, name, str(err))
        except NsstreamError as err:
            self._fail(job, name, str(err))
        else:
            runner.clean(job)

    def _reserve(self, job: Job, parent: Path | None, public_seed: Path | None) -> Reserved | None:
        told: list[Reserved | None] = []
        self._insist(lambda: told.append(self._private.reserve(job, parent, self._settings.training, public_seed)))
        return told[0]

    def _let_in(self, job: Job, chunk: Path) -> Path:
        """The chunk that a private job's worker is given."""
        given: list[Path] = []
        folder = self._runner.folder_of(job) / LET_IN
        self._insist(lambda: given.append(self._private.let_in(job, chunk, folder)))
        return given[0]

    def _is_skipped(self, job: Job, name: str, err: Exception) -> bool:
        """Leave a job out whose chunk is damaged, or has expired before its worker could read it; whether it was."""
        if (reason := self._watch.lack_of(job.chunk_ids)) is None:
            return False
        _log.warning("job_skipped job=%d chunk=%s reason=%s error=%s", job.id, name, reason, err)
        self._insist(lambda: self._queue.skip(job, reason))
        self._runner.clean(job)
        return True

    def _try_elsewhere(self, job: Job, name: str, err: ChildFailedError) -> None:
        """Let a job be claimed again that an engine lost: it was interrupted where it ran, or found no place at all."""
        _log.warning("job_%s chunk=%s reason=%s", err.kind, name, err)
        if err.kind is Failure.LOST:
            told: list[str] = []
            backoff_s = self._settings.training.backoff_s
            self._insist(lambda: told.append(self._queue.interrupt(job, str(err), backoff_s=backoff_s)))
            if told[0] == "poisoned":
                self._runner.clean(job)
        else:
            self._insist(lambda: self._queue.give_back(job, wait_s=max(1.0, self._settings.training.backoff_s)))

    def _fail(self, job: Job, name: str, reason: str) -> None:
        """Let a job be tried again, if it may: what was paid for is kept, and what would have to be is not begun."""
        training = self._settings.training
        paid_for = self._private.paid_for(self._runner.left_candidate(job))
        if self._room.is_lacking():  # which is no fault of the job
            _log.warning("job_given_back chunk=%s reason=%s", name, reason)
            self._insist(lambda: self._queue.give_back(job))
            if paid_for is None:
                self._runner.clean(job)
            return
        told: list[str] = []

        def fail() -> None:
            attempts = training.attempts if paid_for is not None or self._private.may_spend_again(job) else 1
            told.append(self._queue.fail(job, reason, attempts=attempts, backoff_s=training.backoff_s))

        self._insist(fail)
        if paid_for is None or told[0] == "poisoned":
            self._runner.clean(job)
        _log.warning("job_%s job=%d chunk=%s attempt=%d reason=%s", told[0], job.id, name, job.attempts + 1, reason)

    def _insist(self, change: Callable[[], object], tries: int | None = None) -> None:
        insist(self._stop, change, tries)
