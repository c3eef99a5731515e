"""A file of a spool: what makes it the same file, and whether its writer is through with it.

A file is its device and inode, and what it was when it was seen: size, time of change, a digest of its first octets.
Names are no part of it, for they change: tools rename, compressors replace.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HEAD_BYTES: Final = 4096
COMPRESSION_SUFFIXES: Final = (".gz", ".xz", ".zst", ".bz2")


@dataclass(frozen=True, slots=True)
class SpoolFile:
    """A file as it was found."""

    device: int
    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> SpoolFile:
        """What `os.stat` says."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def head_of(path: Path, octet_count: int) -> str:
    """Digest of the first octets of a file; raises OSError if it cannot be read."""
    with path.open("rb") as file:
        return hashlib.blake2b(file.read(octet_count), digest_size=16).hexdigest()


def status_of(path: Path) -> os.stat_result | None:
    """Of a regular file, or None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def is_finished(path: Path, status: os.stat_result, now_ns: int, quiet_ns: int) -> bool:
    """Whether nobody writes to the file any more: as a lease tells, or, where none can be had, as its quiet does."""
    is_written = is_being_written(path)
    if is_written is None:
        return now_ns - status.st_mtime_ns >= quiet_ns
    return not is_written


def is_being_written(path: Path) -> bool | None:
    """Whether anybody has the file open for writing; None where the kernel does not tell (not ours, remote)."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        # A writer that comes while we hold the lease has us told by a signal; SIGIO would end us, SIGURG does nothing.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return False
