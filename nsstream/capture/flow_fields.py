"""One column of a table to one column of flows: times, addresses, counts. Each says which rows could be read."""

from __future__ import annotations

import zoneinfo
from datetime import datetime, timedelta
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.capture.flow_cells import Cells
from nsstream.capture.flow_mapping import AddressColumn, TimeColumn
from nsstream.capture.placeholders import placeholder_of_as, placeholder_of_name
from nsstream.wire.text_addresses import parse_addresses
from nsstream.wire.text_numbers import parse_civil_times, parse_decimals, parse_split_times

Flags = NDArray[np.bool_]

SCALE_OF_UNIT: Final = {"s": 9, "ms": 6, "us": 3, "ns": 0}

# ICMP types that are answered by another, and the answer's; their code is 0 (RFC 792, 950, 1256).
_ICMP_PAIRS: Final = ((8, 0), (10, 9), (13, 14), (15, 16), (17, 18))
# The same of ICMPv6 (RFC 4443, 2710, 4861, 4620, 6275).
_ICMPV6_PAIRS: Final = ((128, 129), (130, 131), (133, 134), (135, 136), (139, 140), (144, 145))
_NS_PER_S: Final = 1_000_000_000
_ZONE_STEP_S: Final = 900  # offsets of zones change on quarters of an hour
_MAX_IPV4: Final = 2**32 - 1


def answering_types(kind: NDArray[np.int64], is_v6: Flags) -> NDArray[np.int64]:
    """The ICMP type that answers each type (n,), -1 where none does; a question answers its answer."""
    tables = np.full((2, 256), -1, np.int64)
    for table, pairs in zip(tables, (_ICMP_PAIRS, _ICMPV6_PAIRS), strict=True):
        for question, answer in pairs:
            table[question], table[answer] = answer, question
    found: NDArray[np.int64] = tables[is_v6.astype(np.int64), kind & 0xFF]
    return found


def whole_numbers(cells: Cells, missing: tuple[str, ...], most: int) -> tuple[NDArray[np.int64], Flags]:
    """Whole numbers from 0 to `most`; 0 where the cell says that there is none."""
    values, is_number = _decimals(cells, 0, is_whole=True)
    is_number &= (values >= 0) & (values <= most)
    is_missing = ~is_number & cells.is_one_of(missing) if not is_number.all() else ~is_number
    return np.where(is_number, values, 0), is_number | is_missing


def durations_ns(cells: Cells, unit: str, missing: tuple[str, ...]) -> tuple[NDArray[np.int64], Flags]:
    """Lengths of time; 0 where the cell says that there is none."""
    values, is_number = _decimals(cells, SCALE_OF_UNIT[unit], is_whole=False)
    is_missing = ~is_number & cells.is_one_of(missing) if not is_number.all() else ~is_number
    return np.where(is_number, values, 0), is_number | is_missing


def times_ns(cells: Cells, column: TimeColumn, time_zone: str) -> tuple[NDArray[np.int64], Flags]:
    """Points in time since the Unix epoch; not readable before it."""
    n = len(cells)
    if column.unit in SCALE_OF_UNIT:
        times, is_time = _decimals(cells, SCALE_OF_UNIT[column.unit], is_whole=False)
        return times, is_time & (times >= 0)
    times, is_time = np.zeros(n, np.int64), np.zeros(n, np.bool_)
    if column.unit == "digits":
        parse_split_times(*cells.octets(), times, is_time)
        return times, is_time
    has_zone = np.zeros(n, np.bool_)
    parse_civil_times(*cells.octets(), times, has_zone, is_time)
    if time_zone != "UTC":
        is_local = is_time & ~has_zone
        times[is_local] -= _offsets_ns(times[is_local], time_zone)
    return times, is_time & (times >= 0)


