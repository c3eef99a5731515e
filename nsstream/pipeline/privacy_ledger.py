"""PrivacyLedger: what was spent on the traffic, in the ledger: reserved before a job reads it, and never given back.

Rules: (1) a job's cost stands in the ledger, on the disk, before the job's worker starts, as the most that it may do;
what it then says it did, if that is less, replaces it in one transaction. So a kill at any moment counts too much, or
what was done; (2) nothing is removed: an attempt that failed has cost what it reserved, the next one reserves anew.
Only what was reserved for a worker that never started is taken over by the next attempt at the same; (3) what would
overspend is refused by name, and reserves nothing; (4) where spending may be unknown (a restored backup, a ledger that
was begun again), a *gap* says so, and no window that touches it is spent in (`restore`, `repair`).

One process holds the ledger; its threads may all call.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from nsstream.clock import Clock
from nsstream.errors import StateError
from nsstream.pipeline.ledger import Ledger
from nsstream.pipeline.privacy_budget import (
    Cost,
    Terms,
    in_window,
    most_of,
    newest_ns,
    runs_out,
    total,
    total_for_ever,
    total_now,
    uses_of,
    worst_total,
)
from nsstream.pipeline.training_queue import Job
from nsstream.pipeline.unit_uses import UnitUses
from nsstream.privacy import Mechanism, as_dicts, epsilon, from_dicts, is_part

OVER_CHUNK: Final = "privacy_chunk_budget"  # reasons why a job is refused
OVER_HORIZON: Final = "privacy_budget"
OVER_FOR_EVER: Final = "privacy_budget_for_ever"
UNKNOWN: Final = "privacy_unknown"
OTHER_UNIT: Final = "privacy_other_unit"
REFUSALS: Final = (OVER_CHUNK, OVER_HORIZON, OVER_FOR_EVER, UNKNOWN, OTHER_UNIT)

_ALWAYS: Final = (-(1 << 63), (1 << 63) - 1)
_LOOK_NS: Final = 60 * 10**9  # for how long a forecast holds


class SpendingRefusedError(StateError):
    """A job may not be done privately; `reason` is its name."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Reservation:
    """What a job may do; `id` is its row."""

    id: str
    digest: str
    mechanisms: tuple[Mechanism, ...]
    epsilon: float  # of it alone


