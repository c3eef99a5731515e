"""Restore: a state directory made of a backup: whole, checked, and there at once, or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Any, BinaryIO, Final

from nsstream.clock import Clock, SystemClock
from nsstream.errors import InputError, OutputError, StateError
from nsstream.model.promotion import promote
from nsstream.pipeline.backup import FORMAT, FORMAT_VERSION, INDEX, NAME
from nsstream.pipeline.doctor_ledger import view_ledger
from nsstream.pipeline.ledger import FILE as LEDGER
from nsstream.pipeline.repair import give_to_owner
from nsstream.pipeline.spending_join import keep_spending

_MOST_INDEX_OCTETS: Final = 256 << 20
_BLOCK_OCTETS: Final = 1 << 20


def restore(
    backup: Path,
    state: Path,
    *,
    clock: Clock | None = None,
    spent_in: Path | None = None,
    is_complete: bool = False,
) -> dict[str, Any]:
    """Make a state directory of a backup, and give what the backup says of itself.

    Args:
        backup: what `back_up` wrote.
        state: the directory; it is not there, or empty.
        clock: None: the system's.
        spent_in: the state directory that was lost, or its ledger (`keep_spending`).
        is_complete: whether the operator says that nothing was spent after the backup.

    Raises InputError where the file is no backup, or another than was written; StateError where the directory is there
    and not empty; OutputError where the disk refuses.
    """
    if state.exists() and (not state.is_dir() or any(state.iterdir())):
        raise StateError(f"{state} is there already, and not empty; restore to another place, or move it away")
    owner = state.stat() if state.exists() else None
    try:
        work = Path(tempfile.mkdtemp(prefix=f".{state.name}.restoring-", dir=state.absolute().parent))
    except OSError as err:
        raise OutputError(f"cannot restore to {state}: {err.strerror}") from err
    try:
        told = _unpack(backup, work)
        for folder in ("chunks", "models"):
            (work / folder).mkdir(exist_ok=True)
        view, findings = view_ledger(work / LEDGER)
        if findings:
            raise InputError(f"{backup}: {findings[0].paths[0].name}: {findings[0].says}")
        now_ns = (clock or SystemClock()).wall_ns()
        keep_spending(work / LEDGER, now_ns, spent_in=spent_in, is_complete=is_complete)
        promoted = told["promoted"] if view is None else view.promoted
        if promoted is not None:
            promote(work / "models", promoted)
        if owner is not None:
            os.chown(work, owner.st_uid, owner.st_gid)
            work.chmod(owner.st_mode & 0o777)
        give_to_owner(work)
        work.rename(state)
    except (OSError, tarfile.TarError) as err:
        raise OutputError(f"cannot restore to {state}: {err}") from err
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return told


def _unpack(backup: Path, work: Path) -> dict[str, Any]:
    """Write a backup's files below a folder, each with the digest that the index says, and give the index."""
    found: dict[str, tuple[int, str]] = {}
    index: bytes | None = None
    try:
        with backup.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                content = tar.extractfile(member) if member.isreg() else None
                if content is None or index is not None:
                    raise InputError(f"{backup}: is no backup of a state: {member.name!r:.80} is in it")
                if member.name == INDEX:
                    index = content.read(_MOST_INDEX_OCTETS)
                elif NAME.fullmatch(member.name) and member.name not in found:
                    mode = 0o600 if member.name.endswith(".key") else member.mode & 0o666
                    found[member.name] = _write(content, work / member.name, mode)
                else:
                    raise InputError(f"{backup}: is no backup of a state: {member.name!r:.80} is in it")
    except tarfile.TarError as err:
        raise InputError(f"{backup}: is no backup, or was cut: {err}") from err
    except FileNotFoundError as err:
        raise InputError(f"{backup}: there is no such file") from err
    if index is None:
        raise InputError(f"{backup}: is no backup, or was cut: it has no {INDEX}")
    try:
        told = json.loads(index)
        if (told["format"], told["format_version"]) != (FORMAT, FORMAT_VERSION):
            raise ValueError(f"it is {told['format']!r:.40} version {told['format_version']!r:.40}")
        said = {str(name): (int(size), str(digest)) for name, (size, digest) in told["files"].items()}
        told["promoted"] = None if told["promoted"] is None else str(told["promoted"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
        raise InputError(f"{backup}: is no backup that this nsstream reads: {err}") from err
    for name in sorted(said.keys() ^ found.keys()):
        raise InputError(f"{backup}: is damaged: {name:.200} is {'missing' if name in said else 'not in its index'}")
    for name, (size, digest) in said.items():
        if found[name] != (size, digest):
            raise InputError(f"{backup}: is damaged: {name} is not what was written")
    return dict(told)


def _write(content: Any, path: Path, mode: int) -> tuple[int, str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with path.open("xb") as file:
        while octets := content.read(_BLOCK_OCTETS):
            file.write(octets)
            digest.update(octets)
            size += len(octets)
        _settle(file, mode)
    return size, digest.hexdigest()


def _settle(file: BinaryIO, mode: int) -> None:
    os.fchmod(file.fileno(), mode)
    file.flush()
    os.fsync(file.fileno())
