"""NfcapdReader: the octets of a file of nfdump 1.7 (layout 2) in, flow columns out. Sans-IO.

Rules: (1) octets come in by `feed`, which gives the columns of each block that became whole with them, so any split of
a file gives the same flows in all; (2) `finish` must be called at the end and counts what is left over; (3) every flow
record is in `tally`: one in a block that cannot be read is counted as the block's header claims it, within reason.

Raises WireError, with the offset in the file, for octets that are no such file, and nothing else whatever they are.
After an error the reader is not to be used again.
"""

from __future__ import annotations

import bz2
import struct
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import zstandard
from numpy.typing import NDArray

from nsstream.counters import Tally
from nsstream.errors import WireError
from nsstream.wire.lz4 import lz4_decompress
from nsstream.wire.lzo import lzo1x_decompress
from nsstream.wire.nfcapd_flows import Exporters, FlowColumns, flow_columns
from nsstream.wire.nfcapd_records import scan_block

__all__ = ["CUT_RECORD", "LAYOUT", "FileHeader", "FlowColumns", "NfcapdReader", "layout_of"]

LAYOUT: Final = 2
MAGIC: Final = b"\x0c\xa5"  # 0xA50C of a little-endian machine
MAGIC_BIG_ENDIAN: Final = b"\xa5\x0c"
HEADER_BYTES: Final = 40
CUT_RECORD: Final = "cut_record"
MAX_BLOCK_BYTES: Final = 16 << 20  # nfdump's own limit is 5 MiB

_COMPRESSIONS: Final = ("none", "lzo", "bz2", "lz4", "zstd")
_BLOCK_HEADER: Final = struct.Struct("<IIHH")
_RECORD_BLOCK: Final = 3
_V3_RECORD: Final = 11
_EXPORTER_RECORD: Final = 7
# What a block holds beside flows; none of it is a flow, so none of it is in a tally: exporters, samplers, their
# statistics, names of interfaces and applications; 0x8001 and 0x8002 are the file's own name and statistics.
_METADATA_RECORDS: Final = (_EXPORTER_RECORD, 8, 9, 12, 13, 14, 15, 0x8001, 0x8002)
_IS_UNCOMPRESSED: Final = 1
_MIN_RECORD_BYTES: Final = 12
_ROWS: Final = 1 << 16  # at a time, whatever a block holds
_EXPORTER: Final = struct.Struct("<HHI16sHHI")
_AF_INET: Final = 2


@dataclass(frozen=True, slots=True)
class FileHeader:
    """What the first 40 octets say."""

    layout: int
    nfdump_version: int  # as 0xMMmmpprr
    compression: str
    block_count: int  # of data; 0 where the file is still being written
    appendix_block_count: int  # behind the data: name and statistics of the file

    @classmethod
    def parse(cls, octets: bytes) -> Self:
        """Read the header.

        Raises WireError if this is not an nfdump file, or not one that this module reads; `layout_of` tells first.
        """
        layout = layout_of(octets)
        if layout != LAYOUT:
            raise WireError(f"nfdump file of layout {layout}, which only nfdump itself reads")
        _, _, version, _, compression, encryption, appendix, _, _, _, blocks = struct.unpack_from(
            "<HHIQBBHIQII", octets
        )
        if compression >= len(_COMPRESSIONS):
            raise WireError(f"unknown compression {compression} in an nfdump file")
        if encryption:
            raise WireError("encrypted nfdump file")
        return cls(layout, version, _COMPRESSIONS[compression], blocks, appendix)


def layout_of(octets: bytes) -> int:
    """The layout version in the first four octets of an nfdump file: 1 up to nfdump 1.6, 2 since 1.7.

    Raises WireError if this is not an nfdump file of a little-endian machine.
    """
    if octets[:2] == MAGIC_BIG_ENDIAN:
        raise WireError("nfdump file of a big-endian machine")
    if octets[:2] != MAGIC or len(octets) < 4:
        raise WireError(f"not an nfdump file: starts with the octets {octets[:4].hex(' ')}")
    return int.from_bytes(octets[2:4], "little")


