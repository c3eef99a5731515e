"""The frames of a capture file as octets, a block at a time, for checks that must not rest on dissected columns.

Promises: blocks in file order, each with the index of its whole records; memory is bounded by the block, not by the
file. Raises InputError where the file is no pcap or pcapng, or is corrupt; a record cut at the end counts as corrupt.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.errors import InputError, WireError
from nsstream.wire.pcap import HEADER_BYTES, PcapHeader, scan_records
from nsstream.wire.pcapng import SECTION_HEADER, PcapngScanner
from nsstream.wire.records import RecordIndex

BLOCK_BYTES: Final = 1 << 24  # a pcapng block is no larger, so that every read makes progress
_LEAST_RECORD_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class FrameBlock:
    """Frames i = 0 .. count - 1 are ``octets[index.start[i]:][:index.captured_length[i]]``, until the next block."""

    octets: NDArray[np.uint8]
    index: RecordIndex
    count: int


def frame_blocks(path: Path) -> Iterator[FrameBlock]:
    """Read an uncompressed pcap or pcapng file."""
    octets = np.empty(2 * BLOCK_BYTES, np.uint8)
    index = RecordIndex.with_room_for(len(octets) // _LEAST_RECORD_BYTES + 1)
    try:
        with path.open("rb") as file:
            header = _header(file.read(HEADER_BYTES))
            if not isinstance(header, PcapHeader):
                file.seek(0)
            filled = 0
            while read := file.readinto(octets[filled : filled + BLOCK_BYTES].data):
                filled += read
                if isinstance(header, PcapHeader):
                    count, at, is_corrupt = scan_records(octets, 0, filled, header, index)
                    complaint = "a record claims too many octets" if is_corrupt else ""
                else:
                    count, at, complaint = header.scan(octets, filled, index)
                if complaint:
                    raise WireError(complaint)
                yield FrameBlock(octets, index, count)
                octets[: filled - at] = octets[at:filled].copy()
                filled -= at
            if filled:
                raise WireError(f"{filled} octets after the last whole record")
    except (OSError, WireError) as err:
        raise InputError(f"{path}: cannot be read as a capture: {err}") from err


def _header(head: bytes) -> PcapHeader | PcapngScanner:
    if len(head) < HEADER_BYTES:
        raise WireError(f"cut in its file header, after {len(head)} octets")
    if struct.unpack_from("<I", head)[0] == SECTION_HEADER:
        return PcapngScanner()
    return PcapHeader.parse(head)
