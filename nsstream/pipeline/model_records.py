"""ModelRecords: every model that was trained, how it was judged, and which one is promoted, in the ledger.

The ledger is the truth: the mark ``promoted`` beside the models (`model.promotion`) follows it, and is set again at the
start where a kill came between the two. Promoted is the model of the newest promotion that is still stored, so where
one is lost, the one before it is. An operator's promotion holds until it is released: until then the gate judges, and
promotes nothing.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from typing import Any, Final

from nsstream.clock import Clock
from nsstream.errors import StateError
from nsstream.pipeline.ledger import Ledger, set_setting
from nsstream.pipeline.training_queue import Job

DRIFTS: Final = 3  # in a row
HOLD: Final = "promotion.hold"  # a setting: the model that an operator promoted

PROMOTED: Final = (
    "SELECT model.* FROM promotion JOIN model ON model.id = promotion.model WHERE model.is_stored"
    " ORDER BY promotion.number DESC LIMIT 1"
)


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """One model."""

    id: str
    job: int
    parent: str | None
    start_ns: int  # of what it learned
    end_ns: int
    trained_ns: int
    training_s: float
    passed: bool
    complaints: tuple[str, ...]  # of the gate
    figures: dict[str, Any]  # what the gate measured
    is_stored: bool  # else its files were removed


class ModelRecords:
    """The models of a ledger."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock

    def settle(
        self,
        job: Job,
        model: str,
        *,
        parent: str | None,
        training_s: float,
        complaints: tuple[str, ...],
        figures: dict[str, Any],
    ) -> bool:
        """Write down what became of a job: done, its model, and the promotion if it passed; whether it is promoted.

        A model that passed is not promoted where the promoted one learned a later chunk (but one of a time that is
        still to come, since the clock was set back), or where an operator's holds.
        """
        now_ns = self._clock.wall_ns()
        with self._ledger.transaction() as db:
            # Which one is newer is asked of this: behind the one before also where the clock was set back.
            trained_ns = max(now_ns, 1 + db.execute("SELECT COALESCE(MAX(trained_ns), 0) FROM model").fetchone()[0])
            db.execute(
                "INSERT INTO model"
                " (id, job, parent, start_ns, end_ns, trained_ns, training_s, passed, complaints, figures)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    model, job.id, parent, job.start_ns, job.end_ns, trained_ns, training_s, not complaints,
                    json.dumps(complaints), json.dumps(figures),
                ),
            )  # fmt: skip
            db.execute("UPDATE job SET state = 'done', ended_ns = ?, reason = NULL WHERE id = ?", (now_ns, job.id))
            now = _promoted(db)
            is_held = db.execute("SELECT 1 FROM setting WHERE name = ?", (HOLD,)).fetchone() is not None
            is_later = now is None or now["end_ns"] <= job.end_ns or now["end_ns"] > now_ns
            is_promoted = not complaints and not is_held and is_later
            if is_promoted:
                _promote(db, model, now_ns, "gate")
        return is_promoted

    def promoted(self) -> ModelRecord | None:
        """The model that is promoted."""
        rows = self._ledger.rows(PROMOTED)
        return _record(rows[0]) if rows else None

    def promote(self, model: str) -> None:
        """Promote a model as an operator does: it holds until `release`; raises StateError where there is none."""
        with self._ledger.transaction() as db:
            row = db.execute("SELECT is_stored FROM model WHERE id = ?", (model,)).fetchone()
            if row is None or not row["is_stored"]:
                raise StateError(f"there is no stored model {model!r:.80}; `nsstream ctl models` shows what there is")
            _promote(db, model, self._clock.wall_ns(), "operator")
            set_setting(db, HOLD, model)

    def release(self) -> ModelRecord | None:
        """End an operator's hold, and promote the newest model that passed; gives it, None where none did."""
        with self._ledger.transaction() as db:
            set_setting(db, HOLD, None)
            row = db.execute(
                "SELECT * FROM model WHERE passed AND is_stored ORDER BY end_ns DESC, trained_ns DESC LIMIT 1"
            ).fetchone()
            now = _promoted(db)
            if row is not None and (now is None or now["id"] != row["id"]):
                _promote(db, row["id"], self._clock.wall_ns(), "operator")
        return None if row is None else _record(row)

    @property
    def is_held(self) -> bool:
        """Whether an operator's promotion holds."""
        return self._ledger.setting(HOLD) is not None

    def seed(self) -> ModelRecord | None:
        """The newest model that was trained from nothing and passed."""
        query = "SELECT * FROM model WHERE parent IS NULL AND passed AND is_stored ORDER BY trained_ns DESC LIMIT 1"
        rows = self._ledger.rows(query)
        return _record(rows[0]) if rows else None

    def failures_in_a_row(self) -> int:
        """How many models were refused since the last one that passed."""
        query = (
            "SELECT COUNT(*) FROM model WHERE NOT passed"
            " AND trained_ns > (SELECT COALESCE(MAX(trained_ns), 0) FROM model WHERE passed)"
        )
        return int(self._ledger.rows(query)[0][0])

    def has_drifted(self, bound: float) -> bool:
        """Whether the newest models, `DRIFTS` of them, all found more drift than that."""
        drifts = [model.figures.get("drift") for model in self.newest(DRIFTS)]
        return len(drifts) == DRIFTS and all(drift is not None and drift > bound for drift in drifts)

    def newest(self, limit: int = 50) -> list[ModelRecord]:
        """The newest models, the newest first."""
        rows = self._ledger.rows("SELECT * FROM model ORDER BY trained_ns DESC, id LIMIT ?", (limit,))
        return [_record(row) for row in rows]

    def counts(self) -> dict[str, int]:
        """Models that passed, that were refused, and promotions, over all time."""
        row = self._ledger.rows("SELECT COALESCE(SUM(passed), 0), COALESCE(SUM(NOT passed), 0) FROM model")[0]
        promotions = self._ledger.rows("SELECT COUNT(*) FROM promotion")[0][0]
        dropped = self._ledger.totals("model")
        return {
            "passed": row[0] + dropped.get("passed", 0),
            "refused": row[1] + dropped.get("refused", 0),
            "promotions": promotions + self._ledger.totals("promotion").get("all", 0),
        }

    def surplus(self, keep: int) -> list[str]:
        """Stored models beyond the `keep` newest, but neither the promoted one, nor the one before, nor the seed."""
        promotions = (
            "SELECT promotion.model, MAX(promotion.number) FROM promotion JOIN model ON model.id = promotion.model"
            " WHERE model.is_stored GROUP BY promotion.model ORDER BY 2 DESC LIMIT 2"
        )
        spared = [row["model"] for row in self._ledger.rows(promotions)]
        seed = self.seed()
        spared += [] if seed is None else [seed.id]
        rows = self._ledger.rows(
            "SELECT id FROM model WHERE is_stored ORDER BY trained_ns DESC, id LIMIT -1 OFFSET ?", (keep,)
        )
        return [row["id"] for row in rows if row["id"] not in spared]

    def forget_files(self, model: str) -> None:
        """Say that a model's files are gone, or are about to go; an operator's hold on it ends."""
        with self._ledger.transaction() as db:
            db.execute("UPDATE model SET is_stored = 0 WHERE id = ?", (model,))
            db.execute("DELETE FROM setting WHERE name = ? AND value = ?", (HOLD, model))


def _promoted(db: sqlite3.Connection) -> sqlite3.Row | None:
    row: sqlite3.Row | None = db.execute(PROMOTED).fetchone()
    return row


def _promote(db: sqlite3.Connection, model: str, now_ns: int, reason: str) -> None:
    db.execute("INSERT INTO promotion (model, time_ns, reason) VALUES (?, ?, ?)", (model, now_ns, reason))


def _record(row: sqlite3.Row) -> ModelRecord:
    return ModelRecord(
        row["id"], row["job"], row["parent"], row["start_ns"], row["end_ns"], row["trained_ns"], row["training_s"],
        bool(row["passed"]), tuple(json.loads(row["complaints"])), json.loads(row["figures"]), bool(row["is_stored"]),
    )  # fmt: skip