class NfcapdReader:
    """One file, from its first octet to its last."""

    def __init__(self) -> None:
        self.tally = Tally()
        self.header: FileHeader | None = None
        self._pending = bytearray()
        self._offset = 0  # of the first pending octet in the file
        self._complaint = ""  # what is wrong there, behind blocks that were given
        self._block_count = 0
        self._exporters: Exporters = {}
        self._room = np.empty(0, np.uint8)

    def feed(self, octets: bytes | memoryview) -> list[FlowColumns]:
        """Read the next octets of the file; the columns of the blocks that have flows, in their order.

        Raises WireError where the file is corrupt, by the call after the one that gave the last blocks before that.
        """
        self._check()
        self._pending += octets
        at = 0
        tables: list[FlowColumns] = []
        if self.header is None and len(self._pending) >= 4:
            if layout_of(bytes(self._pending[:4])) == LAYOUT and len(self._pending) < HEADER_BYTES:
                return []
            self.header = FileHeader.parse(bytes(self._pending[:HEADER_BYTES]))
            at = HEADER_BYTES
        while self.header is not None and not self._is_complete and len(self._pending) - at >= _BLOCK_HEADER.size:
            claimed, size, block_type, flags = _BLOCK_HEADER.unpack_from(self._pending, at)
            if size > MAX_BLOCK_BYTES:
                self._complaint = f"corrupt at octet {self._offset + at}: a block claims {size} octets"
                break
            if len(self._pending) - at < _BLOCK_HEADER.size + size:
                break
            at += _BLOCK_HEADER.size
            self._read_block(bytes(self._pending[at : at + size]), claimed, block_type, flags, tables)
            at += size
            self._block_count += 1
        if at:
            del self._pending[:at]
            self._offset += at
        if self._is_complete and self._pending:
            if not self.tally.malformed["trailing_octets"]:
                self._count_malformed("trailing_octets", 1)
            self._offset += len(self._pending)
            self._pending.clear()
        if not tables:
            self._check()
        return tables

    def finish(self) -> None:
        """Say that the file has ended; a block that is cut, or missing, is counted as ``malformed["cut_record"]``.

        Raises WireError if the file ended before its header did, or is corrupt behind the last blocks given.
        """
        self._check()
        if self.header is None:
            if not self._pending:
                raise WireError("empty: not even a file header")
            raise WireError(f"cut in its file header, after {len(self._pending)} octets")
        if self._pending:
            claimed = 0
            if len(self._pending) >= _BLOCK_HEADER.size:
                claimed = _BLOCK_HEADER.unpack_from(self._pending)[0]
                claimed = min(claimed, MAX_BLOCK_BYTES // _MIN_RECORD_BYTES)
            self._count_malformed(CUT_RECORD, max(1, claimed))
            self._pending.clear()
        elif self._block_count < self.header.block_count:
            self._count_malformed(CUT_RECORD, 1)

    def _check(self) -> None:
        if self._complaint:
            raise WireError(self._complaint)

    @property
    def _is_complete(self) -> bool:
        header = self.header
        if header is None or header.block_count == 0:
            return False
        return self._block_count >= header.block_count + header.appendix_block_count

    def _read_block(self, octets: bytes, claimed: int, block_type: int, flags: int, tables: list[FlowColumns]) -> None:
        claimed = min(claimed, MAX_BLOCK_BYTES // _MIN_RECORD_BYTES)
        if block_type != _RECORD_BLOCK:
            self.tally.offered += claimed
            self.tally.unsupported["block_type"] += claimed
            return
        try:
            block = self._decompress(octets, is_compressed=not flags & _IS_UNCOMPRESSED)
        except WireError:
            self._count_malformed("bad_block", max(1, claimed))
            return
        most = min(claimed, len(block) // 4)
        offsets, types = np.empty(most, np.int64), np.empty(most, np.int64)
        count, end = scan_block(block, offsets, types, most)
        offsets, types = offsets[:count], types[:count]
        if count < claimed or end < len(block):
            self._count_malformed("bad_record_length", max(1, claimed - count))
        for at in offsets[types == _EXPORTER_RECORD]:
            self._read_exporter(block[at : at + _EXPORTER.size].tobytes())
        if foreign := int((~np.isin(types, [_V3_RECORD, *_METADATA_RECORDS])).sum()):
            self.tally.offered += foreign
            self.tally.unsupported["record_type"] += foreign
        flows = offsets[types == _V3_RECORD]
        for first in range(0, len(flows), _ROWS):
            columns = flow_columns(block, flows[first : first + _ROWS], self._exporters, self.tally)
            if columns is not None:
                tables.append(columns)

    def _read_exporter(self, octets: bytes) -> None:
        if len(octets) < _EXPORTER.size:
            return
        _, size, _, ip, family, number, domain = _EXPORTER.unpack(octets)
        if size < _EXPORTER.size:
            return
        is_ipv4 = family == _AF_INET
        address = bytes(10) + b"\xff\xff" + ip[11:7:-1] if is_ipv4 else ip[7::-1] + ip[:7:-1]
        self._exporters[number] = (address, domain)

    def _decompress(self, octets: bytes, *, is_compressed: bool) -> NDArray[np.uint8]:
        assert self.header is not None
        name = self.header.compression if is_compressed else "none"
        if name == "none":
            return np.frombuffer(octets, np.uint8)
        if name in ("lzo", "lz4"):
            if not len(self._room):
                self._room = np.empty(MAX_BLOCK_BYTES, np.uint8)
            decompress = lzo1x_decompress if name == "lzo" else lz4_decompress
            return self._room[: decompress(np.frombuffer(octets, np.uint8), self._room)]
        try:
            if name == "bz2":
                inside = bz2.BZ2Decompressor().decompress(octets, MAX_BLOCK_BYTES)
            else:
                frame = zstandard.get_frame_parameters(octets)
                if frame.content_size > MAX_BLOCK_BYTES or frame.window_size > MAX_BLOCK_BYTES:
                    raise WireError("a block decompresses to more than its bound")
                inside = zstandard.ZstdDecompressor().decompress(octets, MAX_BLOCK_BYTES)
        except (OSError, EOFError, ValueError, zstandard.ZstdError) as err:
            raise WireError(f"corrupt {name} block: {err}") from err
        return np.frombuffer(inside, np.uint8)

    def _count_malformed(self, reason: str, count: int) -> None:
        self.tally.offered += count
        self.tally.malformed[reason] += count
