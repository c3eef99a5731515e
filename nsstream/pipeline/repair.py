"""Repair: does what `findings.REMEDIES` says of each finding; what it takes away is in the quarantine.

Called by who holds the state directory's locks.
"""

from __future__ import annotations

import json
import logging
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nsstream.chunk.store import PIN_SUFFIX
from nsstream.clock import Clock
from nsstream.errors import OutputError, StateError
from nsstream.model.identity import check_content
from nsstream.model.promotion import MARK, demote, read_promoted
from nsstream.pipeline.findings import Code, Finding
from nsstream.pipeline.ledger import FILE, Ledger
from nsstream.pipeline.model_records import ModelRecords
from nsstream.pipeline.privacy_ledger import open_gap
from nsstream.pipeline.promoter import Promoter
from nsstream.pipeline.quarantine import set_aside
from nsstream.pipeline.training_queue import DAMAGED, TrainingQueue

_log = logging.getLogger(__name__)
_SET_ASIDE = (Code.CHUNK, Code.MODEL_ORPHAN, Code.JOURNAL, Code.HANDOVER, Code.LEFT_OVER)


def repair(state: Path, findings: Sequence[Finding], clock: Clock) -> None:
    """Repair what can be; raises OutputError where the disk refuses, StateError where the ledger does."""
    by_code: dict[Code, list[Path]] = {}
    for finding in findings:
        by_code.setdefault(finding.code, []).extend(finding.paths)
    if Code.LEDGER_NEWER in by_code:
        raise StateError(f"{state / FILE} is of a newer nsstream: repair it with that one")
    for code in _SET_ASIDE:
        for path in by_code.get(code, []):
            if path.exists() or path.is_symlink():
                set_aside(state, path)
                pin = path.with_suffix(PIN_SUFFIX)
                if code is Code.CHUNK and pin.exists():
                    set_aside(state, pin)
    for path in by_code.get(Code.MODE, []):
        _change(lambda path=path: path.chmod(0o700 if path.is_dir() else 0o600), path)
    if Code.LEDGER in by_code:
        for suffix in ("", "-wal", "-shm"):
            if (path := state / (FILE + suffix)).exists():
                set_aside(state, path)
        for path in by_code.get(Code.MODEL, []):
            set_aside(state, path)
        _begin_again(state, clock)
    elif (state / FILE).exists():
        ledger = Ledger(state / FILE)
        try:
            _in_ledger(state, ledger, by_code, clock)
        finally:
            ledger.close()
    else:
        for path in by_code.get(Code.MODEL, []):
            set_aside(state, path)
    give_to_owner(state)


def _in_ledger(state: Path, ledger: Ledger, by_code: dict[Code, list[Path]], clock: Clock) -> None:
    queue = TrainingQueue(ledger, clock)
    for path in by_code.get(Code.CHUNK, []):
        queue.lose(path.stem, DAMAGED)
    promoter = Promoter(state / "models", ModelRecords(ledger, clock))
    for path in by_code.get(Code.MARK, []):
        if not path.is_symlink() and path.exists():
            set_aside(state, path)
        else:
            demote(path.parent)
    for path in [*by_code.get(Code.MODEL, []), *by_code.get(Code.MODEL_MISSING, [])]:
        promoter.lose(path.name, "the doctor found it so")
    if (state / "models").is_dir():
        promoter.follow_ledger()


def _begin_again(state: Path, clock: Clock) -> None:
    """Make a ledger that knows the models that stand there, and what they learned, as done; the mark is the promotion.

    Chunks that no model is of are seen again by the daemon, and learned.
    """
    ledger = Ledger(state / FILE)
    try:
        with ledger.transaction() as db:  # what private jobs spent, it cannot know
            open_gap(db, clock.wall_ns(), clock.wall_ns(), "the ledger was damaged, and begun again")
        folder = state / "models"
        manifests: list[dict[str, Any]] = []
        for place in sorted(folder.glob("[!.]*/")):
            if not place.is_symlink():
                manifests.append(check_content(place))
        for manifest in sorted(manifests, key=lambda manifest: int(manifest["end_ns"])):
            trained_ns = (folder / manifest["id"] / "manifest.json").stat().st_mtime_ns
            _know_again(ledger, manifest, trained_ns)
        try:
            marked = read_promoted(folder)
        except StateError:
            set_aside(state, folder / MARK)
            marked = None
        records = ModelRecords(ledger, clock)
        if marked is not None and marked.name in {manifest["id"] for manifest in manifests}:
            with ledger.transaction() as db:
                db.execute(
                    "INSERT INTO promotion (model, time_ns, reason) VALUES (?, ?, 'operator')",
                    (marked.name, clock.wall_ns()),
                )
        else:
            records.release()
        if folder.is_dir():
            Promoter(folder, records).follow_ledger()
        _log.warning("ledger_begun_again models=%d", len(manifests))
    finally:
        ledger.close()


def _know_again(ledger: Ledger, manifest: dict[str, Any], trained_ns: int) -> None:
    gate = manifest.get("gate") or {"passed": False, "complaints": ["it was never judged"], "figures": {"loss": None}}
    start_ns, end_ns = int(manifest["start_ns"]), int(manifest["end_ns"])
    with ledger.transaction() as db:
        chunk = manifest.get("chunk")
        known = db.execute("SELECT job FROM chunk WHERE id = ?", (chunk,)).fetchone()
        conversations = int(manifest.get("conversations") or 0)
        job = db.execute(
            "INSERT INTO job (digest, state, start_ns, end_ns, conversations, created_ns, ended_ns)"
            " VALUES (?, 'done', ?, ?, ?, ?, ?) RETURNING id",
            (f"model {manifest['id']}", start_ns, end_ns, conversations, trained_ns, trained_ns),
        ).fetchone()["id"]
        if isinstance(chunk, str) and known is None:
            db.execute(
                "INSERT INTO chunk (id, digest, start_ns, end_ns, kind, row_count, conversations, seen_ns, fate, job)"
                " VALUES (?, '', ?, ?, '', 0, ?, ?, 'queued', ?)",
                (chunk, start_ns, end_ns, conversations, trained_ns, job),
            )
        db.execute(
            "INSERT INTO model (id, job, parent, start_ns, end_ns, trained_ns, training_s, passed, complaints, figures)"
            " VALUES (?, ?, ?, ?, ?, ?, 0, ?, ?, ?)",
            (
                manifest["id"], job, manifest.get("parent"), start_ns, end_ns, trained_ns, bool(gate["passed"]),
                json.dumps(gate["complaints"]), json.dumps(gate["figures"]),
            ),
        )  # fmt: skip


def give_to_owner(state: Path) -> None:
    """Let everything in a state directory belong to whom the directory does; needs root where it does not."""
    owner = state.stat()
    for folder, names, files in os.walk(state):
        for name in [*names, *files]:
            path = Path(folder) / name
            found = path.lstat()
            if (found.st_uid, found.st_gid) == (owner.st_uid, owner.st_gid) or stat.S_ISSOCK(found.st_mode):
                continue
            _change(lambda path=path: os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False), path)


def _change(change: Any, path: Path) -> None:
    try:
        change()
    except OSError as err:
        raise OutputError(f"cannot change {path}: {err.strerror}") from err
