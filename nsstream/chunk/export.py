"""Chunks to files that other tools read: Parquet, CSV, and for packets a pcap of headers.

Promises: the file appears under its name when it is whole; rows are those of the chunks in the order given. Columns
have the names of `trace.fields`; addresses are 16 octets in Parquet (IPv4 as ::ffff:a.b.c.d) and text in CSV, a label
is its name in both, empty where there is none. A pcap has nanoseconds, one frame a packet (`header_frames`), records
cut behind the headers; its times end in 2106.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO, Final

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as parquet

from nsstream.chunk.chunk import Chunk
from nsstream.chunk.chunk_file import batch_of_rows
from nsstream.chunk.header_frames import header_frames
from nsstream.chunk.rows import FIELDS, Kind, Rows, kind_of, label_names_of
from nsstream.chunk.whole_file import whole_file
from nsstream.errors import InputError, OutputError
from nsstream.trace import PacketBatch
from nsstream.trace.text import address_texts
from nsstream.wire.pcap import PCAP_END_NS, pcap_header, write_records

BLOCK_ROWS: Final = 1 << 16


class ExportFormat(StrEnum):
    """What an export may be."""

    PARQUET = "parquet"
    CSV = "csv"
    PCAP = "pcap"


def export_chunks(
    chunks: Sequence[Callable[[], Chunk]],
    output: Path,
    format: ExportFormat,  # noqa: A002 - the word of the command line
    *,
    report: Callable[[int], None] | None = None,
) -> int:
    """Write chunks, each read when its turn comes, and return how many rows they had.

    Args:
        chunks: give a chunk each; all of one kind.
        output: must not exist, as a file or anything else.
        format: pcap for packets only.
        report: told of the rows written so far.

    Raises InputError where the chunks cannot be written in this format, OutputError where the file cannot be.
    """
    if output.exists() or output.is_symlink():
        raise OutputError(f"{output} exists already; give another name")
    done = 0
    with whole_file(output) as file:
        writer: Any = None
        kind: Kind | None = None
        for read in chunks:
            chunk = read()
            if kind is not None and chunk.kind is not kind:
                raise InputError(f"chunk {chunk.id} holds {chunk.kind}, those before it {kind}: export them apart")
            kind = chunk.kind
            if writer is None:
                writer = _writer_of(format, kind, file)
            for rows in _blocks(chunk.table):
                writer.write(rows)
                done += len(rows)
                if report:
                    report(done)
        if writer is None:
            raise InputError("there is no chunk to export")
        writer.close()
    return done


def _blocks(rows: Rows) -> Iterator[Rows]:
    for start in range(0, len(rows), BLOCK_ROWS):
        yield rows.take(slice(start, start + BLOCK_ROWS))


def _writer_of(format: ExportFormat, kind: Kind, file: BinaryIO) -> Any:  # noqa: A002
    if format is ExportFormat.PCAP:
        if kind is not Kind.PACKETS:
            raise InputError("a chunk of flows has no packets to write as pcap; export it as csv or parquet")
        return _PcapWriter(file)
    return (CsvWriter if format is ExportFormat.CSV else _ParquetWriter)(kind, file)


class _PcapWriter:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        file.write(pcap_header())

    def write(self, rows: PacketBatch) -> None:
        if len(rows) and int(rows.observation_time_ns.max()) >= PCAP_END_NS:
            raise InputError("a pcap has no times after 2106; export the chunk as csv or parquet")
        offset, octets, on_wire = header_frames(rows)
        self._file.write(write_records(rows.observation_time_ns, offset, octets, on_wire))

    def close(self) -> None:
        pass


class _ParquetWriter:
    def __init__(self, kind: Kind, file: BinaryIO) -> None:
        self._schema = pa.schema(
            [
                (name, pa.string() if name == "label" else pa.binary(*cell) if cell else pa.from_numpy_dtype(dtype))
                for name, (dtype, cell, _) in FIELDS[kind].items()
            ]
        )
        self._writer = parquet.ParquetWriter(file, self._schema)

    def write(self, rows: Rows) -> None:
        batch = _with_label_text(batch_of_rows(rows), rows)
        self._writer.write_batch(batch.cast(self._schema))

    def close(self) -> None:
        self._writer.close()


class CsvWriter:
    """Rows as CSV to a file that is open, which needs ``write(octets)``."""

    def __init__(self, kind: Kind, file: Any) -> None:
        self._file = file
        file.write((",".join(FIELDS[kind]) + "\n").encode())
        self._options = csv.WriteOptions(include_header=False, quoting_style="needed")

    def write(self, rows: Rows) -> None:
        """Add rows."""
        batch = _with_label_text(batch_of_rows(rows), rows)
        for at, (name, (_, cell, _)) in enumerate(FIELDS[kind_of(rows)].items()):
            if cell:
                batch = batch.set_column(at, name, address_texts(getattr(rows, name)))
        csv.write_csv(batch, self._file, self._options)

    def close(self) -> None:
        """Nothing is left to write; the file stays open."""


def _with_label_text(batch: pa.RecordBatch, rows: Rows) -> pa.RecordBatch:
    if kind_of(rows) is Kind.PACKETS:
        return batch
    names = pa.array(["", *label_names_of(rows)], pa.string())
    return batch.set_column(batch.schema.get_field_index("label"), "label", names.take(batch.column("label")))