class PrivacyLedger:
    """The spending of one ledger, under one configuration's terms."""

    def __init__(self, ledger: Ledger, clock: Clock, terms: Terms) -> None:
        self._ledger, self._clock, self._terms = ledger, clock, terms
        self.uses = UnitUses(ledger, clock, terms)
        # How units are let into a job, as its row says it.
        self._bound = (None, None) if terms.most_chunks is None else (terms.most_chunks, terms.horizon_ns)
        self._reserving = threading.Lock()  # no two threads find the same room
        self._told: tuple[tuple[int, ...], int, dict[str, Any]] | None = None

    def reserve(self, job: Job, mechanisms: Sequence[Mechanism]) -> Reservation:
        """Write down the most that a job will do, before it reads anything.

        Raises SpendingRefusedError, and counts that, where it is more than is left; OutputError where the ledger
        cannot be written.
        """
        terms, done = self._terms, tuple(mechanisms)
        with self._reserving:
            row = self._unused(job, done)
            if row is not None:
                return Reservation(row, job.digest, done, epsilon(done, terms.delta))
            try:
                alone = self._check(Cost(job.digest, job.start_ns, job.end_ns, done, terms.most_chunks))
            except SpendingRefusedError as err:
                self.count_refusal(err.reason)
                raise
            name = secrets.token_hex(16)
            with self._ledger.transaction() as db:
                db.execute(
                    "INSERT INTO spending (id, job, digest, chunk, start_ns, end_ns, unit, reserved, reserved_ns,"
                    " most_chunks, within_ns) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        name, job.id, job.digest, job.chunk_ids[-1], job.start_ns, job.end_ns, terms.unit,
                        json.dumps(as_dicts(done)), self._clock.wall_ns(), *self._bound,
                    ),
                )  # fmt: skip
            return Reservation(name, job.digest, done, alone)

    def begin(self, reservation: Reservation) -> None:
        """Say that a worker is about to start: from now on the reservation is this attempt's."""
        self._set(reservation, "is_begun = 1", ())

    def never_began(self, reservation: Reservation) -> None:
        """Say that no worker started, though `begin` said so: the next attempt takes the reservation over."""
        self._set(reservation, "is_begun = 0", ())

    def begun(self, digest: str) -> int:
        """How many attempts at what a job learns began, whatever became of them: each has cost what it reserved."""
        return int(self._ledger.rows("SELECT COUNT(*) FROM spending WHERE digest = ? AND is_begun", (digest,))[0][0])

    def left_open(self, job: Job) -> Reservation | None:
        """The reservation of the newest attempt at a job that began, and has not told what it did."""
        rows = self._ledger.rows(
            "SELECT id, reserved FROM spending WHERE digest = ? AND unit = ? AND is_begun AND settled_ns IS NULL"
            " ORDER BY reserved_ns DESC LIMIT 1",
            (job.digest, self._terms.unit),
        )
        if not rows:
            return None
        done = _mechanisms(rows[0]["reserved"])
        return Reservation(rows[0]["id"], job.digest, done, epsilon(done, self._terms.delta))

    def settle(self, reservation: Reservation, mechanisms: Sequence[Mechanism], model: str) -> None:
        """Say what a job did, and which model it made; what is no part of what was reserved leaves all of that."""
        told = json.dumps(as_dicts(mechanisms)) if is_part(mechanisms, reservation.mechanisms) else None
        self._set(reservation, "model = ?, settled_ns = ?, spent = ?", (model, self._clock.wall_ns(), told))

    def count_refusal(self, reason: str) -> None:
        """Count a job that was refused."""
        with self._ledger.transaction() as db:
            db.execute(
                "INSERT INTO refusal (reason, count, last_ns) VALUES (?, 1, ?)"
                " ON CONFLICT (reason) DO UPDATE SET count = count + 1, last_ns = excluded.last_ns",
                (reason, self._clock.wall_ns()),
            )

    def knows_anything(self) -> bool:
        """Whether spending stands here, or a gap."""
        return bool(self._ledger.rows("SELECT 1 FROM spending UNION ALL SELECT 1 FROM spending_gap LIMIT 1"))

    def open_gap(self, reason: str) -> None:
        """Say that what was spent on traffic up to now may not be known."""
        now_ns = self._clock.wall_ns()
        with self._ledger.transaction() as db:
            open_gap(db, now_ns, now_ns, reason)

    def costs(self, low_ns: int = _ALWAYS[0], high_ns: int = _ALWAYS[1]) -> list[Cost]:
        """The costs of a stretch of time: what was spent where a job told it, what was reserved where none did."""
        rows = self._ledger.rows(
            "SELECT * FROM spending WHERE unit = ? AND end_ns > ? AND start_ns < ? ORDER BY start_ns, id",
            (self._terms.unit, low_ns, high_ns),
        )
        return [_cost(row, self._terms) for row in rows]

    def status(self) -> dict[str, Any]:
        """What is spent and left, as plain values; a forecast is up to a minute old."""
        query = (
            "SELECT COUNT(*), COALESCE(SUM(settled_ns IS NULL), 0), COALESCE(SUM(is_begun), 0),"
            " (SELECT COUNT(*) FROM spending_gap) FROM spending"
        )
        key = tuple(self._ledger.rows(query)[0])
        now_ns = self._clock.wall_ns()
        if self._told is None or self._told[0] != key or not 0 <= now_ns - self._told[1] < _LOOK_NS:
            self._told = key, now_ns, self._look(now_ns, key)
        refused = {row["reason"]: row["count"] for row in self._ledger.rows("SELECT * FROM refusal")}
        return self._told[2] | {"refused": refused}

    def newest(self, limit: int) -> list[dict[str, Any]]:
        """What the newest jobs cost, the newest traffic first, as plain values."""
        rows = self._ledger.rows(
            "SELECT *, (SELECT COUNT(*) FROM spending AS other WHERE other.digest = spending.digest AND other.is_begun"
            " AND (other.reserved_ns, other.id) < (spending.reserved_ns, spending.id)) AS earlier"
            " FROM spending ORDER BY end_ns DESC, reserved_ns DESC, id LIMIT ?",
            (limit,),
        )
        return [
            {
                "chunk": row["chunk"], "start_ns": row["start_ns"], "end_ns": row["end_ns"], "unit": row["unit"],
                "reserved_ns": row["reserved_ns"], "settled_ns": row["settled_ns"], "model": row["model"],
                "attempt": row["earlier"] + 1,
                "epsilon": epsilon(_cost(row, self._terms).mechanisms, self._terms.delta),
                "mechanisms": as_dicts(_cost(row, self._terms).mechanisms),
            }
            for row in rows
        ]  # fmt: skip

    def _look(self, now_ns: int, counts: tuple[int, ...]) -> dict[str, Any]:
        terms, costs, now_ns = self._terms, self.costs(), self._traffic_ns(now_ns)
        horizon, ever = total_now(costs, now_ns, terms), total_for_ever(costs, terms)
        at = newest_ns(costs, now_ns)
        is_unknown = self._gap_in(at - terms.horizon_ns, at) is not None
        to_come = [runs_out(costs, now_ns, terms, for_ever=ever_too) for ever_too in (False, True)]
        day = in_window(costs, at, 86_400 * 10**9)
        return {
            "jobs": counts[0], "unsettled": counts[1], "gaps": counts[3], "unknown": is_unknown,
            "spent": horizon, "left": 0.0 if is_unknown else max(terms.epsilon - horizon, 0.0),
            "spent_day": total(uses_of(day), terms.delta, most_of(day, terms)),
            "spent_for_ever": ever,
            "left_for_ever": None if terms.for_ever is None else max(terms.for_ever - ever, 0.0),
            "runs_out_s": None if to_come[0] is None else to_come[0] * 1e-9,
            "runs_out_for_ever_s": None if to_come[1] is None else to_come[1] * 1e-9,
        }  # fmt: skip

    def _traffic_ns(self, now_ns: int) -> int:
        """Where the traffic's time is: now, or where a source is that plays what was long ago."""
        rows = self._ledger.rows("SELECT reserved_ns, end_ns FROM spending ORDER BY reserved_ns DESC LIMIT 1")
        is_past = bool(rows) and rows[0]["reserved_ns"] - rows[0]["end_ns"] > self._terms.horizon_ns
        return int(rows[0]["end_ns"]) if is_past else now_ns

    def _check(self, cost: Cost) -> float:
        """The epsilon of a cost alone; raises SpendingRefusedError where there is no room for it."""
        terms = self._terms
        alone = epsilon(cost.mechanisms, terms.delta)
        if alone > terms.chunk_epsilon:
            raise SpendingRefusedError(
                OVER_CHUNK,
                f"it would spend epsilon {alone:.4g}, more than privacy.chunk_epsilon {terms.chunk_epsilon:g}",
            )
        low_ns, high_ns = cost.start_ns - terms.horizon_ns, cost.end_ns + terms.horizon_ns
        at = _ALWAYS if terms.for_ever is not None else (low_ns, high_ns)
        if (gap := self._gap_in(*at)) is not None:
            raise SpendingRefusedError(
                UNKNOWN, f"what was spent before is not known: {gap}; docs/privacy.md says what to do"
            )
        known_from_ns = self.uses.known_from_ns()
        if known_from_ns is not None and cost.start_ns < known_from_ns:
            raise SpendingRefusedError(UNKNOWN, "in which jobs its units were is not known any more: it is too old")
        others = self._ledger.rows(
            "SELECT COUNT(*) FROM spending WHERE unit <> ? AND end_ns > ? AND start_ns < ?", (terms.unit, *at)
        )[0][0]
        if others:
            raise SpendingRefusedError(
                OTHER_UNIT, f"{others} jobs of the same time kept the promise of another unit than privacy.unit"
            )
        costs = self.costs(*at)
        if (spent := worst_total(costs, cost, terms)) > terms.epsilon:
            raise SpendingRefusedError(
                OVER_HORIZON,
                f"epsilon {spent:.4g} would be spent in a horizon, more than privacy.epsilon {terms.epsilon:g}",
            )
        if terms.for_ever is not None and (spent := total_for_ever([*costs, cost], terms)) > terms.for_ever:
            raise SpendingRefusedError(
                OVER_FOR_EVER,
                f"epsilon {spent:.4g} would be spent for ever, more than privacy.epsilon_for_ever {terms.for_ever:g}",
            )
        return alone

    def _unused(self, job: Job, mechanisms: tuple[Mechanism, ...]) -> str | None:
        """A reservation of the same for the same, of an attempt that never came to start its worker."""
        rows = self._ledger.rows(
            "SELECT id FROM spending WHERE digest = ? AND unit = ? AND reserved = ? AND NOT is_begun"
            " AND settled_ns IS NULL AND most_chunks IS ? AND within_ns IS ? LIMIT 1",
            (job.digest, self._terms.unit, json.dumps(as_dicts(mechanisms)), *self._bound),
        )
        return rows[0]["id"] if rows else None

    def _gap_in(self, low_ns: int, high_ns: int) -> str | None:
        rows = self._ledger.rows(
            "SELECT reason FROM spending_gap WHERE end_ns > ? AND start_ns < ? LIMIT 1", (low_ns, high_ns)
        )
        return str(rows[0]["reason"]) if rows else None

    def _set(self, reservation: Reservation, assignment: str, values: Sequence[object]) -> None:
        with self._ledger.transaction() as db:
            db.execute(
                f"UPDATE spending SET {assignment} WHERE id = ? AND settled_ns IS NULL", (*values, reservation.id)
            )


def open_gap(db: sqlite3.Connection, end_ns: int, now_ns: int, reason: str) -> None:
    """Say, within a transaction, that spending on traffic up to a time may be unknown."""
    db.execute(
        "INSERT INTO spending_gap (start_ns, end_ns, reason, time_ns) VALUES (?, ?, ?, ?)",
        (_ALWAYS[0] + 1, end_ns, reason, now_ns),
    )


def _cost(row: sqlite3.Row, terms: Terms) -> Cost:
    done = _mechanisms(row["reserved"] if row["spent"] is None else row["spent"])
    is_within = row["within_ns"] is not None and row["within_ns"] >= terms.horizon_ns
    return Cost(row["digest"], row["start_ns"], row["end_ns"], done, row["most_chunks"] if is_within else None)


@lru_cache(maxsize=4096)
def _mechanisms(text: str) -> tuple[Mechanism, ...]:
    return from_dicts(json.loads(text))
