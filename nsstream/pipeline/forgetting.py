"""Forgetting: chunks that an operator wants gone, with what only they made; and rows of the ledger that have grown old.

What is dropped from the ledger stays in its totals, so that counts are of all time. Rules: (1) a file goes before its
rows: a kill in between leaves a chunk that the ledger knows and that can be forgotten again, never one that would be
learned; (2) what is being learned or read, or is pinned, is spared, and told; (3) a model goes with its job once no
chunk of the job is left, unless it is promoted; (4) rows of old stay as long as a file is of them: so nothing that
stands there is learned a second time.
"""

from __future__ import annotations

import logging
import re
import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

from nsstream.chunk import ChunkStore
from nsstream.chunk.chunk_file import SUFFIX
from nsstream.chunk.retention import remove_unread
from nsstream.clock import Clock
from nsstream.errors import InputError, OutputError, StateError
from nsstream.pipeline.ledger import Ledger, add_to_total
from nsstream.pipeline.model_records import PROMOTED

_log = logging.getLogger(__name__)

EVERY_NS: Final = 3600 * 10**9  # rows of old
MOST_AT_ONCE: Final = 500  # chunks; who asks for more asks again
_GROUP: Final = 50  # to a transaction
_CHUNK_ID: Final = re.compile(r"[0-9A-Za-z-]{1,100}", re.ASCII)
_SETTLED: Final = ("done", "poisoned", "skipped")
STORES: Final = ("chunks", "apart")


@dataclass(slots=True)
class Forgotten:
    """What one call did."""

    chunks: list[str] = field(default_factory=list)
    row_count: int = 0
    models: list[str] = field(default_factory=list)
    kept_models: list[str] = field(default_factory=list)  # promoted
    spared: dict[str, str] = field(default_factory=dict)  # chunks, and why
    left: int = 0  # chunks that another call is for

    def as_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "chunks": self.chunks, "row_count": self.row_count, "models": self.models,
            "kept_models": self.kept_models, "spared": self.spared, "left": self.left,
        }  # fmt: skip


