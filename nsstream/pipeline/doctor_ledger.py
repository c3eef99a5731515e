"""What a ledger says, read by somebody who must change nothing in it, not even its schema."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from nsstream.errors import InputError, StateError
from nsstream.pipeline.findings import Code, Finding
from nsstream.pipeline.ledger import BUSY_S
from nsstream.pipeline.ledger_schema import MIGRATIONS
from nsstream.privacy import from_dicts, is_part

SPENDING_SCHEMA: Final = 3  # the first that knows spending
_MOST_COMPLAINTS: Final = 5


@dataclass(frozen=True, slots=True)
class LedgerView:
    """The ledger's word on models and jobs."""

    schema: int
    stored: frozenset[str]  # models
    removed: frozenset[str]  # models whose files are gone
    candidates: frozenset[str]  # models of jobs that are not settled
    waiting: frozenset[int]  # jobs
    promoted: str | None
    paid: frozenset[str] | None  # models of which it knows what they cost; None: what was spent is not known at all


@contextmanager
def reading_ledger(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that reads alone; raises StateError where the file cannot be read, or is no ledger."""
    # Of a disk that is read-only, SQLite reads what it is promised not to change: with the write-ahead log that is not.
    told = "mode=ro" if os.access(path.parent, os.W_OK) else "mode=ro&immutable=1"
    try:
        connection = sqlite3.connect(f"file:{quote(str(path))}?{told}", uri=True, timeout=BUSY_S, isolation_level=None)
        try:
            connection.row_factory = sqlite3.Row
            yield connection
        finally:
            connection.close()
    except sqlite3.DatabaseError as err:
        raise StateError(f"{path} cannot be read: {err}") from err


def view_ledger(path: Path) -> tuple[LedgerView | None, list[Finding]]:
    """What a ledger says, None where there is none or it cannot be read, and what is wrong with it."""
    if not path.exists():
        return None, []
    try:
        with reading_ledger(path) as db:
            said = [row[0] for row in db.execute(f"PRAGMA integrity_check({_MOST_COMPLAINTS})")]
            if said != ["ok"]:
                return None, [Finding(Code.LEDGER, (path,), f"it is damaged: {'; '.join(said):.300}")]
            if db.execute("PRAGMA foreign_key_check").fetchone() is not None:
                return None, [Finding(Code.LEDGER, (path,), "it is damaged: rows point at others that are not there")]
            schema = db.execute("PRAGMA user_version").fetchone()[0]
            if schema > len(MIGRATIONS):
                told = f"it has schema {schema}, of a newer nsstream; this one knows up to {len(MIGRATIONS)}"
                return None, [Finding(Code.LEDGER_NEWER, (path,), told)]
            return _view(db, schema), _of_spending(path, db) if schema >= SPENDING_SCHEMA else []
    except StateError as err:
        return None, [Finding(Code.LEDGER, (path,), str(err).removeprefix(f"{path} "))]


def _view(db: sqlite3.Connection, schema: int) -> LedgerView | None:
    if not schema:  # made a moment ago, and nothing in it
        return None

    def column(query: str) -> frozenset[str]:
        return frozenset(row[0] for row in db.execute(query))

    promoted = db.execute(
        "SELECT model.id FROM promotion JOIN model ON model.id = promotion.model WHERE model.is_stored"
        " ORDER BY promotion.number DESC LIMIT 1"
    ).fetchone()
    unsettled = "state IN ('pending', 'claimed', 'running', 'failed')"
    return LedgerView(
        schema,
        column("SELECT id FROM model WHERE is_stored"),
        column("SELECT id FROM model WHERE NOT is_stored"),
        column(f"SELECT candidate FROM job WHERE candidate IS NOT NULL AND {unsettled}"),
        frozenset(row[0] for row in db.execute(f"SELECT id FROM job WHERE {unsettled}")),
        None if promoted is None else promoted[0],
        _paid(db) if schema >= SPENDING_SCHEMA else frozenset(),
    )


def _paid(db: sqlite3.Connection) -> frozenset[str] | None:
    if db.execute("SELECT 1 FROM spending_gap").fetchone() is not None:
        return None
    return frozenset(row[0] for row in db.execute("SELECT model FROM spending WHERE model IS NOT NULL"))


def _of_spending(path: Path, db: sqlite3.Connection) -> list[Finding]:
    """Rows of spending that cannot be added up."""
    wrong = []
    for row in db.execute("SELECT id, start_ns, end_ns, reserved, spent FROM spending"):
        try:
            reserved = from_dicts(json.loads(row["reserved"]))
            spent = reserved if row["spent"] is None else from_dicts(json.loads(row["spent"]))
            if row["start_ns"] >= row["end_ns"] or not is_part(spent, reserved):
                wrong.append(row["id"])
        except (InputError, ValueError, RecursionError):
            wrong.append(row["id"])
    told = f"{len(wrong)} rows of spending cannot be what was written, {wrong[0] if wrong else ''} the first"
    return [Finding(Code.SPENDING, (path,), f"{told}: private mode cannot go on")] if wrong else []
