"""NetflowReplaySource: the NetFlow exports inside a capture file, as flows, as a collector would have had them.

Promises: every datagram to one of the ports is decoded with the time of its capture as the time of receipt; one that
was captured in part, or that is a fragment, counts as 1: ``malformed["cut_datagram"]``, ``unsupported["fragment"]``.
Frames that are anything else are counted in `other_frame_count`; they are no records of this source.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import numpy as np

from nsstream.capture.compression import STREAM_ERRORS, Reader, open_decompressed
from nsstream.capture.netflow_udp import CUT_DATAGRAM, IPFIX_PORT, NETFLOW_PORT
from nsstream.capture.source import EXPORT_LATENESS_S
from nsstream.counters import Tally
from nsstream.errors import InputError, WireError
from nsstream.trace import FlowTable
from nsstream.wire.netflow import ExportDecoder
from nsstream.wire.pcap import HEADER_BYTES, PcapHeader, scan_records
from nsstream.wire.pcapng import SECTION_HEADER, PcapngScanner
from nsstream.wire.records import RecordIndex
from nsstream.wire.udp import CUT, FRAGMENT, GIVEN, NOT_UDP, find_payloads

PORTS: Final = (NETFLOW_PORT, IPFIX_PORT, 9995)
FRAGMENT_REASON: Final = "fragment"
CUT_RECORD: Final = "cut_record"

_LEAST_RECORD_BYTES: Final = 16


class NetflowReplaySource:
    """Reads a pcap or pcapng file, compressed or not, in batches of about `buffer_bytes` of it.

    Args:
        path: of the file; a FIFO works, too.
        ports: UDP ports that exports went to.
        buffer_bytes: memory for the file's octets; it grows to the largest record.
        make_decoder: of the decoder, whose templates and tally live from one `open` to the next.
    """

    lateness_s: Final = EXPORT_LATENESS_S

    def __init__(
        self,
        path: Path | str,
        *,
        ports: Iterable[int] = PORTS,
        buffer_bytes: int = 1 << 20,
        make_decoder: Callable[[], ExportDecoder] = ExportDecoder,
    ) -> None:
        if buffer_bytes < 64:
            raise ValueError(f"buffer_bytes must be at least 64, got {buffer_bytes}")
        self.tally = Tally()
        self.other_frame_count = 0
        self._path = Path(path)
        self._is_wanted = np.zeros(1 << 16, np.bool_)
        self._is_wanted[list(ports)] = True
        self._buffer_bytes = buffer_bytes
        self._make_decoder = make_decoder
        self._decoder = make_decoder()
        self._file: Reader | None = None
        self._header: PcapHeader | PcapngScanner | None = None
        self._has_ended = False
        self._make_room(64)

    @property
    def decoder(self) -> ExportDecoder:
        """What decodes, with its statistics of each exporter."""
        return self._decoder

    def open(self) -> None:
        """Open the file and start at its first octet.

        Raises InputError if it is missing, a directory, or not readable.
        """
        self.close()
        try:
            self._file = open_decompressed(self._path)
        except OSError as err:
            raise InputError(f"{self._path}: cannot be read: {err.strerror or err}") from err
        self._make_room(self._buffer_bytes)
        self._header = None
        self._filled = 0
        self._decoder = self._make_decoder()
        self.tally = self._decoder.tally
        self.other_frame_count = 0
        self._has_ended = False

    def read_batch(self) -> FlowTable | None:
        """The next flows, None at the end.

        Raises InputError where the file is no capture, is corrupt, or ends in the middle of a record.
        """
        if self._file is None and not self._has_ended:
            raise RuntimeError("read_batch before open")
        try:
            while not self._has_ended:
                flows = self._read_block()
                if len(flows):
                    return flows
        except (WireError, *STREAM_ERRORS) as err:
            self._has_ended = True
            raise InputError(f"{self._path}: cannot be read as a capture: {err}") from err
        return None

    def close(self) -> None:
        """Close the file; the tally stays."""
        if self._file is not None:
            self._file.close()
            self._file = None
            self._has_ended = True

    def _read_block(self) -> FlowTable:
        assert self._file is not None
        if self._filled == len(self._octets):
            self._make_room(2 * len(self._octets))
        read = self._file.readinto1(self._octets.data[self._filled :])
        self._filled += read
        if not read:
            self._has_ended = True
            if self._header is None:
                raise WireError(f"cut in its file header, after {self._filled} octets")
            if self._filled:
                self._count(self.tally.malformed, CUT_RECORD, 1)
                raise WireError(f"{self._filled} octets after the last whole record")
        if self._header is None and not self._read_file_header():
            return FlowTable.empty()
        if isinstance(self._header, PcapHeader):
            count, at, is_corrupt = scan_records(self._octets, 0, self._filled, self._header, self._index)
            complaint = "a record claims more than 262144 captured octets" if is_corrupt else ""
        else:
            assert self._header is not None
            count, at, complaint = self._header.scan(self._octets, self._filled, self._index)
        flows = self._decode(count)
        self._consume(at)
        if complaint:
            raise WireError(complaint)
        return flows

    def _decode(self, record_count: int) -> FlowTable:
        offset = np.zeros(record_count + 1, np.int64)
        sender, received_ns = np.empty((record_count, 16), np.uint8), np.empty(record_count, np.int64)
        counts = find_payloads(
            self._octets,
            self._index.time_ns,
            self._index.start,
            self._index.captured_length,
            self._index.link_type,
            record_count,
            self._is_wanted,
            self._payloads,
            offset,
            sender,
            received_ns,
        )
        n = int(counts[GIVEN])
        self.other_frame_count += int(counts[NOT_UDP])
        self._count(self.tally.malformed, CUT_DATAGRAM, int(counts[CUT]))
        self._count(self.tally.unsupported, FRAGMENT_REASON, int(counts[FRAGMENT]))
        if not n:
            return FlowTable.empty()
        return self._decoder.decode(self._payloads[: offset[n]], offset[: n + 1], sender[:n], received_ns[:n])

    def _count(self, reasons: Counter[str], reason: str, count: int) -> None:
        if count:
            self.tally.offered += count
            reasons[reason] += count

    def _read_file_header(self) -> bool:
        """Read it; whether it is all there."""
        if self._filled < HEADER_BYTES:
            return False
        head = self._octets[:HEADER_BYTES].tobytes()
        if struct.unpack_from("<I", head)[0] == SECTION_HEADER:
            self._header = PcapngScanner()
        else:
            self._header = PcapHeader.parse(head)
            self._consume(HEADER_BYTES)
        return True

    def _consume(self, octet_count: int) -> None:
        rest = self._filled - octet_count
        self._octets[:rest] = self._octets[octet_count : self._filled].copy()
        self._filled = rest

    def _make_room(self, octet_count: int) -> None:
        before = getattr(self, "_octets", np.empty(0, np.uint8))
        self._octets = np.empty(octet_count, np.uint8)
        self._octets[: min(len(before), octet_count)] = before[:octet_count]
        self._payloads = np.empty(octet_count, np.uint8)
        self._index = RecordIndex.with_room_for(octet_count // _LEAST_RECORD_BYTES + 1)
