"""The messages of the packet plane: batches of frames as raw columns, and the credit for them. Sans-IO.

What a server sends is several ZeroMQ frames: ``NSS1``, a msgpack map (the header), and for a batch one frame a column,
whose octets are a little-endian array. What a subscriber sends is one msgpack map. `docs/protocol.md` is the
specification.

Promises: `encode_batch` copies the frames, so that nothing of a run is held on to; `decode_part` and `decode_credit`
give a valid message or raise BadMessageError, whatever the octets, and allocate no more than these hold.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgpack  # type: ignore[import-untyped]
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from nsstream.replay.codec import BadMessageError, unpack
from nsstream.replay.faults import first_fault
from nsstream.replay.messages import MAX_STRING_BYTES, PROTOCOL_VERSION, Count, RefusalCode, Sentence, Version

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from nsstream.assemble.frames import Frames

PROLOGUE: Final = b"NSS1"
MAX_BATCH_PACKETS: Final = 16_384
MAX_CREDIT: Final = 1024
MAX_COLUMNS: Final = 16
MAX_CREDIT_BYTES: Final = 1024  # of a subscriber's message
TOKEN_LENGTH: Final = 32

# Every column that a subscriber of this version knows, and whether a batch may lack it.
DTYPES: Final = {"observation_time_ns": "<i8", "offset": "<i8", "octets": "|u1", "side": "|u1"}
OPTIONAL: Final = frozenset({"side"})

Token = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
EndOutcome = Literal["done", "failed", "stopped"]


class Column(BaseModel):
    """One column frame: `dtype` in NumPy's notation."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")
    name: Annotated[str, Field(max_length=100)]
    dtype: Annotated[str, Field(max_length=10)]


class Part(BaseModel):
    """What a server sends, as its header says."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")
    v: Version = PROTOCOL_VERSION


class Packets(Part):
    """A batch follows; its columns are the frames behind the header."""

    type: Literal["packets"] = "packets"
    seq: Count  # rises by one with every batch and end of this server: a subscriber has missed what is between
    packets_before: Count  # in all batches before this one
    run: Count
    chunk: Count
    model_id: Annotated[str, Field(max_length=MAX_STRING_BYTES)]
    packet_count: Annotated[int, Field(ge=1, le=MAX_BATCH_PACKETS)]
    columns: Annotated[list[Column], Field(max_length=MAX_COLUMNS)]
    crc32: Annotated[int, Field(ge=0, le=0xFFFFFFFF)]  # of the columns' octets, one after another (zlib's)


class End(Part):
    """The run has no more batches."""

    type: Literal["end"] = "end"
    seq: Count
    packets_before: Count
    run: Count
    outcome: EndOutcome


class PartRefused(Part):
    """To a message of a subscriber that cannot be taken; `unknown` asks it to subscribe again."""

    type: Literal["refused"] = "refused"
    code: RefusalCode
    sentence: Sentence


class Credit(BaseModel):
    """From a subscriber, every second at least: up to `credit` batches behind `ack` may be on their way."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")
    v: Version = PROTOCOL_VERSION
    type: Literal["credit"] = "credit"
    token: Token
    credit: Annotated[int, Field(ge=0, le=MAX_CREDIT)]
    ack: Annotated[int, Field(ge=-1, le=(1 << 63) - 1)]  # the last that was taken, -1 before the first


