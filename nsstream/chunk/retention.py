"""Retention: which chunks of a store expire, by age and by total size, the oldest interval first, rows apart before it.

Promises: a chunk that any process is reading (a column of it lives: `chunk_file` holds a shared lock) is let be, and so
is a pinned one; both are told of, and looked at again the next time. Partial chunks expire like whole ones. The age of
a chunk counts from when it was stored, so that an old capture does not expire as it comes in.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from nsstream.chunk.chunk_file import SUFFIX
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
    """Remove the chunks that are over a bound; raises OutputError where the folder refuses.

    The bounds hold for a store and its rows apart together. A file that is no chunk takes room like one, and is as old
    as it was stored.
    """
    stores = (store,) if apart is None else (apart, store)
    found = sorted((each for of in stores for each in _stored(of)), key=lambda each: each.start_ns)
    octets_left = sum(each.octets for each in found)
    expired: list[Judged] = []
    spared: list[Judged] = []
    for each in found:
        octets = each.octets
        if retention.max_age_ns is not None and now_ns - each.stored_ns > retention.max_age_ns:
            reason = Reason.AGE
        elif retention.max_octets is not None and octets_left > retention.max_octets:
            reason = Reason.SIZE
        else:
            continue
        if each.is_pinned:
            spared.append(Judged(each.id, octets, Reason.PINNED))
        elif not remove_unread(each.path):
            spared.append(Judged(each.id, octets, Reason.IN_USE))
        else:
            expired.append(Judged(each.id, octets, reason))
            octets_left -= octets
    return Expiry(expired, spared, octets_left)


@dataclass(frozen=True, slots=True)
class _Stored:
    """One file of a store."""

    id: str
    path: Path
    start_ns: int
    octets: int
    stored_ns: int
    is_pinned: bool


def _stored(store: ChunkStore) -> Iterator[_Stored]:
    paths = list(store.directory.glob(f"*{SUFFIX}"))
    starts = store.starts_of(path.stem for path in paths)
    for path in paths:
        try:
            status = path.stat()
        except FileNotFoundError:
            continue  # it expired meanwhile
        start_ns = starts.get(path.stem, status.st_mtime_ns)
        yield _Stored(path.stem, path, start_ns, status.st_size, status.st_mtime_ns, store.is_pinned(path.stem))


def remove_unread(path: Path) -> bool:
    """Remove a chunk unless somebody reads it; who opens it between lock and removal sees that it is gone.

    Raises OutputError where the folder refuses.
    """
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except (BlockingIOError, FileNotFoundError):
        return False
    except OSError as err:
        raise OutputError(f"cannot remove the chunk {path}: {err.strerror}") from err
    return True
