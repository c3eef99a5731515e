"""The public corpus of IP2Vec: conversations of a public capture, and the dictionary of families, as sentences.

A conversation says its service, its protocol, its port's range, what the service is for, and how it behaved: packets,
who spoke first, whether it was answered, first sizes either way, pace, and which side sent more. The dictionary says
the same of each service, as its protocol has it (`port_families`). So that the few services of the capture do not
come to lie apart from all others of their families, each speaks of a bounded number of its conversations. Addresses are
no words.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.encode.port_families import FAMILIES, Family
from nsstream.trace.conversations import ConversationTable
from nsstream.trace.fields import TCP, UDP

SYSTEM_PORTS: Final = 1024  # RFC 6335 section 6: system, user and dynamic ports
DYNAMIC_PORTS: Final = 49152
RANGES: Final = ("system", "user", "dynamic")
TRANSPORTS: Final = {TCP: "tcp", UDP: "udp"}
SERVICES: Final = tuple(sorted({service for family in FAMILIES for service in family.services()}))
_REPEATS: Final = 12  # of each sentence of the dictionary
_MOST_OF_ONE: Final = 24  # conversations of a service, or of all others of a range
_SIZES: Final = np.array([0, 100, 500])  # octets of payload: none, small, middle, large
_SIZE_WORDS: Final = ("none", "small", "middle", "large")
_LENGTHS: Final = np.array([1, 2, 7, 31])  # packets
_LENGTH_WORDS: Final = ("1", "2", "few", "some", "many")
_PACES: Final = np.array([0.05, 1.0])  # seconds between packets, in the mean
_PACE_WORDS: Final = ("quick", "steady", "slow")
_MORE: Final = 4  # times as many octets one way are more


def service_word(protocol: int, port: int) -> str:
    """Of a service of the dictionary; port 0 for protocols without."""
    return f"{TRANSPORTS[protocol]}/{port}" if protocol in TRANSPORTS else f"ip/{protocol}"


def range_word(protocol: int, port: int) -> str:
    """Of the range that IANA gives a port of TCP or UDP in."""
    return f"{TRANSPORTS[protocol]}/{RANGES[(port >= SYSTEM_PORTS) + (port >= DYNAMIC_PORTS)]}"


def corpus(table: ConversationTable) -> list[list[str]]:
    """All sentences, those of the capture's conversations first."""
    return [*sentences_of_conversations(table), *sentences_of_families() * _REPEATS]


def sentences_of_families() -> list[list[str]]:
    """A sentence for each service of each family."""
    out = []
    for family in FAMILIES:
        for protocol, port in family.services():
            out.append([*_service_words(protocol, port), _family_word(family), *family.behaves.split()])
    return out


def sentences_of_conversations(table: ConversationTable) -> list[list[str]]:
    """A sentence for each of the first conversations of each service, and of the others of each range.

    Fragments are left out, and protocols that the dictionary does not have.
    """
    said: dict[str, list[int]] = {}
    protocols, ports = table.protocol_identifier.tolist(), table.responder_port.tolist()
    for i in np.flatnonzero(table.is_fragment == 0).tolist():
        if protocols[i] in TRANSPORTS or (protocols[i], 0) in _FAMILIES_OF:
            said.setdefault(_service_words(protocols[i], ports[i])[0], []).append(i)
    rows = np.array(sorted(i for of_one in said.values() for i in of_one[:_MOST_OF_ONE]), np.int64)
    out = []
    for i, behaviour in zip(rows.tolist(), behaviour_of(table.take(rows)), strict=True):
        families = _FAMILIES_OF.get((protocols[i], ports[i] if protocols[i] in TRANSPORTS else 0), [])
        out.append([*_service_words(protocols[i], ports[i]), *families, *behaviour])
    return out


def behaviour_of(table: ConversationTable) -> list[list[str]]:
    """How each conversation behaved, in seven words, and one more where it went to a group."""
    n, begin = len(table), table.packet_offset[:-1]
    owner = np.repeat(np.arange(n), table.packet_count)
    transport = np.where(table.protocol_identifier == TCP, 0, 8)[owner]
    headers = table.ip_header_length.astype(np.int64) + table.tcp_header_length + transport
    payload = np.maximum(table.ip_total_length.astype(np.int64) - headers, 0)
    asks, answers = (_first_payload(payload * (table.direction == side), begin) for side in (0, 1))
    sent, got = (np.add.reduceat(payload * (table.direction == side), begin) for side in (0, 1))
    is_answered = np.maximum.reduceat(table.direction, begin) > 0
    times = table.observation_time_ns
    pace_s = (times[table.packet_offset[1:] - 1] - times[begin]) / 1e9 / np.maximum(table.packet_count - 1, 1)
    first = np.where(asks[1] < answers[1], "initiator", np.where(answers[1] < asks[1], "responder", "nobody"))
    pace_words = np.array([f"pace:{word}" for word in _PACE_WORDS])
    columns = [
        [f"length:{_LENGTH_WORDS[i]}" for i in np.searchsorted(_LENGTHS, table.packet_count)],
        [f"first:{word}" for word in first],
        np.where(is_answered, "answered", "silent").tolist(),
        [f"asks:{_SIZE_WORDS[i]}" for i in np.searchsorted(_SIZES, asks[0])],
        [f"answers:{_SIZE_WORDS[i]}" for i in np.searchsorted(_SIZES, answers[0])],
        np.where(table.packet_count == 1, "pace:alone", pace_words[np.searchsorted(_PACES, pace_s)]).tolist(),
        np.select([sent > _MORE * got, got > _MORE * sent], ["volume:up", "volume:down"], "volume:even").tolist(),
    ]
    groups = _is_group(table).tolist()
    return [[*words, "multicast"] if group else list(words) for *words, group in zip(*columns, groups, strict=True)]


def _service_words(protocol: int, port: int) -> list[str]:
    """Service, range and protocol; a port that is not listed has no word of its own."""
    if protocol not in TRANSPORTS:
        return [service_word(protocol, 0)]
    named = [service_word(protocol, port)] if (protocol, port) in _FAMILIES_OF else []
    return [*named, range_word(protocol, port), TRANSPORTS[protocol]]


def _family_word(family: Family) -> str:
    return f"family:{family.name}"


def _first_payload(payload: NDArray[np.int64], begin: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first payload (n,) that is not empty, 0 where there is none, and which packet (n,) has it, m where none."""
    m = len(payload)
    at = np.minimum.reduceat(np.where(payload > 0, np.arange(m), m), begin)
    return np.where(at < m, payload[np.minimum(at, m - 1)], 0), at


def _is_group(table: ConversationTable) -> NDArray[np.bool_]:
    """Whether the responder is a multicast group or all hosts."""
    octets = table.responder_address
    is_4 = (octets[:, 12] >= 224) & (octets[:, 12] < 240) | (octets[:, 12:] == 255).all(axis=1)
    return np.asarray(np.where(table.ip_version == 4, is_4, octets[:, 0] == 0xFF), np.bool_)


_FAMILIES_OF: Final = {
    service: [_family_word(family) for family in FAMILIES if service in set(family.services())] for service in SERVICES
}
