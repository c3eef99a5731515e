"""PcapFileSource: one pcap or pcapng file, compressed or not, as a source; and `read_trace`, the whole of it at once.

Promises: every record of the file is a row or counted by reason in `tally`; a file that cannot be used is refused with
one sentence that names it and says what to do. FIFOs work, too: nothing seeks.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from nsstream.capture.compression import STREAM_ERRORS, Reader, open_decompressed
from nsstream.counters import Tally
from nsstream.errors import InputError, WireError
from nsstream.trace import PacketBatch
from nsstream.wire import PcapReader, link_type_name
from nsstream.wire.dissect import Columns
from nsstream.wire.link import SUPPORTED_LINK_TYPES
from nsstream.wire.stream import DEFAULT_BUFFER_BYTES

CUT_RECORD: Final = "cut_record"


class PcapFileSource:
    """Reads a capture file in batches of about `buffer_bytes` of it.

    A capture that ends in the middle of a record (a crash, a full disk, a copy that broke off) is refused when its end
    is reached, or with `allow_cut` read as far as it goes, the cut record counted as malformed. `make_reader` makes the
    reader of the octets of a size of buffer, where other columns are wanted than a `PacketBatch` has.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        allow_cut: bool = False,
        buffer_bytes: int = DEFAULT_BUFFER_BYTES,
        make_reader: Callable[[int], PcapReader] = PcapReader,
    ) -> None:
        self.tally = Tally()
        self._path = Path(path)
        self._allow_cut = allow_cut
        self._buffer_bytes = buffer_bytes
        self._file: Reader | None = None
        self._make_reader = make_reader
        self._reader = make_reader(64)
        self._has_ended = False

    @property
    def link_types(self) -> frozenset[int]:
        """Link types that the file's headers so far have named."""
        return self._reader.link_types

    def open(self) -> None:
        """Open the file and start at its first octet.

        Raises InputError if it is missing, a directory, or not readable.
        """
        self.close()
        try:
            self._file = open_decompressed(self._path)
        except OSError as err:
            raise InputError(f"{self._path}: cannot be read: {err.strerror or err}") from err
        self._reader = self._make_reader(self._buffer_bytes)
        self.tally = self._reader.tally
        self._has_ended = False

    def read_batch(self) -> PacketBatch | None:
        """The next packets, None at the end; raises InputError as `read_columns`."""
        columns = self.read_columns()
        return None if columns is None else PacketBatch.from_columns(columns)

    def read_columns(self) -> Columns | None:
        """The reader's columns of the next packets, at least one; None at the end.

        Raises InputError where the file is not a capture, is corrupt, has an unsupported link type, or is cut.
        """
        if self._file is None and not self._has_ended:
            raise RuntimeError("read before open")
        while not self._has_ended:
            is_stream_cut = False
            octet_count = 0
            try:
                octet_count = self._fill(self._file)
            except EOFError:
                is_stream_cut = True
            except STREAM_ERRORS as err:
                raise InputError(
                    f"{self._path}: corrupt, or its compression is, after {self.tally.read} whole records: {err}"
                ) from err
            try:
                if octet_count:
                    columns = self._reader.buffer_updated(octet_count)
                    if len(columns["observation_time_ns"]):
                        return columns
                else:
                    self._end(is_stream_cut=is_stream_cut)
            except WireError as err:
                raise InputError(f"{self._path}: {err}") from err
        return None

    def close(self) -> None:
        """Close the file; the tally stays."""
        if self._file is not None:
            self._file.close()
            self._file = None
            self._has_ended = True

    def _fill(self, file: Reader | None) -> int:
        assert file is not None
        return file.readinto1(self._reader.get_buffer())

    def _end(self, *, is_stream_cut: bool) -> None:
        self._has_ended = True
        try:
            self._reader.finish()
        except WireError as err:
            if is_stream_cut:
                raise WireError("its compressed stream is cut before the first record") from err
            raise
        if is_stream_cut and not self.tally.malformed[CUT_RECORD]:  # what was cut held at least one record more
            self.tally.offered += 1
            self.tally.malformed[CUT_RECORD] += 1
        if (self.tally.malformed[CUT_RECORD] or is_stream_cut) and not self._allow_cut:
            raise InputError(
                f"{self._path}: ends in the middle of a record, after {self.tally.read - 1} whole ones; "
                "`editcap IN OUT` repairs it: it keeps the whole ones"
            )


def read_trace(path: Path | str, *, allow_cut: bool = False) -> tuple[PacketBatch, Tally]:
    """Read all packets of a capture file, and what became of every record.

    Raises InputError as `PcapFileSource` does, and if there is no IP packet in the file.
    """
    source = PcapFileSource(path, allow_cut=allow_cut)
    batches: list[PacketBatch] = []
    source.open()
    try:
        while (batch := source.read_batch()) is not None:
            batches.append(batch)
    finally:
        source.close()
    source.tally.check()
    if not batches:
        raise InputError(f"{path}: {_what_is_in_it(source)}")
    return PacketBatch.concatenate(batches), source.tally


def _what_is_in_it(source: PcapFileSource) -> str:
    tally = source.tally
    if tally.read == 0:
        return "holds no packet"
    reasons = tally.malformed + tally.unsupported
    told = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    foreign = sorted(source.link_types - SUPPORTED_LINK_TYPES)
    names = f"; unsupported link types: {', '.join(map(link_type_name, foreign))}" if foreign else ""
    return f"holds no IP packet among its {tally.read} records ({told}{names})"
