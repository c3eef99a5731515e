"""Handover: what one decoder knows of its exporters, as plain values for the decoder that comes after it.

Templates and options over UDP come minutes apart; a decoder that begins without them reads nothing meanwhile. What is
handed over is read as if a stranger had written it: `read` gives it whole and valid, or raises WireError. Templates go
as the octets of their records, so that the reader of templates judges them again.

Format, JSON: ``format``, ``version``; ``sessions``, silent longest first; ``templates`` and ``parked``, each with the
index of its session, oldest first. What TCP connections told is not in it: it ends with them. What does not fit into
`ROOM_BYTES` is left out, the oldest first.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Any, Final

import numpy as np

from nsstream.errors import WireError
from nsstream.wire.netflow import messages, state
from nsstream.wire.netflow.parking import ParkedSet
from nsstream.wire.netflow.sampling import MAX_SAMPLERS, Context
from nsstream.wire.netflow.sessions import KEY_BYTES, Session, Template
from nsstream.wire.netflow.template import (
    FIRST_DATA_SET,
    IPFIX_OPTIONS_TEMPLATES,
    IPFIX_TEMPLATES,
    V9_OPTIONS_TEMPLATES,
    V9_TEMPLATES,
)

FORMAT: Final = "nsstream-exporters"
FORMAT_VERSION: Final = 1
ROOM_BYTES: Final = 8 << 20  # of JSON, about

_ENTRY_BYTES: Final = 256  # what an entry costs beside octets and samplers
_SAMPLER_BYTES: Final = 34
_VERSIONS: Final = (5, 9, 10)
_TEMPLATE_SETS: Final = {
    V9_TEMPLATES: 9,
    V9_OPTIONS_TEMPLATES: 9,
    IPFIX_TEMPLATES: 10,
    IPFIX_OPTIONS_TEMPLATES: 10,
}
_U32: Final = (1 << 32) - 1
_LATEST_NS: Final = 1 << 62
_LATEST_MS: Final = _LATEST_NS // 1_000_000
_OF_MESSAGE: Final = {  # column -> least, largest
    messages.VERSION: (9, 10),
    messages.UPTIME_MS: (messages.NO_UPTIME, _U32),
    messages.EXPORT_NS: (0, _LATEST_NS),
    messages.SEQUENCE: (0, _U32),
    messages.DOMAIN: (0, _U32),
    messages.SAMPLING: (0, _U32),
    messages.UNITS: (0, _U32),
    messages.RECEIVE_NS: (0, _LATEST_NS),
}


@dataclass(frozen=True, slots=True)
class KnownSession:
    """What is known of an exporter and domain."""

    key: bytes
    context: Context
    started_ms: int  # or `state.UNKNOWN`, as the two below
    expected: int
    uptime_ms: int


@dataclass(frozen=True, slots=True)
class KnownTemplate:
    """A template; its record is still to be read."""

    session: int  # index
    set_id: int
    octets: bytes
    announced_ns: int


@dataclass(frozen=True, slots=True)
class Knowledge:
    """All that is handed over."""

    sessions: list[KnownSession]
    templates: list[KnownTemplate]
    parked: list[ParkedSet]  # `session_number` is the index of the session


def write(
    sessions: Iterable[Session],
    facts: Any,
    templates: Iterable[tuple[Session, Template]],
    parked: Iterable[ParkedSet],
    *,
    is_final: bool,
) -> dict[str, Any]:
    """What a decoder knows, as plain values.

    Args:
        sessions: silent longest first.
        facts: the table of state.
        templates: announced longest ago first.
        parked: the oldest first.
        is_final: nothing comes after it: then sequence numbers go on, and what is parked goes along. Before the end
            either would be wrong soon.
    """
    room = ROOM_BYTES
    chosen: list[Session] = []
    for session in reversed([session for session in sessions if not session.is_tcp]):
        room -= _ENTRY_BYTES + _SAMPLER_BYTES * len(session.context.intervals)
        if room < 0:
            break
        chosen.append(session)
    chosen.reverse()
    index_of = {session.number: i for i, session in enumerate(chosen)}
    known: list[dict[str, Any]] = []
    for session, template in reversed(list(templates)):
        room -= _ENTRY_BYTES + 2 * len(template.octets)
        if session.number in index_of and room >= 0:
            known.append(
                {
                    "session": index_of[session.number],
                    "set_id": template.set_id,
                    "announced_ns": template.announced_ns,
                    "octets": b64encode(template.octets).decode(),
                }
            )
    waiting: list[dict[str, Any]] = []
    for one in reversed(list(parked) if is_final else []):
        room -= _ENTRY_BYTES + 2 * len(one.body)
        if one.session_number in index_of and room >= 0:
            waiting.append(
                {
                    "session": index_of[one.session_number],
                    "template_id": one.template_id,
                    "message": one.message.tolist(),
                    "since_ns": one.since_ns,
                    "octets": b64encode(one.body).decode(),
                }
            )
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "sessions": [_as_entry(session, facts[session.slot], is_final=is_final) for session in chosen],
        "templates": known[::-1],
        "parked": waiting[::-1],
    }


def read(value: object) -> Knowledge:
    """What `write` gave, by way of JSON; raises WireError where it is anything else."""
    whole = _mapping(value, "the exporters' state")
    if (whole.get("format"), whole.get("version")) != (FORMAT, FORMAT_VERSION):
        raise WireError(f"the exporters' state is {_told(whole.get('format'))} version {_told(whole.get('version'))}")
    sessions = [_read_session(entry, f"session {i}") for i, entry in enumerate(_list(whole, "sessions"))]
    if len({session.key for session in sessions}) < len(sessions):
        raise WireError("the exporters' state has a session twice")
    return Knowledge(
        sessions,
        [_read_template(entry, sessions, f"template {i}") for i, entry in enumerate(_list(whole, "templates"))],
        [_read_parked(entry, sessions, f"parked set {i}") for i, entry in enumerate(_list(whole, "parked"))],
    )


def _as_entry(session: Session, facts: Any, *, is_final: bool) -> dict[str, Any]:
    key, context = session.key, session.context

    def known(column: int) -> int | None:
        return None if facts[column] == state.UNKNOWN else int(facts[column])

    return {
        "exporter": str(IPv6Address(key[:16])),
        "version": key[19],
        "domain": int.from_bytes(key[20:], "big"),
        "interval": context.interval,
        "system_init_ms": context.system_init_ms,
        "samplers": [list(sampler) for sampler in context.intervals.items()],
        "started_ms": known(state.STARTED_MS),
        "expected": known(state.EXPECTED) if is_final else None,
        "uptime_ms": known(state.UPTIME_MS) if is_final else None,
    }


def _read_session(value: object, what: str) -> KnownSession:
    entry = _mapping(value, what)
    try:
        exporter = IPv6Address(entry["exporter"] if isinstance(entry.get("exporter"), str) else "").packed
    except ValueError as err:
        raise WireError(f"{what}: {_told(entry.get('exporter'))} is no exporter") from err
    version = _integer(entry, "version", _VERSIONS[0], _VERSIONS[-1], what)
    if version not in _VERSIONS:
        raise WireError(f"{what}: there is no version {version}")
    key = exporter + bytes(3) + bytes([version]) + _integer(entry, "domain", 0, _U32, what).to_bytes(4, "big")
    assert len(key) == KEY_BYTES
    samplers: dict[int, int] = {}
    for pair in _list(entry, "samplers"):
        if not isinstance(pair, list) or len(pair) != 2 or len(samplers) >= MAX_SAMPLERS:
            raise WireError(f"{what}: samplers must be at most {MAX_SAMPLERS} pairs of id and interval")
        numbers = {"id": pair[0], "interval": pair[1]}
        sampler = _integer(numbers, "id", -(1 << 63), (1 << 63) - 1, what)
        samplers[sampler] = _integer(numbers, "interval", 1, _U32, what)
    context = Context(
        _integer(entry, "interval", 0, _U32, what), _integer(entry, "system_init_ms", 0, _LATEST_MS, what), samplers
    )
    return KnownSession(
        key,
        context,
        _known(entry, "started_ms", -_LATEST_MS, _LATEST_MS, what),
        _known(entry, "expected", 0, _U32, what),
        _known(entry, "uptime_ms", messages.NO_UPTIME, _U32, what),
    )


def _read_template(value: object, sessions: list[KnownSession], what: str) -> KnownTemplate:
    entry = _mapping(value, what)
    session = _integer(entry, "session", 0, len(sessions) - 1, what)
    set_id = _integer(entry, "set_id", min(_TEMPLATE_SETS), max(_TEMPLATE_SETS), what)
    if _TEMPLATE_SETS[set_id] != sessions[session].key[19]:
        raise WireError(f"{what}: set {set_id} is not of version {sessions[session].key[19]}")
    announced_ns = _integer(entry, "announced_ns", -_LATEST_NS, _LATEST_NS, what)
    return KnownTemplate(session, set_id, _octets(entry, what), announced_ns)


def _read_parked(value: object, sessions: list[KnownSession], what: str) -> ParkedSet:
    entry = _mapping(value, what)
    session = _integer(entry, "session", 0, len(sessions) - 1, what)
    facts = _list(entry, "message")
    if len(facts) != messages.MESSAGE_FACT_COUNT:
        raise WireError(f"{what}: a message has {messages.MESSAGE_FACT_COUNT} facts, got {len(facts)}")
    by_column = dict(enumerate(facts))
    message = [_integer(by_column, column, *_OF_MESSAGE[column], what) for column in by_column]
    if message[messages.VERSION] != sessions[session].key[19]:
        raise WireError(f"{what}: its version is not its session's")
    return ParkedSet(
        session,
        _integer(entry, "template_id", FIRST_DATA_SET, 0xFFFF, what),
        np.array(message, np.int64),
        sessions[session].key[:16],
        _octets(entry, what),
        _integer(entry, "since_ns", 0, _LATEST_NS, what),
    )


def _mapping(value: object, what: str) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise WireError(f"{what} must be a mapping, got {_told(value)}")
    return value


def _list(entry: dict[Any, Any], name: str) -> list[Any]:
    value = entry.get(name)
    if not isinstance(value, list):
        raise WireError(f"{name} must be a list, got {_told(value)}")
    return value


def _integer(entry: dict[Any, Any], name: object, least: int, largest: int, what: str) -> int:
    value = entry.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= largest:
        raise WireError(f"{what}: {name} must be an integer from {least} to {largest}, got {_told(value)}")
    return value


def _known(entry: dict[Any, Any], name: str, least: int, largest: int, what: str) -> int:
    return state.UNKNOWN if entry.get(name) is None else _integer(entry, name, least, largest, what)


def _octets(entry: dict[Any, Any], what: str) -> bytes:
    text = entry.get("octets")
    try:
        octets = b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError) as err:
        raise WireError(f"{what}: octets must be base64: {err}") from err
    if not 0 < len(octets) <= 0xFFFF:
        raise WireError(f"{what}: 1 to 65535 octets expected, got {len(octets)}")
    return octets


def _told(value: object) -> str:
    return repr(value)[:60]
