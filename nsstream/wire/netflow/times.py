"""Times of flows: any way that an exporter can write them, as nanoseconds since the Unix epoch.

Every function is for numba loops, takes and gives int64, and cannot overflow whatever the octets said. Sources: RFC
7011 6.1.7 to 6.1.10 (encodings), RFC 5153 4.7 and RFC 3954 5.1 (SysUptime), IANA elements 150 to 162 and 21, 22.
"""

from __future__ import annotations

from typing import Final

from numba import njit

from nsstream.trace import TimeQuality
from nsstream.wire.netflow.roles import TimeKind

MISSING: Final = -(1 << 62)  # no such time in the record
ABSURD: Final = MISSING - 1  # a time that no clock can have meant

GUESSED_UPTIME: Final = int(TimeQuality.GUESSED_UPTIME)
_EXPORT_TIME: Final = int(TimeQuality.EXPORT_TIME)
_CLAMPED: Final = int(TimeQuality.CLAMPED)

_SECOND_NS: Final = 1_000_000_000
_MILLISECOND_NS: Final = 1_000_000
_LATEST_S: Final = 9_000_000_000  # 2255: beyond, nanoseconds leave 63 bits
_NTP_TO_UNIX_S: Final = 2_208_988_800  # RFC 868: from 1900 to 1970
_ERA_S: Final = 1 << 32  # RFC 5905 6: era 1 starts in 2036
UPTIME_MASK: Final = 0xFFFFFFFF  # 32 bits of milliseconds: it wraps every 49.7 days
_MAX_DURATION_NS: Final = (UPTIME_MASK + 1) * _MILLISECOND_NS  # of a flow
UPTIME_AHEAD_MS: Final = 3_600_000  # how far a time may lie ahead of the uptime in its header and not mean a wrap

_NONE: Final = int(TimeKind.NONE)
_SECONDS: Final = int(TimeKind.SECONDS)
_MILLISECONDS: Final = int(TimeKind.MILLISECONDS)
_NTP_MICROSECONDS: Final = int(TimeKind.NTP_MICROSECONDS)
_NTP_NANOSECONDS: Final = int(TimeKind.NTP_NANOSECONDS)
UPTIME: Final = int(TimeKind.UPTIME)
_BEFORE_EXPORT: Final = int(TimeKind.BEFORE_EXPORT)
_DURATION_MICROSECONDS: Final = int(TimeKind.DURATION_MICROSECONDS)


@njit(cache=True)
def to_ns(kind: int, value: int, export_ns: int, uptime_ms: int) -> int:
    """The time that a field of this kind means, MISSING or ABSURD.

    `uptime_ms` is the exporter's uptime at `export_ns`, modulo 2**32. An absolute time of 0 is missing: exporters
    write it where they know none.
    """
    if kind == UPTIME:
        return uptime_to_ns(value, export_ns, uptime_ms)
    if kind == _NONE or (value == 0 and kind != _BEFORE_EXPORT):
        return MISSING
    if kind == _MILLISECONDS:
        return value * _MILLISECOND_NS if 0 < value < _LATEST_S * 1000 else ABSURD
    if kind == _SECONDS:
        return value * _SECOND_NS if 0 < value < _LATEST_S else ABSURD
    if kind in (_NTP_MICROSECONDS, _NTP_NANOSECONDS):
        return ntp_to_ns(value, kind == _NTP_MICROSECONDS)
    if kind == _BEFORE_EXPORT:
        return export_ns - value * 1000 if 0 <= value <= UPTIME_MASK else ABSURD
    return ABSURD


@njit(cache=True)
def uptime_to_ns(value_ms: int, export_ns: int, uptime_ms: int) -> int:
    """A time by the exporter's uptime, both 32 bits: the latest at most `UPTIME_AHEAD_MS` after the export."""
    before_ms = (uptime_ms - value_ms) & UPTIME_MASK
    if before_ms > UPTIME_MASK - UPTIME_AHEAD_MS:
        before_ms -= UPTIME_MASK + 1
    return export_ns - before_ms * _MILLISECOND_NS


@njit(cache=True)
def ntp_to_ns(value: int, is_microseconds: bool) -> int:
    """A 64-bit NTP timestamp, of the era that its first bit tells (RFC 4330 3), to the nearest unit."""
    seconds = (value >> 32) & 0xFFFFFFFF
    fraction = value & 0xFFFFFFFF
    if seconds < 1 << 31:
        seconds += _ERA_S
    seconds -= _NTP_TO_UNIX_S
    if seconds <= 0:
        return ABSURD
    if is_microseconds:
        return seconds * _SECOND_NS + (((fraction & ~0x7FF) * 1_000_000 + (1 << 31)) >> 32) * 1000
    # 2**32 * 10**9 is just below 2**62
    return seconds * _SECOND_NS + ((fraction * _SECOND_NS + (1 << 31)) >> 32)


@njit(cache=True)
def duration_to_ns(kind: int, value: int) -> int:
    """A duration, or MISSING where it is none or longer than 32 bits of milliseconds."""
    if kind == _NONE or value < 0:
        return MISSING
    if kind == _DURATION_MICROSECONDS:
        return value * 1000 if value <= UPTIME_MASK * 1000 else MISSING
    return value * _MILLISECOND_NS if value <= UPTIME_MASK else MISSING


@njit(cache=True)
def flow_times(
    start: int, end: int, duration: int, flags: int, export_ns: int, receive_ns: int, max_error_ns: int
) -> tuple[int, int, int]:
    """Start, end and `TimeQuality` of a flow, by what its record has of them; each may be MISSING or ABSURD."""
    if start == ABSURD or end == ABSURD:
        flags |= _CLAMPED
        start = MISSING if start == ABSURD else start
        end = MISSING if end == ABSURD else end
        if start == MISSING and end == MISSING:
            return receive_ns, receive_ns, flags
    if end == MISSING:
        if start == MISSING:
            flags |= _EXPORT_TIME
            end = export_ns
        else:
            end = start + max(duration, 0)
    if start == MISSING:
        start = end - max(duration, 0)
    if start > end:
        start = end
        flags |= _CLAMPED
    if end - start > _MAX_DURATION_NS:
        start = end - _MAX_DURATION_NS
        flags |= _CLAMPED
    if abs(end - receive_ns) > max_error_ns:
        start += receive_ns - end
        end = receive_ns
        flags |= _CLAMPED
    return start, end, flags
