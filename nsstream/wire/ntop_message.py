"""ntop's flow messages over ZeroMQ, as nProbe publishes and ntopng collects them; no IO.

A message has two frames, a header and a payload. The header has one of four sizes (`zmq_msg_hdr_v0` to `_v4` in the
ntop_typedefs.h of ntopng, which takes no other). It begins with the topic, whose first letter counts: ``f`` for flows.
The payload is JSON, an object or a list of such, in zlib or not; or nDPI's TLV. Keys are the numbers of NetFlow v9's
elements, or nProbe's names.

| octets | version | message id | source id | compressed where |
|---|---|---|---|---|
| 40 | any, 32 bits | none | none | the payload begins with 0 |
| 24 | 1 | as the publisher's processor has it | none | the payload begins with 0 |
| 24 | 2, of TLV 3 | big-endian | 8 bits | the payload begins with 0 |
| 28 | 2, of TLV 3 | big-endian | 32 bits, big-endian | the payload begins with 0 |
| 36 | 4 | big-endian | 32 bits, big-endian | flag 4; flag 2 is TLV |
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass
from typing import Any, Final, Literal

from nsstream.errors import WireError
from nsstream.wire.ntop_tlv import parse_tlv

MAX_PAYLOAD_BYTES: Final = 256 << 10  # unpacked; of what is not packed ntopng itself takes 32 KiB

_V0: Final = struct.Struct("<32sII")
_V1: Final = struct.Struct("<16sBBHI")
_V2: Final = struct.Struct("<16sBxHII")
_V4: Final = struct.Struct("<16sBBxxIIII")
_TLV_FLAG: Final = 2
_ZLIB_FLAG: Final = 4
_JSON_VERSION, _TLV_VERSION, _FLAGS_VERSION = 2, 3, 4
_HOST_ORDER_VERSION: Final = 1

Record = dict[Any, Any]


@dataclass(frozen=True, slots=True)
class NtopHeader:
    """What a header says."""

    topic: str
    source_id: int  # 0 where none is told
    message_id: int | None  # None where none is told
    is_tlv: bool
    is_zlib: bool | None  # None: the payload's first octet tells

    @property
    def is_of_flows(self) -> bool:
        """Whether the payload holds flows."""
        return self.topic.startswith("f")


def parse_header(octets: bytes) -> NtopHeader:
    """Read a header; raises WireError if it has none of the four sizes, or a version that its size cannot have."""
    if len(octets) == _V0.size:
        return NtopHeader(_topic(octets[:32]), 0, None, False, None)
    if len(octets) == _V4.size:
        url, version, flags, _, _, message, source = _V4.unpack(octets)
        if version == _FLAGS_VERSION:
            is_zlib = bool(flags & _ZLIB_FLAG)
            return NtopHeader(_topic(url), _swapped(source), _swapped(message), bool(flags & _TLV_FLAG), is_zlib)
    elif len(octets) == _V1.size:
        url, version, source, _, message = _V1.unpack(octets)
        if version == _HOST_ORDER_VERSION:
            return NtopHeader(_topic(url), 0, message, False, None)
        if version in (_JSON_VERSION, _TLV_VERSION):
            return NtopHeader(_topic(url), source, _swapped(message), version == _TLV_VERSION, None)
    elif len(octets) == _V2.size:
        url, version, _, message, source = _V2.unpack(octets)
        if version in (_JSON_VERSION, _TLV_VERSION):
            return NtopHeader(_topic(url), _swapped(source), _swapped(message), version == _TLV_VERSION, None)
    else:
        raise WireError(f"a header of ntop has 24, 28, 36 or 40 octets, got {len(octets)}")
    raise WireError(f"a header of {len(octets)} octets cannot be of version {version}")


def parse_records(header: NtopHeader, payload: bytes) -> tuple[list[Record], str]:
    """The records of a payload, and why it could not be read to its end: a reason for a tally, "" if it could.

    Raises nothing, whatever the payload is.
    """
    is_zlib = header.is_zlib
    if is_zlib is None:
        is_zlib = not header.is_tlv and payload[:1] == b"\0"
    if is_zlib:
        unpacker = zlib.decompressobj()
        try:
            payload = unpacker.decompress(payload.removeprefix(b"\0"), MAX_PAYLOAD_BYTES)
        except zlib.error:
            return [], "bad_zlib"
        if not unpacker.eof:
            return [], "too_large" if len(payload) == MAX_PAYLOAD_BYTES else "bad_zlib"
    if header.is_tlv:
        return parse_tlv(payload)
    try:
        found = json.loads(payload.rstrip(b"\0"))
    except (ValueError, RecursionError):
        return [], "bad_json"
    records = found if isinstance(found, list) else [found]
    whole = [record for record in records if isinstance(record, dict)]
    return whole, "" if len(whole) == len(records) else "bad_json"


def write_header(
    size: Literal[24, 28, 36],
    source_id: int,
    message_id: int,
    payload: bytes,
    *,
    is_tlv: bool,
    is_zlib: bool,
    unpacked_bytes: int,
) -> bytes:
    """The header of a message of flows; `unpacked_bytes` of the payload before compression."""
    version = _TLV_VERSION if is_tlv else _JSON_VERSION
    message, length = _swapped(message_id), min(len(payload), 0xFFFF)
    if size == _V1.size:
        return _V1.pack(b"flow", version, source_id, length, message)
    if size == _V2.size:
        return _V2.pack(b"flow", version, length, message, _swapped(source_id))
    flags = _TLV_FLAG * is_tlv | _ZLIB_FLAG * is_zlib
    return _V4.pack(b"flow", _FLAGS_VERSION, flags, unpacked_bytes, len(payload), message, _swapped(source_id))


def _swapped(number: int) -> int:
    """Between big-endian, which ids have, and the little-endian of all else."""
    return int.from_bytes(number.to_bytes(4, "little"), "big")


def _topic(octets: bytes) -> str:
    return octets.partition(b"\0")[0].decode("latin-1")
