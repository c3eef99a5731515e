"""Doctor: examines a state directory, and changes nothing in it: what is damaged, left over, or not as the ledger says.

Every chunk's digest and every model's identity are computed afresh, so it reads all that is stored. While a daemon
runs (`is_live`), what comes and goes is no finding: temporary files, jobs' folders, and what was removed meanwhile.
What a restart would put in order by itself is told, too, where it is more than a moment's work left undone.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from nsstream.chunk import read_chunk
from nsstream.chunk.chunk_file import SUFFIX
from nsstream.chunk.journal import COMMIT
from nsstream.chunk.journal import FORMAT as JOURNAL_FORMAT
from nsstream.chunk.journal import FORMAT_VERSION as JOURNAL_VERSION
from nsstream.chunk.store import PIN_SUFFIX, PREPARED_SUFFIX
from nsstream.chunk.whole_file import PART_SUFFIX
from nsstream.errors import StateError
from nsstream.model.identity import check_content
from nsstream.model.promotion import MARK, read_promoted
from nsstream.model.schemas import check_schema
from nsstream.pipeline.doctor_ledger import LedgerView, view_ledger
from nsstream.pipeline.findings import Code, Finding
from nsstream.pipeline.handover_files import HandoverFiles
from nsstream.pipeline.intake import KEY_FILE as SAMPLING_KEY
from nsstream.pipeline.ledger import FILE as LEDGER
from nsstream.pipeline.outputs import KEY_FILE as ADDRESS_KEY
from nsstream.pipeline.private_training import what_was_done
from nsstream.pipeline.quarantine import FOLDER as QUARANTINE

FEWEST_FREE_OCTETS: Final = 256 << 20
STORES: Final = ("chunks", "apart")


@dataclass(frozen=True, slots=True)
class Examination:
    """What was found, and what was looked at."""

    findings: list[Finding] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


def examine(
    state: Path,
    *,
    is_live: bool,
    load: Callable[[Path], object] | None = None,
    keep_octets: int | None = None,
    spared: tuple[Path, ...] = (),
    has_own_key: bool = True,
) -> Examination:
    """Examine a state directory; raises StateError where it is none.

    Args:
        state: the directory.
        is_live: whether a daemon holds it.
        load: loads a checkpoint, or raises StateError; None: its identity is enough.
        keep_octets: the cap of the chunks, None where there is none, or it is not known.
        spared: checkpoints that need not be known to the ledger.
        has_own_key: whether the key of the address map stands in it.
    """
    if not state.is_dir():
        raise StateError(f"there is no state directory {state}")
    view, findings = view_ledger(state / LEDGER)
    findings += _of_rights(state)
    findings += _of_keys(state, has_own_key=has_own_key)
    chunks = 0
    for name in STORES:
        for path in sorted((state / name).glob(f"*{SUFFIX}")):
            chunks += 1
            findings += _of_chunk(path)
    findings += _of_journal(state)
    models = sorted(path for path in (state / "models").glob("*") if _is_model(path))
    damaged: set[str] = set()
    for path in models:
        try:
            check_schema(path, check_content(path))
            if load is not None:
                load(path)
        except StateError as err:
            if path.exists():
                damaged.add(path.name)
                findings.append(Finding(Code.MODEL, (path,), str(err).removeprefix(f"{path} ")))
    if view is not None and not is_live:
        sound = {path.name for path in models} - damaged
        findings += _against_ledger(state, view, sound, damaged, {path.resolve() for path in spared})
    if not is_live:
        findings += _left_over(state, view)
    room = shutil.disk_usage(state)
    stored = sum(path.stat().st_size for name in STORES for path in (state / name).glob(f"*{SUFFIX}"))
    findings += _of_room(state, room.free, stored, keep_octets)
    facts = {
        "state": str(state),
        "schema": None if view is None else view.schema,
        "chunks": chunks,
        "chunks_octets": stored,
        "models": len(models),
        "promoted": None if view is None else view.promoted,
        "free_octets": room.free,
    }
    return Examination(findings, facts)


def _is_model(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and not path.name.startswith(".")


def _of_rights(state: Path) -> Iterator[Finding]:
    owner = state.stat()
    others = []
    for folder, names, files in os.walk(state):
        for name in [*names, *files]:
            path = Path(folder) / name
            try:
                found = path.lstat()
            except FileNotFoundError:
                continue
            if (found.st_uid, found.st_gid) != (owner.st_uid, owner.st_gid):
                others.append(path)
    if others:
        count = f"{len(others)} files and folders, {others[0]} the first, belong" if len(others) > 1 else "it belongs"
        yield Finding(Code.OWNER, tuple(others), f"{count} to another owner or group than {state}")
    if owner.st_mode & stat.S_IRWXO:
        yield Finding(Code.MODE, (state,), f"everybody may look into it: its mode is {owner.st_mode & 0o777:o}")
    for name in (ADDRESS_KEY, SAMPLING_KEY):
        path = state / name
        if path.exists() and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            yield Finding(Code.MODE, (path,), f"others may read the key: its mode is {path.stat().st_mode & 0o777:o}")


def _of_keys(state: Path, *, has_own_key: bool) -> Iterator[Finding]:
    for name, needed_by in ((ADDRESS_KEY, "models"), (SAMPLING_KEY, "chunks")):
        path = state / name
        try:
            if not 16 <= len(bytes.fromhex(path.read_text(encoding="ascii"))) <= 64:
                yield Finding(Code.KEY, (path,), "it is not a key of 16 to 64 octets in hexadecimal; restore it")
        except FileNotFoundError:
            if name == ADDRESS_KEY and has_own_key and any((state / needed_by).glob("[!.]*/")):
                told = "it is missing: a new one would give every host another address"
                yield Finding(Code.KEY, (path,), f"{told} (-c FILE tells where it is, if training.address_key does)")
        except (OSError, ValueError) as err:
            yield Finding(Code.KEY, (path,), f"it is not a key in hexadecimal, restore it: {err}")


def _of_chunk(path: Path) -> Iterator[Finding]:
    try:
        chunk = read_chunk(path)
        if chunk.id != path.stem:
            yield Finding(Code.CHUNK, (path,), f"it holds the chunk {chunk.id:.80}")
        chunk.check_digest()
    except StateError as err:
        if path.exists():  # else it expired meanwhile
            yield Finding(Code.CHUNK, (path,), str(err).removeprefix(f"{path} "))


def _of_journal(state: Path) -> Iterator[Finding]:
    folder = state / "journal"
    try:
        commit = json.loads((folder / COMMIT).read_bytes())
        if (commit["format"], commit["format_version"]) != (JOURNAL_FORMAT, JOURNAL_VERSION):
            raise ValueError(f"it is {commit['format']!r:.40} version {commit['format_version']!r:.40}")
        for name in ("number", "length_ns", "latest_ns", "closed_before", "apart_number"):
            int(commit[name])
        handover = commit["progress"].get("handover")
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
        yield Finding(Code.JOURNAL, (folder,), f"its commit cannot be read, and no daemon starts: {err}")
        return
    if handover is not None and HandoverFiles(state / "handover").read(handover) is None:
        path = state / "handover" / str(handover)
        told = "it is damaged" if path.exists() else "it is missing"
        yield Finding(Code.HANDOVER, (path,), f"{told}: the source begins without what it knew")


def _against_ledger(
    state: Path, view: LedgerView, sound: set[str], damaged: set[str], spared: set[Path]
) -> Iterator[Finding]:
    folder = state / "models"
    for name in sorted(sound & view.stored):
        if view.paid is not None and name not in view.paid and what_was_done(folder / name):
            told = "it was learned privately, and the ledger does not know what that cost: it is another one"
            yield Finding(Code.SPENDING, (folder / name,), told)
    for name in sorted(view.stored - sound - damaged):
        yield Finding(Code.MODEL_MISSING, (folder / name,), "the ledger says that it is stored, and it is not there")
    for name in sorted(sound - view.stored - view.candidates):
        if name in view.removed:
            yield Finding(Code.LEFT_OVER, (folder / name,), "the ledger says that it was removed")
        elif (folder / name).resolve() not in spared:
            yield Finding(Code.MODEL_ORPHAN, (folder / name,), "the ledger does not know it")
    mark = folder / MARK
    try:
        marked = read_promoted(folder)
    except StateError as err:
        yield Finding(Code.MARK, (mark,), str(err))
        return
    if view.promoted not in (None, *damaged) and view.promoted in sound and marked != folder / str(view.promoted):
        told = "nothing" if marked is None else marked.name
        yield Finding(Code.MARK, (mark,), f"it names {told}, and promoted is {view.promoted}")
    elif view.promoted is None and marked is not None and not marked.exists():
        yield Finding(Code.MARK, (mark,), f"it names {marked.name}, which is not there")


def _left_over(state: Path, view: LedgerView | None) -> Iterator[Finding]:
    """What a process that died left half-written, and no other one goes on with."""
    for name in STORES:
        closing = _closing(state)
        for path in sorted((state / name).glob(f".*{PREPARED_SUFFIX}")):
            if path.name.removeprefix(".").removesuffix(PREPARED_SUFFIX) not in closing:
                yield Finding(Code.LEFT_OVER, (path,), "it is a chunk that was never committed")
        for path in sorted((state / name).glob(f"*{PIN_SUFFIX}")):
            if not path.with_suffix(SUFFIX).exists():
                yield Finding(Code.LEFT_OVER, (path,), "it pins a chunk that is not there")
    for path in sorted(state.rglob(f".*{PART_SUFFIX}")):
        if QUARANTINE not in path.relative_to(state).parts:
            yield Finding(Code.LEFT_OVER, (path,), "it is half a file")
    for pattern, told in (
        ("models/.new-*", "it is half a checkpoint"),
        (f"models/.{MARK}-*", "it is a mark that was never set"),
        (".backup-*", "it is what a backup that was interrupted gathered"),
        ("merged/*", "it is of a job that ended"),
    ):
        for path in sorted(state.glob(pattern)):
            yield Finding(Code.LEFT_OVER, (path,), told)
    waiting = set() if view is None else view.waiting
    for path in sorted((state / "work").glob("*")):
        if path.name not in {f"job-{number}" for number in waiting}:
            yield Finding(Code.LEFT_OVER, (path,), "it is of a job that ended")


def _closing(state: Path) -> set[str]:
    try:
        return set(json.loads((state / "journal" / COMMIT).read_bytes())["closing"])
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _of_room(state: Path, free: int, stored: int, keep_octets: int | None) -> Iterator[Finding]:
    if free < FEWEST_FREE_OCTETS:
        yield Finding(Code.ROOM, (state,), f"{free} octets are free on its disk, fewer than {FEWEST_FREE_OCTETS}")
    elif keep_octets is not None and stored + free - FEWEST_FREE_OCTETS < keep_octets:
        yield Finding(
            Code.ROOM,
            (state,),
            f"its disk is full before chunks.keep_octets, {keep_octets}, is: {stored} octets of chunks, {free} free",
        )
