"""Quotes: which packet of the twin each ICMP and ICMPv6 error is about.

An error goes to the host that sent what it is about: so the last datagram before it that its receiver sent, to its
sender if there is one, else to anybody (a router's error); RFC 792, RFC 1122 3.2.2, RFC 4443 2.4. Nothing is quoted
that went to a group, or that is an error or a later fragment itself, and no tunnel. Of TCP and SCTP the whole datagram
is quoted, or the least that RFC 792 asks for: tshark holds the checksum of a longer piece against the piece.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.assemble.chance import mix_all
from nsstream.assemble.icmp import is_error
from nsstream.assemble.icmpv6 import is_error_6
from nsstream.assemble.octets import signed
from nsstream.assemble.records import Repair
from nsstream.trace.fields import ICMP, ICMPV6, SCTP, TCP, UDP

_QUOTED: Final = (TCP, UDP, ICMP, ICMPV6, SCTP)  # of a tunnel the inner datagram would be cut
_HEAD: Final = 8  # octets of an error before what it quotes
_LEAST_QUOTED: Final = 8  # octets behind the IP header: RFC 792


def quote(
    packets: NDArray[np.void], conversations: NDArray[np.void], rows: NDArray[np.int64], counts: NDArray[np.int64]
) -> None:
    """Set `source_row` of the errors among ``packets[rows]``, in time order, and cut them to what they quote."""
    protocol, version = conversations["protocol"], conversations["version"]
    is_icmp = ((protocol == ICMP) & (version == 4)) | ((protocol == ICMPV6) & (version == 6))
    is_icmp &= conversations["is_fragment"] == 0
    if not is_icmp.any():
        return
    wanted_hosts, of_host = number_keys(_host_keys(conversations), is_icmp)
    wanted_pairs, of_pair = number_keys(pair_keys(conversations), is_icmp)
    last_of_host, last_of_pair = np.full(wanted_hosts, -1, np.int64), np.full(wanted_pairs, -1, np.int64)
    _quote(packets, conversations, rows, is_icmp, of_host, of_pair, last_of_host, last_of_pair, counts)


def _host_keys(conversations: NDArray[np.void]) -> NDArray[np.uint64]:
    """A key for the source of each direction: (n, 2)."""
    words = conversations["word"].astype(np.uint64)  # (n, 2, 2)
    keys: NDArray[np.uint64] = mix_all(mix_all(words[..., 0].ravel()) ^ words[..., 1].ravel()).reshape(-1, 2)
    return keys


def pair_keys(conversations: NDArray[np.void]) -> NDArray[np.uint64]:
    """A key for source and destination of each direction: (n, 2)."""
    hosts = _host_keys(conversations)
    keys: NDArray[np.uint64] = hosts * np.uint64(3) + hosts[:, ::-1]
    return keys


def number_keys(keys: NDArray[np.uint64], chosen: NDArray[np.bool_]) -> tuple[int, NDArray[np.int64]]:
    """How many keys the chosen rows have, and the number of each key among them, -1 of others: (n, 2)."""
    known = np.unique(keys[chosen])
    number = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return len(known), np.where(known[number] == keys, number, -1)


@njit(cache=True, nogil=True)
def _quote(
    packets: Any,
    conversations: Any,
    rows: NDArray[np.int64],
    is_icmp: NDArray[np.bool_],
    of_host: NDArray[np.int64],
    of_pair: NDArray[np.int64],
    last_of_host: NDArray[np.int64],
    last_of_pair: NDArray[np.int64],
    tally: NDArray[np.int64],
) -> None:
    for row in rows:
        packet = packets[row]
        n = packet.conversation
        conversation = conversations[n]
        direction = signed(packet.direction)
        kind = signed(packet.control) >> 8
        if is_icmp[n] and (is_error(kind) if conversation.version == 4 else is_error_6(kind)):
            quoted = last_of_pair[of_pair[n, 1 - direction]]
            if quoted < 0:
                quoted = last_of_host[of_host[n, 1 - direction]]
            if quoted < 0:
                tally[Repair.QUOTE_INVENTED] += 1
                continue
            packet.source_row = quoted
            room = signed(packets[quoted].total_length)
            protocol = conversations[packets[quoted].conversation].protocol
            if packet.payload - _HEAD < room and protocol in (TCP, SCTP):
                room = signed(packets[quoted].ip_header) + _LEAST_QUOTED
            if packet.payload - _HEAD > room:
                packet.total_length -= packet.payload - _HEAD - room
                packet.payload = _HEAD + room
                tally[Repair.BODY_RESIZED] += 1
        elif conversation.protocol in _QUOTED and not conversation.is_fragment and not conversation.is_group:
            if of_host[n, direction] >= 0:
                last_of_host[of_host[n, direction]] = row
            if of_pair[n, direction] >= 0:
                last_of_pair[of_pair[n, direction]] = row
