"""ChunkStore: closed chunks as files of one folder, `<id>.arrow` each (`chunk_file`).

Files are immutable and appear whole, or not at all. A chunk beside which a file `<id>.pin` stands never expires.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, Final

import pyarrow as pa

from nsstream.chunk.chunk import Chunk, part_id
from nsstream.chunk.chunk_file import SUFFIX, ChunkInfo, batch_of_chunk, read_chunk, read_info
from nsstream.chunk.rows import Fate, Kind
from nsstream.chunk.scratch import shed
from nsstream.chunk.whole_file import PART_SUFFIX, sync_folder, whole_file
from nsstream.errors import OutputError, StateError

PIN_SUFFIX: Final = ".pin"
PREPARED_SUFFIX: Final = ".prepared"
_BLOCK_OCTETS: Final = 4 << 20


class ChunkStore:
    """The chunk files of one folder, which is made if it is missing; raises OutputError if it cannot be."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._starts: dict[str, int] = {}
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise OutputError(f"cannot make the chunk folder {directory}: {err.strerror}") from err

    def write(self, chunk: Chunk) -> Path:
        """Write a chunk and return its path.

        A chunk is immutable: writing it again changes nothing. Raises StateError where the id is taken by a chunk of
        another digest, OutputError where the file cannot be written.
        """
        path = self.path_of(chunk.id)
        if path.exists():
            if read_info(path).digest != chunk.digest:
                raise StateError(f"{path} holds another chunk of that interval; use another state directory")
            return path
        _write(chunk, path)
        return path

    def prepare(self, chunk: Chunk) -> None:
        """Make a chunk durable without letting it appear: `publish` does; raises OutputError as `write` does.

        What is prepared and not published is removed by `sweep`.
        """
        _write(chunk, self._prepared_of(chunk.id))

    def publish(self, chunk_id: str) -> bool:
        """Let a prepared chunk appear; whether there was one. Raises OutputError where the folder refuses."""
        prepared, path = self._prepared_of(chunk_id), self.path_of(chunk_id)
        if not prepared.exists():
            return False
        try:
            prepared.replace(path)
            sync_folder(self.directory)
        except OSError as err:
            raise OutputError(f"cannot write {path}: {err.strerror}") from err
        return True

    def read(self, path_or_id: Path | str) -> Chunk:
        """The chunk of this id or at this path, memory-mapped; raises StateError if it is missing or not a chunk.

        It does not expire for as long as a column of it lives.
        """
        return read_chunk(self.path_of(path_or_id))

    def info(self, path_or_id: Path | str) -> ChunkInfo:
        """What one chunk file says of itself; raises StateError if it is missing or not a chunk."""
        return read_info(self.path_of(path_or_id))

    def starts_of(self, names: Iterable[str]) -> dict[str, int]:
        """Where chunks of these ids begin, of those that are there and can be read; each file is read once.

        A chunk is immutable, and one that comes again under its name is of the same interval. For one thread.
        """
        known, self._starts = self._starts, {}
        for name in names:
            try:
                self._starts[name] = known[name] if name in known else self.info(name).start_ns
            except StateError:
                continue
        return self._starts

    def list(self) -> list[ChunkInfo]:
        """All chunks by start; raises StateError on a file that is not a chunk."""
        infos = []
        for path in self.directory.glob(f"*{SUFFIX}"):
            try:
                infos.append(read_info(path))
            except StateError:
                if path.exists():  # else it expired meanwhile
                    raise
        return sorted(infos, key=lambda info: (info.start_ns, len(info.id), info.id))

    def next_part(self, start_ns: int, end_ns: int, kind: Kind, fate: Fate = Fate.KEPT) -> int:
        """The first part of an interval that is not stored."""
        part = 0
        while self.path_of(part_id(start_ns, end_ns, kind, part, fate)).exists():
            part += 1
        return part

    def pin(self, chunk_id: str) -> None:
        """Never let a chunk expire; raises StateError if there is none of this id."""
        if not self.path_of(chunk_id).exists():
            raise StateError(f"there is no chunk {self.path_of(chunk_id)}; `nsstream chunk list` shows what there is")
        self._pin_of(chunk_id).touch()

    def unpin(self, chunk_id: str) -> None:
        """Let it expire again."""
        self._pin_of(chunk_id).unlink(missing_ok=True)

    def is_pinned(self, chunk_id: str) -> bool:
        """Whether a chunk is pinned."""
        return self._pin_of(chunk_id).exists()

    def sweep(self) -> int:
        """Remove what a killed writer left half-written, and return how many files; nobody may be writing."""
        left = [path for suffix in (PART_SUFFIX, PREPARED_SUFFIX) for path in self.directory.glob(f".*{suffix}")]
        for path in left:
            path.unlink(missing_ok=True)
        return len(left)

    def path_of(self, path_or_id: Path | str) -> Path:
        """Where the chunk of this id is, or would be."""
        is_path = isinstance(path_or_id, Path) or "/" in path_or_id
        return Path(path_or_id) if is_path else self.directory / f"{path_or_id}{SUFFIX}"

    def _prepared_of(self, chunk_id: str) -> Path:
        return self.directory / f".{chunk_id}{PREPARED_SUFFIX}"

    def _pin_of(self, chunk_id: str) -> Path:
        return self.directory / f"{chunk_id}{PIN_SUFFIX}"


def _write(chunk: Chunk, path: Path) -> None:
    batch = batch_of_chunk(chunk)
    with whole_file(path) as file, pa.ipc.new_file(_Shedding(file, chunk), batch.schema) as writer:
        writer.write_batch(batch)


class _Shedding(io.RawIOBase):
    """A file that costs no memory for what was written of a chunk."""

    def __init__(self, file: BinaryIO, chunk: Chunk) -> None:
        self._file = file
        self._columns = list(chunk.table.columns().values())

    def writable(self) -> bool:
        return True

    def write(self, octets: Any) -> int:
        view = memoryview(octets).cast("B")
        for start in range(0, len(view), _BLOCK_OCTETS):
            self._file.write(view[start : start + _BLOCK_OCTETS])
            shed(self._columns)
        return len(view)
