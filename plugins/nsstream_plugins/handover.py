"""Handing files that a tool has closed to a spool directory, which nsstream reads: each once, whole, and soon.

A file gets a second name in the spool (a hard link), so that a tool that deletes its old ones (``-b files:``, nfexpire)
takes nothing away that was not read; across file systems it is copied. It appears by a rename, which is what a spool
listens for. A file that is handed over twice is the same file to the spool, and is read once. Beyond `most_files` the
oldest are removed from the spool, and said so; nsstream counts those that it had not read as ``dropped["disk"]``.
"""

from __future__ import annotations

import argparse
import errno
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from nsstream.errors import InputError, NsstreamError, OutputError

MOST_FILES: Final = 1000
NFCAPD: Final = "nfcapd."
GROUP_READS: Final = 0o440


def hand_over(path: Path, spool: Path, *, moves: bool = False) -> Path | None:
    """Put a file into a spool; its path there, None if it was there already.

    Args:
        path: of a file that nobody writes to any more.
        spool: a directory that is there.
        moves: whether the file leaves its place; then the spool's group may read it, too.

    Raises InputError if there is no such file, OutputError if the spool does not take it.
    """
    try:
        told = path.stat()
    except OSError as err:
        raise InputError(f"{path}: {(err.strerror or str(err)).lower()}") from err
    target = _free_name(spool, path.name, told)
    if target is None:
        return None
    hidden = spool / f".{target.name}.{os.getpid()}"
    try:
        if moves:
            with suppress(OSError):  # of another user, whom the spool's owner let in
                os.chown(path, -1, spool.stat().st_gid)
                path.chmod(told.st_mode & 0o777 | GROUP_READS)
            path.replace(target)
            return target
        hidden.unlink(missing_ok=True)
        try:
            os.link(path, hidden)
        except OSError as err:
            if err.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK):
                raise
            shutil.copy2(path, hidden)
        hidden.replace(target)
    except OSError as err:
        with suppress(OSError):
            hidden.unlink(missing_ok=True)
        raise OutputError(f"{target}: {(err.strerror or str(err)).lower()}") from err
    return target


def trim(spool: Path, most_files: int = MOST_FILES) -> list[str]:
    """Remove the oldest files of a spool beyond so many; their names. Raises OutputError."""
    try:
        files = [(path.stat().st_mtime_ns, path) for path in spool.iterdir() if _is_ours(path)]
        gone = [path for _, path in sorted(files)[: max(len(files) - most_files, 0)]]
        for path in gone:
            path.unlink(missing_ok=True)
    except OSError as err:
        raise OutputError(f"{spool}: {(err.strerror or str(err)).lower()}") from err
    return [path.name for path in gone]


def _and_missed(path: Path, spool: Path) -> list[Path]:
    """A file, and before it those of nfcapd's beside it that are newer than the spool; of a directory these alone.

    nfcapd starts no hook for the last file when it ends, so that is handed over with the first one of its next life.
    """
    is_directory = path.is_dir()
    if not is_directory and not path.name.startswith(NFCAPD):
        return [path]
    try:
        newest_ns = max((file.stat().st_mtime_ns for file in spool.iterdir() if _is_ours(file)), default=0)
        beside = (path if is_directory else path.parent).glob(f"{NFCAPD}[0-9]*")
        missed = {file for file in beside if file.stat().st_mtime_ns > newest_ns}
    except OSError as err:
        raise InputError(f"{path}: {(err.strerror or str(err)).lower()}") from err
    return sorted(missed if is_directory else missed | {path})


def is_spool(spool: Path) -> Path:
    """The directory; raises InputError if it is none."""
    if not spool.is_dir():
        raise InputError(f"{spool}: not a directory; make it, and let nsstream read spool:{spool}")
    return spool


def main(arguments: Sequence[str]) -> int:
    """``SPOOL FILE ...``: hand files over; the exit status."""
    parser = argparse.ArgumentParser(description="Hand closed files to a spool directory that nsstream reads.")
    parser.add_argument("--most-files", type=int, default=MOST_FILES, help="that stay in the spool (%(default)s)")
    parser.add_argument("spool", type=Path)
    parser.add_argument("files", type=Path, nargs="+", help="or a directory of nfcapd's: what is newer than the spool")
    asked = parser.parse_args(arguments)
    try:
        spool = is_spool(asked.spool)
        for path in asked.files:
            for closed in _and_missed(path, spool):
                hand_over(closed, spool)
        say_gone(trim(spool, asked.most_files))
    except NsstreamError as err:
        print(f"nsstream: {err}", file=sys.stderr)
        return 1
    return 0


def say_gone(names: Iterable[str]) -> None:
    """Say on standard error what was removed."""
    for name in names:
        print(f"nsstream: {name} was removed from the spool, which is full", file=sys.stderr)


def _free_name(spool: Path, name: str, told: os.stat_result) -> Path | None:
    """A name for a file in the spool; None if the file, or a copy of it, is there by a name of its own."""
    for number in range(1000):
        path = spool / (name if number == 0 else f"{name}.{number}")
        try:
            there = path.lstat()
        except FileNotFoundError:
            return path
        is_same = (there.st_dev, there.st_ino) == (told.st_dev, told.st_ino)
        is_copy = there.st_dev != told.st_dev and _copied(there) == _copied(told)
        if is_same or is_copy:
            return None
    raise OutputError(f"{spool / name}: there are too many files of this name")


def _copied(told: os.stat_result) -> tuple[int, int]:
    return told.st_size, told.st_mtime_ns


def _is_ours(path: Path) -> bool:
    return not path.name.startswith(".") and path.is_file()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
