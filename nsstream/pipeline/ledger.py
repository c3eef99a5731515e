"""Ledger: the durable record of a state directory, ``ledger.sqlite``: chunks seen, jobs, models, promotions.

Rules: (1) every change is one transaction, and holds the whole of it: what a reader sees, and what a kill leaves, is
the state before a change or after it; (2) the file says which schema it has (``PRAGMA user_version``), and is brought
to ours by the steps of `ledger_schema` when it is opened, each in a transaction; one of a newer nsstream is refused by
name; (3) one process writes, the one that holds the state directory's lock, from any of its threads. Others may read.

What SQLite cannot do (a disk that is full, a file that somebody else locked for long) is an OutputError: nothing has
changed, and the caller may try again.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from nsstream.errors import OutputError, StateError
from nsstream.pipeline.ledger_schema import MIGRATIONS

FILE: Final = "ledger.sqlite"
BUSY_S: Final = 5.0  # that we wait for somebody else's lock
_CORRUPT: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class Ledger:
    """The ledger in a file, made if it is missing.

    Raises StateError where the file is no ledger, damaged, or of a newer nsstream; OutputError where it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        with self._errors():
            self._connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            with self._errors():
                self._connection.row_factory = sqlite3.Row
                self._connection.execute("PRAGMA journal_mode = WAL")
                self._connection.execute("PRAGMA synchronous = FULL")  # a commit is on the disk when it returns
                self._connection.execute("PRAGMA foreign_keys = ON")
            self._migrate()
        except BaseException:
            self._connection.close()
            raise

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A connection within one transaction: committed when the block ends well, undone when it does not."""
        with self._lock, self._errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """What a query gives."""
        with self._lock, self._errors():
            return self._connection.execute(query, values).fetchall()

    def setting(self, name: str) -> str | None:
        """A setting that outlives the process, None where it was never made."""
        found = self.rows("SELECT value FROM setting WHERE name = ?", (name,))
        return found[0]["value"] if found else None

    def totals(self, what: str) -> dict[str, int]:
        """How many jobs, chunks, models or promotions were dropped (`forgetting`), by fate."""
        return {row["fate"]: row["count"] for row in self.rows("SELECT * FROM total WHERE what = ?", (what,))}

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def _migrate(self) -> None:
        with self._errors():
            version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version > len(MIGRATIONS):
            raise StateError(
                f"{self.path} has schema {version}, of a newer nsstream; this one knows up to {len(MIGRATIONS)}"
            )
        for number, step in enumerate(MIGRATIONS[version:], start=version + 1):
            with self.transaction() as connection:
                for statement in filter(str.strip, step.split(";")):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {number}")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.IntegrityError:
            raise  # a defect of ours
        except sqlite3.DatabaseError as err:
            if getattr(err, "sqlite_errorcode", 0) & 0xFF in _CORRUPT:
                raise StateError(f"{self.path} is no ledger, or damaged: {err}; see `nsstream doctor`") from err
            raise OutputError(f"the ledger {self.path} cannot be used now: {err}") from err


def set_setting(connection: sqlite3.Connection, name: str, value: str | None) -> None:
    """Make a setting, or forget it, within a transaction."""
    if value is None:
        connection.execute("DELETE FROM setting WHERE name = ?", (name,))
    else:
        connection.execute("INSERT OR REPLACE INTO setting (name, value) VALUES (?, ?)", (name, value))


def add_to_total(connection: sqlite3.Connection, what: str, fate: str, count: int = 1) -> None:
    """Count what is dropped, within the same transaction."""
    connection.execute(
        "INSERT INTO total (what, fate, count) VALUES (?, ?, ?)"
        " ON CONFLICT (what, fate) DO UPDATE SET count = count + excluded.count",
        (what, fate, count),
    )
