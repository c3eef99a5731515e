"""nDPI's TLV serialisation of flow records, as ntop's tools exchange it; no IO.

Two octets, version 1 and format 1, and then items: an octet of two types, the key's in its upper half, the key, and the
value, big-endian. An item of type 1 ends a record. Blocks and lists inside a record are passed over.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, Final

START: Final = b"\x01\x01"

_END_OF_RECORD: Final = 1
_NUMBERS: Final = {
    2: struct.Struct(">B"),
    3: struct.Struct(">H"),
    4: struct.Struct(">I"),
    5: struct.Struct(">Q"),
    6: struct.Struct(">b"),
    7: struct.Struct(">h"),
    8: struct.Struct(">i"),
    9: struct.Struct(">q"),
    10: struct.Struct(">f"),
}
_STRING: Final = 11
_LENGTH: Final = struct.Struct(">H")
_BEGINS: Final = (12, 14)  # a block, a list
_ENDS: Final = (13, 15)


def parse_tlv(octets: bytes) -> tuple[list[dict[Any, Any]], str]:
    """The whole records, by number or name of element, and ``bad_tlv`` where octets are left that are none."""
    records: list[dict[Any, Any]] = []
    record: dict[Any, Any] = {}
    at = depth = 0
    try:
        while at < len(octets):
            if not record and not depth and octets.startswith(START, at):
                at += len(START)
                continue
            types, at = octets[at], at + 1
            kind = types & 0x0F
            if types == _END_OF_RECORD:
                if record:
                    records.append(record)
                record = {}
                continue
            if kind in _ENDS:
                depth -= 1
                if depth < 0:
                    return records, "bad_tlv"
                continue
            key, at = _scalar(octets, at, types >> 4)
            if kind in _BEGINS:
                depth += 1
                continue
            value, at = _scalar(octets, at, kind)
            if not depth:
                record[key] = value
    except (struct.error, KeyError, IndexError):
        return records, "bad_tlv"
    return records, "bad_tlv" if record or depth else ""


def write_tlv(record: Mapping[int, int | str]) -> bytes:
    """One record of unsigned numbers and texts."""
    parts = [START]
    for key, value in record.items():
        key_type, key_octets = _number(key)
        if isinstance(value, str):
            text = value.encode()
            parts += [bytes([key_type << 4 | _STRING]), key_octets, _LENGTH.pack(len(text)), text]
        else:
            value_type, value_octets = _number(value)
            parts += [bytes([key_type << 4 | value_type]), key_octets, value_octets]
    return b"".join([*parts, bytes([_END_OF_RECORD])])


def _scalar(octets: bytes, at: int, kind: int) -> tuple[Any, int]:
    """A number or text, and where it ends; raises KeyError for another type, struct.error where it is cut."""
    if kind == _STRING:
        (length,) = _LENGTH.unpack_from(octets, at)
        at += _LENGTH.size
        if at + length > len(octets):
            raise IndexError(at)
        return octets[at : at + length].decode("utf-8", errors="replace"), at + length
    form = _NUMBERS[kind]
    return form.unpack_from(octets, at)[0], at + form.size


def _number(value: int) -> tuple[int, bytes]:
    """An unsigned number with its type, in as few octets as it fits into."""
    for kind in (2, 3, 4):
        if value < 1 << 8 * _NUMBERS[kind].size:
            return kind, _NUMBERS[kind].pack(value)
    return 5, _NUMBERS[5].pack(value)
