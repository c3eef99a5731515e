"""Decimal numbers and times in text to integers, exactly, in numba loops over the cells of a column.

A column is octets and offsets, as Arrow lays out strings: cell k is ``octets[offsets[k]:offsets[k + 1]]``. Whatever a
cell holds, it is read or said not to be readable; nothing raises.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.wire.octets import u8

_MAX_DIGITS: Final = 18  # of the mantissa; further ones of a fraction are left away, of a whole number counted
_MAX_EXPONENT: Final = 400
_MAX: Final = 2**63 - 1
_NS_PER_S: Final = 1_000_000_000


@njit(cache=True)
def trim(octets: NDArray[np.uint8], start: int, end: int) -> tuple[int, int]:
    """The cell without spaces and tabs around it."""
    while start < end and (octets[start] == 32 or octets[start] == 9):
        start += 1
    while end > start and (octets[end - 1] == 32 or octets[end - 1] == 9):
        end -= 1
    return start, end


@njit(cache=True)
def read_digits(octets: NDArray[np.uint8], at: int, end: int, most: int) -> tuple[int, int]:
    """The number in the decimal digits at `at`, at most so many of them, and where they end."""
    value = 0
    stop = min(end, at + most)
    while at < stop and 48 <= octets[at] <= 57:
        value = value * 10 + u8(octets, at) - 48
        at += 1
    return value, at


@njit(cache=True)
def _read_hexadecimal(octets: NDArray[np.uint8], at: int, end: int) -> tuple[int, bool]:
    value = 0
    if not 0 < end - at <= 15:
        return 0, False
    for i in range(at, end):
        digit = u8(octets, i) | 32
        if 48 <= digit <= 57:
            digit -= 48
        elif 97 <= digit <= 102:
            digit -= 87
        else:
            return 0, False
        value = value << 4 | digit
    return value, True


@njit(cache=True)
def _read_decimal(octets: NDArray[np.uint8], start: int, end: int, scale: int, is_whole: bool) -> tuple[int, bool]:
    """The number in a cell times ten to the power of `scale`, rounded; and whether it is one."""
    at, end = trim(octets, start, end)
    if end - at > 2 and octets[at] == 48 and (octets[at + 1] | 32) == 120 and scale == 0:
        return _read_hexadecimal(octets, at + 2, end)
    is_negative = at < end and octets[at] == 45
    if at < end and (octets[at] == 45 or octets[at] == 43):
        at += 1
    mantissa, exponent, digits, has_digit, in_fraction = 0, scale, 0, False, False
    is_cut = False
    while at < end:
        octet = u8(octets, at)
        if octet == 46 and not in_fraction:
            in_fraction = True
        elif 48 <= octet <= 57:
            has_digit = True
            if digits < _MAX_DIGITS:
                mantissa = mantissa * 10 + octet - 48
                digits += 1 if mantissa else 0
                exponent -= 1 if in_fraction else 0
            else:
                is_cut = is_cut or octet != 48
                exponent += 0 if in_fraction else 1
        else:
            break
        at += 1
    if not has_digit:
        return 0, False
    if at < end and (octets[at] | 32) == 101:  # e
        at += 1
        is_small = at < end and octets[at] == 45
        if at < end and (octets[at] == 45 or octets[at] == 43):
            at += 1
        power, stop = read_digits(octets, at, end, 3)
        if stop == at:
            return 0, False
        exponent += -power if is_small else power
        at = stop
    else:
        while at < end and octets[at] == 32:
            at += 1
        if at + 1 == end:  # nfdump's "1.2 M"
            suffix = u8(octets, at) & 0xDF
            if suffix == 75 or suffix == 77 or suffix == 71 or suffix == 84:
                exponent += 3 if suffix == 75 else 6 if suffix == 77 else 9 if suffix == 71 else 12
                at += 1
    if at != end or not -_MAX_EXPONENT < exponent < _MAX_EXPONENT:
        return 0, False
    while exponent > 0 and mantissa:
        if mantissa > _MAX // 10:
            return 0, False
        mantissa *= 10
        exponent -= 1
    if exponent < 0:
        last = 0
        while exponent < 0 and (mantissa or last):
            is_cut = is_cut or last != 0
            last = mantissa % 10
            mantissa //= 10
            exponent += 1
        is_cut = is_cut or last != 0
        mantissa += 1 if last >= 5 else 0
    if is_whole and is_cut:
        return 0, False
    return -mantissa if is_negative else mantissa, True


@njit(cache=True)
def parse_decimals(
    octets: NDArray[np.uint8],
    offsets: NDArray[np.int32],
    scale: int,
    is_whole: bool,
    values: NDArray[np.int64],
    is_number: NDArray[np.bool_],
) -> None:
    """Read each cell's number times ten to the power of `scale`: ``1.5``, ``-2e3``, ``2.1 M``, or ``0x1b`` unscaled.

    With `is_whole` a fraction that is not zero is not readable; else the number is rounded.
    """
    for row in range(len(values)):
        values[row], is_number[row] = _read_decimal(octets, offsets[row], offsets[row + 1], scale, is_whole)


@njit(cache=True)
def parse_split_times(
    octets: NDArray[np.uint8], offsets: NDArray[np.int32], times_ns: NDArray[np.int64], is_time: NDArray[np.bool_]
) -> None:
    """Read each cell as ten digits of seconds and, behind them, those of their fraction, trailing zeros left away."""
    for row in range(len(times_ns)):
        at, end = trim(octets, offsets[row], offsets[row + 1])
        seconds, at = read_digits(octets, at, end, 10)
        is_time[row] = end - at >= 0 and at > offsets[row] + 9
        fraction_ns, stop = read_digits(octets, at, end, 9)
        is_time[row] &= stop == end
        for _ in range(stop - at, 9):
            fraction_ns *= 10
        times_ns[row] = seconds * _NS_PER_S + fraction_ns


@njit(cache=True)
def _days_from_civil(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01 in the Gregorian calendar."""
    year -= 1 if month <= 2 else 0
    era = year // 400
    of_era = year - era * 400
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719468


