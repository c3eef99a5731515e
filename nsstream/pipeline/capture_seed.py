"""CaptureSeed: the seed that is learned from public captures, before any chunk of one's own, once for each state.

It stands in ``seed``: a checkpoint, and ``captures.json``, which says of what. It is never promoted, since a twin is of
one's own traffic; trainings go on from it. It is judged as they are: a seed of which nothing lawful can be drawn is
none, and no chunk has to wait for what judging compiles after an installation. Where it is there, whole and of the same
captures, nothing is learned. What a process before us left unfinished is begun anew. After so many failures it is given
up, until the next start: then the first good chunk gives the seed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from nsstream.chunk import whole_file
from nsstream.clock import Clock
from nsstream.errors import OutputError, StateError
from nsstream.model.identity import check_content
from nsstream.model.schemas import check_schema
from nsstream.pipeline.engine import Errand, Heard, LocalEngine
from nsstream.pipeline.gate import complaints_about
from nsstream.pipeline.job_runner import JobRunner, Material
from nsstream.pipeline.service_config import GateSection, TrainingSection, WorkerSection

FOLDER: Final = "seed"
FACTS: Final = "captures.json"
GATHERER: Final = (sys.executable, "-m", "nsstream.pipeline.seed_worker")
GATHER_LIMIT_S: Final = 3600.0

_log = logging.getLogger(__name__)


class CaptureSeed:
    """The seed of one state directory; used by one thread at a time.

    Args:
        state: the directory.
        captures: of which it is learned; none: there is no such seed.
        clock: for waiting between two tries.
    """

    def __init__(self, state: Path, captures: Sequence[Path], clock: Clock) -> None:
        self._folder, self._captures, self._clock = state / FOLDER, tuple(captures), clock
        self._failures, self._not_before_ns, self._is_given_up = 0, 0, False
        self.checkpoint: Path | None = self._found() if captures else None

    @property
    def is_wanted(self) -> bool:
        """Whether it is still to be learned: until then nothing else is."""
        return bool(self._captures) and self.checkpoint is None and not self._is_given_up

    def is_due(self) -> bool:
        """Whether it is wanted, and to be tried now."""
        return self.is_wanted and self._clock.monotonic_ns() >= self._not_before_ns

    def train(
        self, runner: JobRunner, training: TrainingSection, gate: GateSection, place: WorkerSection, heard: Heard
    ) -> Path:
        """Learn it; raises ChildFailedError, CancelledError, StateError and OutputError, with nothing kept.

        StateError is also what a seed gives that the gate would not let pass; public flows may be copied.
        """
        shutil.rmtree(self._folder, ignore_errors=True)
        told: dict[str, object] = {
            "captures": [str(path) for path in self._captures], "out": str(self._folder / "chunks")
        }  # fmt: skip
        errand = Errand(GATHERER, told, GATHER_LIMIT_S, GATHER_LIMIT_S, training.memory_octets, training.nice)
        done = LocalEngine().run(errand, place, heard, cancelled=runner.cancelled)
        said = f"{training.random_seed} of captures".encode()
        seed = int.from_bytes(hashlib.sha256(said).digest()[:8]) >> 1
        material = Material(Path(str(done["chunk"])), None, None, seed)
        checkpoint = runner.train_material(material, self._folder, training, place, heard, failures=self._failures)
        figures = runner.figures(checkpoint, material, gate.drawn_conversations, training, place, heard)
        if complaints := complaints_about(figures | {"copied": None}, gate):
            raise StateError(f"what was learned of captures cannot be used: {'; '.join(complaints)}")
        with whole_file(self._folder / FACTS) as file:
            file.write(json.dumps({"model": checkpoint.name, "captures": self._facts()}, indent=1).encode())
        shutil.rmtree(self._folder / "chunks", ignore_errors=True)
        self.checkpoint = checkpoint
        return checkpoint

    def fail(self, attempts: int, backoff_s: float) -> bool:
        """Count a failure, and wait longer each time; whether it is given up."""
        self._failures += 1
        self._is_given_up = self._failures >= attempts
        wait_s = min(backoff_s * 2.0 ** (self._failures - 1), 3600.0)
        self._not_before_ns = self._clock.monotonic_ns() + round(wait_s * 1e9)
        return self._is_given_up

    def disown(self) -> None:
        """Have none, and want none, until the next start."""
        self._is_given_up, self.checkpoint = True, None

    def _found(self) -> Path | None:
        """The checkpoint that stands there, if it is whole and of these captures."""
        try:
            facts: dict[str, Any] = json.loads((self._folder / FACTS).read_bytes())
            if facts["captures"] != self._facts():
                return None
            checkpoint = self._folder / str(facts["model"])
            check_schema(checkpoint, check_content(checkpoint))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, StateError, OutputError) as err:
            _log.warning("seed_of_captures_lost error=%s", err)
            return None
        return checkpoint

    def _facts(self) -> list[dict[str, Any]]:
        """What tells captures from others; a file that is gone stays what it was called."""
        return [{"path": str(path), "octets": _size_of(path)} for path in self._captures]


def _size_of(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
