"""pcapng: sections, interfaces, and the packet blocks between them.

Promises: `PcapngScanner.scan` fills a `RecordIndex` from Enhanced, Simple and (obsolete) Packet Blocks of any number of
sections and interfaces in either byte order, skips every other block, and never reads past the octets. Times are exact
to the nanosecond for resolutions of 10^-n and 2^-n with n <= 34; finer binary ones are cut to 2^-34 s. A Simple Packet
Block has no time: its record is marked `NO_TIME`.

Source: draft-ietf-opsawg-pcapng, sections 3 and 4.
"""

from __future__ import annotations

import struct
from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.errors import WireError
from nsstream.wire.octets import u32_in_order
from nsstream.wire.pcap import MAX_SNAPLEN
from nsstream.wire.records import NO_TIME, OUT_OF_RANGE, RecordIndex

SECTION_HEADER: Final = 0x0A0D0D0A  # the same in either byte order
MAX_BLOCK_BYTES: Final = 16 * 1024 * 1024  # as in libpcap
MAX_INTERFACES: Final = 4096  # a section; real ones have tens

_BYTE_ORDER_MAGIC: Final = 0x1A2B3C4D
_INTERFACE_DESCRIPTION: Final = 1
_PACKET: Final = 2
_SIMPLE_PACKET: Final = 3
_INTERFACE_STATISTICS: Final = 5
_ENHANCED_PACKET: Final = 6
_IF_TSRESOL: Final = 9
_IF_TSOFFSET: Final = 14
_ISB_IFDROP: Final = 5
_MAX_SECONDS: Final = 9_223_372_036  # an int64 of nanoseconds holds no more

# How a timestamp becomes nanoseconds: multiply, divide, or shift by the factor.
_MULTIPLY: Final = 0
_DIVIDE: Final = 1
_SHIFT: Final = 2
_NO_RESOLUTION: Final = 3
_LINK_TYPE, _SNAPLEN, _MODE, _FACTOR, _OFFSET_S = range(5)  # columns of the interface table

# Why a scan stopped.
_NEEDS_OCTETS: Final = 0
_AT_OTHER_BLOCK: Final = 1
_BAD_LENGTH: Final = 2
_BAD_TRAILER: Final = 3
_BAD_INTERFACE: Final = 4
_BAD_CAPTURED_LENGTH: Final = 5
_COMPLAINTS: Final = {
    _BAD_LENGTH: "a block's length is not a multiple of 4 between 12 and 16777216",
    _BAD_TRAILER: "a block's two lengths differ",
    _BAD_INTERFACE: "a packet names an interface that was not described",
    _BAD_CAPTURED_LENGTH: "a packet claims more captured octets than its block holds or 262144",
}


