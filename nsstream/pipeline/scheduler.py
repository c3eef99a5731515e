"""Scheduler: stored chunks become promoted models, in the background, whatever a worker does.

Threads: one sees chunks as they are stored and queues them; each place of `training.workers` has one that claims a job,
has it trained and judged by child processes, and settles it. The chunk folder is the buffer between capture and
training: what is seen is what stands there, so a chunk that was stored a moment before a kill is seen by the next
process.

Rules: (1) a job's checkpoint is made in a folder of its own, ``work/job-<id>``, and moves to ``models`` once it is
judged; so a job whose process died is gone on with, or begun anew, and never leaves two models; (2) the ledger says
what is promoted, and the mark follows; (3) a fault of a worker is counted by kind and costs an attempt, our own stop
and the loss of a machine cost none; (4) while there is no seed, one place alone trains; a seed of captures comes before
any job; (5) in private mode a job has reserved what it may spend before anything of its traffic is read, or is skipped
by name (`private_jobs`).
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, Final

from nsstream.chunk import ChunkStore
from nsstream.clock import Clock
from nsstream.encode.address_map import AddressMap
from nsstream.errors import NsstreamError, OutputError, StateError
from nsstream.pipeline.capture_seed import CaptureSeed
from nsstream.pipeline.child import CancelledError, ChildFailedError, Failure
from nsstream.pipeline.chunk_watch import ChunkWatch
from nsstream.pipeline.engine import Engine, LocalEngine
from nsstream.pipeline.forgetting import Forgetting
from nsstream.pipeline.job_runner import JUDGE, JobRunner
from nsstream.pipeline.ledger import Ledger, set_setting
from nsstream.pipeline.model_records import ModelRecord, ModelRecords
from nsstream.pipeline.privacy_ledger import SpendingRefusedError
from nsstream.pipeline.private_jobs import PrivateJobs, Reserved
from nsstream.pipeline.private_training import Planner, plan
from nsstream.pipeline.promoter import Promoter, model_as_dict
from nsstream.pipeline.room import Room
from nsstream.pipeline.service_config import GateSection, PrivacySection, TrainingSection, WorkerSection
from nsstream.pipeline.training import WORKER
from nsstream.pipeline.training_queue import Job, TrainingQueue

_log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 2.0  # for chunks, where nobody says that one was stored
IDLE_S: Final = 0.5
PAUSED: Final = "training.paused"  # a setting
CAPTURES: Final = "captures"  # what a lane learns that is no chunk
OnDeath = Callable[[str, BaseException], None]


@dataclass(slots=True)
class LaneStatus:
    """What one place does."""

    name: str
    state: str = "idle"  # idle, training, judging
    chunk: str | None = None
    is_seed: bool = False
    stage: str | None = None  # of the fit
    step: int | None = None
    loss: float | None = None
    left_s: float | None = None
    since_ns: int = 0


@dataclass(slots=True)
class _Counters:
    """Of this process, since it began."""

    failures: Counter[str] = field(default_factory=Counter)  # of workers and judges, by `Failure`
    training_s: float = 0.0
    taken_back: int = 0  # claims of a process that died


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
        self._training, self._gate, self._on_death = training, gate, on_death
        self.queue, self.models = TrainingQueue(ledger, clock), ModelRecords(ledger, clock)
        self.forgetting = Forgetting(state, ledger, clock)
        self.private = PrivateJobs(privacy or PrivacySection(), ledger, clock, planner)
        self._promoter = Promoter(state / "models", self.models)
        self._stop, self._wake = Event(), threading.Condition()
        self._engine = engine or LocalEngine(training.workers)
        self._runner = JobRunner(state, ledger, address_map, self._stop, worker, judge, self._engine)
        self._lock = threading.Lock()
        self._room, self._is_seeding = Room(state), False
        self._capture_seed = CaptureSeed(state, training.seed_captures, clock)
        self._counters = _Counters()
        self._lanes = [LaneStatus(f"train-{at}") for at in range(len(self._engine.places))]
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Take up what a process before left, and begin; raises StateError or OutputError where the state refuses."""
        self._store = ChunkStore(self._state / "chunks")
        self._watch = ChunkWatch(self._store, self.queue, self._stop.is_set)
        for folder in (self._promoter.folder, self._state / "work"):
            folder.mkdir(exist_ok=True)
        self._counters.taken_back = self.queue.take_back_claims()
        if self._counters.taken_back:
            _log.warning("jobs_taken_back count=%d", self._counters.taken_back)
        self._runner.clean_all()
        self.private.mistrust(self._promoter.folder)
        self._promoter.promoted()
        self._promoter.follow_ledger()
        if not self._training.enabled:
            return
        if self._promoter.seed() is not None:
            self._capture_seed.disown()  # what was learned here is nearer than anything public
        self._threads.append(self._thread("chunks", self._see_chunks))
        for lane, worker in zip(self._lanes, self._engine.places, strict=True):
            self._threads.append(self._thread(lane.name, partial(self._work, lane, worker)))
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
        self._training, self._gate = training, gate
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
        now_ns = self._clock.monotonic_ns()
        promoted, newest = self.models.promoted(), self.models.newest(1)
        with self._lock:
            workers = [
                {
                    "name": lane.name, "state": lane.state, "chunk": lane.chunk, "is_seed": lane.is_seed,
                    "stage": lane.stage, "step": lane.step, "loss": lane.loss, "left_s": lane.left_s,
                    "for_s": 0.0 if lane.state == "idle" else (now_ns - lane.since_ns) * 1e-9,
                }
                for lane in self._lanes
            ]  # fmt: skip
        return {
            "enabled": self._training.enabled,
            "paused": self.is_paused,
            "engine": self._engine.name,
            "jobs": self.queue.counts(),
            "chunks": self.queue.chunk_counts(),
            "workers": workers,
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
            training = self._training
            try:
                self._watch.look(
                    fewest=training.fewest_conversations, most_waiting=training.most_waiting, on_seen=self.wake
                )
            except OutputError as err:  # the disk or the ledger refuses: nothing was seen, and is looked at again
                _log.warning("chunks_not_seen error=%s", err)
            self.forgetting.forget_old_rows_now_and_then(training.remember_s)
            self._pause_for(LOOK_EVERY_S)

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def _work(self, lane: LaneStatus, worker: WorkerSection) -> None:
        while not self._stop.is_set():
            try:
                is_held_back = self.is_paused or self._room.is_lacking()
                if not is_held_back and self._seed_of_captures(lane, worker):
                    continue
                claimed = None if is_held_back else self._claim()
            except OutputError as err:
                _log.warning("job_not_claimed error=%s", err)
                claimed = None
            if claimed is None:
                self._pause_for(IDLE_S)
                continue
            job, parent = claimed
            try:
                with suppress(CancelledError):  # we stop, and the ledger refuses: the next process takes the job back
                    self._do(job, parent, lane, worker)
            finally:
                self._rest(lane, was_seeding=parent is None)

    def _seed_of_captures(self, lane: LaneStatus, worker: WorkerSection) -> bool:
        """Learn the seed of captures, if it is wanted and no other place does; whether it was tried."""
        with self._lock:
            if self._is_seeding or not self._capture_seed.is_due():
                return False
            self._is_seeding = True
        training, began_ns = self._training, self._clock.monotonic_ns()
        self._show(lane, "training", chunk=CAPTURES, is_seed=True, since_ns=began_ns)
        try:
            seed = self._capture_seed.train(self._runner, training, worker, lambda line: self._hear(lane, line))
            seconds = (self._clock.monotonic_ns() - began_ns) * 1e-9
            self._counters.training_s += seconds
            _log.info("seed_of_captures id=%s training_s=%.1f", seed.name, seconds)
        except CancelledError:
            pass
        except (ChildFailedError, NsstreamError) as err:
            if isinstance(err, ChildFailedError):
                self._counters.failures[err.kind] += 1
            is_given_up = self._capture_seed.fail(training.attempts, training.backoff_s)
            _log.warning("seed_of_captures_%s reason=%s", "given_up" if is_given_up else "failed", err)
        finally:
            self._rest(lane, was_seeding=True)
        return True

    def _rest(self, lane: LaneStatus, *, was_seeding: bool) -> None:
        with self._lock:
            lane.state, lane.chunk, lane.stage, lane.step, lane.loss, lane.left_s = ("idle", *[None] * 5)
            if was_seeding:
                self._is_seeding = False

    def _claim(self) -> tuple[Job, Path | None] | None:
        with self._lock:
            if self._is_seeding or self._capture_seed.is_wanted:
                return None
            parent = self._parent()
            job = self.queue.claim(oldest=parent is None, most_waiting=self._training.most_waiting)
            if job is None:
                return None
            if parent is not None and parent == self._capture_seed.checkpoint and self._is_of_flows(job):
                _log.warning("seed_of_captures_unused job=%d reason=it is of packets, the chunk of flows", job.id)
                self._capture_seed.disown()
                parent = None
            self._is_seeding = parent is None
            return job, parent

    def _is_of_flows(self, job: Job) -> bool:
        return bool(self._ledger.rows("SELECT 1 FROM chunk WHERE job = ? AND kind = 'flows'", (job.id,)))

    def _parent(self) -> Path | None:
        """The checkpoint to go on from, None where a seed is to be trained."""
        training, reseed_after = self._training, self._gate.reseed_after
        if reseed_after and self.models.failures_in_a_row() >= reseed_after:
            return None
        if (bound := self._gate.reseed_drift) is not None and self.models.has_drifted(bound):
            _log.warning("reseeding drift_above=%g", bound)
            return None
        promoted = self._promoter.promoted()
        if training.start_from == "newest" and promoted is not None:
            return self._promoter.folder / promoted.id
        if training.seed_model is not None:
            return training.seed_model
        seed = self._promoter.seed()
        return self._capture_seed.checkpoint if seed is None else self._promoter.folder / seed.id

    def _do(self, job: Job, parent: Path | None, lane: LaneStatus, worker: WorkerSection) -> None:
        """One job, to its end; what goes wrong is written down, and ends nothing but the job."""
        name, runner, training = job.chunk_ids[-1], self._runner, self._training
        reserved: Reserved | None = None
        try:
            began_ns = self._clock.monotonic_ns()
            self._show(lane, "training", chunk=name, is_seed=parent is None, since_ns=began_ns)
            candidate = runner.left_candidate(job)
            if candidate is None or not self.private.accepts(candidate):
                candidate = None
                reserved = self._reserve(job, parent)
            material = runner.material(job, parent, training.random_seed)
            if self.private.is_private:  # the chunk before is another job's
                material = replace(material, before=None)
            self._insist(lambda: self.queue.run(job))
            if candidate is None:
                shutil.rmtree(runner.folder_of(job), ignore_errors=True)
                if reserved is not None:
                    self._insist(partial(self.private.ledger.begin, reserved.reservation))
                candidate = runner.train(
                    job, material, training, worker, lambda line: self._hear(lane, line),
                    private=None if reserved is None else reserved.plan.told,
                )  # fmt: skip
                trained = candidate.name
                self._insist(lambda: self.queue.trained(job, trained))
            self._insist(partial(self.private.settle, job, candidate))
            training_s = (self._clock.monotonic_ns() - began_ns) * 1e-9
            self._counters.training_s += training_s
            self._show(lane, "judging")
            figures = runner.figures(
                candidate, material, self._gate.drawn_conversations, training, worker,
                lambda line: self._hear(lane, line), is_blind=self.private.is_private,
            )  # fmt: skip
            promoter = self._promoter
            verdict = promoter.place(candidate, figures, self._gate)
            self._insist(partial(promoter.settle, job, verdict, training_s))
            promoter.follow_ledger()
            self._insist(partial(promoter.remove_surplus, training.keep_models))
        except CancelledError:
            self._insist(lambda: self.queue.give_back(job), tries=3)
        except SpendingRefusedError as err:
            _log.warning("job_refused job=%d chunk=%s reason=%s error=%s", job.id, name, err.reason, err)
            refused = err.reason
            self._insist(lambda: self.queue.skip(job, refused))
            runner.clean(job)
        except ChildFailedError as err:
            if err.kind in (Failure.LOST, Failure.UNREACHABLE):
                self._counters.failures[err.kind] += 1
                if err.kind is Failure.UNREACHABLE and reserved is not None:
                    self._insist(partial(self.private.ledger.never_began, reserved.reservation), tries=3)
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

    def _reserve(self, job: Job, parent: Path | None) -> Reserved | None:
        told: list[Reserved | None] = []
        public = self._capture_seed.checkpoint
        self._insist(lambda: told.append(self.private.reserve(job, parent, self._training, public)))
        return told[0]

    def _is_skipped(self, job: Job, name: str, err: Exception) -> bool:
        """Leave a job out whose chunk is damaged, or has expired before its worker could read it; whether it was."""
        if (reason := self._watch.lack_of(job.chunk_ids)) is None:
            return False
        _log.warning("job_skipped job=%d chunk=%s reason=%s error=%s", job.id, name, reason, err)
        self._insist(lambda: self.queue.skip(job, reason))
        self._runner.clean(job)
        return True

    def _try_elsewhere(self, job: Job, name: str, err: ChildFailedError) -> None:
        """Let a job be claimed again that an engine lost: it was interrupted where it ran, or found no place at all."""
        _log.warning("job_%s chunk=%s reason=%s", err.kind, name, err)
        if err.kind is Failure.LOST:
            told: list[str] = []
            backoff_s = self._training.backoff_s
            self._insist(lambda: told.append(self.queue.interrupt(job, str(err), backoff_s=backoff_s)))
            if told[0] == "poisoned":
                self._runner.clean(job)
        else:
            self._insist(lambda: self.queue.give_back(job, wait_s=max(1.0, self._training.backoff_s)))

    def _fail(self, job: Job, name: str, reason: str) -> None:
        training = self._training
        if self._room.is_lacking():  # which is no fault of the job
            _log.warning("job_given_back chunk=%s reason=%s", name, reason)
            self._insist(lambda: self.queue.give_back(job))
            self._runner.clean(job)
            return
        told: list[str] = []
        self._insist(
            lambda: told.append(self.queue.fail(job, reason, attempts=training.attempts, backoff_s=training.backoff_s))
        )
        self._runner.clean(job)
        _log.warning("job_%s job=%d chunk=%s attempt=%d reason=%s", told[0], job.id, name, job.attempts + 1, reason)

    # --- threads ------------------------------------------------------------------------------------------------------

    def _insist(self, change: Callable[[], object], tries: int | None = None) -> None:
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
                if self._stop.wait(0 if tries else 1.0) and tries is None:
                    raise CancelledError from err

    def _hear(self, lane: LaneStatus, line: Mapping[str, Any]) -> None:
        self._show(lane, lane.state, **{name: line.get(name) for name in ("stage", "step", "loss", "left_s")})

    def _show(self, lane: LaneStatus, state: str, **told: Any) -> None:
        with self._lock:
            lane.state = state
            for name, value in told.items():
                setattr(lane, name, value)

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
