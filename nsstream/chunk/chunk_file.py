"""A chunk as one Arrow IPC file: columns to a record batch and back, and what the schema's metadata says.

One record batch of the columns of `PACKET_FIELDS` or `FLOW_FIELDS`, addresses as fixed-size binary of 16 octets. The
metadata says kind, id, interval, row count, tally, digest, sampling interval, label names, rows recovered, whether the
chunk is partial, and its fate (kept, where it is not said). A file of another format or version is refused by name.
What is read is memory-mapped: a column costs nothing until it is touched; and for as long as any column of it lives,
the file is locked (flock, shared), so that `retention` lets it be.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nsstream.chunk.chunk import Chunk
from nsstream.chunk.rows import FIELDS, Fate, Kind, Rows, kind_of, label_names_of, make_rows
from nsstream.counters import Tally
from nsstream.errors import StateError

FORMAT: Final = "nsstream-chunk"
FORMAT_VERSION: Final = 2
SUFFIX: Final = ".arrow"


@dataclass(frozen=True, slots=True)
class ChunkInfo:
    """What a chunk file says of itself, read without its columns."""

    id: str
    path: Path
    kind: Kind
    start_ns: int
    end_ns: int
    row_count: int
    tally: Tally
    is_partial: bool
    digest: str
    sampling_interval: int
    recovered: int
    fate: Fate

    @property
    def packet_count(self) -> int:
        """Rows of a chunk of packets; raises StateError if it holds flows."""
        if self.kind is not Kind.PACKETS:
            raise StateError(f"chunk {self.id} holds flows, and packets are needed")
        return self.row_count


def read_chunk(path: Path) -> Chunk:
    """The chunk in a file, memory-mapped; raises StateError if it is missing, cut or not a chunk."""
    reader = _reader_of(path)
    info = _info_of(path, reader)
    try:
        batch = reader.get_batch(0)
        batch.validate()
        names = tuple(json.loads(reader.schema.metadata.get(b"label_names", b"[]")))
        rows = rows_of_batch(batch, info.kind, names)
        return Chunk(
            info.id, info.start_ns, info.end_ns, rows, info.tally, info.is_partial, info.digest,
            info.sampling_interval, info.recovered, info.fate,
        )  # fmt: skip
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as err:
        raise StateError(f"{path} is a damaged chunk: {err}") from err


def read_info(path: Path) -> ChunkInfo:
    """What a chunk file says of itself; raises StateError if it is missing or not a chunk."""
    return _info_of(path, _reader_of(path))


def batch_of_chunk(chunk: Chunk) -> pa.RecordBatch:
    """A chunk as the record batch that its file holds."""
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "kind": str(chunk.kind),
        "id": chunk.id,
        "start_ns": str(chunk.start_ns),
        "end_ns": str(chunk.end_ns),
        "row_count": str(len(chunk.table)),
        "tally": json.dumps(chunk.tally.as_dict()),
        "is_partial": str(int(chunk.is_partial)),
        "digest": chunk.digest,
        "sampling_interval": str(chunk.sampling_interval),
        "recovered": str(chunk.recovered),
        "fate": str(chunk.fate),
        "label_names": json.dumps(label_names_of(chunk.table)),
    }
    return batch_of_rows(chunk.table, metadata)


def batch_of_rows(rows: Rows, metadata: Mapping[str, str] | None = None) -> pa.RecordBatch:
    """Rows as a record batch over the same memory."""
    fields = FIELDS[kind_of(rows)]
    columns: list[pa.Array] = []
    for name, (dtype, cell, _) in fields.items():
        column = np.ascontiguousarray(getattr(rows, name))
        if cell:
            octets = pa.py_buffer(column)
            columns.append(pa.FixedSizeBinaryArray.from_buffers(pa.binary(*cell), len(column), [None, octets]))
        else:
            columns.append(pa.array(column, pa.from_numpy_dtype(dtype)))
    return pa.record_batch(columns, names=list(fields), metadata=metadata)


def rows_of_batch(batch: pa.RecordBatch, kind: Kind, label_names: tuple[str, ...] = ()) -> Rows:
    """A record batch as rows over the same memory; raises ValueError or KeyError where it is not what it should be."""
    return make_rows(kind, {name: _column_of(batch, kind, name) for name in FIELDS[kind]}, label_names)


def _column_of(batch: pa.RecordBatch, kind: Kind, name: str) -> NDArray[np.generic]:
    dtype, cell, _ = FIELDS[kind][name]
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
    missing = f"there is no chunk {path}; `nsstream chunk list` shows what there is"
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            if not os.fstat(file.fileno()).st_nlink:
                raise StateError(missing)  # it expired while we waited for the lock
            # The map owns a duplicate of the descriptor, and with it the lock, until the last column is gone.
            octets = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return pa.ipc.open_file(pa.BufferReader(pa.py_buffer(octets)))
    except FileNotFoundError as err:
        raise StateError(missing) from err
    except (pa.ArrowException, OSError, ValueError) as err:
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
            kind=Kind(metadata["kind"]),
            start_ns=int(metadata["start_ns"]),
            end_ns=int(metadata["end_ns"]),
            row_count=int(metadata["row_count"]),
            tally=Tally.from_dict(json.loads(metadata["tally"])),
            is_partial=metadata["is_partial"] == "1",
            digest=metadata["digest"],
            sampling_interval=int(metadata["sampling_interval"]),
            recovered=int(metadata["recovered"]),
            fate=Fate(metadata.get("fate", Fate.KEPT)),
        )
    except (KeyError, ValueError, TypeError) as err:
        raise StateError(f"{path} is a damaged chunk: its metadata lacks or garbles {err}") from err
