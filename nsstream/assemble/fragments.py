"""Fragments: which datagram each later fragment belongs to, so that both reassemble (RFC 791 3.2, RFC 8200 4.5).

A fragment belongs to the last long UDP, ICMP or ICMPv6 datagram before it between the same hosts that could be a first
fragment: one whose body is a multiple of 8 octets and, over IPv6, whose headers have room for a fragment header. That
gets the flag "more fragments", lengths and a checksum over the whole, of which the later part is zeros; the fragments
get its identification and the offsets that follow. A fragment without such a datagram stays alone, and is counted:
receivers never complete it.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.assemble.icmp import is_error
from nsstream.assemble.octets import signed
from nsstream.assemble.quotes import number_keys, pair_keys
from nsstream.assemble.records import Repair
from nsstream.trace.fields import ICMP, ICMPV6, UDP

FRAGMENT_HEADER_BYTES: Final = 8  # of IPv6
_ECHO_REQUEST_6: Final = 128
_ECHO_REPLY_6: Final = 129
_MORE: Final = 0x2000  # "more fragments" in the field `fragment`, which is as it stands in the header
_LEAST_FIRST: Final = 576  # octets: no link fragments shorter datagrams
_MOST_OCTETS: Final = 65_515
_PATIENCE_NS: Final = 30_000_000_000  # RFC 1122 3.3.2 has receivers wait for 60 to 120 s


def join_fragments(
    packets: NDArray[np.void], conversations: NDArray[np.void], rows: NDArray[np.int64], counts: NDArray[np.int64]
) -> None:
    """Set `fragment`, `tail` and `ip_id` of the packets ``packets[rows]``, in time order."""
    is_later = conversations["is_fragment"] != 0
    if not is_later.any():
        return
    keys = pair_keys(conversations) ^ (conversations["protocol"].astype(np.uint64)[:, None] << np.uint64(56))
    key_count, of_key = number_keys(keys, is_later)
    last = np.full(key_count, -1, np.int64)
    _join(packets, conversations, rows, of_key, last, last.copy(), counts)


@njit(cache=True, nogil=True)
def _join(
    packets: Any,
    conversations: Any,
    rows: NDArray[np.int64],
    of_key: NDArray[np.int64],
    head_of_key: NDArray[np.int64],
    last_of_key: NDArray[np.int64],
    tally: NDArray[np.int64],
) -> None:
    for row in rows:
        packet = packets[row]
        conversation = conversations[packet.conversation]
        key = of_key[packet.conversation, signed(packet.direction)]
        if key < 0:
            continue
        size = signed(packet.total_length) - packet.ip_header
        if not conversation.is_fragment:
            if _may_be_first(packet, conversation):
                head_of_key[key] = last_of_key[key] = row
            continue
        head, last = head_of_key[key], last_of_key[key]
        if head < 0 or packet.time_ns - packets[head].time_ns > _PATIENCE_NS:
            tally[Repair.FRAGMENT_ALONE] += 1
            continue
        before = packets[last]
        octets = signed(before.total_length) - before.ip_header
        offset = (signed(before.fragment) & 0x1FFF) + (octets >> 3)
        if octets & 7 or 8 * offset + size > _MOST_OCTETS:
            tally[Repair.FRAGMENT_ALONE] += 1
            continue
        before.fragment |= _MORE
        packet.fragment = offset
        if packets[head].ip_id == 0:  # over IPv6 only fragments have one
            packets[head].ip_id = packet.ip_id
        packet.ip_id = packets[head].ip_id
        packets[head].tail += size
        last_of_key[key] = row


@njit(cache=True, nogil=True)
def _may_be_first(packet: Any, conversation: Any) -> bool:
    if packet.total_length < _LEAST_FIRST or (packet.total_length - packet.ip_header) & 7:
        return False
    if conversation.version == 6 and packet.ip_header < 40 + FRAGMENT_HEADER_BYTES:
        return False
    if conversation.protocol == ICMP:
        return not is_error(signed(packet.control) >> 8)
    if conversation.protocol == ICMPV6:
        return signed(packet.control) >> 8 in (_ECHO_REQUEST_6, _ECHO_REPLY_6)
    return bool(conversation.protocol == UDP)