class Leave(BaseModel):
    """From a subscriber: it wants nothing more."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")
    v: Version = PROTOCOL_VERSION
    type: Literal["leave"] = "leave"
    token: Token


AnyPart = Packets | End | PartRefused
_PART: Final[TypeAdapter[AnyPart]] = TypeAdapter(Annotated[AnyPart, Field(discriminator="type")])
_CREDIT: Final[TypeAdapter[Credit | Leave]] = TypeAdapter(Annotated[Credit | Leave, Field(discriminator="type")])
_FIELDS: Final = frozenset(
    name for model in (Packets, End, PartRefused, Credit, Leave, Column) for name in model.model_fields
)


@dataclass(frozen=True, slots=True)
class PacketBatch:
    """Frames that a subscriber got, as read-only arrays over the received octets.

    Frame i is ``octets[offset[i]:offset[i + 1]]`` and is to be seen at ``observation_time_ns[i]`` of the twin; `side`
    is 0 for frames of the client, 1 for those of the server, or None where the server does not say.
    """

    seq: int
    packets_before: int
    run: int
    chunk: int
    model_id: str
    observation_time_ns: NDArray[np.int64]  # (m,)
    offset: NDArray[np.int64]  # (m + 1,)
    octets: NDArray[np.uint8]
    side: NDArray[np.uint8] | None = None  # (m,)

    def __len__(self) -> int:
        return len(self.observation_time_ns)

    def frame(self, i: int) -> bytes:
        """The octets of frame i."""
        return self.octets[self.offset[i] : self.offset[i + 1]].tobytes()


def encode_batch(frames: Frames, seq: int, packets_before: int, run: int, chunk: int, model_id: str) -> list[bytes]:
    """The ZeroMQ frames of a batch of 1 to MAX_BATCH_PACKETS frames."""
    names = [field.name for field in fields(frames) if field.name in DTYPES]
    octets = [getattr(frames, name).astype(DTYPES[name], copy=False).tobytes() for name in names]
    crc = 0
    for column in octets:
        crc = zlib.crc32(column, crc)
    header = Packets(
        seq=seq,
        packets_before=packets_before,
        run=run,
        chunk=chunk,
        model_id=model_id[: MAX_STRING_BYTES // 4],
        packet_count=len(frames),
        columns=[Column(name=name, dtype=DTYPES[name]) for name in names],
        crc32=crc,
    )
    return [*encode_part(header), *octets]


def encode_part(part: AnyPart) -> list[bytes]:
    """The ZeroMQ frames of a part without columns."""
    return [PROLOGUE, msgpack.packb(part.model_dump())]


def decode_part(parts: Sequence[bytes]) -> PacketBatch | End | PartRefused:
    """What a server sent, or BadMessageError. The arrays of a batch are views of the octets given."""
    if len(parts) < 2 or bytes(parts[0]) != PROLOGUE:
        raise BadMessageError("malformed", f"a part begins with the frames {PROLOGUE.decode()} and a header")
    try:
        header = _PART.validate_python(unpack(bytes(parts[1])))
    except ValidationError as err:
        raise BadMessageError("invalid", first_fault(err, _FIELDS, "header")) from err
    return _take_columns(header, parts[2:]) if isinstance(header, Packets) else header


def decode_credit(octets: bytes) -> Credit | Leave:
    """What a subscriber sent, or BadMessageError."""
    if len(octets) > MAX_CREDIT_BYTES:
        raise BadMessageError("malformed", f"a subscriber's message has at most {MAX_CREDIT_BYTES} octets")
    fields_ = unpack(octets)
    version = fields_.get("v")
    if type(version) is int and version != PROTOCOL_VERSION:
        raise BadMessageError("version", f"this server speaks protocol version {PROTOCOL_VERSION}, not {version}")
    try:
        return _CREDIT.validate_python(fields_)
    except ValidationError as err:
        raise BadMessageError("invalid", first_fault(err, _FIELDS, "message")) from err


def _take_columns(header: Packets, octets: Sequence[bytes]) -> PacketBatch:
    import numpy as np

    if len(octets) != len(header.columns):
        raise BadMessageError("invalid", f"columns: the header names {len(header.columns)}, {len(octets)} came")
    crc = 0
    for column in octets:
        crc = zlib.crc32(column, crc)
    if crc != header.crc32:
        raise BadMessageError("malformed", f"crc32: the columns have {crc:#010x}, the header says {header.crc32:#010x}")
    m = header.packet_count
    lengths = {"observation_time_ns": m, "offset": m + 1, "side": m}
    arrays: dict[str, Any] = {}
    for told, values in zip(header.columns, octets, strict=True):
        dtype = DTYPES.get(told.name)
        if dtype is None:
            continue  # of a later server
        if told.dtype != dtype or told.name in arrays or len(values) % np.dtype(dtype).itemsize:
            raise BadMessageError("invalid", f"columns: {told.name} is there once, as {dtype}, not {told.dtype}")
        array = np.frombuffer(values, dtype)
        if sys.byteorder == "big":
            array = array.astype(array.dtype.newbyteorder("="))
        if len(array) != lengths.get(told.name, len(array)):
            raise BadMessageError("invalid", f"columns: {told.name} has {len(array)} values for {m} packets")
        array.flags.writeable = False
        arrays[told.name] = array
    missing = DTYPES.keys() - OPTIONAL - arrays.keys()
    if missing:
        raise BadMessageError("invalid", f"columns: {', '.join(sorted(missing))} must be there")
    offset = arrays["offset"]
    if offset[0] != 0 or offset[-1] != len(arrays["octets"]) or (np.diff(offset) < 0).any():
        raise BadMessageError("invalid", f"columns: offset must rise from 0 to {len(arrays['octets'])}")
    return PacketBatch(header.seq, header.packets_before, header.run, header.chunk, header.model_id, **arrays)
