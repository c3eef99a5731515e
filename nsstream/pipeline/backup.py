"""Backup: a state directory as one file, consistent also while its daemon runs; and a state directory made of one.

The file is a tar: ``ledger.sqlite``, the keys, chunks, models, the journal of open chunks, what the source handed over;
and at its end ``backup.json``, which says of each file its size and SHA-256: a file that was cut has none.

Theory: chunks and checkpoints are immutable, so a hard link keeps what they are at a moment. The ledger is copied by
SQLite's own means. The journal is a commit, which is replaced whole, and files that grow behind it: those are read as
far as they were when they were linked, and what stands behind the commit is cut off by whoever recovers. Rule: nothing
is closed between the commit and the last link, else rows would be in two places or in none; so it is linked again until
the commit is the same before and after.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import sqlite3
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from nsstream import __version__
from nsstream.chunk.chunk_file import SUFFIX
from nsstream.chunk.journal import COMMIT
from nsstream.chunk.store import PIN_SUFFIX, PREPARED_SUFFIX
from nsstream.chunk.whole_file import whole_file
from nsstream.errors import OutputError, StateError
from nsstream.model.promotion import MARK, read_promoted
from nsstream.pipeline.doctor_ledger import reading_ledger
from nsstream.pipeline.intake import KEY_FILE as SAMPLING_KEY
from nsstream.pipeline.ledger import FILE as LEDGER
from nsstream.pipeline.outputs import KEY_FILE as ADDRESS_KEY

FORMAT: Final = "nsstream-backup"
FORMAT_VERSION: Final = 1
INDEX: Final = "backup.json"
NAME: Final = re.compile(  # of what is in it; a restore takes no other
    r"(?:(?:address|sampling)\.key|ledger\.sqlite|(?:chunks|apart|journal|handover)/[A-Za-z0-9.-]{1,120}"
    r"|models/[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}/[A-Za-z0-9_-][A-Za-z0-9._-]{0,60})",
    re.ASCII,
)
_TRIES: Final = 50
_BETWEEN_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Backup:
    """What stands in a backup."""

    chunks: int
    models: int
    octets: int
    has_journal: bool  # else the rows of open chunks are not in it
    left_out: tuple[str, ...]  # files whose names are none of ours: copies by hand, and half files of who was killed


def back_up(state: Path, output: Path, now_ns: int) -> Backup:
    """Write a state directory to a file, which appears when it is whole; who reads it can undo the address map.

    Raises StateError where there is no state, OutputError where something cannot be written.
    """
    if not state.is_dir():
        raise StateError(f"there is no state directory {state}")
    with _gathering(state, output) as place:
        has_journal = _gather(state, place)
        _gather_ledger(state, place)
        try:
            promoted = read_promoted(state / "models")
        except StateError:
            promoted = None  # restore lets the mark follow the ledger
        names = sorted(str(path.relative_to(place)) for path in place.rglob("*") if path.is_file())
        left_out = tuple(name for name in names if not NAME.fullmatch(name))
        told: dict[str, Any] = {
            "format": FORMAT, "format_version": FORMAT_VERSION, "nsstream": __version__, "time_ns": now_ns,
            "promoted": None if promoted is None else promoted.name, "has_journal": has_journal, "files": {},
        }  # fmt: skip
        with whole_file(output, mode=0o600) as file, tarfile.open(fileobj=file, mode="w") as tar:
            for name in names:
                if name not in left_out:
                    told["files"][name] = _add(tar, place / name, name)
            _add_octets(tar, INDEX, json.dumps(told, indent=1).encode())
        chunks = sum(name.startswith("chunks/") and name.endswith(SUFFIX) for name in told["files"])
        models = sum(name.startswith("models/") and name.endswith("/manifest.json") for name in told["files"])
        return Backup(chunks, models, sum(size for size, _ in told["files"].values()), has_journal, left_out)


@contextmanager
def _gathering(state: Path, output: Path) -> Iterator[Path]:
    """A folder for links: in the state directory, or beside the output where that one cannot be written."""
    try:
        try:
            place = Path(tempfile.mkdtemp(prefix=".backup-", dir=state))
        except OSError:
            place = Path(tempfile.mkdtemp(prefix=".backup-", dir=output.absolute().parent))
    except OSError as err:
        raise OutputError(f"cannot make a folder for the backup: {err.strerror}") from err
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _gather(state: Path, place: Path) -> bool:
    """Link chunks, journal and keys; whether the journal is among them."""
    for name in (ADDRESS_KEY, SAMPLING_KEY):
        _link(state / name, place / name)
    for _ in range(_TRIES):
        _link_chunks(state, place)  # most of them, so that the rest takes no time
        shutil.rmtree(place / "journal", ignore_errors=True)
        shutil.rmtree(place / "handover", ignore_errors=True)
        before = _commit_of(state)
        for folder in ("journal", "handover"):
            for path in _entries(state / folder):
                if not path.name.startswith("."):
                    _link(path, place / folder / path.name)
        _link_chunks(state, place)
        if before == _commit_of(state) and _is_whole(place):
            return (place / "journal" / COMMIT).exists()
        time.sleep(_BETWEEN_S)
    shutil.rmtree(place / "journal", ignore_errors=True)
    return False


def _link_chunks(state: Path, place: Path) -> None:
    for folder in ("chunks", "apart"):
        for path in _entries(state / folder):
            if path.name.endswith((SUFFIX, PIN_SUFFIX, PREPARED_SUFFIX)):
                _link(path, place / folder / path.name)


def _is_whole(place: Path) -> bool:
    """Whether every chunk that the commit tells of as closing is there; others that were prepared are taken out."""
    try:
        closing = set(json.loads((place / "journal" / COMMIT).read_bytes())["closing"])
    except FileNotFoundError:
        closing = set()
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise StateError(f"the journal cannot be read: {err}; `nsstream doctor` says more") from err
    there = set()
    for folder in ("chunks", "apart"):
        for path in _entries(place / folder):
            chunk_id = path.name.removeprefix(".").removesuffix(PREPARED_SUFFIX).removesuffix(SUFFIX)
            there.add(chunk_id)
            if path.name.endswith(PREPARED_SUFFIX) and chunk_id not in closing:
                path.unlink()
    return closing <= there


def _commit_of(state: Path) -> tuple[int, int] | None:
    try:
        found = (state / "journal" / COMMIT).stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def _gather_ledger(state: Path, place: Path) -> None:
    """Copy the ledger, and link every model that the copy says is stored; raises StateError where they never agree."""
    if not (state / LEDGER).exists():
        _link_models(state, place)
        return
    for _ in range(_TRIES):
        _link_models(state, place)
        (place / LEDGER).unlink(missing_ok=True)
        with reading_ledger(state / LEDGER) as source:
            copy = sqlite3.connect(place / LEDGER)
            try:
                source.backup(copy)
                copy.execute("PRAGMA journal_mode = DELETE")  # one file, and no other beside it
                stored = {row[0] for row in copy.execute("SELECT id FROM model WHERE is_stored")}
            finally:
                copy.close()
        _link_models(state, place)
        if all((place / "models" / name / "manifest.json").exists() for name in stored):
            return
        time.sleep(_BETWEEN_S)
    raise StateError(f"{state}: models that the ledger tells of are not there; `nsstream doctor` says more")


def _link_models(state: Path, place: Path) -> None:
    for folder in _entries(state / "models"):
        if not folder.name.startswith(".") and folder.name != MARK and folder.is_dir():
            for path in _entries(folder):
                _link(path, place / "models" / folder.name / path.name)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []  # it was removed meanwhile


def _link(path: Path, target: Path) -> None:
    """Let a file be there under another name, unless it is so already, or gone; it is copied where it cannot be linked.

    Raises OutputError.
    """
    if target.exists():
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, target, follow_symlinks=False)
        except FileNotFoundError:
            return
        except OSError:  # another disk, or another's file
            with suppress(FileNotFoundError):
                shutil.copy2(path, target, follow_symlinks=False)
    except OSError as err:
        raise OutputError(f"cannot copy {path} for the backup: {err.strerror}") from err


def _add(tar: tarfile.TarFile, path: Path, name: str) -> tuple[int, str]:
    """Add a file, as far as it goes now; gives its size and digest."""
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
        member = tarfile.TarInfo(name)
        member.size, member.mode, member.mtime = found.st_size, found.st_mode & 0o777, found.st_mtime
        reader = _Digesting(file, found.st_size)
        tar.addfile(member, reader)  # type: ignore[arg-type]
    return found.st_size, reader.digest.hexdigest()


def _add_octets(tar: tarfile.TarFile, name: str, octets: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(octets), 0o600
    tar.addfile(member, io.BytesIO(octets))


class _Digesting:
    """So much of a file, and the digest of what was read."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._left = file, size
        self.digest = hashlib.sha256()

    def read(self, size: int) -> bytes:
        octets = self._file.read(min(size, self._left))
        self._left -= len(octets)
        self.digest.update(octets)
        return octets
