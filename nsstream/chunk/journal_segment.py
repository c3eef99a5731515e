"""Segment: one file of the journal, an Arrow IPC stream to which whole messages are appended.

Promises: what `append` returned from is on the disk; what it raised from is not in the file, unless the disk refused
that as well (`is_broken`: the file is not to be appended to again). No descriptor is kept open in between, so that
there may be any number of them.
"""

from __future__ import annotations

import io
import json
import mmap
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from nsstream.chunk.chunk_file import rows_of_batch
from nsstream.chunk.rows import Kind, Rows
from nsstream.errors import OutputError


class Segment:
    """One file of the journal: a stream that is appended to, message by whole message; open only meanwhile."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path = path
        self.is_broken = False  # what was begun could not be taken back, or the schema went with it
        self._buffer = io.BytesIO()
        self._writer = pa.ipc.new_stream(self._buffer, schema)
        self._size = 0

    def append(self, messages: Iterable[tuple[pa.RecordBatch, Mapping[str, Any]]]) -> None:
        """Write batches, each with what is told of it, and sync; raises OSError, and then takes back what it wrote."""
        self.is_broken = self._size == 0
        size = self._size
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            for batch, told in messages:
                octets = self._message_of(batch, told)
                left = memoryview(octets)
                while left:
                    left = left[os.write(descriptor, left) :]
                size += len(octets)
            os.fsync(descriptor)
        except OSError:
            try:
                os.ftruncate(descriptor, self._size)
            except OSError:
                self.is_broken = True
            raise
        finally:
            os.close(descriptor)
        self._size = size
        self.is_broken = False

    def _message_of(self, batch: pa.RecordBatch, told: Mapping[str, Any]) -> bytes:
        """The octets of a message; of the first with the schema."""
        text = json.dumps(told).encode()
        self._writer.write_batch(batch, custom_metadata={"told": text, "crc32": str(checksum_of(text, batch))})
        octets = self._buffer.getvalue()
        self._buffer.seek(0)
        self._buffer.truncate()
        return octets


def read_messages(path: Path) -> Iterator[tuple[Rows, dict[str, Any], int]]:
    """The rows of each whole message of a file, what is told of them, and the octets up to its end.

    Ends before the first message that is cut or garbled. The rows stand in the file, mapped: they cost memory only
    while they are looked at.
    """
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return
        octets = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    for rows, told, end in messages_in(pa.py_buffer(octets)):
        yield rows, told, end
        octets.madvise(mmap.MADV_DONTNEED)


def messages_in(octets: pa.Buffer) -> Iterator[tuple[Rows, dict[str, Any], int]]:
    """As `read_messages`, of octets that begin with a schema."""
    source = pa.BufferReader(octets)
    try:
        reader = pa.ipc.open_stream(source)
        kind = Kind((reader.schema.metadata or {}).get(b"kind", b"").decode())
        while True:
            batch, metadata = reader.read_next_batch_with_custom_metadata()
            batch.validate()
            if int(metadata[b"crc32"]) != checksum_of(metadata[b"told"], batch):
                return
            told = json.loads(metadata[b"told"])
            yield rows_of_batch(batch, kind, tuple(told["label_names"])), told, source.tell()
    except (StopIteration, pa.ArrowException, OSError, ValueError, KeyError, TypeError):
        return


def cut_segment(path: Path, size: int) -> None:
    """Cut off what is behind so many octets, for good; raises OutputError."""
    try:
        with path.open("r+b") as file:
            if os.fstat(file.fileno()).st_size > size:
                file.truncate(size)
                os.fsync(file.fileno())
    except OSError as err:
        raise OutputError(f"cannot cut the journal {path}: {err.strerror}") from err


def checksum_of(told: bytes, batch: pa.RecordBatch) -> int:
    """CRC-32 over what is told of a batch and over its columns."""
    checksum = zlib.crc32(told)
    for column in batch.columns:
        octets = column.buffers()[1]
        width = column.type.byte_width
        if octets is not None:
            view = memoryview(octets)[column.offset * width : (column.offset + len(column)) * width]
            checksum = zlib.crc32(view, checksum)
    return checksum
