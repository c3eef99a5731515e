"""JobRunner: one job by processes of an engine: what it learns is gathered, a worker trains, a judge measures.

A job's checkpoint is made in a folder of its own, ``work/job-<id>``; the scheduler gives it its place. So a job whose
process died is gone on with where its checkpoint is whole, and begun anew where it is not.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any, Final

from nsstream.chunk import ChunkStore
from nsstream.chunk.interval import id_of
from nsstream.encode.address_map import AddressMap
from nsstream.errors import StateError
from nsstream.model.schemas import check_schema
from nsstream.pipeline.engine import Engine, Errand, Heard, LocalEngine
from nsstream.pipeline.fit_time import FitTime
from nsstream.pipeline.ingest import merge_chunks
from nsstream.pipeline.ledger import Ledger
from nsstream.pipeline.service_config import TrainingSection, WorkerSection
from nsstream.pipeline.training import WORKER, TrainJob, address_map_as_dict
from nsstream.pipeline.training_queue import Job

JUDGE: Final = (sys.executable, "-m", "nsstream.pipeline.judge_worker")
JUDGE_LIMIT_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class Material:
    """What a job learns, and from where."""

    chunk: Path
    before: Path | None  # the chunk before, whose open conversations go on in this one
    parent: Path | None
    seed: int  # of the fit


@dataclass(frozen=True, slots=True)
class JobRunner:
    """Runs the jobs of one state directory; `cancelled` ends the children."""

    state: Path
    ledger: Ledger
    address_map: AddressMap
    cancelled: Event
    worker: Sequence[str] = WORKER
    judge: Sequence[str] = JUDGE
    engine: Engine = field(default_factory=LocalEngine)
    fit_time: FitTime = field(default_factory=FitTime)

    @property
    def models(self) -> Path:
        """The folder of settled checkpoints."""
        return self.state / "models"

    def folder_of(self, job: Job) -> Path:
        """Where a job's checkpoint is made."""
        return self.state / "work" / f"job-{job.id}"

    def material(self, job: Job, parent: Path | None, random_seed: int) -> Material:
        """What a job learns; raises StateError where a chunk of it is gone or damaged."""
        store = ChunkStore(self.state / "chunks")
        for chunk_id in job.chunk_ids:
            store.read(chunk_id).check_digest()
        chunk = store.path_of(job.chunk_ids[0])
        if len(job.chunk_ids) > 1:
            merged = merge_chunks([store.read(chunk_id) for chunk_id in job.chunk_ids])
            chunk = ChunkStore(self.state / "merged").write(merged)
        kind = store.info(chunk).kind
        said = f"{random_seed} {job.digest}".encode()
        seed = int.from_bytes(hashlib.sha256(said).digest()[:8]) >> 1
        return Material(chunk, self._before(job, store) if kind == "packets" else None, parent, seed)

    def clean(self, job: Job) -> None:
        """Remove what was made on the way."""
        shutil.rmtree(self.folder_of(job), ignore_errors=True)
        if len(job.chunk_ids) > 1:
            for path in (self.state / "merged").glob(f"{id_of(job.start_ns, job.end_ns)}*"):
                with suppress(OSError):  # a left-over, which the next start removes
                    path.unlink()

    def clean_all(self) -> None:
        """Remove what a process before us left of jobs that are not to be gone on with."""
        waiting = {row["id"] for row in self.ledger.rows("SELECT id FROM job WHERE state IN ('pending', 'failed')")}
        for folder in (self.state / "work").glob("job-*"):
            if folder.name.removeprefix("job-") not in map(str, waiting):
                shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(self.state / "merged", ignore_errors=True)

    def left_candidate(self, job: Job) -> Path | None:
        """The checkpoint that a process before us trained for the job, whole and to be read, and did not settle."""
        places = [self.models / job.candidate] if job.candidate else []
        places += [path for path in self.folder_of(job).glob("*") if not path.name.startswith(".")]
        return next(filter(_is_to_be_read, places), None)

    def train(
        self,
        job: Job,
        material: Material,
        training: TrainingSection,
        place: WorkerSection,
        heard: Heard,
        *,
        private: Mapping[str, Any] | None = None,
        prepared_s: float = 0.0,
    ) -> Path:
        """Train a job's checkpoint by a worker that is told its promise; it took `prepared_s` to get that far.

        Raises ChildFailedError, CancelledError.
        """
        waited_s = 0.0 if material.parent is None else job.waited_s
        return self.train_material(
            material, self.folder_of(job), training, place, heard,
            private=private, failures=job.attempts, used_s=prepared_s + waited_s,
        )  # fmt: skip

    def train_material(
        self,
        material: Material,
        models: Path,
        training: TrainingSection,
        place: WorkerSection,
        heard: Heard,
        *,
        private: Mapping[str, Any] | None = None,
        failures: int = 0,
        used_s: float = 0.0,
    ) -> Path:
        """Train a checkpoint in a folder of models; raises as `train`.

        What of its budget is `used_s` already is not its fit's (`FitTime`). After so many `failures` that this try is
        the last, it is made on the CPU, whatever its place has.
        """
        is_last_try = failures > 0 and failures + 1 >= training.attempts
        is_seed = material.parent is None
        steps = training.seed_steps if is_seed else training.steps
        budget_s = None if steps is not None else (training.seed_budget_s if is_seed else training.budget_s)
        if budget_s is not None:
            budget_s = self.fit_time.of(budget_s, used_s)
        told = TrainJob(
            chunk=material.chunk,
            before=material.before,
            parent=material.parent,
            models=models,
            seed=material.seed,
            budget_s=budget_s,
            steps=steps,
            threads=self.engine.threads(place),
            address_map=self.address_map,
            device="cpu" if is_last_try else "auto",
            gpu_memory_octets=training.gpu_memory_octets,
        )
        limit_s = training.time_limit_s
        if limit_s is None and budget_s is not None:
            limit_s = 1.5 * budget_s + training.silence_s
        said = told.as_dict() if private is None else told.as_dict() | {"private": dict(private)}
        done = self._run(self.worker, said, heard, training, place, limit_s)
        if budget_s is not None:
            self.fit_time.note(budget_s, done["took_s"])
        return Path(str(done["checkpoint"]))

    def figures(
        self,
        candidate: Path,
        material: Material,
        drawn_conversations: int,
        training: TrainingSection,
        place: WorkerSection,
        heard: Heard,
        *,
        is_blind: bool = False,
    ) -> dict[str, Any]:
        """What a judge measures of a candidate, `is_blind`: with no look at the chunk.

        Raises as `train`, and StateError where its parent is gone.
        """
        parent = self._parent_of(candidate, material)
        told = {
            "chunk": str(material.chunk),
            "before": str(material.before) if material.before else None,
            "candidate": str(candidate),
            "parent": str(parent) if parent else None,
            "seed": material.seed,
            "threads": self.engine.threads(place),
            "drawn_conversations": drawn_conversations,
            "address_map": address_map_as_dict(self.address_map),
            "is_blind": is_blind,
        }
        done = self._run(self.judge, told, heard, training, place, JUDGE_LIMIT_S + training.silence_s)
        figures: dict[str, Any] = done["figures"]
        return figures

    def _before(self, job: Job, store: ChunkStore) -> Path | None:
        """The stored chunk of packets that ends where the job's begins."""
        rows = self.ledger.rows(
            "SELECT id FROM chunk WHERE end_ns = ? AND kind = 'packets' ORDER BY length(id) DESC LIMIT 1",
            (job.start_ns,),
        )
        path = store.path_of(rows[0]["id"]) if rows else None
        return path if path is not None and path.exists() else None

    def _parent_of(self, candidate: Path, material: Material) -> Path | None:
        """The checkpoint that a candidate says it comes from."""
        wanted = manifest_of(candidate).get("parent")
        if wanted is None:
            return None
        for place in (self.models / str(wanted), material.parent):
            if place is not None and place.is_dir() and manifest_of(place).get("id") == wanted:
                return place
        raise StateError(f"the parent {wanted} of a candidate is gone, so that it cannot be judged")

    def _run(
        self,
        command: Sequence[str],
        told: Mapping[str, object],
        heard: Heard,
        training: TrainingSection,
        place: WorkerSection,
        limit_s: float | None,
    ) -> dict[str, Any]:
        errand = Errand(command, told, limit_s, training.silence_s, training.memory_octets, training.nice)
        return self.engine.run(errand, place, heard, cancelled=self.cancelled)


def _is_to_be_read(checkpoint: Path) -> bool:
    try:
        check_schema(checkpoint, manifest_of(checkpoint))
    except StateError:
        return False
    return True


def manifest_of(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint says of itself; raises StateError where it cannot be read."""
    try:
        manifest = json.loads((checkpoint / "manifest.json").read_bytes())
    except (OSError, ValueError) as err:
        raise StateError(f"{checkpoint} is not a whole checkpoint: {err}") from err
    if not isinstance(manifest, dict):
        raise StateError(f"{checkpoint} is not a whole checkpoint: its manifest is no object")
    return manifest
