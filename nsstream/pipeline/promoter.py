"""Promoter: a judged candidate gets its place, its verdict is written down, and the mark follows the ledger.

Order: the manifest says what the gate found; the checkpoint moves to its place; one transaction says all of it; then
the mark is set. A kill between two of them leaves what the next process goes on with (`scheduler`).
"""

from __future__ import annotations

import json
import logging
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nsstream.chunk import whole_file
from nsstream.chunk.whole_file import PART_SUFFIX, sync_folder
from nsstream.errors import OutputError, StateError
from nsstream.model.identity import check_content
from nsstream.model.promotion import demote, promote, read_promoted
from nsstream.model.schemas import check_schema
from nsstream.pipeline.gate import complaints_about
from nsstream.pipeline.job_runner import manifest_of
from nsstream.pipeline.model_records import ModelRecord, ModelRecords
from nsstream.pipeline.quarantine import set_aside
from nsstream.pipeline.service_config import GateSection
from nsstream.pipeline.training_queue import Job

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate says of a candidate in its place."""

    model: str
    parent: str | None
    complaints: tuple[str, ...]
    figures: dict[str, Any]


class Promoter:
    """Keeps one folder of models and its mark."""

    def __init__(self, folder: Path, records: ModelRecords) -> None:
        self.folder = folder
        self._records = records
        self._marking = threading.Lock()  # what was read of the ledger holds until the mark is set

    def place(self, candidate: Path, figures: dict[str, Any], gate: GateSection) -> Verdict:
        """Let a candidate through the gate or not, say so in its manifest, and give it its place.

        Raises OutputError where the disk refuses, StateError where it is no checkpoint.
        """
        manifest = manifest_of(candidate)
        complaints = complaints_about(figures, gate)
        for half in candidate.glob(f".*{PART_SUFFIX}"):  # of a process that was killed here
            with suppress(OSError):
                half.unlink()
        with whole_file(candidate / "manifest.json") as file:
            said = {"passed": not complaints, "complaints": list(complaints), "figures": figures}
            file.write(json.dumps(manifest | {"gate": said}, indent=1).encode())
        place = self.folder / candidate.name
        if candidate != place:
            try:
                candidate.rename(place)
                sync_folder(self.folder)  # before the ledger says that it is there
            except OSError as err:
                raise OutputError(f"cannot put the model {place} in its place: {err.strerror}") from err
        return Verdict(candidate.name, manifest.get("parent"), complaints, figures)

    def settle(self, job: Job, verdict: Verdict, training_s: float) -> None:
        """Write down what became of a job; raises OutputError where the ledger refuses."""
        complaints, figures = verdict.complaints, verdict.figures
        is_promoted = self._records.settle(
            job, verdict.model, parent=verdict.parent, training_s=training_s, complaints=complaints, figures=figures
        )
        state = "promoted" if is_promoted else "kept" if not complaints else "refused"
        _log.info(
            "model_%s id=%s job=%d chunk=%s loss=%s ratio=%s drift=%s training_s=%.1f complaints=%s",
            state, verdict.model, job.id, job.chunk_ids[-1], _short(figures["loss"]), _short(figures["ratio"]),
            _short(figures["drift"]), training_s, "; ".join(complaints) or "none",
        )  # fmt: skip

    def promoted(self) -> ModelRecord | None:
        """The model that is promoted, is what was written, and can be read.

        One that is not is lost, and the one before it is promoted. Raises OutputError.
        """
        return self._sound(self._records.promoted)

    def seed(self) -> ModelRecord | None:
        """The newest seed, as `promoted`."""
        return self._sound(self._records.seed)

    def follow_ledger(self) -> None:
        """Let the mark be what the ledger says; raises OutputError. From any thread: lanes do, and an operator."""
        with self._marking:
            promoted, marked = self._records.promoted(), read_promoted(self.folder)
            if promoted is None:
                if marked is not None and not marked.exists():
                    demote(self.folder)
            elif marked != self.folder / promoted.id:
                promote(self.folder, promoted.id)

    def lose(self, model: str, reason: str) -> None:
        """Go on without a model that is damaged, gone or of another schema: it is set aside; raises OutputError."""
        self._records.forget_files(model)
        place = self.folder / model
        aside = set_aside(self.folder.parent, place) if place.exists() else "nowhere"
        _log.error("model_lost id=%s aside=%s error=%s", model, aside, reason)
        self.follow_ledger()

    def _sound(self, ask: Callable[[], ModelRecord | None]) -> ModelRecord | None:
        while (model := ask()) is not None:
            try:
                check_schema(place := self.folder / model.id, check_content(place))
                break
            except StateError as err:
                self.lose(model.id, str(err))
        return model

    def remove_surplus(self, keep: int) -> None:
        """Remove the oldest models beyond so many, but never the seed, what is promoted, and what was before it."""
        for model in self._records.surplus(keep):
            self._records.forget_files(model)
            shutil.rmtree(self.folder / model, ignore_errors=True)
            _log.info("model_removed id=%s", model)


def model_as_dict(model: ModelRecord) -> dict[str, Any]:
    """A model as plain values."""
    return {
        "id": model.id, "parent": model.parent, "start_ns": model.start_ns, "end_ns": model.end_ns,
        "trained_ns": model.trained_ns, "training_s": model.training_s, "passed": model.passed,
        "complaints": list(model.complaints), "figures": model.figures, "is_stored": model.is_stored,
    }  # fmt: skip


def _short(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