class Forgetting:
    """Forgets in one state directory, whose ledger is open."""

    def __init__(self, state: Path, ledger: Ledger, clock: Clock) -> None:
        self._state, self._ledger, self._clock = state, ledger, clock
        self._forgot_ns: int | None = None

    def forget(self, chunk_id: str) -> Forgotten:
        """Forget one chunk.

        Raises InputError where it is no name of one, StateError where there is none or it is spared, OutputError where
        the disk or the ledger refuses.
        """
        if not _CHUNK_ID.fullmatch(chunk_id):
            raise InputError(f"{chunk_id!r:.80} is no name of a chunk; `nsstream ctl chunks` shows them")
        is_known = self._ledger.rows("SELECT 1 FROM chunk WHERE id = ?", (chunk_id,))
        if not is_known and not any(path.exists() for path in self._files_of(chunk_id)):
            raise StateError(f"there is no chunk {chunk_id}; `nsstream ctl chunks` shows what there is")
        done = self._forget_all([chunk_id], f"chunk {chunk_id}")
        if chunk_id in done.spared:
            raise StateError(f"chunk {chunk_id} cannot be forgotten now: it is {done.spared[chunk_id]}")
        return done

    def forget_before(self, before_ns: int) -> Forgotten:
        """Forget the chunks that end by a time, the oldest first, so many at most at once; raises as `forget`."""
        ends: dict[str, int] = {}
        for name in STORES:
            store = ChunkStore(self._state / name)
            for path in store.directory.glob(f"*{SUFFIX}"):
                try:
                    ends[path.stem] = store.info(path).end_ns
                except StateError:
                    continue  # it says no time: `doctor` is for it
        rows = self._ledger.rows("SELECT id, end_ns FROM chunk WHERE end_ns > 0 AND end_ns <= ?", (before_ns,))
        ends |= {row["id"]: row["end_ns"] for row in rows}
        wanted = sorted((name for name, end_ns in ends.items() if end_ns <= before_ns), key=lambda name: ends[name])
        done = self._forget_all(wanted[:MOST_AT_ONCE], f"before {before_ns}")
        done.left = max(0, len(wanted) - MOST_AT_ONCE) if done.chunks else 0
        return done

    def forget_old_rows_now_and_then(self, keep_s: float) -> None:
        """The same as `forget_old_rows`, each hour; call it often."""
        now_ns = self._clock.monotonic_ns()
        if self._forgot_ns is not None and now_ns - self._forgot_ns < EVERY_NS:
            return
        self._forgot_ns = now_ns
        try:
            self.forget_old_rows(keep_s)
        except OutputError as err:
            _log.warning("old_rows_not_forgotten error=%s", err)

    def forget_old_rows(self, keep_s: float) -> int:
        """Drop rows of the ledger that are older, where no file is of them; gives how many chunks they were of."""
        before_ns = self._clock.wall_ns() - round(keep_s * 1e9)
        standing = {path.stem for path in (self._state / "chunks").glob(f"*{SUFFIX}")}
        jobs = self._ledger.rows(
            "SELECT chunk.job, GROUP_CONCAT(chunk.id) AS ids FROM chunk LEFT JOIN job ON job.id = chunk.job"
            " LEFT JOIN model ON model.job = chunk.job"
            " WHERE (chunk.job IS NULL AND chunk.fate = 'skipped') OR job.state IN ('done', 'poisoned', 'skipped')"
            " GROUP BY chunk.job, CASE WHEN chunk.job IS NULL THEN chunk.id END"
            " HAVING MAX(chunk.seen_ns) < ? AND COALESCE(MAX(model.is_stored), 0) = 0",
            (before_ns,),
        )
        gone = [(row["job"], row["ids"].split(",")) for row in jobs if not standing.intersection(row["ids"].split(","))]
        for group in _groups(gone):
            with self._ledger.transaction() as db:
                for job, chunk_ids in group:
                    for chunk_id in chunk_ids:
                        _drop_chunk(db, chunk_id)
                    if job is not None:
                        _drop_job(db, job)
        if gone:
            _log.info("old_rows_forgotten jobs=%d", len(gone))
        return sum(len(chunk_ids) for _, chunk_ids in gone)

    def _forget_all(self, chunk_ids: Iterable[str], asked: str) -> Forgotten:
        done = Forgotten()
        for group in _groups(chunk_ids):
            with self._ledger.transaction() as db:
                for chunk_id in group:
                    self._forget(db, chunk_id, done)
        if done.chunks:
            with self._ledger.transaction() as db:
                db.execute(
                    "INSERT INTO forgetting (time_ns, asked, chunks, row_count, models) VALUES (?, ?, ?, ?, ?)",
                    (self._clock.wall_ns(), asked, len(done.chunks), done.row_count, len(done.models)),
                )
        _log.info(
            "chunks_forgotten asked=%s chunks=%d rows=%d models=%d spared=%d",
            asked.replace(" ", "_"), len(done.chunks), done.row_count, len(done.models), len(done.spared),
        )  # fmt: skip
        return done

    def _forget(self, db: sqlite3.Connection, chunk_id: str, done: Forgotten) -> None:
        row = db.execute(
            "SELECT chunk.job, chunk.row_count, job.state FROM chunk LEFT JOIN job ON job.id = chunk.job"
            " WHERE chunk.id = ?",
            (chunk_id,),
        ).fetchone()
        if row is not None and row["state"] in ("claimed", "running"):
            done.spared[chunk_id] = "being learned"
            return
        row_count = 0
        for path in self._files_of(chunk_id):
            if not path.exists():
                continue
            store = ChunkStore(path.parent)
            if store.is_pinned(chunk_id):
                done.spared[chunk_id] = "pinned"
                return
            row_count += _rows_in(store, chunk_id)
            if not remove_unread(path):
                done.spared[chunk_id] = "being read"
                return
        done.chunks.append(chunk_id)
        done.row_count += row_count or (0 if row is None else row["row_count"])
        if row is None:
            return
        _drop_chunk(db, chunk_id)
        if row["job"] is not None and not db.execute("SELECT 1 FROM chunk WHERE job = ?", (row["job"],)).fetchone():
            self._forget_job(db, row["job"], done)

    def _forget_job(self, db: sqlite3.Connection, job: int, done: Forgotten) -> None:
        """Forget a job of which no chunk is left, and its model, unless that one is promoted."""
        shutil.rmtree(self._state / "work" / f"job-{job}", ignore_errors=True)
        model, promoted = db.execute("SELECT id, is_stored FROM model WHERE job = ?", (job,)).fetchone(), None
        if model is not None:
            promoted = db.execute(PROMOTED).fetchone()
            if promoted is not None and promoted["id"] == model["id"]:
                done.kept_models.append(model["id"])
                return
            shutil.rmtree(self._state / "models" / model["id"], ignore_errors=True)
            if model["is_stored"]:
                done.models.append(model["id"])
        _drop_job(db, job)

    def _files_of(self, chunk_id: str) -> list[Path]:
        return [self._state / name / f"{chunk_id}{SUFFIX}" for name in STORES]


def _rows_in(store: ChunkStore, chunk_id: str) -> int:
    try:
        return store.info(chunk_id).row_count
    except StateError:
        return 0


def _groups(items: Iterable[Any]) -> Iterator[list[Any]]:
    left = iter(items)
    while group := list(islice(left, _GROUP)):
        yield group


def _drop_chunk(db: sqlite3.Connection, chunk_id: str) -> None:
    row = db.execute("SELECT fate, reason FROM chunk WHERE id = ?", (chunk_id,)).fetchone()
    fate = "queued" if row["fate"] == "queued" else f"skipped_{row['reason'] or 'forgotten'}"
    add_to_total(db, "chunk", fate)
    db.execute("DELETE FROM chunk WHERE id = ?", (chunk_id,))


def _drop_job(db: sqlite3.Connection, job: int) -> None:
    """Drop a job of which no chunk is left, its model, and its promotions."""
    model = db.execute("SELECT id, passed FROM model WHERE job = ?", (job,)).fetchone()
    if model is not None:
        dropped = db.execute("DELETE FROM promotion WHERE model = ?", (model["id"],)).rowcount
        add_to_total(db, "promotion", "all", dropped)
        add_to_total(db, "model", "passed" if model["passed"] else "refused")
        db.execute("DELETE FROM model WHERE id = ?", (model["id"],))
    state = db.execute("SELECT state FROM job WHERE id = ?", (job,)).fetchone()["state"]
    add_to_total(db, "job", state if state in _SETTLED else "skipped")
    db.execute("DELETE FROM job WHERE id = ?", (job,))
