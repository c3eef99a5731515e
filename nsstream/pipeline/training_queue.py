"""TrainingQueue: which chunks are to be learned, in the ledger: each once, the newest first, whatever dies in between.

Theory: a chunk that is stored is *seen* once. It is queued as a job, alone; or held, where it has too few
conversations, and queued together with the next one; or skipped, with a reason. A job's digest is that of its chunks,
and unique: so nothing is learned twice. A job goes

    pending -> claimed -> running -> done
                  ^          |-----> failed (waits, longer each time) -> claimed ...
                  |          `-----> poisoned, after so many failures
               pending <- given back: its worker was interrupted, or its machine lost; it is not at fault
    pending or failed -> skipped: training is behind, or the chunk has expired

A process that dies leaves claims; the next one gives them back (`take_back_claims`), since only one process at a time
holds the state directory. A job that was interrupted very often is poisoned, too: it may be what kills us.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from nsstream.clock import Clock
from nsstream.pipeline.ledger import Ledger

STATES: Final = ("pending", "claimed", "running", "done", "failed", "poisoned", "skipped")
MOST_INTERRUPTIONS: Final = 10
MOST_BACKOFF_S: Final = 3600.0
BEHIND: Final = "behind"
TOO_SMALL: Final = "too_small"
EXPIRED: Final = "expired"
DAMAGED: Final = "damaged"
# What failed, or was given back, in the future was so before the clock was set back: it has waited.
_IS_DUE: Final = "state IN ('pending', 'failed') AND (not_before_ns <= ? OR ended_ns > ?)"


@dataclass(frozen=True, slots=True)
class SeenChunk:
    """What the queue has to know of a chunk."""

    id: str
    digest: str
    start_ns: int
    end_ns: int
    kind: str
    row_count: int
    conversations: int


@dataclass(frozen=True, slots=True)
class Job:
    """One training: of these chunks, by start."""

    id: int
    digest: str
    start_ns: int
    end_ns: int
    conversations: int
    attempts: int  # failures before
    chunk_ids: tuple[str, ...]
    candidate: str | None  # the checkpoint that was trained already, of a process that died before it was judged
    waited_s: float = 0.0  # from its chunks' being there until it was claimed


class TrainingQueue:
    """The jobs of a ledger."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock

    def unseen(self, chunk_ids: Iterable[str]) -> list[str]:
        """Those of the chunks that were never seen."""
        return [name for name in chunk_ids if not self._ledger.rows("SELECT 1 FROM chunk WHERE id = ?", (name,))]

    def see(self, chunk: SeenChunk, *, fewest: int, most_waiting: int) -> None:
        """Take a chunk up, with those that are held; seen again, it changes nothing.

        Args:
            chunk: stored, and closed for good.
            fewest: conversations of a job.
            most_waiting: jobs that may wait; the oldest beyond are skipped.
        """
        now_ns = self._clock.wall_ns()
        with self._ledger.transaction() as db:
            added = db.execute(
                "INSERT OR IGNORE INTO chunk"
                " (id, digest, start_ns, end_ns, kind, row_count, conversations, seen_ns, fate)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'held')",
                (
                    chunk.id, chunk.digest, chunk.start_ns, chunk.end_ns, chunk.kind, chunk.row_count,
                    chunk.conversations, now_ns,
                ),
            )  # fmt: skip
            if not added.rowcount:
                return
            held = _held(db)  # the chunk itself among them
            others = [row for row in held if row["id"] != chunk.id]
            if others and not any(_is_near(row, chunk) for row in others):
                _skip_chunks(db, [row["id"] for row in others], TOO_SMALL)
                held = _held(db)
            if sum(row["conversations"] for row in held) >= fewest:
                _queue(db, held, now_ns)
            _skip_the_oldest(db, most_waiting, now_ns)

    def leave_out(self, chunk_id: str, reason: str) -> None:
        """Never learn a chunk that cannot be read; seen again, it changes nothing."""
        with self._ledger.transaction() as db:
            db.execute(
                "INSERT OR IGNORE INTO chunk"
                " (id, digest, start_ns, end_ns, kind, row_count, conversations, seen_ns, fate, reason)"
                " VALUES (?, '', 0, 0, '', 0, 0, ?, 'skipped', ?)",
                (chunk_id, self._clock.wall_ns(), reason),
            )

    def is_due(self) -> bool:
        """Whether there is a job that may run now."""
        now_ns = self._clock.wall_ns()
        return bool(self._ledger.rows(f"SELECT 1 FROM job WHERE {_IS_DUE} LIMIT 1", (now_ns, now_ns)))

    def claim(self, *, oldest: bool = False, most_waiting: int | None = None) -> Job | None:
        """The newest job that may run now, or the oldest; it is ours from now on. None where there is none."""
        now_ns = self._clock.wall_ns()
        with self._ledger.transaction() as db:
            if most_waiting is not None:
                _skip_the_oldest(db, most_waiting, now_ns)
            order = "ASC" if oldest else "DESC"
            row = db.execute(
                f"SELECT * FROM job WHERE {_IS_DUE} ORDER BY start_ns {order}, id LIMIT 1", (now_ns, now_ns)
            ).fetchone()
            if row is None:
                return None
            db.execute("UPDATE job SET state = 'claimed', claimed_ns = ? WHERE id = ?", (now_ns, row["id"]))
            chunks = db.execute("SELECT id FROM chunk WHERE job = ? ORDER BY start_ns, length(id), id", (row["id"],))
            return Job(
                row["id"], row["digest"], row["start_ns"], row["end_ns"], row["conversations"], row["attempts"],
                tuple(chunk["id"] for chunk in chunks), row["candidate"], max(now_ns - row["created_ns"], 0) * 1e-9,
            )  # fmt: skip

    def run(self, job: Job) -> None:
        """Say that a worker has started."""
        self._set(job.id, "state = 'running'", ())

    def trained(self, job: Job, candidate: str) -> None:
        """Say which checkpoint a worker made, before it is judged: it is not trained again after a kill."""
        self._set(job.id, "candidate = ?", (candidate,))

    def fail(self, job: Job, reason: str, *, attempts: int, backoff_s: float) -> str:
        """Count a failure; gives the job's new state, failed or poisoned."""
        now_ns = self._clock.wall_ns()
        failures = job.attempts + 1
        wait_s = min(backoff_s * 2.0**job.attempts, MOST_BACKOFF_S)
        state = "poisoned" if failures >= attempts else "failed"
        self._set(
            job.id,
            "state = ?, attempts = ?, reason = ?, not_before_ns = ?, ended_ns = ?, candidate = NULL",
            (state, failures, reason[:500], now_ns + round(wait_s * 1e9), now_ns),
        )
        return state

    def give_back(self, job: Job, *, wait_s: float = 0.0) -> None:
        """Let a job be claimed again, after a wait: it was not begun to its end, and did not fail."""
        now_ns = self._clock.wall_ns()
        self._set(job.id, "state = 'pending', not_before_ns = ?, ended_ns = ?", (now_ns + round(wait_s * 1e9), now_ns))

    def interrupt(self, job: Job, reason: str, *, backoff_s: float) -> str:
        """Let a job be claimed again whose machine was lost: at once, but later each time it happens.

        Gives its new state: poisoned where that was too often.
        """
        now_ns = self._clock.wall_ns()
        with self._ledger.transaction() as db:
            row = db.execute(
                "UPDATE job SET interruptions = interruptions + 1, reason = ?, ended_ns = ?,"
                " not_before_ns = ? + interruptions * ?,"
                " state = CASE WHEN interruptions + 1 >= ? THEN 'poisoned' ELSE 'pending' END"
                " WHERE id = ? AND state IN ('claimed', 'running') RETURNING state",
                (reason[:500], now_ns, now_ns, round(backoff_s * 1e9), MOST_INTERRUPTIONS, job.id),
            ).fetchone()
        return "pending" if row is None else str(row["state"])

    def skip(self, job: Job, reason: str) -> None:
        """Leave a job out for good."""
        with self._ledger.transaction() as db:
            _skip_jobs(db, [job.id], reason, self._clock.wall_ns())

    def lose(self, chunk_id: str, reason: str) -> None:
        """Never learn a chunk that is no longer there: its job is skipped, unless it is settled."""
        with self._ledger.transaction() as db:
            row = db.execute(
                "SELECT chunk.fate, chunk.job, job.state FROM chunk LEFT JOIN job ON job.id = chunk.job"
                " WHERE chunk.id = ?",
                (chunk_id,),
            ).fetchone()
            if row is not None and row["fate"] == "held":
                _skip_chunks(db, [chunk_id], reason)
            elif row is not None and row["state"] in ("pending", "failed", "claimed", "running"):
                _skip_jobs(db, [row["job"]], reason, self._clock.wall_ns())

    def take_back_claims(self) -> int:
        """Let jobs that a dead process had claimed be claimed again; gives how many. Called once, at the start."""
        now_ns = self._clock.wall_ns()
        with self._ledger.transaction() as db:
            db.execute(
                "UPDATE job SET state = 'poisoned', reason = 'interrupted too often', ended_ns = ?"
                " WHERE state = 'running' AND interruptions + 1 >= ?",
                (now_ns, MOST_INTERRUPTIONS),
            )
            taken = db.execute(
                "UPDATE job SET interruptions = interruptions + (state = 'running'), state = 'pending'"
                " WHERE state IN ('claimed', 'running')"
            )
            return taken.rowcount

    def counts(self) -> dict[str, int]:
        """Jobs by state, over all time."""
        counts = Counter(dict.fromkeys(STATES, 0))
        counts.update({row[0]: row[1] for row in self._ledger.rows("SELECT state, COUNT(*) FROM job GROUP BY state")})
        counts.update(self._ledger.totals("job"))
        return dict(counts)

    def chunk_counts(self) -> dict[str, int]:
        """Chunks by fate, over all time: held, queued, or the reason why they were skipped."""
        query = (
            "SELECT CASE fate WHEN 'skipped' THEN 'skipped_' || reason ELSE fate END, COUNT(*) FROM chunk GROUP BY 1"
        )
        counts = Counter({row[0]: row[1] for row in self._ledger.rows(query)})
        counts.update(self._ledger.totals("chunk"))
        return dict(counts)

    def is_drained(self) -> bool:
        """Whether no job waits or runs."""
        return not self._ledger.rows("SELECT 1 FROM job WHERE state IN ('pending', 'failed', 'claimed', 'running')")

    def _set(self, job_id: int, assignment: str, values: Sequence[object]) -> None:
        """Change a job that is ours; one that is settled already stays as it is."""
        with self._ledger.transaction() as db:
            db.execute(
                f"UPDATE job SET {assignment} WHERE id = ? AND state IN ('claimed', 'running')", (*values, job_id)
            )


