"""Messages: datagrams in, their headers and sets as tables. One pass for NetFlow v5, v9 and IPFIX, mixed.

Promises: any octets give rows and counted fates, never an error; sets come in the order of the datagrams, none is
empty, and each lies inside its datagram whatever the lengths claim. v9's and IPFIX's sets are followed by their own
lengths, aligned or not, and v9's header count is not believed (exporters get both wrong). v5's records are one set.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.wire.netflow import fates
from nsstream.wire.octets import u8, u16, u32

# Columns of the table of messages.
VERSION: Final = 0  # 5, 9, 10; 0 where the datagram cannot be read
DOMAIN: Final = 1  # observation domain, source id, or engine type << 8 | engine id
SEQUENCE: Final = 2
EXPORT_NS: Final = 3  # since the Unix epoch, as exact as the header tells
UPTIME_MS: Final = 4  # NO_UPTIME in IPFIX
SAMPLING: Final = 5  # v5: one packet in so many; 0: not told
UNITS: Final = 6  # by how much the sequence number should grow after this message, as far as the header tells
RECEIVE_NS: Final = 7
MESSAGE_FACT_COUNT: Final = 8

# Columns of the table of sets.
MESSAGE: Final = 0
ID: Final = 1  # V5_SET for the records of v5
START: Final = 2  # of the body, in the octets
END: Final = 3
SET_FACT_COUNT: Final = 4

NO_UPTIME: Final = -1
V5_SET: Final = -5  # as no set of v9 or IPFIX can be called
_V5_HEADER: Final = 24
_V5_RECORD: Final = 48
_V9_HEADER: Final = 20
_IPFIX_HEADER: Final = 16


def read_messages(
    octets: NDArray[np.uint8], offset: NDArray[np.int64], receive_time_ns: NDArray[np.int64], counts: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Read the headers and find the sets of the n datagrams ``octets[offset[i]:offset[i + 1]]``.

    Returns:
        messages (n, MESSAGE_FACT_COUNT) and sets (m, SET_FACT_COUNT); `counts` by fate code has grown by what cannot
        be read.
    """
    n = len(offset) - 1
    messages = np.zeros((n, MESSAGE_FACT_COUNT), np.int64)
    messages[:, RECEIVE_NS] = receive_time_ns
    sets = np.empty(((int(offset[-1]) - int(offset[0])) // 5 + 1 if n else 0, SET_FACT_COUNT), np.int64)
    return messages, sets[: _read_messages(octets, offset, messages, sets, counts)]


@njit(cache=True)
def _read_messages(
    octets: NDArray[np.uint8],
    offset: NDArray[np.int64],
    messages: NDArray[np.int64],
    sets: NDArray[np.int64],
    counts: NDArray[np.int64],
) -> int:
    found = 0
    for i in range(len(offset) - 1):
        at = offset[i]
        end = offset[i + 1]
        if end - at < 2:
            counts[fates.SHORT_DATAGRAM] += 1
            continue
        version = u16(octets, at)
        if version == 10:
            if end - at < _IPFIX_HEADER:
                counts[fates.SHORT_DATAGRAM] += 1
                continue
            length = u16(octets, at + 2)
            if length < _IPFIX_HEADER:
                counts[fates.BAD_LENGTH] += 1
                continue
            is_cut = at + length > end
            if is_cut:
                counts[fates.CUT_MESSAGE] += 1
            else:
                end = at + length
            messages[i, VERSION] = version
            messages[i, EXPORT_NS] = u32(octets, at + 4) * 1_000_000_000
            messages[i, SEQUENCE] = u32(octets, at + 8)
            messages[i, DOMAIN] = u32(octets, at + 12)
            messages[i, UPTIME_MS] = NO_UPTIME
            found = _find_sets(octets, at + _IPFIX_HEADER, end, i, is_cut, sets, found, counts)
        elif version == 9:
            if end - at < _V9_HEADER:
                counts[fates.SHORT_DATAGRAM] += 1
                continue
            messages[i, VERSION] = version
            messages[i, UPTIME_MS] = u32(octets, at + 4)
            messages[i, EXPORT_NS] = u32(octets, at + 8) * 1_000_000_000
            messages[i, SEQUENCE] = u32(octets, at + 12)
            messages[i, DOMAIN] = u32(octets, at + 16)
            messages[i, UNITS] = 1
            found = _find_sets(octets, at + _V9_HEADER, end, i, False, sets, found, counts)
        elif version == 5:
            if end - at < _V5_HEADER:
                counts[fates.SHORT_DATAGRAM] += 1
                continue
            claimed = u16(octets, at + 2)
            count = min(claimed, (end - at - _V5_HEADER) // _V5_RECORD)
            if count < claimed:
                counts[fates.CUT_RECORD] += 1
            messages[i, VERSION] = version
            messages[i, UPTIME_MS] = u32(octets, at + 4)
            messages[i, EXPORT_NS] = u32(octets, at + 8) * 1_000_000_000 + min(u32(octets, at + 12), 999_999_999)
            messages[i, SEQUENCE] = u32(octets, at + 16)
            messages[i, DOMAIN] = u16(octets, at + 20)
            messages[i, SAMPLING] = u16(octets, at + 22) & 0x3FFF
            messages[i, UNITS] = claimed
            if count > 0:
                sets[found, MESSAGE] = i
                sets[found, ID] = V5_SET
                sets[found, START] = at + _V5_HEADER
                sets[found, END] = at + _V5_HEADER + count * _V5_RECORD
                found += 1
        elif version in (1, 7, 8):
            counts[fates.EXPORT_VERSION] += 1
        else:
            counts[fates.NOT_AN_EXPORT] += 1
    return found


@njit(cache=True)
def _find_sets(
    octets: NDArray[np.uint8],
    at: int,
    end: int,
    message: int,
    is_cut: bool,
    sets: NDArray[np.int64],
    found: int,
    counts: NDArray[np.int64],
) -> int:
    while at + 4 <= end:
        length = u16(octets, at + 2)
        if length < 4:
            for k in range(at, end):
                if u8(octets, k) != 0:
                    counts[fates.BAD_SET_LENGTH] += 1
                    break
            break
        set_end = at + length
        if set_end > end:
            if not is_cut:  # it was counted with the message
                counts[fates.CUT_SET] += 1
            set_end = end
        if set_end > at + 4:
            sets[found, MESSAGE] = message
            sets[found, ID] = u16(octets, at)
            sets[found, START] = at + 4
            sets[found, END] = set_end
            found += 1
        at += length
    return found
