"""Octets to messages and back: one msgpack map a message. Sans-IO; one of the two doors that read untrusted octets.

Promises: `decode_command` and `decode_reply` turn any octets into a valid message or raise `BadMessageError`, whose
code and sentence are ready for a `Refusal`; nothing else is raised, and no more memory is used than the size of the
octets asks for. ``decode(encode(m)) == m`` for every message.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgpack  # type: ignore[import-untyped]
from pydantic import Field, TypeAdapter, ValidationError

from nsstream.errors import ReplayError
from nsstream.replay.faults import field_names, first_fault, show
from nsstream.replay.messages import (
    COMMANDS,
    MAX_ARRAY_LENGTH,
    MAX_ID,
    MAX_MAP_LENGTH,
    MAX_MESSAGE_BYTES,
    MAX_NESTING,
    MAX_STRING_BYTES,
    MIN_PROTOCOL_VERSION,
    PROTOCOL_VERSION,
    REPLIES,
    AnyCommand,
    AnyReply,
    Command,
    RefusalCode,
    Reply,
)

_COMMAND: Final[TypeAdapter[AnyCommand]] = TypeAdapter(Annotated[AnyCommand, Field(discriminator="type")])
_REPLY: Final[TypeAdapter[AnyReply]] = TypeAdapter(Annotated[AnyReply, Field(discriminator="type")])
_FIELDS: Final = frozenset(name for model in (*COMMANDS, *REPLIES) for name in field_names(model))
_COMMAND_TYPES: Final = frozenset(c.model_fields["type"].default for c in COMMANDS)


class BadMessageError(ReplayError):
    """Octets that are no message of this protocol; carries what a refusal needs.

    Attributes: code; request_id, None where it could not be read.
    """

    def __init__(self, code: RefusalCode, sentence: str, request_id: int | None = None) -> None:
        super().__init__(sentence)
        self.code: RefusalCode = code
        self.request_id = request_id


def encode(message: Command | Reply) -> bytes:
    """The octets of a message; ReplayError if they would be more than MAX_MESSAGE_BYTES."""
    octets: bytes = msgpack.packb(message.model_dump())
    if len(octets) > MAX_MESSAGE_BYTES:
        raise ReplayError(f"a message has at most {MAX_MESSAGE_BYTES} octets, not {len(octets)}")
    return octets


def decode_command(octets: bytes) -> AnyCommand:
    """The command in these octets, or BadMessageError."""
    fields = unpack(octets)
    request_id = _request_id(fields)
    version = fields.get("v")
    if type(version) is not int:
        raise BadMessageError("malformed", "v: the protocol version must be there, as an integer", request_id)
    if not MIN_PROTOCOL_VERSION <= version <= PROTOCOL_VERSION:
        known = f"{MIN_PROTOCOL_VERSION} to {PROTOCOL_VERSION}"
        raise BadMessageError("version", f"this server speaks protocol versions {known}, not {version}", request_id)
    kind = fields.get("type")
    if not isinstance(kind, str) or kind not in _COMMAND_TYPES:
        known = ", ".join(sorted(_COMMAND_TYPES))
        raise BadMessageError("unknown-command", f"type: expected one of {known}, got {show(kind)}", request_id)
    return make_command(fields)


def make_command(fields: Mapping[str, object]) -> AnyCommand:
    """The command of these fields, `type` among them, or BadMessageError."""
    try:
        return _COMMAND.validate_python(fields)
    except ValidationError as err:
        raise BadMessageError("invalid", first_fault(err, _FIELDS, "message"), _request_id(fields)) from err


def decode_reply(octets: bytes) -> AnyReply:
    """The reply in these octets, or BadMessageError."""
    fields = unpack(octets)
    try:
        return _REPLY.validate_python(fields)
    except ValidationError as err:
        raise BadMessageError("invalid", first_fault(err, _FIELDS, "message"), _request_id(fields)) from err


def unpack(octets: bytes) -> dict[str, Any]:
    """The map in these octets within the protocol's limits, or BadMessageError; for the packet plane as well."""
    if len(octets) > MAX_MESSAGE_BYTES:
        raise BadMessageError("malformed", f"a message has at most {MAX_MESSAGE_BYTES} octets, not {len(octets)}")
    try:
        value = msgpack.unpackb(
            octets,
            raw=False,
            strict_map_key=True,
            ext_hook=_refuse_ext,
            max_str_len=MAX_STRING_BYTES,
            max_bin_len=0,
            max_array_len=MAX_ARRAY_LENGTH,
            max_map_len=MAX_MAP_LENGTH,
            max_ext_len=0,
        )
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException, msgpack.StackError) as err:
        reason = str(err) or type(err).__name__  # ValueError includes UnicodeDecodeError, ExtraData, FormatError
        raise BadMessageError("malformed", f"not a msgpack map within the limits: {reason!r:.200}") from err
    if not isinstance(value, dict):
        raise BadMessageError("malformed", f"a message is a msgpack map, not {type(value).__name__}")
    _refuse_bytes_and_depth(value)
    return value


def _refuse_ext(code: int, data: bytes) -> object:
    raise ValueError(f"extension type {code} is not part of the protocol")


def _refuse_bytes_and_depth(value: dict[Any, Any]) -> None:
    """Refuse what msgpack lets pass: keys of octets, and maps or arrays nested more than MAX_NESTING deep."""
    level: list[object] = [value]
    for _ in range(MAX_NESTING):
        below: list[object] = []
        for node in level:
            if isinstance(node, dict):
                if not all(isinstance(key, str) for key in node):
                    raise BadMessageError("malformed", "the keys of a map are strings")
                below.extend(node.values())
            elif isinstance(node, list):
                below.extend(node)
        level = [node for node in below if isinstance(node, dict | list)]
        if not level:
            return
    raise BadMessageError("malformed", f"maps and arrays are nested at most {MAX_NESTING} deep")


def _request_id(fields: Mapping[str, object]) -> int | None:
    value = fields.get("id")
    return value if type(value) is int and 0 <= value <= MAX_ID else None
