"""Retention: which chunks of a store expire, by age and by total size, the oldest interval first, rows apart before it.

Promises: a chunk that any process is reading (a column of it lives: `chunk_file` holds a shared lock) is let be, and so
is a pinned one; both are told of, and looked at again the next time. Partial chunks expire like whole ones. The age of
a chunk counts from when it was stored, so that an old capture does not expire as it comes in.
"""

from __future__ import annotations

import fcntl
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from nsstream.chunk.chunk_file import ChunkInfo
from nsstream.chunk.store import ChunkStore
from nsstream.errors import OutputError


class Reason(StrEnum):
    """Why a chunk expired, or did not though it should have."""

    AGE = "age"
    SIZE = "size"
    IN_USE = "in use"
    PINNED = "pinned"


@dataclass(frozen=True, slots=True)
class Retention:
    """What a store may hold; None: no bound."""

    max_age_ns: int | None = None
    max_octets: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_age_ns", "max_octets"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} must be >= 0, got {value!r}")


@dataclass(frozen=True, slots=True)
class Judged:
    """One chunk that was over a bound."""

    id: str
    octets: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class Expiry:
    """What one look at a store did."""

    expired: list[Judged] = field(default_factory=list)
    spared: list[Judged] = field(default_factory=list)  # over a bound, but in use or pinned
    octets_left: int = 0


def expire(store: ChunkStore, retention: Retention, now_ns: int, *, apart: ChunkStore | None = None) -> Expiry:
    """Remove the chunks that are over a bound; raises OutputError where the folder refuses, StateError as `list`.

    The bounds hold for a store and its rows apart together.
    """
    stores = (store,) if apart is None else (apart, store)
    listed = sorted(((info, of) for of in stores for info in of.list()), key=lambda found: found[0].start_ns)
    found = [(info, of, size) for info, of in listed if (size := _octets_and_time(info.path))]
    octets_left = sum(octets for _, _, (octets, _) in found)
    expired: list[Judged] = []
    spared: list[Judged] = []
    for info, of, (octets, stored_ns) in found:
        if retention.max_age_ns is not None and now_ns - stored_ns > retention.max_age_ns:
            reason = Reason.AGE
        elif retention.max_octets is not None and octets_left > retention.max_octets:
            reason = Reason.SIZE
        else:
            continue
        if of.is_pinned(info.id):
            spared.append(Judged(info.id, octets, Reason.PINNED))
        elif not _remove_unread(info):
            spared.append(Judged(info.id, octets, Reason.IN_USE))
        else:
            expired.append(Judged(info.id, octets, reason))
            octets_left -= octets
    return Expiry(expired, spared, octets_left)


def _octets_and_time(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_size, status.st_mtime_ns


def _remove_unread(info: ChunkInfo) -> bool:
    """Remove a chunk unless somebody reads it; who opens it between lock and removal sees that it is gone."""
    try:
        with info.path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            info.path.unlink()
    except (BlockingIOError, FileNotFoundError):
        return False
    except OSError as err:
        raise OutputError(f"cannot remove the expired chunk {info.path}: {err.strerror}") from err
    return True
