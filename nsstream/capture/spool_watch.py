"""SpoolWatch: what happens in a spool's directory, as inotify tells, and looks at the whole of it at intervals.

Promises: a file that is closed or renamed into place is told within the wait where inotify works, else with the next
look; a look gives the files in the order of last changes, then names (numbers in them count as numbers). `look` waits
no longer than asked. Hidden files are told as any other.
"""

from __future__ import annotations

import logging
import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from nsstream.capture.inotify import IS_GONE, DirectoryWatch, Happening
from nsstream.capture.spool_file import status_of
from nsstream.errors import InputError

_SCAN_S: Final = 1.0  # between looks at the whole directory, where nobody tells what happens in it
_WATCHED_SCAN_S: Final = 30.0  # and where inotify does

log = logging.getLogger(__name__)


@dataclass(slots=True)
class News:
    """Files that came, by name, with whether they were closed; and all that are there, after a look at the whole."""

    came: list[tuple[str, bool]] = field(default_factory=list)
    there: dict[str, os.stat_result] | None = None


class SpoolWatch:
    """A watch on one directory, not on those below it.

    Args:
        directory: to watch.
        is_polled: do not ask inotify. Also what happens where it fails.
    """

    def __init__(self, directory: Path, *, is_polled: bool) -> None:
        self.is_gone = False  # the directory itself
        self._directory = directory
        self._watch: DirectoryWatch | None = None
        self._scanned_s = 0.0
        if not is_polled:
            try:
                self._watch = DirectoryWatch(directory)
            except OSError as err:
                log.warning("inotify failed, polling directory=%s reason=%s", directory, err)

    def look(self, wait_s: float) -> News:
        """Learn what happened, for so long at most, or until something did.

        Raises InputError if the directory is there and cannot be read.
        """
        news = News()
        needs_scan = False
        if self._watch is not None:
            for event in self._watch.read(wait_s):
                if event.mask & IS_GONE:
                    self.is_gone = True
                elif event.mask & Happening.Q_OVERFLOW:
                    needs_scan = True
                elif event.mask & (Happening.CLOSE_WRITE | Happening.MOVED_TO):
                    news.came.append((event.name, bool(event.mask & Happening.CLOSE_WRITE)))
        elif wait_s:
            time.sleep(wait_s)
        if needs_scan or time.monotonic() - self._scanned_s > (_WATCHED_SCAN_S if self._watch else _SCAN_S):
            news.there = self.scan()
        return news

    def scan(self) -> dict[str, os.stat_result] | None:
        """All regular files that are there, in their order; None if the directory is gone.

        Raises InputError if it cannot be read.
        """
        self._scanned_s = time.monotonic()
        there: list[tuple[str, os.stat_result]] = []
        try:
            with os.scandir(self._directory) as entries:
                for one in entries:
                    status = status_of(Path(one.path))
                    if status is not None:
                        there.append((one.name, status))
        except FileNotFoundError:
            self.is_gone = True
            return None
        except OSError as err:
            raise InputError(f"{self._directory}: cannot be read: {err.strerror}") from err
        return dict(sorted(there, key=lambda one: (one[1].st_mtime_ns, _natural(one[0]), one[0])))

    def close(self) -> None:
        """End the watch; may be called twice."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None


def _natural(name: str) -> list[str | int]:
    """A sort key: text and numbers in turn."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
