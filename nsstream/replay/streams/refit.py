"""Refit: captured frames as frames that can be sent: whole, on Ethernet, of the flows of their pass."""

from __future__ import annotations

from collections import Counter
from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.assemble.chance import mix
from nsstream.assemble.link import link_addresses
from nsstream.replay.streams.captured import OTHER, WHOLE, Survey
from nsstream.replay.streams.flow_memory import FlowMemory
from nsstream.replay.streams.renewal import renew
from nsstream.trace.fields import ICMP, ICMPV6, TCP, UDP
from nsstream.wire.checksum import internet_checksum
from nsstream.wire.link import ETHERNET
from nsstream.wire.octets import u16

ETHERNET_BYTES: Final = 14
MOST_LINK_BYTES: Final = 64  # of headers and trailers around a datagram


def keep_mask(
    found: Survey,
    offset: NDArray[np.int64],
    original_length: NDArray[np.int64],
    link_type: NDArray[np.int64],
    mtu: int,
    tally: Counter[str],
) -> NDArray[np.bool_]:
    """Which frames (m,) can be sent; the others are counted by reason, each once."""
    captured = np.diff(offset)
    is_other = found.kind == OTHER
    is_cut = captured < original_length
    kept = np.ones(len(captured), bool)
    datagram = np.where(is_other, captured - ETHERNET_BYTES, found.end - found.network)
    longest = np.where(is_cut & ~is_other, original_length, captured)
    for reason, is_out in (
        ("recorded_no_ethernet", is_other & (link_type != ETHERNET)),
        ("recorded_short", captured < ETHERNET_BYTES),
        ("recorded_cut", is_other & is_cut),
        ("recorded_above_mtu", (datagram > mtu) | (longest > mtu + MOST_LINK_BYTES)),
    ):
        tally[reason] += int(np.count_nonzero(kept & is_out))
        kept &= ~is_out
    return kept


def thinned(found: Survey, share: float, key: np.uint64, turn: int) -> NDArray[np.bool_]:
    """Frames of flows that are left out so that `share` of all flows stay; anew for each pass."""
    salt = np.uint64(mix(key ^ np.uint64(turn << 1 | 1)))
    limit = np.uint64(min(int(share * 2**64), 2**64 - 1))
    hashes = _flow_hashes(
        found.source, found.destination, found.source_port, found.destination_port, found.protocol, salt
    )
    return hashes > limit


