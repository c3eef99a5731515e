"""Classic pcap: the 24-octet file header and the 16-octet record header, written and walked.

Promises: `pcap_header` and `write_records` give a little-endian file of nanosecond resolution that libpcap reads;
`parse_header` and `scan_records` read all four variants (either byte order, micro- or nanoseconds) and never read past
the octets. What is inside the records is left to `dissect`; streams and pcapng to `stream` and `pcapng`.

Source: draft-ietf-opsawg-pcap, sections 4 and 5.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.errors import OutputError, WireError
from nsstream.wire.octets import u32_in_order
from nsstream.wire.records import RecordIndex

MAGIC_MICROSECONDS: Final = 0xA1B2C3D4
MAGIC_NANOSECONDS: Final = 0xA1B23C4D
_MAGICS: Final = (MAGIC_MICROSECONDS, MAGIC_NANOSECONDS)
HEADER_BYTES: Final = 24
RECORD_HEADER_BYTES: Final = 16
MAX_SNAPLEN: Final = 262_144  # libpcap's MAXIMUM_SNAPLEN for all but a few bus captures
PCAP_END_NS: Final = (1 << 32) * 1_000_000_000  # from then on a record has no seconds: 7 February 2106


@dataclass(frozen=True, slots=True)
class PcapHeader:
    """What a file header says that matters for reading."""

    is_big_endian: bool
    ns_per_unit: int  # of the second time field: 1 or 1000
    link_type: int

    @staticmethod
    def is_magic(octets: bytes) -> bool:
        """Whether these 4 octets start a pcap that we read."""
        return any(struct.unpack(order + "I", octets)[0] in _MAGICS for order in "<>")

    @classmethod
    def parse(cls, octets: bytes) -> Self:
        """Parse the 24 octets of a file header.

        Raises WireError for another magic number, and for a version other than 2.
        """
        order = "<" if struct.unpack_from("<I", octets)[0] in _MAGICS else ">"
        magic, major, minor, _, _, _, link_type = struct.unpack(order + "IHHiIII", octets)
        if magic not in _MAGICS:
            raise WireError(f"not a pcap magic number: {octets[:4].hex(' ')}")
        if major != 2:
            raise WireError(f"pcap version must be 2, got {major}.{minor}")
        # The upper 16 bits of the link type tell of frame check sequences (draft-ietf-opsawg-pcap section 4).
        return cls(order == ">", 1 if magic == MAGIC_NANOSECONDS else 1000, link_type & 0xFFFF)


def pcap_header(linktype: int = 1, snaplen: int = MAX_SNAPLEN) -> bytes:
    """The file header of a nanosecond little-endian pcap; link type 1 is Ethernet."""
    return struct.pack("<IHHiIII", MAGIC_NANOSECONDS, 2, 4, 0, 0, snaplen, linktype)


def check_pcap_time(time_ns: int) -> None:
    """Raise OutputError if a record cannot say this time, which is not negative."""
    if time_ns >= PCAP_END_NS:
        raise OutputError(
            "a pcap has no times after 7 February 2106: its seconds have 32 bits; write a .pcapng, or let the traffic "
            "begin earlier"
        )


def scan_records(
    octets: NDArray[np.uint8], start: int, end: int, header: PcapHeader, index: RecordIndex
) -> tuple[int, int, bool]:
    """Find the whole records in ``octets[start:end]``, which starts at a record.

    Args:
        octets: uint8, one-dimensional.
        start: index of the first record's header.
        end: index behind the last octet that there is.
        header: of the file.
        index: filled; where it is full, the scan ends.

    Returns:
        the number of records, the index behind the last whole one, and whether what follows there is corrupt: it claims
        more than `MAX_SNAPLEN` captured octets.
    """
    count, at, is_corrupt = _scan_records(
        octets,
        start,
        end,
        header.is_big_endian,
        header.ns_per_unit,
        header.link_type,
        index.time_ns,
        index.start,
        index.captured_length,
        index.original_length,
        index.link_type,
    )
    return count, at, is_corrupt


@njit(cache=True, nogil=True)
def _scan_records(
    octets: NDArray[np.uint8],
    at: int,
    end: int,
    is_big_endian: bool,
    ns_per_unit: int,
    file_link_type: int,
    time_ns: NDArray[np.int64],
    start: NDArray[np.int64],
    captured_length: NDArray[np.int64],
    original_length: NDArray[np.int64],
    link_type: NDArray[np.int64],
) -> tuple[int, int, bool]:
    count = 0
    while at + RECORD_HEADER_BYTES <= end and count < len(time_ns):
        captured = u32_in_order(octets, at + 8, is_big_endian)
        if captured > MAX_SNAPLEN:
            return count, at, True
        frame = at + RECORD_HEADER_BYTES
        if frame + captured > end:
            break
        seconds = u32_in_order(octets, at, is_big_endian)
        row = np.uintp(count)
        time_ns[row] = seconds * 1_000_000_000 + u32_in_order(octets, at + 4, is_big_endian) * ns_per_unit
        start[row] = frame
        captured_length[row] = captured
        original_length[row] = max(captured, u32_in_order(octets, at + 12, is_big_endian))
        link_type[row] = file_link_type
        count += 1
        at = frame + captured
    return count, at, False


def write_records(
    times_ns: NDArray[np.int64],
    offset: NDArray[np.int64],
    octets: NDArray[np.uint8],
    original_length: NDArray[np.int64] | None = None,
) -> bytes:
    """Frame packets as records to follow `pcap_header`.

    Args:
        times_ns: (m,) int64 since the Unix epoch, not negative, and before `PCAP_END_NS`.
        offset: (m + 1,) int64; packet i is ``octets[offset[i]:offset[i + 1]]``, at most `MAX_SNAPLEN` long.
        octets: uint8, all packets one after another.
        original_length: (m,) int64, octets on the wire, at least those of the packet; None: the packets are whole.

    Raises OutputError where a time is later, and ValueError if the arguments break the other bounds.
    """
    m = len(times_ns)
    if len(offset) != m + 1:
        raise ValueError(f"offset must have {m + 1} entries for {m} packets, got {len(offset)}")
    if m == 0:
        return b""
    lengths = np.diff(offset)
    if offset[0] < 0 or offset[-1] > len(octets) or lengths.min() < 0 or lengths.max() > MAX_SNAPLEN:
        raise ValueError(f"packets must lie in the {len(octets)} octets and be 0 to {MAX_SNAPLEN} long")
    originals = lengths if original_length is None else np.ascontiguousarray(original_length, np.int64)
    if originals.shape != lengths.shape or (originals < lengths).any() or originals.max() >= 1 << 32:
        raise ValueError("original_length must be that of each packet, or more, and fit 32 bits")
    if times_ns.min() < 0:
        raise ValueError("times_ns must not be before 1970: the seconds of a pcap record are unsigned")
    check_pcap_time(int(times_ns.max()))
    out = np.empty(RECORD_HEADER_BYTES * m + int(offset[-1] - offset[0]), np.uint8)
    _fill_records(
        np.ascontiguousarray(times_ns, np.int64),
        np.ascontiguousarray(offset, np.int64),
        np.ascontiguousarray(octets, np.uint8),
        originals,
        out,
    )
    return out.tobytes()


@njit(cache=True, nogil=True)
def _fill_records(
    times_ns: NDArray[np.int64],
    offset: NDArray[np.int64],
    octets: NDArray[np.uint8],
    original_length: NDArray[np.int64],
    out: NDArray[np.uint8],
) -> None:
    at = 0
    for i in range(len(times_ns)):
        start = offset[i]
        length = offset[i + 1] - start
        seconds = times_ns[i] // 1_000_000_000
        _put_u32(out, at, seconds)
        _put_u32(out, at + 4, times_ns[i] - seconds * 1_000_000_000)
        _put_u32(out, at + 8, length)
        _put_u32(out, at + 12, original_length[i])
        at += RECORD_HEADER_BYTES
        for k in range(length):
            out[at + k] = octets[start + k]
        at += length


@njit(cache=True, nogil=True)
def _put_u32(out: NDArray[np.uint8], at: int, value: int) -> None:
    out[at] = value & 0xFF
    out[at + 1] = (value >> 8) & 0xFF
    out[at + 2] = (value >> 16) & 0xFF
    out[at + 3] = (value >> 24) & 0xFF
