"""What a file is called once it was rotated: the files of its directory that may hold what was written to it before."""

from __future__ import annotations

import logging
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from nsstream.capture.file_head import FileHead
from nsstream.errors import InputError

_COMPRESSED: Final = (".gz", ".xz", ".zst", ".bz2", ".lz4", ".zip")

_log = logging.getLogger(__name__)


def siblings_of(path: Path) -> list[tuple[int, Path]]:
    """Files that the path may have been rotated to, by their time of change; raises OSError."""
    name, stem, suffix = map(re.escape, (path.name, path.stem, path.suffix))
    is_of_family = re.compile(rf"{name}[.~_-].*|{stem}[._-]\d.*{suffix}", re.DOTALL)
    found = []
    with os.scandir(path.parent) as entries:
        for entry in entries:
            if is_of_family.fullmatch(entry.name) and not entry.name.endswith(_COMPRESSED):
                status = status_of(Path(entry.path))
                if status is not None and stat.S_ISREG(status.st_mode):
                    found.append((status.st_mtime_ns, Path(entry.path)))
    return sorted(found)


def find(head: FileHead, offset: int, paths: Sequence[Path]) -> int | None:
    """A descriptor of the first file that begins so and goes at least so far, None where there is none."""
    for path in paths:
        descriptor = opened_sibling(path)
        if descriptor is not None:
            if os.fstat(descriptor).st_size >= offset and head.begins(descriptor):
                return descriptor
            os.close(descriptor)
    return None


def opened(path: Path) -> int | None:
    """A descriptor of the file there, None if there is none; raises InputError where it is no regular file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as err:
        raise InputError(f"{path}: cannot be read: {err.strerror}") from err
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InputError(f"{path}: not a regular file, and only such a one can be followed")
    return descriptor


def opened_sibling(path: Path) -> int | None:
    """The same; one that cannot be read is named in the log, and left."""
    try:
        return opened(path)
    except InputError as err:
        _log.warning("rotated_file_unread reason=%s", err)
        return None


def status_of(path: Path) -> os.stat_result | None:
    """What the system says of a file, None where there is none; raises OSError."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None
