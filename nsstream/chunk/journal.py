"""Journal: the rows of open intervals on the disk, so that a process killed at any moment loses what it took since.

Theory: each open interval has a file, an Arrow IPC stream; `sync` appends what is new of each as one record batch, and
syncs all of them; then it replaces `commit.json`, which says how far the journal holds, where the watermark stood and
what was counted. Batches carry the number of the commit that they belong to and a checksum.

Rules: (1) what stands behind the commit was never promised, and is not recovered: a batch that the kill tore, or that
its commit did not follow; it is cut off before a later commit has the number that it names; (2) a chunk is made durable
out of sight, then committed as closing, then it appears, then its file is removed; what is prepared and committed
appears after a kill, too, what is not committed never does, and a file whose chunk is there is a left-over: so no row
comes twice, and none is missing; (3) a process that goes on writes to new files behind the old ones; (4) where the disk
is full, `sync` takes back what it began to write and raises OutputError: nothing is lost by that unless the process
dies, too; (5) rows apart are journaled like an interval whose name is not known yet, under the number of their stay
(`RowsApart.number`); those of a number that the commit does not tell of are left-overs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from nsstream.chunk.chunk import Chunk, part_id
from nsstream.chunk.chunk_file import batch_of_rows
from nsstream.chunk.chunker import Chunker
from nsstream.chunk.interval import Grid
from nsstream.chunk.journal_segment import Segment, cut_segment, read_messages
from nsstream.chunk.open_interval import Unsaved
from nsstream.chunk.rows import Fate, Kind, Rows, kind_of, label_names_of
from nsstream.chunk.scratch import shed_rows
from nsstream.chunk.whole_file import PART_SUFFIX, whole_file
from nsstream.counters import Tally
from nsstream.errors import OutputError, StateError

FORMAT: Final = "nsstream-journal"
FORMAT_VERSION: Final = 2
SUFFIX: Final = ".arrows"
COMMIT: Final = "commit.json"
_MESSAGE_ROWS: Final = 1 << 15
_NAME: Final = re.compile(r"(?P<id>.+)\.(?P<run>\d{6})" + re.escape(SUFFIX))
_APART: Final = re.compile(r"apart-(?P<fate>late|future)-(?P<number>\d+)")


@dataclass(frozen=True, slots=True)
class OpenRows:
    """What a journal holds of one interval, or of the rows apart of one fate."""

    index: int
    part: int
    kind: Kind
    pieces: Iterable[Rows]  # read as they are asked for, as often as that
    row_count: int
    level: int
    sampled_out: int
    fate: Fate = Fate.KEPT


@dataclass(frozen=True, slots=True)
class _Committed:
    """The committed rows of files, message by message."""

    paths: list[Path]
    commit_number: int

    def __iter__(self) -> Iterator[Rows]:
        for path in self.paths:
            for rows, told, _ in read_messages(path):
                if told["commit"] <= self.commit_number:
                    yield rows


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a journal holds, and what it lacks."""

    length_ns: int | None = None  # None: there was no journal
    latest_ns: int = -1
    closed_before: int = 0
    loose: Tally = field(default_factory=Tally)
    progress: Mapping[str, Any] = field(default_factory=dict)
    intervals: Sequence[OpenRows] = ()
    apart: Sequence[OpenRows] = ()
    apart_number: int = 0
    apart_lost: Mapping[Fate, Tally] = field(default_factory=dict)
    row_count: int = 0  # of the intervals
    torn_octets: int = 0  # behind the last whole batch of a file
    uncommitted_rows: int = 0  # whole, but the commit did not follow


