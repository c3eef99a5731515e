"""One block of a TPACKET_V3 ring: its frames into a `RecordIndex`, made to look as they did on the wire.

Promises: `scan_block` reads and writes no octet outside of the block, whatever the block's headers say; it ends after
`max_frames` steps at the latest; every frame that the block claims is in the index, or counted as broken.

The kernel has taken two things off a frame, and the walk puts them back in front of it, over headers of the ring that
were read before: the outermost VLAN tag (``tp_vlan_tci``, ``tp_vlan_tpid``), and on a cooked socket the link header,
for which a Linux cooked v1 header is made out of the frame's ``sockaddr_ll``. The block must be writable, and ours.

Of frames that the kernel or the device was still to work on when they were seen (``TP_STATUS_CSUMNOTREADY``, and
segments before or after segmentation offload, longer than any MTU) the lengths are the datagram's own; nothing here or
in `dissect` looks at a checksum, so they are rows as any other.

Source: linux/if_packet.h, Documentation/networking/packet_mmap.rst; all in the byte order of the machine.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.wire.link import ETHERNET, LINUX_SLL
from nsstream.wire.octets import u8, u16
from nsstream.wire.records import RecordIndex

BLOCK_STATUS: Final = 8  # offset in a block, 32 bits: to be `STATUS_KERNEL` or `STATUS_USER`
STATUS_KERNEL: Final = 0
STATUS_USER: Final = 1  # a bit among others

# struct tpacket_block_desc, in 32-bit words
_FRAME_COUNT: Final = 3
_FIRST_FRAME: Final = 4
_BLOCK_HEADER_BYTES: Final = 48

# struct tpacket3_hdr, and the struct sockaddr_ll behind it, in 32-bit words
_NEXT: Final = 0
_SECONDS: Final = 1
_NANOSECONDS: Final = 2
_SNAPLEN: Final = 3
_LENGTH: Final = 4
_STATUS: Final = 5
_VLAN_TCI: Final = 8
_FRAME_HEADER_BYTES: Final = 48
_SOCKADDR_BYTES: Final = 20

# in 16-bit words
_MAC: Final = 12
_VLAN_TPID: Final = 18

_STATUS_VLAN_VALID: Final = 1 << 4
_STATUS_VLAN_TPID_VALID: Final = 1 << 6
_IPV4: Final = 0x0800
_IPV6: Final = 0x86DD
_TPID_8021Q: Final = 0x8100
_TPID_8021AD: Final = 0x88A8
_ALIGNMENT: Final = 8
_VLAN_TAG_BYTES: Final = 4
_SLL_BYTES: Final = 16
_MIN_FRAME_BYTES: Final = _FRAME_HEADER_BYTES + _SOCKADDR_BYTES


def max_frames(block_bytes: int) -> int:
    """How many frames a block can hold: the room that an index needs for it."""
    return max(0, block_bytes - _BLOCK_HEADER_BYTES) // _MIN_FRAME_BYTES


def scan_block(
    ring: NDArray[np.uint8], block: int, block_bytes: int, link_type: int, index: RecordIndex, record_count: int
) -> tuple[int, int]:
    """Append the frames of the block ``ring[block : block + block_bytes]`` to the first `record_count` of an index.

    Args:
        ring: uint8, one-dimensional, writable; a whole number of 8-octet words.
        block: index of the block's first octet, a multiple of 8.
        block_bytes: a multiple of 8, within the ring.
        link_type: of the frames; `link.LINUX_SLL` says that the socket is a cooked one.
        index: filled; must have room for `max_frames(block_bytes)` more records.
        record_count: of the index before.

    Returns:
        the number of records that the index holds now, and how many frames the block claims but does not show: those
        whose offsets or lengths leave the block, and all behind a link of their chain that does (a claim beyond
        `max_frames` counts as that).
    """
    if block % 8 or block_bytes % 8 or len(ring) % 8 or not 0 <= block <= len(ring) - block_bytes:
        raise ValueError(f"a block of {block_bytes} octets at {block} does not lie in a ring of {len(ring)} on words")
    if record_count + max_frames(block_bytes) > len(index):
        raise ValueError(f"an index of {len(index)} has no room for a block behind {record_count} records")
    if block_bytes < _BLOCK_HEADER_BYTES:
        raise ValueError(f"a block has at least {_BLOCK_HEADER_BYTES} octets, got {block_bytes}")
    count, broken = _scan_block(
        ring,
        ring.view(np.uint16),
        ring.view(np.uint32),
        block,
        block_bytes,
        link_type,
        max_frames(block_bytes),
        record_count,
        index.time_ns,
        index.start,
        index.captured_length,
        index.original_length,
        index.link_type,
    )
    return count, broken


@njit(cache=True)
def _scan_block(
    octets: NDArray[np.uint8],
    halves: NDArray[np.uint16],
    words: NDArray[np.uint32],
    block: int,
    block_bytes: int,
    link_type_of_block: int,
    most_frames: int,
    count: int,
    time_ns: NDArray[np.int64],
    start: NDArray[np.int64],
    captured_length: NDArray[np.int64],
    original_length: NDArray[np.int64],
    link_type: NDArray[np.int64],
) -> tuple[int, int]:
    end = block + block_bytes
    claimed = min(_native(words, (block >> 2) + _FRAME_COUNT), most_frames)
    at = block + _native(words, (block >> 2) + _FIRST_FRAME)
    is_cooked = link_type_of_block == LINUX_SLL
    broken = 0
    for k in range(claimed):
        if at < block + _BLOCK_HEADER_BYTES or at + _MIN_FRAME_BYTES > end or at % _ALIGNMENT:
            return count, broken + claimed - k
        word = at >> 2
        half = at >> 1
        to_next = _native(words, word + _NEXT)
        seconds = _native(words, word + _SECONDS)
        nanoseconds = _native(words, word + _NANOSECONDS)
        captured = _native(words, word + _SNAPLEN)
        length = _native(words, word + _LENGTH)
        status = _native(words, word + _STATUS)
        frame = at + _native(halves, half + _MAC)

        # What was taken off goes over headers that have been read: at most 20 octets, behind the first 48.
        put_back = 0
        has_tag = status & _STATUS_VLAN_VALID != 0
        if is_cooked:
            put_back = _SLL_BYTES + (_VLAN_TAG_BYTES if has_tag else 0)
        elif has_tag and captured >= 12 and link_type_of_block == ETHERNET:
            put_back = _VLAN_TAG_BYTES
        if frame - put_back < at + _FRAME_HEADER_BYTES or frame + captured > end:
            broken += 1
        else:
            tci = _native(words, word + _VLAN_TCI) & 0xFFFF
            tpid = _native(halves, half + _VLAN_TPID) if status & _STATUS_VLAN_TPID_VALID else _TPID_8021Q
            frame -= put_back
            if is_cooked:
                _put_cooked_header(octets, at, frame + put_back, end, frame, has_tag, tpid, tci)
            elif put_back:
                for i in range(12):
                    octets[frame + i] = octets[frame + _VLAN_TAG_BYTES + i]
                _put_tag(octets, frame + 12, tpid, tci)
            time_ns[count] = seconds * 1_000_000_000 + nanoseconds
            start[count] = frame
            captured_length[count] = captured + put_back
            original_length[count] = max(captured, length) + put_back
            link_type[count] = link_type_of_block
            count += 1
        if to_next < _MIN_FRAME_BYTES:  # the last one: 0
            return count, broken + claimed - k - 1
        at += to_next
    return count, broken


@njit(cache=True, inline="always")
def _native(fields: NDArray[np.unsignedinteger[Any]], at: int) -> int:
    return int(np.int64(fields[at]))


@njit(cache=True)
def _put_cooked_header(
    octets: NDArray[np.uint8], at: int, frame: int, end: int, to: int, has_tag: bool, tpid: int, tci: int
) -> None:
    """Make a LINKTYPE_LINUX_SLL header, at `to`, of the sockaddr_ll of the tpacket3_hdr at `at`."""
    sockaddr = at + _FRAME_HEADER_BYTES
    hardware_type = _native(octets.view(np.uint16), (sockaddr + 8) >> 1)
    protocol = u16(octets, sockaddr + 2)
    packet_type, address_length = u8(octets, sockaddr + 10), u8(octets, sockaddr + 11)
    if has_tag and _has_inner_tag(octets, frame, end, protocol):
        protocol = _TPID_8021Q
    for i in range(8):
        octets[to + 6 + i] = octets[sockaddr + 12 + i]
    _put_u16(octets, to, packet_type)
    _put_u16(octets, to + 2, hardware_type)
    _put_u16(octets, to + 4, address_length)
    if has_tag:
        _put_tag(octets, to + 14, tpid, tci)
        to += _VLAN_TAG_BYTES
    _put_u16(octets, to + 14, protocol)


@njit(cache=True)
def _has_inner_tag(octets: NDArray[np.uint8], frame: int, end: int, protocol: int) -> bool:
    """Whether a second tag stands before a datagram that should start here: Linux 6.18 names the protocol behind it.

    Nothing tells a tag whose priority looks like the version (2 like IPv4, 3 like IPv6) from a datagram.
    """
    version = 4 if protocol == _IPV4 else 6 if protocol == _IPV6 else 0
    if version == 0 or frame + _VLAN_TAG_BYTES > end or u8(octets, frame) >> 4 == version:
        return False
    return u16(octets, frame + 2) in (protocol, _TPID_8021Q, _TPID_8021AD)


@njit(cache=True)
def _put_tag(octets: NDArray[np.uint8], to: int, tpid: int, tci: int) -> None:
    _put_u16(octets, to, tpid)
    _put_u16(octets, to + 2, tci)


@njit(cache=True, inline="always")
def _put_u16(octets: NDArray[np.uint8], to: int, value: int) -> None:
    octets[to] = value >> 8
    octets[to + 1] = value & 0xFF