@njit(cache=True)
def _read_zone(octets: NDArray[np.uint8], at: int, end: int) -> tuple[int, bool]:
    """Seconds east of Greenwich in ``Z``, ``+02``, ``+0200`` or ``+02:00``."""
    if end - at == 1 and (octets[at] | 32) == 122:
        return 0, True
    if octets[at] != 43 and octets[at] != 45:
        return 0, False
    hours, stop = read_digits(octets, at + 1, end, 2)
    if stop != at + 3 or hours > 23:
        return 0, False
    minutes = 0
    if stop < end:
        stop += 1 if octets[stop] == 58 else 0
        minutes, last = read_digits(octets, stop, end, 2)
        if last != stop + 2 or last != end or minutes > 59:
            return 0, False
    seconds = hours * 3600 + minutes * 60
    return (-seconds if octets[at] == 45 else seconds), True


@njit(cache=True)
def _read_civil(octets: NDArray[np.uint8], at: int, end: int) -> tuple[int, bool, bool]:
    """Nanoseconds since the epoch, whether a zone was told, and whether this is a time."""
    bad = (0, False, False)
    year, stop = read_digits(octets, at, end, 4)
    if stop != at + 4 or stop >= end or (octets[stop] != 45 and octets[stop] != 47) or not 1970 <= year <= 2261:
        return bad
    separator = octets[stop]
    month, at = read_digits(octets, stop + 1, end, 2)
    if at == stop + 1 or at >= end or octets[at] != separator or not 1 <= month <= 12:
        return bad
    day, stop = read_digits(octets, at + 1, end, 2)
    if stop == at + 1 or not 1 <= day <= 31 or stop >= end or (octets[stop] != 32 and (octets[stop] | 32) != 116):
        return bad
    hour, at = read_digits(octets, stop + 1, end, 2)
    if at == stop + 1 or hour > 23 or at >= end or octets[at] != 58:
        return bad
    minute, stop = read_digits(octets, at + 1, end, 2)
    if stop != at + 3 or minute > 59:
        return bad
    second, fraction_ns = 0, 0
    if stop < end and octets[stop] == 58:
        second, at = read_digits(octets, stop + 1, end, 2)
        if at != stop + 3 or second > 60:  # a leap second
            return bad
        stop = at
        if stop < end and (octets[stop] == 46 or octets[stop] == 44):
            fraction_ns, at = read_digits(octets, stop + 1, end, 9)
            for _ in range(at - stop - 1, 9):
                fraction_ns *= 10
            if at == stop + 1:
                return bad
            while at < end and 48 <= octets[at] <= 57:
                at += 1
            stop = at
    seconds = _days_from_civil(year, month, day) * 86400 + hour * 3600 + minute * 60 + second
    while stop < end and octets[stop] == 32:
        stop += 1
    if stop == end:
        return seconds * _NS_PER_S + fraction_ns, False, True
    east, is_zone = _read_zone(octets, stop, end)
    return (seconds - east) * _NS_PER_S + fraction_ns, True, is_zone


@njit(cache=True)
def parse_civil_times(
    octets: NDArray[np.uint8],
    offsets: NDArray[np.int32],
    times_ns: NDArray[np.int64],
    has_zone: NDArray[np.bool_],
    is_time: NDArray[np.bool_],
) -> None:
    """Read times such as ``2017-04-11 15:31:29.795``, ``2011/08/10 9:46``, ``2020-01-01T00:00:00+02:00``.

    A plain number is seconds since the epoch. Where no zone is told, the time is as if it were UTC.
    """
    for row in range(len(times_ns)):
        at, end = trim(octets, offsets[row], offsets[row + 1])
        times_ns[row], has_zone[row], is_time[row] = _read_civil(octets, at, end)
        if not is_time[row]:
            times_ns[row], is_time[row] = _read_decimal(octets, at, end, 9, False)
            has_zone[row] = is_time[row]
