"""Scheduler: stored chunks become promoted models, in the background, whatever a worker does.

Threads: one sees chunks as they are stored and queues them; each place of `training.workers` has one that claims a job
(`succession`), has it trained and judged by child processes, and settles it (`job_steps`). The chunk folder is the
buffer between capture and training: what is seen is what stands there, so a chunk that was stored a moment before a
kill is seen by the next process.

Rules: (1) a job's checkpoint is made in a folder of its own, ``work/job-<id>``, and moves to ``models`` once it is
judged; so a job whose process died is gone on with, or begun anew, and never leaves two models; (2) the ledger says
what is promoted, and the mark follows; (3) a fault of a worker is counted by kind and costs an attempt, our own stop
and the loss of a machine cost none; (4) while there is no seed, one place alone trains; a seed of captures comes before
any job; (5) in private mode a job has reserved what it may spend before anything of its traffic is read, or is skipped
by name (`private_jobs`).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, Final

from nsstream.chunk import ChunkStore
from nsstream.clock import Clock
from nsstream.encode.address_map import AddressMap
from nsstream.errors import OutputError
from nsstream.pipeline.capture_seed import CaptureSeed
from nsstream.pipeline.child import CancelledError
from nsstream.pipeline.chunk_watch import ChunkWatch
from nsstream.pipeline.engine import Engine, LocalEngine
from nsstream.pipeline.forgetting import Forgetting
from nsstream.pipeline.job_runner import JUDGE, JobRunner
from nsstream.pipeline.job_steps import JobSteps
from nsstream.pipeline.lane import Lane
from nsstream.pipeline.ledger import Ledger, set_setting
from nsstream.pipeline.model_records import ModelRecord, ModelRecords
from nsstream.pipeline.privacy_config import PrivacySection
from nsstream.pipeline.private_jobs import PrivateJobs
from nsstream.pipeline.private_training import Planner, plan
from nsstream.pipeline.promoter import Promoter, model_as_dict
from nsstream.pipeline.room import Room
from nsstream.pipeline.service_config import GateSection, TrainingSection
from nsstream.pipeline.succession import Succession
from nsstream.pipeline.trainer_parts import Counters, Settings
from nsstream.pipeline.training import WORKER
from nsstream.pipeline.training_queue import TrainingQueue

_log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 2.0  # for chunks, where nobody says that one was stored
IDLE_S: Final = 0.5
PAUSED: Final = "training.paused"  # a setting
OnDeath = Callable[[str, BaseException], None]


class Scheduler:
    """The trainer of one state directory.

    Args:
        state: holds ``chunks``, ``models``, ``merged`` and ``work``.
        ledger: open, of that directory.
        training, gate: may be changed later by `reconfigure`.
        address_map: that models see addresses through.
        clock: for the ledger, and for how long things took.
        on_death: told where a thread of ours ends by a defect.
        worker, judge: the programs.
        engine: that runs them; None: children of ours, in the places of `training.workers`.
        privacy: what is promised.
        planner: says what a private job does.
    """

    def __init__(
        self,
        state: Path,
        ledger: Ledger,
        training: TrainingSection,
        gate: GateSection,
        address_map: AddressMap,
        clock: Clock,
        *,
        on_death: OnDeath,
        worker: Sequence[str] = WORKER,
        judge: Sequence[str] = JUDGE,
        engine: Engine | None = None,
        privacy: PrivacySection | None = None,
        planner: Planner = plan,
    ) -> None:
        self._state, self._ledger, self._clock = state, ledger, clock
        self._settings, self._counters, self._on_death = Settings(training, gate), Counters(), on_death
        self.queue, self.models = TrainingQueue(ledger, clock), ModelRecords(ledger, clock)
        self.forgetting = Forgetting(state, ledger, clock)
        self.private = PrivateJobs(privacy or PrivacySection(), ledger, clock, planner)
        self._promoter = Promoter(state / "models", self.models)
        self._stop, self._wake = Event(), threading.Condition()
        self._engine = engine or LocalEngine(training.workers)
        self._runner = JobRunner(state, ledger, address_map, self._stop, worker, judge, self._engine)
        self._room = Room(state)
        self._captures = CaptureSeed(state, training.seed_captures, clock)
        self._succession = Succession(
            ledger,
            self.queue,
            self.models,
            self._promoter,
            self._captures,
            self._settings,
            self._counters,
            may_reseed=not self.private.is_private,
        )
        self._lanes = [Lane(f"train-{at}", place, clock) for at, place in enumerate(self._engine.places)]
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Take up what a process before left, and begin; raises StateError or OutputError where the state refuses."""
        self._store = ChunkStore(self._state / "chunks")
        self._watch = ChunkWatch(self._store, self.queue, self._stop.is_set)
        self._steps = JobSteps(
            self._runner, self.queue, self._promoter, self.private, self._watch, self._room, self._settings,
            self._counters, self._stop,
        )  # fmt: skip
        for folder in (self._promoter.folder, self._state / "work"):
            folder.mkdir(exist_ok=True)
        self._counters.taken_back = self.queue.take_back_claims()
        if self._counters.taken_back:
            _log.warning("jobs_taken_back count=%d", self._counters.taken_back)
        self._runner.clean_all()
        self.private.mistrust(self._promoter.folder)
        self._promoter.promoted()
        self._promoter.follow_ledger()
        if not self._settings.training.enabled:
            return
        if self._promoter.seed() is not None:
            self._captures.disown()  # what was learned here is nearer than anything public
        self._threads.append(self._thread("chunks", self._see_chunks))
        for lane in self._lanes:
            self._threads.append(self._thread(lane.name, partial(self._work, lane)))
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the workers, give their jobs back, and wait for our threads."""
        self._stop.set()
        self.wake()
        for thread in self._threads:
            thread.join()

    def wake(self) -> None:
        """Say that a chunk was stored, or that a setting is another."""
        with self._wake:
            self._wake.notify_all()

    def reconfigure(self, training: TrainingSection, gate: GateSection) -> None:
        """Go by other settings from the next job on; only live ones may differ."""
        self._settings.training, self._settings.gate = training, gate
        self.wake()

    def pause(self, is_paused: bool) -> None:
        """Claim no more jobs, or go on; it outlives the process. What runs goes on."""
        with self._ledger.transaction() as db:
            set_setting(db, PAUSED, "yes" if is_paused else None)
        self.wake()

    @property
    def is_paused(self) -> bool:
        """Whether no jobs are claimed."""
        return self._ledger.setting(PAUSED) is not None

    def promote(self, model: str | None) -> ModelRecord | None:
        """Promote a model until further notice; None: the newest good one, and go on; gives what is promoted now.

        Raises StateError where there is no such model, OutputError where it cannot be marked.
        """
        if model is None:
            self.models.release()
        else:
            self.models.promote(model)
        self._promoter.follow_ledger()
        return self.models.promoted()

    def is_drained(self) -> bool:
        """Whether all stored chunks are seen, and no job waits or runs."""
        return not self._watch.has_new() and self.queue.is_drained()

    def status(self) -> dict[str, Any]:
        """Where the training stands, as plain values."""
        promoted, newest = self.models.promoted(), self.models.newest(1)
        return {
            "enabled": self._settings.training.enabled,
            "paused": self.is_paused,
            "engine": self._engine.name,
            "jobs": self.queue.counts(),
            "chunks": self.queue.chunk_counts(),
            "workers": [lane.as_dict() for lane in self._lanes],
            "failures": dict(self._counters.failures),
            "training_s": self._counters.training_s,
            "taken_back": self._counters.taken_back,
            "models": self.models.counts(),
            "held": self.models.is_held,
            "promoted": None if promoted is None else model_as_dict(promoted),
            "newest": model_as_dict(newest[0]) if newest else None,
            "privacy": self.private.status(),
        }

    def seen_chunks(self, limit: int) -> list[dict[str, Any]]:
        """The chunks that were seen, the newest first, with what became of them, as plain values."""
        rows = self._ledger.rows(
            "SELECT chunk.id, chunk.start_ns, chunk.end_ns, chunk.kind, chunk.row_count, chunk.conversations,"
            " chunk.fate, chunk.reason, job.state AS job_state, job.reason AS job_reason, model.id AS model,"
            " model.passed, job.attempts FROM chunk LEFT JOIN job ON job.id = chunk.job"
            " LEFT JOIN model ON model.job = job.id ORDER BY chunk.start_ns DESC, length(chunk.id) DESC LIMIT ?",
            (limit,),
        )
        return [dict(row) for row in rows]

    def _see_chunks(self) -> None:
        while not self._stop.is_set():
            training = self._settings.training
            try:
                self._watch.look(
                    fewest=training.fewest_conversations, most_waiting=training.most_waiting, on_seen=self.wake
                )
            except OutputError as err:  # the disk or the ledger refuses: nothing was seen, and is looked at again
                _log.warning("chunks_not_seen error=%s", err)
            self.forgetting.forget_old_rows_now_and_then(training.remember_s)
            self._pause_for(LOOK_EVERY_S)

    def _work(self, lane: Lane) -> None:
        while not self._stop.is_set():
            try:
                is_held_back = self.is_paused or self._room.is_lacking()
                if not is_held_back and self._succession.learn_captures(self._runner, lane):
                    continue
                claimed = None if is_held_back else self._succession.claim()
            except OutputError as err:
                _log.warning("job_not_claimed error=%s", err)
                claimed = None
            if claimed is None:
                self._pause_for(IDLE_S)
                continue
            job, parent = claimed
            try:
                with suppress(CancelledError):  # we stop, and the ledger refuses: the next process takes the job back
                    self._steps.do(job, parent, lane, self._succession.public_seed)
            finally:
                lane.rest()
                if parent is None:
                    self._succession.end_seeding()

    def _pause_for(self, seconds: float) -> None:
        with self._wake:
            if not self._stop.is_set():
                self._wake.wait(seconds)

    def _thread(self, name: str, work: Callable[[], None]) -> threading.Thread:
        def guarded() -> None:
            try:
                work()
            except BaseException as err:  # the boundary of the thread
                _log.exception("thread_died name=%s", name)
                self._on_death(name, err)

        return threading.Thread(target=guarded, name=name, daemon=True)