def addresses(cells: Cells, column: AddressColumn) -> tuple[NDArray[np.uint8], NDArray[np.uint8], Flags]:
    """Addresses (n, 16) and their versions, 0 where there is none; and which of them are placeholders."""
    n = len(cells)
    octets, versions = np.zeros((n, 16), np.uint8), np.zeros(n, np.uint8)
    is_placeholder = np.zeros(n, np.bool_)
    if column.form in ("ipv4_number", "as_number"):
        numbers, is_number = _decimals(cells, 0, is_whole=True)
        is_number &= (numbers >= 0) & (numbers <= _MAX_IPV4)
        if column.form == "as_number":
            different, which = np.unique(np.where(is_number, numbers, 0), return_inverse=True)
            numbers = np.array([placeholder_of_as(one) for one in different.tolist()] or [0], np.int64)[which]
            is_placeholder = is_number
        _put_ipv4(octets, numbers, is_number)
        versions[is_number] = 4
        return octets, versions, is_placeholder
    parse_addresses(*cells.octets(), octets, versions)
    if column.form == "address_or_name" and (versions == 0).any():
        rows = np.flatnonzero(versions == 0)
        texts, which = cells.take(versions == 0).distinct()
        found = [placeholder_of_name(text) for text in texts]
        numbers = np.array([-1 if one is None else one for one in found], np.int64)[which]
        rows, numbers = rows[numbers >= 0], numbers[numbers >= 0]
        is_placeholder[rows] = True
        versions[rows] = 4
        everywhere = np.zeros(n, np.int64)
        everywhere[rows] = numbers
        _put_ipv4(octets, everywhere, is_placeholder)
    return octets, versions, is_placeholder


def icmp_of_text(cells: Cells, is_icmp: Flags, missing: tuple[str, ...]) -> tuple[NDArray[np.uint16], Flags]:
    """ICMP type << 8 | code of rows that are ICMP, from texts such as ``8.0``; and which of them cannot be."""
    values, is_bad = np.zeros(len(cells), np.uint16), np.zeros(len(cells), np.bool_)
    texts, which = cells.take(is_icmp).distinct()
    codes = np.array([0 if text in missing else _icmp(text) for text in texts] or [0], np.int64)[which]
    is_bad[is_icmp] = codes < 0
    values[is_icmp] = np.where(codes < 0, 0, codes)
    return values, is_bad


def _icmp(text: str) -> int:
    kind, _, code = text.partition(".")
    if not (kind.isascii() and kind.isdigit() and len(kind) <= 5 and (not code or (code.isascii() and code.isdigit()))):
        return -1
    if not code:
        return int(kind) if int(kind) <= 0xFFFF else -1
    return int(kind) << 8 | int(code) if int(kind) <= 255 and len(code) <= 3 and int(code) <= 255 else -1


def _decimals(cells: Cells, scale: int, *, is_whole: bool) -> tuple[NDArray[np.int64], Flags]:
    values, is_number = np.zeros(len(cells), np.int64), np.zeros(len(cells), np.bool_)
    parse_decimals(*cells.octets(), scale, is_whole, values, is_number)
    return values, is_number


def _put_ipv4(octets: NDArray[np.uint8], numbers: NDArray[np.int64], rows: Flags) -> None:
    octets[rows, 10:12] = 255
    octets[rows, 12:] = numbers[rows].astype(">u4").view(np.uint8).reshape(-1, 4)


def _offsets_ns(local_ns: NDArray[np.int64], name: str) -> NDArray[np.int64]:
    """How far the zone's clocks were ahead of UTC at these times of its own; of an hour told twice, the first."""
    zone = zoneinfo.ZoneInfo(name)
    steps, which = np.unique(local_ns // (_ZONE_STEP_S * _NS_PER_S), return_inverse=True)
    offsets = []
    for step in steps.tolist():
        local = datetime(1970, 1, 1) + timedelta(seconds=step * _ZONE_STEP_S)
        east = local.replace(tzinfo=zone).utcoffset() or timedelta(0)
        offsets.append(round(east.total_seconds()) * _NS_PER_S)
    return np.array(offsets or [0], np.int64)[which]
