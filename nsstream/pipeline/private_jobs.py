"""PrivateJobs: what the scheduler asks of the ledger before, during and after a job, in private mode.

In other modes nothing is reserved, and the ledger is only shown.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from nsstream.chunk import ChunkStore
from nsstream.clock import Clock
from nsstream.errors import StateError, TrainError
from nsstream.pipeline.bounded_units import let_in
from nsstream.pipeline.ledger import Ledger
from nsstream.pipeline.privacy_budget import Terms
from nsstream.pipeline.privacy_config import PrivacySection
from nsstream.pipeline.privacy_ledger import PrivacyLedger, Reservation, SpendingRefusedError
from nsstream.pipeline.private_training import (
    ATTEMPTS,
    UNITS,
    Planner,
    PrivatePlan,
    check_kind,
    check_parent,
    plan,
    what_was_done,
)
from nsstream.pipeline.service_config import TrainingSection
from nsstream.pipeline.training_queue import Job

FLOW_CHUNKS: Final = 2  # of privacy.most_chunks_of_a_unit, for flows

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reserved:
    """What an attempt at a job may do, and how."""

    reservation: Reservation
    plan: PrivatePlan
    attempt: int  # 1: the first at this job; each costs as much again


class PrivateJobs:
    """The privacy of one scheduler."""

    def __init__(self, section: PrivacySection, ledger: Ledger, clock: Clock, planner: Planner = plan) -> None:
        self._section, self._planner = section, planner
        self._terms, self._rows = terms_of(section), ledger.rows
        self.ledger = PrivacyLedger(ledger, clock, self._terms)

    @property
    def is_private(self) -> bool:
        """Whether jobs are done privately, or not at all."""
        return self._section.mode == "private"

    def mistrust(self, models: Path) -> None:
        """Open a gap where models tell of spending and the ledger of none: it is not the one that they were made with.

        Raises OutputError.
        """
        if self.is_private and _any_is_private(models) and not self.ledger.knows_anything():
            self.ledger.open_gap("there are private models of which the ledger knows nothing")

    def accepts(self, candidate: Path) -> bool:
        """Whether a checkpoint that a process before us left may be gone on with: it says what it did, or need not."""
        return not self.is_private or bool(what_was_done(candidate))

    def reserve(
        self, job: Job, parent: Path | None, training: TrainingSection, seed_of_captures: Path | None = None
    ) -> Reserved | None:
        """Reserve what a job will spend, before it reads anything; None where nothing is promised.

        `training.seed_model` and the seed of captures are public, by the operator's word.

        Raises SpendingRefusedError where it may not be done, StateError where its parent cannot be read, OutputError
        where the ledger cannot be written.
        """
        if not self.is_private:
            return None
        begun = self.ledger.begun(job.digest)
        try:
            check_parent(parent, (training.seed_model, seed_of_captures))
            planned = self._planner(self._section, training, parent is None)
            is_of_flows = bool(self._rows("SELECT 1 FROM chunk WHERE job = ? AND kind = 'flows'", (job.id,)))
            check_kind(parent, is_of_flows=is_of_flows)
            if begun >= self._section.attempts:
                raise SpendingRefusedError(
                    ATTEMPTS, f"{begun} workers began on it, as many as privacy.attempts lets, and each has spent"
                )
        except SpendingRefusedError as err:
            self.ledger.count_refusal(err.reason)
            raise
        reservation = self.ledger.reserve(job, planned.mechanisms)
        if begun:
            told = job.id, job.chunk_ids[-1], begun + 1, reservation.epsilon
            _log.warning("job_spends_again job=%d chunk=%s attempt=%d epsilon=%.4g", *told)
        return Reserved(reservation, planned, begun + 1)

    def let_in(self, job: Job, chunk: Path, folder: Path) -> Path:
        """The chunk of a job without the units that are in as many jobs as they may be; itself where nothing bounds it.

        What is let in is written down before this returns, and the chunk without the rest into `folder`.

        Raises SpendingRefusedError where nothing is let in, StateError where the chunk cannot be read, OutputError
        where ledger or folder cannot be written.
        """
        if not self.is_private or not self.ledger.uses.is_bounded:
            return chunk
        kept = let_in(ChunkStore(chunk.parent).read(chunk), job, self._terms.unit, self.ledger.uses)
        if kept is None:
            self.ledger.count_refusal(UNITS)
            raise SpendingRefusedError(
                UNITS, f"each of its {self._terms.unit}s is in {self._terms.most_chunks} jobs of a horizon already"
            )
        return ChunkStore(folder).write(kept)

    def may_spend_again(self, job: Job) -> bool:
        """Whether a job that failed may be begun anew: openly always, else within its attempts."""
        return not self.is_private or self.ledger.begun(job.digest) < self._section.attempts

    def paid_for(self, candidate: Path | None) -> Path | None:
        """A checkpoint that was learned privately for a job that failed behind it: to judge it again costs nothing."""
        with suppress(StateError):
            if candidate is not None and self.is_private and self.accepts(candidate):
                return candidate
        return None

    def settle(self, job: Job, checkpoint: Path) -> None:
        """Write down what a job says it did, in its checkpoint; done again, it changes nothing.

        Raises TrainError where it does not say it: then what was reserved stands.
        """
        if not self.is_private:
            return
        done = what_was_done(checkpoint)
        if not done:
            raise TrainError(f"the checkpoint {checkpoint.name} does not say what was done to learn it privately")
        reservation = self.ledger.left_open(job)
        if reservation is not None:
            self.ledger.settle(reservation, done, checkpoint.name)

    def status(self) -> dict[str, Any]:
        """Mode, promise, and what is spent of it, as plain values."""
        section = self._section
        return {
            "mode": section.mode, "unit": section.unit, "epsilon": section.epsilon, "delta": section.delta,
            "horizon_s": section.horizon_s, "epsilon_for_ever": section.epsilon_for_ever,
            "chunk_epsilon": section.chunk_epsilon, **self.ledger.status(),
        }  # fmt: skip


def _any_is_private(models: Path) -> bool:
    for place in models.glob("[!.]*/"):
        with suppress(StateError):
            if what_was_done(place):
                return True
    return False


def terms_of(section: PrivacySection) -> Terms:
    """What a configuration promises."""
    most = section.most_chunks_of_a_unit
    return Terms(
        section.unit,
        section.epsilon,
        section.delta,
        round(section.horizon_s * 1e9),
        FLOW_CHUNKS if most is None and section.unit == "flow" else most,
        section.epsilon_for_ever,
        section.chunk_epsilon,
    )