def refit(
    octets: NDArray[np.uint8],
    offset: NDArray[np.int64],
    original_length: NDArray[np.int64],
    link_type: NDArray[np.int64],
    found: Survey,
    rows: NDArray[np.int64],
    key: np.uint64,
    turn: int,
    memory: FlowMemory,
    tally: Counter[str],
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Offset and octets of the frames at `rows`, in this order, as of pass `turn` (0: as they were captured)."""
    captured = np.diff(offset)[rows]
    skipped = np.where(link_type[rows] == ETHERNET, 0, found.network[rows] - offset[:-1][rows] - ETHERNET_BYTES)
    is_padded = captured < original_length[rows]
    lengths = np.maximum(captured, original_length[rows]) - skipped
    new_offset = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    out = np.zeros(int(new_offset[-1]), np.uint8)
    headers = _link_headers(found, rows, link_type)
    unrenewed = _refit(
        octets, offset, captured, skipped, is_padded, headers, rows, found.kind, found.network, found.transport,
        found.end, found.version, found.protocol, found.has_more, key, turn, memory, new_offset, out,
    )  # fmt: skip
    tally["recorded_padded"] += int(np.count_nonzero(is_padded))
    tally["recorded_link_layers_made"] += int(np.count_nonzero(link_type[rows] != ETHERNET))
    tally["packets_unrenewed"] += unrenewed
    return new_offset, out


def _link_headers(found: Survey, rows: NDArray[np.int64], link_type: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Ethernet headers (len(rows), 14) for frames that have none; zeros for the others."""
    headers = np.zeros((len(rows), ETHERNET_BYTES), np.uint8)
    foreign = np.flatnonzero(link_type[rows] != ETHERNET)
    if len(foreign):
        at = rows[foreign]
        mac = link_addresses(np.stack([found.source[at], found.destination[at]], axis=1), found.version[at])
        headers[foreign, 0:6], headers[foreign, 6:12] = mac[:, 1], mac[:, 0]
        is_4 = (found.version[at] == 4)[:, None]
        headers[foreign, 12:14] = np.where(is_4, np.array([0x08, 0x00]), np.array([0x86, 0xDD]))
    return headers


@njit(cache=True, nogil=True)
def _refit(
    octets: NDArray[np.uint8],
    offset: NDArray[np.int64],
    captured: NDArray[np.int64],
    skipped: NDArray[np.int64],
    is_padded: NDArray[np.bool_],
    headers: NDArray[np.uint8],
    rows: NDArray[np.int64],
    kind: NDArray[np.uint8],
    network: NDArray[np.int64],
    transport: NDArray[np.int64],
    datagram_end: NDArray[np.int64],
    version: NDArray[np.uint8],
    protocol: NDArray[np.uint8],
    has_more: NDArray[np.bool_],
    key: np.uint64,
    turn: int,
    memory: FlowMemory,
    new_offset: NDArray[np.int64],
    out: NDArray[np.uint8],
) -> int:
    """Write the frames; how many IP datagrams of a later pass there was nothing to renew in."""
    unrenewed = 0
    for k in range(len(rows)):
        i = rows[k]
        begin, size = offset[i] + skipped[k], captured[k] - skipped[k]
        at = new_offset[k]
        for j in range(size):
            if begin + j >= offset[i]:
                out[at + j] = octets[begin + j]
        if headers[k, 12]:
            for j in range(14):
                out[at + j] = headers[k, j]
        if kind[i] == OTHER:
            continue
        move = at - begin  # from a place in `octets` to its place in `out`
        if kind[i] != WHOLE:
            continue
        start = transport[i] + move
        addresses = network[i] + move + (12 if version[i] == 4 else 8)
        end = min(datagram_end[i] + move, new_offset[k + 1])
        if not renew(out, start, min(end, at + size), version[i], protocol[i], addresses, key, turn, memory):
            unrenewed += 1
        if is_padded[k] and has_more[i]:
            if protocol[i] == UDP and version[i] == 4:  # of a datagram whose rest is not here: say none (RFC 768)
                out[start + 6] = 0
                out[start + 7] = 0
        elif is_padded[k]:
            _check_anew(out, start, end, version[i], protocol[i], addresses)
    return unrenewed


@njit(cache=True, nogil=True)
def _check_anew(octets: NDArray[np.uint8], start: int, end: int, version: int, protocol: int, addresses: int) -> None:
    """Write the checksum of the message ``octets[start:end]``, part of which is new."""
    field = -1
    if protocol == TCP and end - start >= 20:
        field = start + 16
    elif protocol == UDP and end - start >= 8 and u16(octets, start + 6):  # 0: none was sent
        field = start + 6
    elif ((protocol == ICMP and version == 4) or (protocol == ICMPV6 and version == 6)) and end - start >= 4:
        field = start + 2
    if field < 0:
        return
    pseudo = 0
    if protocol != ICMP:
        pseudo = protocol + end - start
        for at in range(addresses, addresses + (8 if version == 4 else 32), 2):
            pseudo += u16(octets, at)
    octets[field] = 0
    octets[field + 1] = 0
    value = internet_checksum(octets, start, end - start, pseudo)
    if protocol == UDP and value == 0:
        value = 0xFFFF
    octets[field] = value >> 8
    octets[field + 1] = value & 0xFF


@njit(cache=True, nogil=True)
def _flow_hashes(
    source: NDArray[np.uint8],
    destination: NDArray[np.uint8],
    source_port: NDArray[np.uint16],
    destination_port: NDArray[np.uint16],
    protocol: NDArray[np.uint8],
    salt: np.uint64,
) -> NDArray[np.uint64]:
    """A hash of each frame's five-tuple, the same in both directions."""
    out = np.empty(len(protocol), np.uint64)
    for i in range(len(protocol)):
        low = mix(salt ^ np.uint64(source_port[i]))
        high = mix(salt ^ np.uint64(destination_port[i]))
        for j in range(16):
            low = mix(low ^ np.uint64(source[i, j]))
            high = mix(high ^ np.uint64(destination[i, j]))
        out[i] = mix(np.uint64(protocol[i]) ^ (low + high))
    return out
