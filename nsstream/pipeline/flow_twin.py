"""The run that takes a table of flows to its twin: import, seed, fine-tune, draw to a table of the same form, verify.

As `twin` does with packets: work is in child processes, and outputs appear only when the run is complete.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from threading import Event
from typing import Any, Final

import numpy as np

from nsstream.capture.flow_csv import FlowCsvSource
from nsstream.capture.flow_mapping import TableMapping
from nsstream.capture.flow_presets import PRESETS
from nsstream.capture.flow_table_file import PLAIN, is_writable, preset_columns
from nsstream.capture.nfcapd_file import NfcapdFileSource
from nsstream.capture.registry import open_source
from nsstream.chunk import Chunk, ChunkStore
from nsstream.chunk.interval import SECOND_NS
from nsstream.clock import Clock
from nsstream.counters import Tally
from nsstream.errors import InputError, OutputError, ReplayError
from nsstream.pipeline.child import CancelledError, ChildFailedError, run_job
from nsstream.pipeline.ingest import Lesson
from nsstream.pipeline.progress import Listener, Progress, Stage, one_at_a_time, stopwatch_s
from nsstream.pipeline.training import DEFAULT_MODEL, SILENCE_S, train_lessons
from nsstream.pipeline.twin import TwinConfig, training_of
from nsstream.pipeline.twin_places import TwinPlaces
from nsstream.privacy.promise import promise_of
from nsstream.replay.checkpoints import read_manifest
from nsstream.replay.promise_file import write_promise
from nsstream.trace import FlowTable

DRAWER: Final = (sys.executable, "-m", "nsstream.draw.flow_worker")
TABLE_SUFFIXES: Final = (".csv", ".csv.gz", ".csv.xz", ".csv.zst")
MOST_RECORDS: Final = 4_000_000  # of a table, which is held in memory while it is cut into chunks
CHUNK_RECORDS: Final = 150_000  # a table of no more is one chunk
DRAW_START_S: Final = 8.0  # of the drawing process, and of the verification
DRAW_RECORDS_PER_S: Final = 2_500.0  # drawn, written and verified; a core, measured 2026-11


@dataclass(frozen=True, slots=True)
class FlowTwin:
    """What a run made."""

    output: Path
    config: Path
    state: Path
    real_count: int
    record_count: int
    chunk_count: int


@dataclass(frozen=True, slots=True)
class FlowInput:
    """A table as it was read, and the form it had."""

    table: FlowTable
    tally: Tally
    mapping: TableMapping
    header: tuple[str, ...]


def is_table(path: Path) -> bool:
    """Whether a name is that of a table of flows."""
    return path.name.endswith(TABLE_SUFFIXES)


def holds_flows(path: Path) -> bool:
    """Whether a file is a table of flows or one of nfcapd, by its first octets; raises InputError if it has none."""
    return isinstance(open_source(str(path)), (FlowCsvSource, NfcapdFileSource))


def check_flow_model(model: str) -> None:
    """Raise InputError unless flows can be learned by a model of this name."""
    if model != DEFAULT_MODEL:
        raise InputError(f"flows are learned by the model {DEFAULT_MODEL!r} alone, got {model!r}")


def make_flow_twin(config: TwinConfig, listen: Listener, clock: Clock, drawer: Sequence[str] = DRAWER) -> FlowTwin:
    """Run the whole path.

    Raises:
        InputError: the table cannot be read, or holds nothing to learn.
        OutputError: an output exists already, or cannot be written.
        TrainError: a worker failed twice.
        ReplayError: the drawing failed, or what it wrote cannot be read as it was drawn.
    """
    report, elapsed_s = one_at_a_time(listen), stopwatch_s(clock)
    if not is_table(config.output):
        raise OutputError(f"{config.output}: the name of a table of flows ends in {', '.join(TABLE_SUFFIXES)}")
    check_flow_model(config.model)
    places = TwinPlaces(config.trace, config.output, config.state, config.replaces)
    places.check()
    report(Progress(Stage.IMPORT, elapsed_s()))
    given = read_flows(config.trace)
    count = len(given.table)
    with places.staged(config.address_map.key) as staged:
        lessons = cut_lessons(given, ChunkStore(staged.state / "chunks"))
        report(Progress(Stage.IMPORT, elapsed_s(), chunk_count=len(lessons), packet_count=count, is_done=True))
        training = training_of(config, elapsed_s(), DRAW_START_S + count / DRAW_RECORDS_PER_S)
        checkpoints = train_lessons(lessons, staged.models, training, report, elapsed_s)
        record_count = draw_flows(
            checkpoints, staged.twin, given.mapping, given.header, report, elapsed_s,
            seed=config.seed, threads=config.cores, command=drawer,
        )  # fmt: skip
        report(Progress(Stage.VERIFY, elapsed_s(), packet_count=record_count))
        form = given.mapping if is_writable(given.mapping) else PRESETS[PLAIN]
        verify_flows(staged.twin, form, record_count)
        report(Progress(Stage.VERIFY, elapsed_s(), packet_count=record_count, is_done=True))
        told = {name: value for name, value in config.as_dict().items() if name not in ("mtu", "chunk_length_s")}
        staged.publish(told | {"form": form.name})
    return FlowTwin(config.output, places.config, config.state, count, record_count, len(lessons))


def read_flows(path: Path) -> FlowInput:
    """Read a table or a file of nfcapd; raises InputError if it is neither, too large, or holds no flow."""
    source = open_source(str(path))
    if not isinstance(source, (FlowCsvSource, NfcapdFileSource)):
        raise InputError(f"{path} is neither a table of flows nor a file of nfcapd")
    tables: list[FlowTable] = []
    total = 0
    source.open()
    try:
        while (batch := source.read_batch()) is not None:
            tables.append(batch)
            total += len(batch)
            if total > MOST_RECORDS:
                raise InputError(f"{path} holds more than {MOST_RECORDS:,} flows: cut it, by day for one")
    finally:
        source.close()
    if not total:
        raise InputError(f"{path} holds no flow to learn from: of {source.tally.offered} records none could be used")
    mapping, header = PRESETS[PLAIN], preset_columns(PRESETS[PLAIN])
    if isinstance(source, FlowCsvSource):
        mapping, header = source.mapping, source.header
    return FlowInput(FlowTable.concatenate(tables), source.tally, mapping, header)


def cut_lessons(given: FlowInput, store: ChunkStore) -> list[Lesson]:
    """Write a table into a store, as chunks of about as many records each, and give them by time.

    Chunks end on whole seconds, so that one holds more records than others where a second does.
    """
    table = given.table.take(np.argsort(given.table.flow_end_ns, kind="stable"))
    second = table.flow_end_ns // SECOND_NS
    parts = -(-len(table) // CHUNK_RECORDS)
    at = np.arange(1, parts) * len(table) // parts
    cuts = np.unique(np.searchsorted(second, second[at])) if parts > 1 else np.zeros(0, np.int64)
    bounds = [0, *(int(cut) for cut in cuts if cut > 0), len(table)]
    lessons = []
    for first, last in pairwise(bounds):
        start_ns = int(second[first]) * SECOND_NS
        end_ns = int(second[last] if last < len(table) else second[-1] + 1) * SECOND_NS
        tally = given.tally if last == len(table) else Tally()
        if parts > 1:
            tally = Tally(offered=last - first, kept=last - first)
        path = store.write(Chunk.of(start_ns, end_ns, table.take(slice(first, last)), tally, is_partial=True))
        lessons.append(Lesson(path, start_ns, end_ns, last - first, last - first))
    return lessons


def draw_flows(
    checkpoints: Sequence[Path],
    output: Path,
    mapping: TableMapping,
    header: Sequence[str],
    report: Callable[[Progress], None],
    elapsed_s: Callable[[], float],
    *,
    seed: int,
    threads: int,
    condition: dict[str, Any] | None = None,
    command: Sequence[str] = DRAWER,
) -> int:
    """Draw checkpoints into a table that does not exist yet, with their promise beside it; gives its lines.

    `condition` holds the fields of `draw.flow_worker.FlowCondition`. Raises ReplayError if the drawing fails.
    """

    def on_line(line: dict[str, Any]) -> None:
        report(
            Progress(
                Stage.REPLAY,
                elapsed_s(),
                chunk=line.get("checkpoint"),
                chunk_count=len(checkpoints),
                packet_count=line.get("records"),
            )
        )

    report(Progress(Stage.REPLAY, elapsed_s(), chunk_count=len(checkpoints), packet_count=0))
    job = {
        "models": [str(path.absolute()) for path in checkpoints],
        "output": str(output.absolute()),
        "mapping": mapping.model_dump(mode="json"),
        "header": list(header),
        "seed": seed,
        "threads": threads,
        "condition": condition,
    }
    try:
        done = run_job(command, job, on_line, cancelled=Event(), limit_s=None, silence_s=SILENCE_S)
    except (ChildFailedError, CancelledError) as err:
        raise ReplayError(f"the flows could not be drawn: {err}") from err
    promise = promise_of([read_manifest(path) for path in checkpoints])
    if promise is not None:
        write_promise(output, promise)
    report(Progress(Stage.REPLAY, elapsed_s(), packet_count=int(done["lines"]), is_done=True))
    return int(done["lines"])


def verify_flows(twin: Path, mapping: TableMapping, line_count: int) -> None:
    """Read a twin back as a user's tools would; raises ReplayError unless every line is a flow."""
    source = FlowCsvSource(twin, mapping=mapping)
    kept = 0
    source.open()
    try:
        while (batch := source.read_batch()) is not None:
            kept += len(batch)
    finally:
        source.close()
    if kept != line_count:
        reasons = ", ".join(f"{count} {name}" for name, count in {**source.tally.malformed}.items())
        raise ReplayError(f"a defect of nsstream: of {line_count} lines of the twin {kept} are flows ({reasons})")
