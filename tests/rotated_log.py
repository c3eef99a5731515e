"""A log as a tool writes it and logrotate treats it: lines in pieces, files renamed, or copied and cut off."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

TICK_NS = 1_000_000


class RotatedLog:
    """A writer of one path; each of its acts is at a later time than the one before, as the file system tells it."""

    def __init__(self, path: Path, now_ns: int = 1_700_000_000_000_000_000) -> None:
        self.path = path
        self.written = b""  # all of it, in order
        self._file = path.open("ab", buffering=0)
        self._now_ns = now_ns
        self._rotations = 0
        self._stamp(path)

    def write(self, octets: bytes) -> None:
        """Append."""
        self._file.write(octets)
        self.written += octets
        os.utime(self._file.fileno(), ns=(self._tick(), self._now_ns))

    def rename(self) -> Path:
        """What logrotate's `create` does with a writer that opens its file anew: the older ones move up by one."""
        rotated = self._make_room()
        self.path.rename(rotated)
        self._file.close()
        self._file = self.path.open("ab", buffering=0)
        self._stamp(self.path)
        return rotated

    def copy_and_truncate(self) -> Path:
        """What logrotate's `copytruncate` does."""
        rotated = self._make_room()
        shutil.copy(self.path, rotated)
        self._stamp(rotated)
        os.truncate(self.path, 0)
        self._stamp(self.path)
        return rotated

    def close(self) -> None:
        """End."""
        self._file.close()

    def _make_room(self) -> Path:
        for number in range(self._rotations, 0, -1):
            older = self.path.with_name(f"{self.path.name}.{number}")
            if older.exists():
                older.rename(self.path.with_name(f"{self.path.name}.{number + 1}"))
        self._rotations += 1
        return self.path.with_name(f"{self.path.name}.1")

    def _stamp(self, path: Path) -> None:
        os.utime(path, ns=(self._tick(), self._now_ns))

    def _tick(self) -> int:
        self._now_ns += TICK_NS
        return self._now_ns
