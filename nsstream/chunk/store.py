"""ChunkStore: closed chunks as files, one Arrow IPC file each, `<id>.arrow`.

One record batch of the columns of `PACKET_FIELDS`, addresses as fixed-size binary of 16 octets; the schema's metadata
says id, interval, tally, digest, and whether the chunk is partial. Files are immutable and appear whole; reads are
memory-mapped: a column costs nothing until it is touched. A file of another format is refused by name.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nsstream.chunk.chunker import Chunk
from nsstream.chunk.whole_file import whole_file
from nsstream.counters import Tally
from nsstream.errors import OutputError, StateError
from nsstream.trace import PacketBatch
from nsstream.trace.fields import PACKET_FIELDS

FORMAT: Final = "nsstream-chunk"
FORMAT_VERSION: Final = 1
SUFFIX: Final = ".arrow"


@dataclass(frozen=True, slots=True)
class ChunkInfo:
    """What a chunk file says of itself, read without its columns."""

    id: str
    path: Path
    start_ns: int
    end_ns: int
    packet_count: int
    tally: Tally
    is_partial: bool
    digest: str


class ChunkStore:
    """The chunk files of one folder, which is made if it is missing; raises OutputError if it cannot be."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise OutputError(f"cannot make the chunk folder {directory}: {err.strerror}") from err

    def write(self, chunk: Chunk) -> Path:
        """Write a chunk and return its path.

        A chunk is immutable: writing it again changes nothing. Raises StateError where the id is taken by a chunk of
        another digest, OutputError where the file cannot be written.
        """
        path = self.directory / f"{chunk.id}{SUFFIX}"
        if path.exists():
            if read_info(path).digest != chunk.digest:
                raise StateError(f"{path} holds another chunk of that interval; use another state directory")
            return path
        batch = _batch_of(chunk)
        with whole_file(path) as file, pa.ipc.new_file(file, batch.schema) as writer:
            writer.write_batch(batch)
        return path

    def read(self, path_or_id: Path | str) -> Chunk:
        """The chunk of this id or at this path, memory-mapped; raises StateError if it is missing or not a chunk."""
        return read_chunk(self._path_of(path_or_id))

    def info(self, path_or_id: Path | str) -> ChunkInfo:
        """What one chunk file says of itself; raises StateError if it is missing or not a chunk."""
        return read_info(self._path_of(path_or_id))

    def list(self) -> list[ChunkInfo]:
        """All chunks by start; raises StateError on a file that is not a chunk."""
        return sorted((read_info(path) for path in self.directory.glob(f"*{SUFFIX}")), key=lambda info: info.start_ns)

    def _path_of(self, path_or_id: Path | str) -> Path:
        is_path = isinstance(path_or_id, Path) or "/" in path_or_id
        return Path(path_or_id) if is_path else self.directory / f"{path_or_id}{SUFFIX}"


def read_chunk(path: Path) -> Chunk:
    """The chunk in a file, memory-mapped; raises StateError if it is missing, cut or not a chunk."""
    reader = _reader_of(path)
    info = _info_of(path, reader)
    try:
        batch = reader.get_batch(0)
        batch.validate()
        packets = PacketBatch.from_columns({name: _column_of(batch, name) for name in PACKET_FIELDS})
        return Chunk(info.id, info.start_ns, info.end_ns, packets, info.tally, info.is_partial, info.digest)
    except (pa.ArrowException, OSError, ValueError, KeyError) as err:
        raise StateError(f"{path} is a damaged chunk: {err}") from err


def read_info(path: Path) -> ChunkInfo:
    """What a chunk file says of itself; raises StateError if it is missing or not a chunk."""
    return _info_of(path, _reader_of(path))


def _batch_of(chunk: Chunk) -> pa.RecordBatch:
    columns: list[pa.Array] = []
    for name, (dtype, cell, _) in PACKET_FIELDS.items():
        column = np.ascontiguousarray(getattr(chunk.packets, name))
        if cell:
            octets = pa.py_buffer(column)
            columns.append(pa.FixedSizeBinaryArray.from_buffers(pa.binary(*cell), len(column), [None, octets]))
        else:
            columns.append(pa.array(column, pa.from_numpy_dtype(dtype)))
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "id": chunk.id,
        "start_ns": str(chunk.start_ns),
        "end_ns": str(chunk.end_ns),
        "packet_count": str(len(chunk.packets)),
        "tally": json.dumps(chunk.tally.as_dict()),
        "is_partial": str(int(chunk.is_partial)),
        "digest": chunk.digest,
    }
    return pa.record_batch(columns, names=list(PACKET_FIELDS), metadata=metadata)


def _column_of(batch: pa.RecordBatch, name: str) -> NDArray[np.generic]:
    dtype, cell, _ = PACKET_FIELDS[name]
    array = batch.column(name)
    if array.null_count:
        raise ValueError(f"column {name} holds nulls")
    if not cell:
        values: NDArray[np.generic] = array.to_numpy(zero_copy_only=True)
        return values
    if array.type != pa.binary(*cell):
        raise ValueError(f"column {name} is {array.type}, not binary of {cell[0]} octets")
    flat = np.frombuffer(array.buffers()[1], dtype, len(array) * cell[0], array.offset * cell[0])
    return flat.reshape(len(array), *cell)


def _reader_of(path: Path) -> Any:
    try:
        return pa.ipc.open_file(pa.memory_map(str(path)))
    except FileNotFoundError as err:
        raise StateError(f"there is no chunk {path}; `nsstream chunk list` shows what there is") from err
    except (pa.ArrowException, OSError) as err:
        raise StateError(f"{path} is not a chunk: {err}") from err


def _info_of(path: Path, reader: Any) -> ChunkInfo:
    metadata = {
        k.decode(errors="replace"): v.decode(errors="replace") for k, v in (reader.schema.metadata or {}).items()
    }
    found, version = metadata.get("format"), metadata.get("format_version")
    if found != FORMAT:
        raise StateError(f"{path} is an Arrow file of format {found or 'unknown'}, not {FORMAT}")
    if version != str(FORMAT_VERSION):
        raise StateError(f"{path} is {FORMAT} version {version}; this nsstream reads version {FORMAT_VERSION}")
    try:
        return ChunkInfo(
            id=metadata["id"],
            path=path,
            start_ns=int(metadata["start_ns"]),
            end_ns=int(metadata["end_ns"]),
            packet_count=int(metadata["packet_count"]),
            tally=Tally.from_dict(json.loads(metadata["tally"])),
            is_partial=metadata["is_partial"] == "1",
            digest=metadata["digest"],
        )
    except (KeyError, ValueError, TypeError) as err:
        raise StateError(f"{path} is a damaged chunk: its metadata lacks or garbles {err}") from err
