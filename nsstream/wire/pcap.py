"""Classic pcap: the 24-octet file header and the 16-octet record header, written and walked.

Promises: `pcap_header` and `write_records` give a little-endian file of nanosecond resolution that libpcap reads.
What is inside the records is left to `dissect`; streams and pcapng to `stream` and `pcapng`.

Source: draft-ietf-opsawg-pcap, sections 4 and 5.
"""

from __future__ import annotations

import struct
from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

MAGIC_MICROSECONDS: Final = 0xA1B2C3D4
MAGIC_NANOSECONDS: Final = 0xA1B23C4D
HEADER_BYTES: Final = 24
RECORD_HEADER_BYTES: Final = 16
MAX_SNAPLEN: Final = 262_144  # libpcap's MAXIMUM_SNAPLEN for all but a few bus captures


def pcap_header(linktype: int = 1, snaplen: int = MAX_SNAPLEN) -> bytes:
    """The file header of a nanosecond little-endian pcap; link type 1 is Ethernet."""
    return struct.pack("<IHHiIII", MAGIC_NANOSECONDS, 2, 4, 0, 0, snaplen, linktype)


def write_records(times_ns: NDArray[np.int64], offset: NDArray[np.int64], octets: NDArray[np.uint8]) -> bytes:
    """Frame whole packets as records to follow `pcap_header`.

    Args:
        times_ns: (m,) int64 since the Unix epoch, 0 <= t < 2**32 seconds (the field is 32 bits wide).
        offset: (m + 1,) int64; packet i is ``octets[offset[i]:offset[i + 1]]``, at most `MAX_SNAPLEN` long.
        octets: uint8, all packets one after another.

    Raises ValueError if the arguments break these bounds.
    """
    m = len(times_ns)
    if len(offset) != m + 1:
        raise ValueError(f"offset must have {m + 1} entries for {m} packets, got {len(offset)}")
    if m == 0:
        return b""
    lengths = np.diff(offset)
    if offset[0] < 0 or offset[-1] > len(octets) or lengths.min() < 0 or lengths.max() > MAX_SNAPLEN:
        raise ValueError(f"packets must lie in the {len(octets)} octets and be 0 to {MAX_SNAPLEN} long")
    if times_ns.min() < 0 or times_ns.max() >= (1 << 32) * 1_000_000_000:
        raise ValueError("times_ns must be between 1970 and 2106: a pcap record has 32 bits for the seconds")
    out = np.empty(RECORD_HEADER_BYTES * m + int(offset[-1] - offset[0]), np.uint8)
    _fill_records(
        np.ascontiguousarray(times_ns, np.int64),
        np.ascontiguousarray(offset, np.int64),
        np.ascontiguousarray(octets, np.uint8),
        out,
    )
    return out.tobytes()


@njit(cache=True)
def _fill_records(
    times_ns: NDArray[np.int64], offset: NDArray[np.int64], octets: NDArray[np.uint8], out: NDArray[np.uint8]
) -> None:
    at = 0
    for i in range(len(times_ns)):
        start = offset[i]
        length = offset[i + 1] - start
        seconds = times_ns[i] // 1_000_000_000
        _put_u32(out, at, seconds)
        _put_u32(out, at + 4, times_ns[i] - seconds * 1_000_000_000)
        _put_u32(out, at + 8, length)
        _put_u32(out, at + 12, length)
        at += RECORD_HEADER_BYTES
        for k in range(length):
            out[at + k] = octets[start + k]
        at += length


@njit(cache=True)
def _put_u32(out: NDArray[np.uint8], at: int, value: int) -> None:
    out[at] = value & 0xFF
    out[at + 1] = (value >> 8) & 0xFF
    out[at + 2] = (value >> 16) & 0xFF
    out[at + 3] = (value >> 24) & 0xFF