def _held(db: sqlite3.Connection) -> list[sqlite3.Row]:
    return db.execute("SELECT * FROM chunk WHERE fate = 'held' ORDER BY start_ns, length(id), id").fetchall()


def _is_near(held: sqlite3.Row, chunk: SeenChunk) -> bool:
    """Whether a held chunk may be learned together with another: of one kind, and a length apart at most."""
    length_ns = max(held["end_ns"] - held["start_ns"], chunk.end_ns - chunk.start_ns)
    apart_ns = max(chunk.start_ns - held["end_ns"], held["start_ns"] - chunk.end_ns)
    return bool(held["kind"] == chunk.kind and apart_ns <= length_ns)


def _queue(db: sqlite3.Connection, group: list[sqlite3.Row], now_ns: int) -> None:
    digests = [row["digest"] for row in group]
    digest = digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()
    job = db.execute(
        "INSERT INTO job (digest, state, start_ns, end_ns, conversations, created_ns)"
        " VALUES (?, 'pending', ?, ?, ?, ?) RETURNING id",
        (
            digest,
            min(row["start_ns"] for row in group),
            max(row["end_ns"] for row in group),
            sum(row["conversations"] for row in group),
            now_ns,
        ),
    ).fetchone()["id"]
    for row in group:
        db.execute("UPDATE chunk SET fate = 'queued', job = ? WHERE id = ?", (job, row["id"]))


def _skip_the_oldest(db: sqlite3.Connection, most_waiting: int, now_ns: int) -> None:
    beyond = db.execute(
        "SELECT id FROM job WHERE state IN ('pending', 'failed') ORDER BY start_ns DESC, id LIMIT -1 OFFSET ?",
        (most_waiting,),
    ).fetchall()
    _skip_jobs(db, [row["id"] for row in beyond], BEHIND, now_ns)


def _skip_jobs(db: sqlite3.Connection, job_ids: Iterable[int], reason: str, now_ns: int) -> None:
    for job_id in job_ids:
        db.execute("UPDATE job SET state = 'skipped', reason = ?, ended_ns = ? WHERE id = ?", (reason, now_ns, job_id))
        db.execute("UPDATE chunk SET fate = 'skipped', reason = ? WHERE job = ?", (reason, job_id))


def _skip_chunks(db: sqlite3.Connection, chunk_ids: Iterable[str], reason: str) -> None:
    for chunk_id in chunk_ids:
        db.execute("UPDATE chunk SET fate = 'skipped', reason = ? WHERE id = ?", (reason, chunk_id))
