"""PcapReader: the octets of a pcap or pcapng file in, packet columns out. Sans-IO.

Rules: (1) octets come in by `feed`, or without a copy by `get_buffer` and `buffer_updated`; (2) each call gives the
packets that became whole with it, so any split of a stream gives the same packets in all; (3) `finish` must be called
at the end and counts what is left over as one malformed record, `cut_record`; (4) every record is in `tally`.

Raises WireError, with the offset in the stream, for octets that are no pcap, and nothing else whatever the octets are:
by the call after the one that gave the last packets before them, so that every packet counted as kept was given. After
an error the reader is not to be used again.
"""

from __future__ import annotations

import struct
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.counters import Tally
from nsstream.errors import WireError
from nsstream.wire.dissect import Columns, dissect
from nsstream.wire.fates import add_fates
from nsstream.wire.link import SUPPORTED_LINK_TYPES, link_type_name
from nsstream.wire.pcap import HEADER_BYTES, PcapHeader, scan_records
from nsstream.wire.pcapng import SECTION_HEADER, PcapngScanner
from nsstream.wire.records import RecordIndex

# Small enough that buffer, index and columns stay near a core, large enough that the calls cost nothing.
DEFAULT_BUFFER_BYTES: Final = 1 << 21
_MAX_INDEXED: Final = 1 << 17  # records that are indexed at once: what DEFAULT_BUFFER_BYTES can hold
_MIN_RECORD_BYTES: Final = 16  # of pcap and of pcapng


class PcapReader:
    """One stream, from its first octet to its last."""

    def __init__(self, buffer_bytes: int = DEFAULT_BUFFER_BYTES) -> None:
        if buffer_bytes < 64:
            raise ValueError(f"buffer_bytes must be at least 64, got {buffer_bytes}")
        self.tally = Tally()
        self._buffer = np.empty(buffer_bytes, np.uint8)
        self._usual_bytes = buffer_bytes
        self._index = RecordIndex.with_room_for(min(buffer_bytes // _MIN_RECORD_BYTES, _MAX_INDEXED) + 1)
        self._filled = 0  # octets of the buffer that wait to be read
        self._offset = 0  # of the buffer's first octet in the stream
        self._header: PcapHeader | PcapngScanner | None = None
        self._complaint = ""  # what is wrong at the start of the buffer, behind packets that were given

    @property
    def link_types(self) -> frozenset[int]:
        """Link types that the headers so far have named."""
        if isinstance(self._header, PcapngScanner):
            return frozenset(self._header.link_types)
        return frozenset() if self._header is None else frozenset({self._header.link_type})

    def get_buffer(self) -> memoryview:
        """Memory to write the next octets of the stream to, at least one; then call `buffer_updated`."""
        if self._filled == len(self._buffer):
            self._resize_to(2 * len(self._buffer))
        return self._buffer.data[self._filled :]

    def buffer_updated(self, octet_count: int) -> Columns:
        """Read what became whole with `octet_count` more octets in the buffer; the columns may have no rows."""
        self._filled += octet_count
        if self._complaint:
            raise WireError(self._complaint)
        if self._header is None:
            self._read_file_header()
        pieces = []
        at = 0
        while True:
            octets = self._buffer[at : self._filled]
            record_count, size, complaint = self._scan(octets)
            columns = self._take(octets, self._index, record_count)
            pieces.append(columns)
            at += size
            if record_count < len(self._index):
                break
        if complaint:
            self._complaint = (
                f"corrupt at octet {self._offset + at}, after {self.tally.read} whole records: {complaint}"
            )
            if not any(len(piece["observation_time_ns"]) for piece in pieces):
                raise WireError(self._complaint)
        self._consume(at)
        self._shrink()
        return pieces[0] if len(pieces) == 1 else {k: np.concatenate([p[k] for p in pieces]) for k in columns}

    def feed(self, octets: bytes | memoryview) -> Columns:
        """Read the next octets of the stream; the columns may have no rows."""
        if self._filled + len(octets) > len(self._buffer):
            self._resize_to(self._filled + len(octets))
        self._buffer[self._filled : self._filled + len(octets)] = np.frombuffer(octets, np.uint8)
        return self.buffer_updated(len(octets))

    def finish(self) -> None:
        """Say that the stream has ended; octets left over are counted as ``malformed["cut_record"]``.

        Raises WireError if the stream ended before its file header did, or is corrupt behind the last packets given.
        """
        if self._complaint:
            raise WireError(self._complaint)
        if self._header is None:
            if self._filled == 0:
                raise WireError("empty: not even a file header")
            raise WireError(f"cut in its file header, after {self._filled} octets")
        if self._filled:
            self.tally.offered += 1
            self.tally.malformed["cut_record"] += 1
            self._consume(self._filled)

    def _take(self, octets: NDArray[np.uint8], index: RecordIndex, record_count: int) -> Columns:
        """Columns of the first `record_count` records of the index into these octets; each record is counted."""
        columns, fate_counts = dissect(octets, index, record_count)
        add_fates(self.tally, fate_counts)
        return columns

    def _scan(self, octets: NDArray[np.uint8]) -> tuple[int, int, str]:
        """Index whole records, as many as the index holds: their count and size, and what is corrupt behind them."""
        if isinstance(self._header, PcapHeader):
            record_count, size, is_corrupt = scan_records(octets, 0, len(octets), self._header, self._index)
            return record_count, size, "a record claims more than 262144 captured octets" if is_corrupt else ""
        if isinstance(self._header, PcapngScanner):
            record_count, size, complaint = self._header.scan(octets, len(octets), self._index)
            self.tally.drop("tool", self._header.dropped_by_tool - self.tally.dropped["tool"])
            return record_count, size, complaint
        return 0, 0, ""

    def _read_file_header(self) -> None:
        if self._filled < 4:
            return
        head = self._buffer[: min(self._filled, HEADER_BYTES)].tobytes()
        if struct.unpack_from("<I", head)[0] == SECTION_HEADER:
            self._header = PcapngScanner()
            return
        if not PcapHeader.is_magic(head[:4]):
            raise WireError(
                f"neither pcap nor pcapng: starts with the octets {head[:4].hex(' ')} (editcap converts other formats)"
            )
        if self._filled < HEADER_BYTES:
            return
        header = PcapHeader.parse(head)
        if header.link_type not in SUPPORTED_LINK_TYPES:
            raise WireError(
                f"link type {link_type_name(header.link_type)} is not supported: convert it with tshark or editcap to "
                "Ethernet, raw IP, Linux cooked or loopback, or read it as pyshark:FILE"
            )
        self._header = header
        self._consume(HEADER_BYTES)

    def _consume(self, octet_count: int) -> None:
        rest = self._filled - octet_count
        if octet_count and rest:
            self._buffer[:rest] = self._buffer[octet_count : self._filled].copy()
        self._filled = rest
        self._offset += octet_count

    def _resize_to(self, size: int) -> None:
        buffer = np.empty(size, np.uint8)
        buffer[: self._filled] = self._buffer[: self._filled]
        self._buffer = buffer

    def _shrink(self) -> None:
        """Give back what one large block took, once it has been read."""
        if len(self._buffer) > self._usual_bytes and self._filled <= self._usual_bytes // 2:
            self._resize_to(self._usual_bytes)
