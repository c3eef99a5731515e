"""What a restored ledger must know of spending: what another one knows, or else that it does not know.

A backup is of a moment; what private jobs spent after it is not in it. A state directory that went on with less would
break its promise and not know. So a restore joins what the ledger of the lost state says, of each row the higher of
both, or opens a gap (`privacy_ledger`), in which nothing is spent.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from nsstream.errors import InputError
from nsstream.pipeline.doctor_ledger import SPENDING_SCHEMA, reading_ledger
from nsstream.pipeline.ledger import FILE, Ledger, set_setting
from nsstream.pipeline.privacy_ledger import open_gap
from nsstream.pipeline.unit_uses import DROPPED, KEY

BEFORE_THAT: Final = "the backup knows nothing of what was spent after it"
BOUND_SCHEMA: Final = 4  # the first that knows how units were let in
_BOUNDS: Final = ("most_chunks", "within_ns")
_COLUMNS: Final = (
    "id", "job", "digest", "chunk", "start_ns", "end_ns", "unit", "reserved", "reserved_ns", "is_begun", "spent",
    "model", "settled_ns", "most_chunks", "within_ns",
)  # fmt: skip


def keep_spending(path: Path, now_ns: int, *, spent_in: Path | None, is_complete: bool) -> None:
    """Let a restored ledger know what was spent, or that it does not know; it is made where it is missing.

    Args:
        path: the ledger that was restored.
        now_ns: traffic up to now may have been spent on.
        spent_in: the state directory that was lost, or its ledger: it knows what came after the backup.
        is_complete: whether the operator says that nothing was spent after the backup.

    Raises InputError where the other ledger cannot be read, or is older than the backup.
    """
    ledger = Ledger(path)
    try:
        if spent_in is not None:
            _join(ledger, spent_in / FILE if spent_in.is_dir() else spent_in)
        elif not is_complete:
            with ledger.transaction() as db:
                open_gap(db, now_ns, now_ns, BEFORE_THAT)
    finally:
        ledger.close()


def _join(ledger: Ledger, other: Path) -> None:
    if not other.is_file():
        raise InputError(f"{other}: there is no ledger that knows what was spent")
    with reading_ledger(other) as theirs, ledger.transaction() as db:
        schema = theirs.execute("PRAGMA user_version").fetchone()[0]
        knows = schema >= SPENDING_SCHEMA
        columns = [name if schema >= BOUND_SCHEMA or name not in _BOUNDS else f"NULL AS {name}" for name in _COLUMNS]
        rows = theirs.execute(f"SELECT {', '.join(columns)} FROM spending").fetchall() if knows else []
        missing = {row[0] for row in db.execute("SELECT id FROM spending")} - {row["id"] for row in rows}
        if missing:
            told = f"it lacks {len(missing)} rows of spending that the backup has"
            raise InputError(f"{other}: {told}: it is older, or of another state")
        if not knows:
            return
        for row in rows:
            _join_row(db, row)
        db.executemany(
            "INSERT OR IGNORE INTO unit_use (unit, digest, start_ns, end_ns) VALUES (?, ?, ?, ?)",
            map(tuple, theirs.execute("SELECT unit, digest, start_ns, end_ns FROM unit_use")),
        )
        _join_settings(db, {row["name"]: row["value"] for row in theirs.execute("SELECT name, value FROM setting")})
        for gap in theirs.execute("SELECT start_ns, end_ns, reason, time_ns FROM spending_gap"):
            db.execute(
                "INSERT INTO spending_gap (start_ns, end_ns, reason, time_ns) SELECT ?, ?, ?, ? WHERE NOT EXISTS"
                " (SELECT 1 FROM spending_gap WHERE end_ns = ? AND time_ns = ?)",
                (*gap, gap["end_ns"], gap["time_ns"]),
            )
        for refused in theirs.execute("SELECT reason, count, last_ns FROM refusal"):
            db.execute(
                "INSERT INTO refusal (reason, count, last_ns) VALUES (?, ?, ?) ON CONFLICT (reason)"
                " DO UPDATE SET count = MAX(count, excluded.count), last_ns = MAX(last_ns, excluded.last_ns)",
                tuple(refused),
            )


def _join_settings(db: sqlite3.Connection, theirs: dict[str, str]) -> None:
    """Take over the key that their uses are hashed under, and up to when uses were dropped."""
    if KEY in theirs:
        set_setting(db, KEY, theirs[KEY])
    mine = db.execute("SELECT value FROM setting WHERE name = ?", (DROPPED,)).fetchone()
    dropped = [int(value) for value in (theirs.get(DROPPED), mine and mine["value"]) if value]
    if dropped:
        set_setting(db, DROPPED, str(max(dropped)))


def _join_row(db: sqlite3.Connection, row: sqlite3.Row) -> None:
    """Take a row over; one that both have is what it is where it is settled, since that happens once."""
    marks = ", ".join("?" * len(_COLUMNS))
    db.execute(f"INSERT OR IGNORE INTO spending ({', '.join(_COLUMNS)}) VALUES ({marks})", tuple(row))
    db.execute(
        "UPDATE spending SET is_begun = MAX(is_begun, ?), spent = COALESCE(spent, ?), model = COALESCE(model, ?),"
        " settled_ns = COALESCE(settled_ns, ?) WHERE id = ?",
        (row["is_begun"], row["spent"], row["model"], row["settled_ns"], row["id"]),
    )
