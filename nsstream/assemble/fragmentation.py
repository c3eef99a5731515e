"""Fragmentation: datagrams beyond the MTU that are not TCP's, as the IP fragments that would have gone over the wire.

Promises: a UDP datagram, or an ICMP echo, keeps its octets: it becomes a first fragment as long as the MTU allows in
whole units of 8 octets (RFC 791 3.2, RFC 8200 4.5), and a conversation of later fragments between the same hosts, 1 ns
apart, which `fragments` joins to it. Others stay as they are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.trace import ConversationTable
from nsstream.trace.conversations import CONVERSATION_FIELDS
from nsstream.trace.fields import ICMP, ICMPV6, UDP

_FRAGMENT_HEADER_BYTES: Final = 8  # of IPv6
_ECHOES: Final = {ICMP: (0, 8), ICMPV6: (128, 129)}


def fragment_table(table: ConversationTable, mtu: int) -> tuple[ConversationTable, int]:
    """The table with fragments of at most `mtu` octets, and how many datagrams were cut into several."""
    of = np.repeat(np.arange(len(table)), table.packet_count)
    is_six = (table.ip_version == 6)[of]
    header = table.ip_header_length.astype(np.int64)
    body = table.ip_total_length.astype(np.int64) - header
    header = header + np.where(is_six, _FRAGMENT_HEADER_BYTES, 0)
    room = mtu - header & ~7
    is_long = _may_be_cut(table, of) & (body + table.ip_header_length > mtu) & (room > 0)
    cut = np.flatnonzero(is_long)
    if not len(cut):
        return table, 0
    first_header, first_length = table.ip_header_length.copy(), table.ip_total_length.copy()
    first_header[cut] = header[cut]
    first_length[cut] = (header + room)[cut]
    shortened = replace(table, ip_header_length=first_header, ip_total_length=first_length)
    return ConversationTable.concatenate([shortened, _later(table, cut, of[cut], (body - room)[cut], mtu)]), len(cut)


def _may_be_cut(table: ConversationTable, of: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which packets (m,) are of kinds that receivers reassemble."""
    protocol = table.protocol_identifier[of]
    may: NDArray[np.bool_] = protocol == UDP
    for of_version, types in _ECHOES.items():
        may |= (protocol == of_version) & np.isin(table.control >> 8, types)
    may &= table.is_fragment[of] == 0
    return may


def _later(
    table: ConversationTable, cut: NDArray[np.int64], of: NDArray[np.int64], left: NDArray[np.int64], mtu: int
) -> ConversationTable:
    """A conversation of later fragments for each that has datagrams to be cut.

    Args:
        cut: (k,) packets, rising.
        of: (k,) the conversation of each.
        left: (k,) octets of each that its first fragment does not hold.
        table: what they are of.
        mtu: octets of the longest fragment.
    """
    conversations, counts = np.unique(of, return_counts=True)
    header = np.where(table.ip_version[of] == 6, 40 + _FRAGMENT_HEADER_BYTES, 20)
    room = mtu - header & ~7
    pieces = -(-left // room)
    ends = np.cumsum(pieces)
    nth = np.arange(ends[-1]) - np.repeat(ends - pieces, pieces)
    octets = np.minimum(np.repeat(left, pieces) - nth * np.repeat(room, pieces), np.repeat(room, pieces))
    kept = {name: getattr(table, name)[conversations] for name in CONVERSATION_FIELDS}
    kept["is_fragment"] = np.ones(len(conversations), np.uint8)
    none = np.zeros(len(octets), np.uint8)
    return ConversationTable(
        **kept,
        packet_offset=np.concatenate([np.zeros(1, np.int64), ends[np.cumsum(counts) - 1]]),
        observation_time_ns=np.repeat(table.observation_time_ns[cut], pieces) + 1 + nth,
        direction=np.repeat(table.direction[cut], pieces),
        ip_total_length=(octets + np.repeat(header, pieces)).astype(np.uint32),
        ip_header_length=np.repeat(header, pieces).astype(np.uint16),
        control=none.astype(np.uint16),
        tcp_header_length=none,
        tcp_event=none,
    )