class PcapngScanner:
    """The state of the section that is being read: byte order, interfaces, what they dropped."""

    def __init__(self) -> None:
        self.link_types: set[int] = set()  # of every interface so far
        self._is_big_endian = False
        self._interface_count = 0
        self._interfaces = np.empty((8, 5), np.int64)  # the first `_interface_count` rows are of this section
        self._dropped_by_interface: dict[int, int] = {}
        self._dropped_before = 0

    @property
    def dropped_by_tool(self) -> int:
        """Packets that Interface Statistics Blocks say the capture tool lost (isb_ifdrop), over all sections."""
        return self._dropped_before + sum(self._dropped_by_interface.values())

    def scan(self, octets: NDArray[np.uint8], end: int, index: RecordIndex) -> tuple[int, int, str]:
        """Find the records of the whole blocks in ``octets[:end]``, which starts at a block.

        Where the index is full, the scan ends.

        Returns:
            the number of records, the index behind the last whole block, and what is corrupt there ("" if nothing).
        """
        count = 0
        at = 0
        while True:
            count, at, status = _scan_packets(
                octets,
                at,
                end,
                self._is_big_endian,
                self._interfaces[: self._interface_count],
                count,
                index.time_ns,
                index.start,
                index.captured_length,
                index.original_length,
                index.link_type,
            )
            if status == _NEEDS_OCTETS:
                return count, at, ""
            if status != _AT_OTHER_BLOCK:
                return count, at, _COMPLAINTS[status]
            try:
                length = self._read_other_block(octets[at:end])
            except WireError as err:
                return count, at, str(err)
            if length == 0:
                return count, at, ""
            at += length

    def _read_other_block(self, octets: NDArray[np.uint8]) -> int:
        """Read a section header, an interface or its statistics; the length of the block, 0 if it is not all there."""
        order = ">" if self._is_big_endian else "<"
        head = octets[:12].tobytes()
        if len(head) < 12:
            return 0
        (block_type,) = struct.unpack_from(order + "I", head)
        if block_type == SECTION_HEADER:
            for order in "<", ">":
                if struct.unpack_from(order + "I", head, 8)[0] == _BYTE_ORDER_MAGIC:
                    break
            else:
                raise WireError("a section's byte-order magic is neither 1a2b3c4d nor 4d3c2b1a")
        length = int(struct.unpack_from(order + "I", head, 4)[0])
        if length % 4 or not 12 <= length <= MAX_BLOCK_BYTES or (block_type == SECTION_HEADER and length < 28):
            raise WireError(_COMPLAINTS[_BAD_LENGTH])
        if len(octets) < length:
            return 0
        block = octets[:length].tobytes()
        if struct.unpack_from(order + "I", block, length - 4)[0] != length:
            raise WireError(_COMPLAINTS[_BAD_TRAILER])
        if block_type == SECTION_HEADER:
            self._start_section(block, order)
        elif block_type == _INTERFACE_DESCRIPTION:
            self._add_interface(block, order)
        else:
            self._read_statistics(block, order)
        return length

    def _start_section(self, block: bytes, order: str) -> None:
        major, minor = struct.unpack_from(order + "HH", block, 12)
        if major != 1:
            raise WireError(f"pcapng version must be 1, got {major}.{minor}")
        self._is_big_endian = order == ">"
        self._interface_count = 0
        self._dropped_before = self.dropped_by_tool
        self._dropped_by_interface = {}

    def _add_interface(self, block: bytes, order: str) -> None:
        if len(block) < 20:
            raise WireError("an interface description is shorter than 20 octets")
        if self._interface_count == MAX_INTERFACES:
            raise WireError(f"a section describes more than {MAX_INTERFACES} interfaces")
        link_type, _, snaplen = struct.unpack_from(order + "HHI", block, 8)
        options = _options(block[16:-4], order)
        resolution = options.get(_IF_TSRESOL, b"\x06")
        mode, factor = _resolution(resolution[0]) if resolution else (_MULTIPLY, 1000)
        offset_s = 0
        if len(options.get(_IF_TSOFFSET, b"")) == 8:
            (offset_s,) = struct.unpack(order + "q", options[_IF_TSOFFSET])
            if abs(offset_s) > _MAX_SECONDS:
                mode, offset_s = _NO_RESOLUTION, 0
        if self._interface_count == len(self._interfaces):
            self._interfaces = np.concatenate([self._interfaces, np.empty_like(self._interfaces)])
        self._interfaces[self._interface_count] = link_type, snaplen, mode, factor, offset_s
        self._interface_count += 1
        self.link_types.add(link_type)

    def _read_statistics(self, block: bytes, order: str) -> None:
        if len(block) < 24:
            raise WireError("an interface statistics block is shorter than 24 octets")
        (interface,) = struct.unpack_from(order + "I", block, 8)
        dropped = _options(block[20:-4], order).get(_ISB_IFDROP, b"")
        if len(dropped) == 8 and interface < self._interface_count:
            # Counters run from the start of the capture: the last block of an interface says it all.
            counted = struct.unpack(order + "Q", dropped)[0]
            self._dropped_by_interface[interface] = max(counted, self._dropped_by_interface.get(interface, 0))


def _options(octets: bytes, order: str) -> dict[int, bytes]:
    """Options by code, the first of each; stops without complaint at the first that is cut."""
    options: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(octets):
        code, length = struct.unpack_from(order + "HH", octets, at)
        if code == 0 or at + 4 + length > len(octets):
            break
        options.setdefault(code, octets[at + 4 : at + 4 + length])
        at += 4 + (length + 3) // 4 * 4
    return options


def _resolution(if_tsresol: int) -> tuple[int, int]:
    """Mode and factor of the option's octet: bit 7 says base 2 rather than 10, the rest is the negative exponent."""
    exponent = if_tsresol & 0x7F
    if if_tsresol & 0x80:
        return _SHIFT, exponent
    if exponent <= 9:
        return _MULTIPLY, 10 ** (9 - exponent)
    if exponent <= 27:
        return _DIVIDE, 10 ** (exponent - 9)
    return _NO_RESOLUTION, 0


