"""SpoolLedger: which files of a spool were read, and how far, so that a restart reads no packet twice.

What makes a file the same stands in `spool_file`. The same inode with more octets behind the same first ones has grown;
with other first octets it is another file, for file systems give inode numbers out again.

Promises: every change is one transaction of SQLite and on the disk when the call returns; entries of files that are
gone for a day are removed. Raises InputError where the ledger cannot be read or written, or is something else.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from nsstream.capture.spool_file import SpoolFile, head_of
from nsstream.counters import Tally
from nsstream.errors import InputError

KEPT_WHEN_GONE_NS: Final = 86_400 * 1_000_000_000

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS file (
    device TEXT NOT NULL, inode TEXT NOT NULL, directory TEXT NOT NULL, name TEXT NOT NULL,
    size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, head_bytes INTEGER NOT NULL, head_digest TEXT NOT NULL,
    tally TEXT NOT NULL, is_done INTEGER NOT NULL, recorded_ns INTEGER NOT NULL,
    PRIMARY KEY (device, inode)
) WITHOUT ROWID
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """How far a file was read: `tally` is of all records so far, whose kept ones were given."""

    name: str
    file: SpoolFile
    head_bytes: int
    head_digest: str
    is_done: bool
    tally: Tally = field(default_factory=Tally)


class Ledger(Protocol):
    """What a `SpoolHistory` asks and tells; methods are as those of `SpoolLedger`."""

    def find(self, path: Path, file: SpoolFile) -> Entry | None:
        """What is known of this file."""

    def find_name(self, name: str) -> Entry | None:
        """The last entry under that name."""

    def knows_inode(self, device: int, inode: int) -> bool:
        """Whether any file with that inode was begun."""

    def put(self, entry: Entry, now_ns: int) -> None:
        """Write down how far a file was read."""

    def forget_gone(self, there: Collection[tuple[int, int]], now_ns: int) -> None:
        """Forget files that are not there."""

    def close(self) -> None:
        """Let go of what holds it."""


def of_same_file(entry: Entry, path: Path, file: SpoolFile) -> Entry | None:
    """An entry, where the file that has its inode now is still the same one; raises OSError if it cannot be read."""
    if file.size < entry.file.size:
        return None
    if (file.size, file.mtime_ns) == (entry.file.size, entry.file.mtime_ns):
        return entry
    if entry.head_bytes == 0:  # it could not be read, so nothing says that this is the same
        return None
    return entry if head_of(path, entry.head_bytes) == entry.head_digest else None


def tally_of(kept: int, malformed: Counter[str], unsupported: Counter[str], dropped: Counter[str]) -> Tally:
    """The tally of a file with these counts; a file has no others."""
    offered = kept + sum(sum(part.values()) for part in (malformed, unsupported, dropped))
    return Tally(offered=offered, kept=kept, malformed=malformed, unsupported=unsupported, dropped=dropped)


class SpoolLedger:
    """The ledger of one directory in a file; several may share it."""

    def __init__(self, path: Path, directory: Path) -> None:
        """Open or make the ledger."""
        self._name = str(path)
        self._directory = str(directory)
        with self._errors():
            self._base = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            with self._errors():
                self._base.execute("PRAGMA synchronous = FULL")
                self._base.execute(_SCHEMA)
        except InputError:
            self._base.close()
            raise

    def find(self, path: Path, file: SpoolFile) -> Entry | None:
        """What is known of this file: its last entry, or None if it was never begun.

        Raises OSError if it cannot be read.
        """
        entry = self._get("device = ? AND inode = ?", str(file.device), str(file.inode))
        return None if entry is None else of_same_file(entry, path, file)

    def find_name(self, name: str) -> Entry | None:
        """The last entry under that name."""
        return self._get("directory = ? AND name = ? ORDER BY recorded_ns DESC", self._directory, name)

    def knows_inode(self, device: int, inode: int) -> bool:
        """Whether any file with that inode was begun."""
        return self._get("device = ? AND inode = ?", str(device), str(inode)) is not None

    def put(self, entry: Entry, now_ns: int) -> None:
        """Write down how far a file was read."""
        file, tally = entry.file, json.dumps(entry.tally.as_dict())
        who = (str(file.device), str(file.inode), self._directory, entry.name)
        row = (*who, file.size, file.mtime_ns, entry.head_bytes, entry.head_digest, tally, entry.is_done, now_ns)
        with self._errors():
            self._base.execute(f"INSERT OR REPLACE INTO file VALUES ({', '.join('?' * len(row))})", row)

    def forget_gone(self, there: Collection[tuple[int, int]], now_ns: int) -> None:
        """Remove old entries of this directory whose device and inode are not among those that are there."""
        query = "SELECT device, inode FROM file WHERE directory = ? AND recorded_ns < ?"
        with self._errors():
            rows = self._base.execute(query, (self._directory, now_ns - KEPT_WHEN_GONE_NS)).fetchall()
            gone = [row for row in rows if (int(row[0]), int(row[1])) not in there]
            if gone:
                with self._base:
                    self._base.execute("BEGIN")
                    self._base.executemany("DELETE FROM file WHERE device = ? AND inode = ?", gone)

    def close(self) -> None:
        """Close the file."""
        self._base.close()

    def _get(self, condition: str, *values: str) -> Entry | None:
        columns = "name, device, inode, size, mtime_ns, head_bytes, head_digest, is_done, tally"
        with self._errors():
            row = self._base.execute(f"SELECT {columns} FROM file WHERE {condition} LIMIT 1", values).fetchone()
            if row is None:
                return None
            name, device, inode, size, mtime_ns, head_bytes, head_digest, is_done, tally = row
            file = SpoolFile(int(device), int(inode), int(size), int(mtime_ns))
            return Entry(name, file, head_bytes, head_digest, bool(is_done), Tally.from_dict(json.loads(tally)))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, ValueError, TypeError, KeyError) as err:
            raise InputError(f"{self._name}: cannot be used as a spool's ledger: {err}") from err
