"""JournalFollower: the rows that another process takes in, as its journal has them; reads, and changes nothing.

Promises: a row comes once, and only when its commit is there, a second after it was taken or so. The journal's files
are held open: what was committed before its interval became a chunk comes, though the file is gone. Two things do not
come: what stood in the journal before the follower was opened, and rows that were in no journal, since their interval
was closed before the next commit (a file that is read fast, a source that ends).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import pyarrow as pa

from nsstream.capture.inotify import DirectoryWatch
from nsstream.chunk.journal import COMMIT, FORMAT, FORMAT_VERSION, SUFFIX
from nsstream.chunk.journal_segment import messages_in
from nsstream.chunk.rows import Rows
from nsstream.errors import StateError

MOST_READ_BYTES: Final = 64 << 20  # of one file with one call; what is beyond comes with the next
_SCHEMA_BYTES: Final = 1 << 16
_LOOK_S: Final = 0.2  # between looks where the file system tells nothing


class JournalFollower:
    """Follows the journal of one folder, from `open` to `close`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._watch: DirectoryWatch | None = None
        self._tails: dict[str, _Tail] = {}
        self._after = -1  # the commit whose rows, and those before, are of no interest
        self._number = -1  # the newest that was seen

    def open(self) -> None:
        """Begin behind what is committed now; raises StateError where there is no journal that can be read."""
        self._after = self._number = self._commit_number()
        with suppress(OSError):
            self._watch = DirectoryWatch(self._directory)
        self._look()

    def read(self, wait_s: float) -> list[Rows]:
        """The rows that were committed since, after waiting for news so long at most; raises StateError."""
        if self._watch is not None:
            self._watch.read(wait_s)
        else:
            time.sleep(min(wait_s, _LOOK_S))
        number = self._commit_number()
        if number < self._number:  # another state in the same place, which counts anew
            self._after = -1
        self._number = number
        self._look()
        found: list[Rows] = []
        for name, tail in sorted(self._tails.items()):
            found += [rows for commit, rows in tail.read(number) if commit > self._after]
            if tail.is_over:
                tail.close()
                del self._tails[name]
        return found

    def close(self) -> None:
        """Let go of all files; may be repeated."""
        if self._watch is not None:
            self._watch.close()
        for tail in self._tails.values():
            tail.close()
        self._watch, self._tails = None, {}

    def _look(self) -> None:
        """Open what is new."""
        try:
            names = [name for name in os.listdir(self._directory) if name.endswith(SUFFIX)]  # noqa: PTH208 - names alone
        except OSError as err:
            raise StateError(f"{self._directory}: {(err.strerror or str(err)).lower()}") from err
        for name in names:
            if name not in self._tails:
                with suppress(FileNotFoundError):  # gone between the two
                    self._tails[name] = _Tail(self._directory / name)

    def _commit_number(self) -> int:
        path = self._directory / COMMIT
        try:
            commit = json.loads(path.read_bytes())
            if (commit["format"], commit["format_version"]) != (FORMAT, FORMAT_VERSION):
                raise StateError(f"{path} is {commit['format']} version {commit['format_version']}, not ours")
            return int(commit["number"])
        except FileNotFoundError as err:
            if self._number >= 0:
                return self._number  # who journals begins anew
            raise StateError(f"{path} is not there: nothing is being taken in") from err
        except OSError as err:
            raise StateError(f"{path}: {(err.strerror or str(err)).lower()}") from err
        except (ValueError, KeyError, TypeError) as err:
            raise StateError(f"{path} cannot be read: {err}") from err


class _Tail:
    """One file of the journal, from where it was last read."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)
        self._schema = b""
        self._at = 0

    @property
    def is_over(self) -> bool:
        """Whether the file was removed, and is read."""
        told = os.fstat(self._descriptor)
        return told.st_nlink == 0 and told.st_size <= self._at

    def read(self, number: int) -> Iterator[tuple[int, Rows]]:
        """The rows that are committed by this number and were not read before, each batch with its commit's."""
        if not self._schema:
            beginning = os.pread(self._descriptor, _SCHEMA_BYTES, 0)
            source = pa.BufferReader(beginning)
            try:
                pa.ipc.open_stream(source)
            except (pa.ArrowException, OSError):
                return  # not whole yet
            self._schema = beginning[: source.tell()]
            self._at = len(self._schema)
        start = self._at
        octets = self._schema + os.pread(self._descriptor, MOST_READ_BYTES, start)
        for rows, told, end in messages_in(pa.py_buffer(octets)):
            if told["commit"] > number:
                return
            self._at = start + end - len(self._schema)
            yield int(told["commit"]), rows

    def close(self) -> None:
        os.close(self._descriptor)