@njit(cache=True, nogil=True)
def _scan_packets(
    octets: NDArray[np.uint8],
    at: int,
    end: int,
    is_big_endian: bool,
    interfaces: NDArray[np.int64],
    count: int,
    time_ns: NDArray[np.int64],
    start: NDArray[np.int64],
    captured_length: NDArray[np.int64],
    original_length: NDArray[np.int64],
    link_type: NDArray[np.int64],
) -> tuple[int, int, int]:
    while at + 12 <= end and count < len(time_ns):
        block_type = u32_in_order(octets, at, is_big_endian)
        if block_type in (SECTION_HEADER, _INTERFACE_DESCRIPTION, _INTERFACE_STATISTICS):
            return count, at, _AT_OTHER_BLOCK
        length = u32_in_order(octets, at + 4, is_big_endian)
        if length < 12 or length > MAX_BLOCK_BYTES or length & 3:
            return count, at, _BAD_LENGTH
        block_end = at + length
        if block_end > end:
            break
        if u32_in_order(octets, block_end - 4, is_big_endian) != length:
            return count, at, _BAD_TRAILER
        if block_type in (_ENHANCED_PACKET, _PACKET):
            if length < 32:
                return count, at, _BAD_LENGTH
            interface = u32_in_order(octets, at + 8, is_big_endian)
            if block_type == _PACKET:  # 16 bits, then as many of a drop count
                interface = interface >> 16 if is_big_endian else interface & 0xFFFF
            if interface >= len(interfaces):
                return count, at, _BAD_INTERFACE
            captured = u32_in_order(octets, at + 20, is_big_endian)
            if captured > length - 32 or captured > MAX_SNAPLEN:
                return count, at, _BAD_CAPTURED_LENGTH
            time_ns[count] = _to_ns(
                u32_in_order(octets, at + 12, is_big_endian),
                u32_in_order(octets, at + 16, is_big_endian),
                interfaces[interface, _MODE],
                interfaces[interface, _FACTOR],
                interfaces[interface, _OFFSET_S],
            )
            start[count] = at + 28
            captured_length[count] = captured
            original_length[count] = max(captured, u32_in_order(octets, at + 24, is_big_endian))
            link_type[count] = interfaces[interface, _LINK_TYPE]
            count += 1
        elif block_type == _SIMPLE_PACKET:
            if length < 16:
                return count, at, _BAD_LENGTH
            if len(interfaces) == 0:
                return count, at, _BAD_INTERFACE
            original = u32_in_order(octets, at + 8, is_big_endian)
            captured = min(original, length - 16)
            if interfaces[0, _SNAPLEN] > 0:
                captured = min(captured, interfaces[0, _SNAPLEN])
            time_ns[count] = NO_TIME
            start[count] = at + 12
            captured_length[count] = captured
            original_length[count] = original
            link_type[count] = interfaces[0, _LINK_TYPE]
            count += 1
        at = block_end
    return count, at, _NEEDS_OCTETS


@njit(cache=True, nogil=True)
def _to_ns(high: int, low: int, mode: int, factor: int, offset_s: int) -> int:
    """Nanoseconds since the epoch of a 64-bit timestamp, `OUT_OF_RANGE` if an int64 >= 0 cannot say it."""
    units = (np.uint64(high) << np.uint64(32)) | np.uint64(low)
    limit = np.uint64(0x7FFFFFFFFFFFFFFF)
    if mode == _MULTIPLY:
        if units > limit // np.uint64(factor):
            return OUT_OF_RANGE
        ns = np.int64(units * np.uint64(factor))
    elif mode == _DIVIDE:
        ns = np.int64(units // np.uint64(factor))
    elif mode == _SHIFT:
        bits = factor
        if bits > 34:  # 34 bits of a second times 10**9 is what 64 bits hold
            dropped = bits - 34
            units = units >> np.uint64(dropped) if dropped < 64 else np.uint64(0)
            bits = 34
        seconds = np.int64(units >> np.uint64(bits))
        if seconds < 0 or seconds >= _MAX_SECONDS:
            return OUT_OF_RANGE
        fraction = units & ((np.uint64(1) << np.uint64(bits)) - np.uint64(1))
        ns = seconds * 1_000_000_000 + np.int64((fraction * np.uint64(1_000_000_000)) >> np.uint64(bits))
    else:
        return OUT_OF_RANGE
    offset_ns = offset_s * 1_000_000_000
    if offset_ns > 0 and ns > np.int64(0x7FFFFFFFFFFFFFFF) - offset_ns:
        return OUT_OF_RANGE
    ns += offset_ns
    return int(ns) if ns >= 0 else OUT_OF_RANGE