class Journal:
    """The journal of one folder, which is made if it is missing; raises OutputError if it cannot be."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise OutputError(f"cannot make the journal folder {directory}: {err.strerror}") from err
        self._files: dict[str, Segment] = {}
        self._commit_number = 0
        self._run = 0
        self._apart_number = 0

    def recover(self, is_stored: Callable[[str], bool], publish: Callable[[str], object] | None = None) -> Recovered:
        """Read what a process before left, and go on behind it.

        `is_stored` says of a chunk's id whether it is there; `publish` lets one appear that was prepared and that the
        commit tells of. Raises StateError where there is a commit that
        cannot be read: the state is then not what any process of ours left.
        """
        for left in self.directory.glob(f".*{PART_SUFFIX}"):
            left.unlink(missing_ok=True)
        runs = [int(match["run"]) for match in map(_NAME.fullmatch, self._names()) if match]
        self._run = max(runs, default=-1) + 1
        commit = self._read_commit()
        if commit is None:
            self._remove_all()
            return Recovered()
        self._commit_number = int(commit["number"])
        loose = Tally.from_dict(commit["loose"])
        for chunk_id, counts in commit["closing"].items():
            if publish is not None:
                publish(chunk_id)
            if counts is not None and not is_stored(chunk_id):
                loose.add(Tally.from_dict(counts))
        self._apart_number = int(commit["apart_number"])
        length_ns = int(commit["length_ns"])
        intervals: list[OpenRows] = []
        apart: list[OpenRows] = []
        torn, uncommitted = 0, 0
        for chunk_id in self.ids():
            is_apart = _APART.fullmatch(chunk_id)
            if int(is_apart["number"]) != self._apart_number if is_apart else is_stored(chunk_id):
                self.remove([chunk_id])
                continue
            found, torn_here, uncommitted_here = self._read_interval(chunk_id, length_ns)
            torn, uncommitted = torn + torn_here, uncommitted + uncommitted_here
            if found:
                (apart if is_apart else intervals).append(found)
            else:
                self.remove([chunk_id])
        return Recovered(
            length_ns,
            int(commit["latest_ns"]),
            int(commit["closed_before"]),
            loose,
            commit["progress"],
            intervals,
            apart,
            self._apart_number,
            {Fate(fate): Tally.from_dict(counts) for fate, counts in commit["apart_lost"].items()},
            sum(interval.row_count for interval in intervals),
            torn,
            uncommitted,
        )

    def ids(self) -> list[str]:
        """The chunks whose intervals are journaled, and the names of rows apart."""
        return sorted({match["id"] for match in map(_NAME.fullmatch, self._names()) if match})

    def sync(self, chunker: Chunker, closing: Sequence[Chunk] = (), progress: Mapping[str, Any] | None = None) -> int:
        """Make durable all that the chunker has admitted, and return the rows that are new to the disk.

        Args:
            chunker: its open intervals are saved.
            closing: chunks that it gave and that are prepared, rows apart among them; publish them next, then `remove`
                their ids, and `remove_apart`.
            progress: what a source needs to go on behind the last row, as JSON.

        Raises OutputError where the disk is full or fails; all that was durable stays so.
        """
        number, length_ns = self._commit_number + 1, chunker.grid.length_ns
        row_count = 0
        for unsaved in chunker.unsaved():
            self._append(unsaved, number, chunker.grid)
            chunker.mark_saved(unsaved)
            row_count += unsaved.row_count
        commit = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "number": number,
            "length_ns": length_ns,
            "latest_ns": chunker.latest_ns,
            "closed_before": chunker.closed_before,
            "loose": chunker.loose.as_dict(),
            "closing": {chunk.id: _counts_without(chunk) for chunk in closing},
            "apart_number": chunker.apart.number,
            "apart_lost": {fate: tally.as_dict() for fate, tally in chunker.apart.lost.items()},
            "progress": dict(progress or {}),
        }
        with whole_file(self.directory / COMMIT) as file:
            file.write(json.dumps(commit).encode())
        self._commit_number = number
        return row_count

    def remove(self, chunk_ids: Sequence[str]) -> None:
        """Forget intervals whose chunks are durable (or lost for good)."""
        for chunk_id in chunk_ids:
            self._files.pop(chunk_id, None)
            for path in self._segments_of(chunk_id):
                with suppress(OSError):  # a left-over: `recover` removes it
                    path.unlink()

    def remove_apart(self, number: int) -> None:
        """Forget rows apart of a smaller number: they are durable as chunks (or lost for good)."""
        for gone in range(self._apart_number, number):
            self.remove([_name_of_apart(fate, gone) for fate in (Fate.LATE, Fate.FUTURE)])
        self._apart_number = number

    def _append(self, unsaved: Unsaved, number: int, grid: Grid) -> None:
        kind = kind_of(unsaved.pieces[0])
        chunk_id = _name_of(unsaved, kind, grid)
        if chunk_id not in self._files:
            schema = batch_of_rows(unsaved.pieces[0].take(slice(0, 0))).schema.with_metadata(
                {"format": FORMAT, "format_version": str(FORMAT_VERSION), "kind": str(kind), "id": chunk_id}
            )
            self._files[chunk_id] = Segment(self.directory / f"{chunk_id}.{self._run:06d}{SUFFIX}", schema)
        segment = self._files[chunk_id]
        try:
            told = {
                "commit": number,
                "level": unsaved.level,
                "sampled_out": unsaved.sampled_out,
                "index": unsaved.index,
                "part": unsaved.part,
                "fate": unsaved.fate,
            }
            segment.append(_messages_of(unsaved, told))
        except OSError as err:
            if segment.is_broken:
                del self._files[chunk_id]
                self._run += 1
            raise OutputError(f"cannot write the journal {segment.path}: {err.strerror or err}") from err

    def _read_interval(self, chunk_id: str, length_ns: int) -> tuple[OpenRows | None, int, int]:
        last: dict[str, Any] = {}
        kind = Kind.PACKETS
        row_count, torn, uncommitted = 0, 0, 0
        paths = self._segments_of(chunk_id)
        for path in paths:
            whole = committed = 0  # octets up to the end of the last such message
            for rows, told, whole in read_messages(path):
                if told["commit"] > self._commit_number:
                    uncommitted += len(rows)
                else:
                    kind, last, committed = kind_of(rows), told, whole
                    row_count += len(rows)
            torn += path.stat().st_size - whole
            cut_segment(path, committed)
        if not last:
            return None, torn, uncommitted
        index, part, fate = int(last["index"]), int(last["part"]), Fate(last["fate"])
        pieces = _Committed(paths, self._commit_number)
        found = OpenRows(index, part, kind, pieces, row_count, int(last["level"]), int(last["sampled_out"]), fate)
        if _name_of(found, kind, Grid(length_ns)) != chunk_id:
            raise StateError(f"{self.directory}: the journal of {chunk_id} is not of chunks of {length_ns} ns")
        return found, torn, uncommitted

    def _read_commit(self) -> dict[str, Any] | None:
        path = self.directory / COMMIT
        try:
            commit = json.loads(path.read_bytes())
            if (commit["format"], commit["format_version"]) != (FORMAT, FORMAT_VERSION):
                raise StateError(f"{path} is {commit['format']} version {commit['format_version']}, not ours")
            return commit  # type: ignore[no-any-return]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as err:
            raise StateError(f"{path} cannot be read: {err}; remove the folder to go on without its rows") from err

    def _names(self) -> list[str]:
        return [path.name for path in self.directory.iterdir()]

    def _segments_of(self, chunk_id: str) -> list[Path]:
        matches = (_NAME.fullmatch(name) for name in self._names())
        return sorted(self.directory / match[0] for match in matches if match and match["id"] == chunk_id)

    def _remove_all(self) -> None:
        self.remove(self.ids())


def _messages_of(unsaved: Unsaved, told: Mapping[str, Any]) -> Iterator[tuple[pa.RecordBatch, Mapping[str, Any]]]:
    for piece in unsaved.pieces:
        for start in range(0, max(1, len(piece)), _MESSAGE_ROWS):
            rows = piece.take(slice(start, start + _MESSAGE_ROWS))
            yield batch_of_rows(rows), {**told, "label_names": label_names_of(rows)}
            shed_rows(rows)


def _name_of(rows: Unsaved | OpenRows, kind: Kind, grid: Grid) -> str:
    """What the files of an interval, or of rows apart, are called."""
    if rows.fate is Fate.KEPT:
        return part_id(grid.start_ns(rows.index), grid.end_ns(rows.index), kind, rows.part)
    return _name_of_apart(rows.fate, rows.index)


def _name_of_apart(fate: Fate, number: int) -> str:
    return f"apart-{fate}-{number:06d}"


def _counts_without(chunk: Chunk) -> dict[str, object] | None:
    """The counts of a chunk's tally that are of no row of its interval; None of rows apart, whose chunk has them."""
    if chunk.fate is not Fate.KEPT:
        return None
    tally = chunk.tally
    parts = sum(tally.malformed.values()) + sum(tally.unsupported.values()) + sum(tally.dropped.values())
    return Tally(
        offered=tally.late + tally.future + parts,
        late=tally.late,
        future=tally.future,
        malformed=tally.malformed.copy(),
        unsupported=tally.unsupported.copy(),
        dropped=tally.dropped.copy(),
        behind=tally.behind,
    ).as_dict()
