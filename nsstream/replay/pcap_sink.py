"""PcapSink: frames to capture files, pcap or pcapng, compressed or not, in one or in a row of them.

Promises: a file is there whole or not at all (`output_file`). The same frames give the same octets, however they came
and compressed or not. With `rotate_s` a file holds the frames of one interval of the UTC grid, with `rotate_bytes` no
more octets than that before compression, unless a single frame has more; then names get a number and the time of the
first frame, as dumpcap's: ``twin_00001_20231114221320.pcap.zst``. Files that are whole stay when the run is undone.
What private models promise stands beside them (`promise_file`), or where parts are made, where that is another place.
"""

from __future__ import annotations

import lzma
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal, Protocol

import numpy as np
import zstandard
from pydantic import Field

from nsstream.errors import OutputError
from nsstream.replay.messages import AbsolutePath
from nsstream.replay.output_file import OutputFile, check_directory, check_parts_directory
from nsstream.replay.promise_file import PromiseFile, promise_place
from nsstream.replay.sink import SinkContext, SinkSpec
from nsstream.wire.pcap import RECORD_HEADER_BYTES, check_pcap_time, pcap_header, write_records
from nsstream.wire.pcapng_writer import pcapng_header, write_packet_blocks

if TYPE_CHECKING:
    from nsstream.assemble.frames import Frames


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


class _Plain:
    def compress(self, data: bytes, /) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


COMPRESSORS: Final[dict[str, Callable[[], _Compressor]]] = {
    "": _Plain,
    ".gz": lambda: zlib.compressobj(6, zlib.DEFLATED, 31),  # 31: gzip framing, whose time field is then 0
    ".xz": lambda: lzma.LZMACompressor(preset=1),
    ".zst": lambda: zstandard.ZstdCompressor(level=3).compressobj(),
}
FORMATS: Final = (".pcap", ".pcapng")
_PCAPNG_BLOCK_BYTES: Final = 32 + 3  # around a frame of any length, padding included
_SECOND_NS: Final = 1_000_000_000


def split_suffixes(path: Path) -> tuple[str, str]:
    """The format and the compression that a name asks for, as (".pcap", ".zst"); "" for no compression.

    Raises OutputError if the name asks for neither of the formats.
    """
    compression = path.suffix if path.suffix in COMPRESSORS else ""
    kind = path.with_suffix("").suffix if compression else path.suffix
    if kind not in FORMATS:
        raise OutputError(
            f"{path}: the name of a capture file ends in .pcap or .pcapng, and then in .gz, .xz or .zst to compress it"
        )
    return kind, compression


class PcapSinkSpec(SinkSpec):
    """Capture files: `.pcap` or `.pcapng`, compressed where `.gz`, `.zst` or `.xz` follows."""

    kind: Literal["pcap"] = "pcap"
    path: AbsolutePath
    overwrite: bool = False
    rotate_s: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    rotate_bytes: Annotated[int, Field(ge=1024, le=1 << 50)] | None = None
    parts_in: AbsolutePath | None = None


class PcapSink:
    """One capture file, or a row of them."""

    spec_type: ClassVar[type[SinkSpec]] = PcapSinkSpec

    def __init__(self, spec: PcapSinkSpec, context: SinkContext) -> None:
        self.counters = {"frames": 0, "frames_written": 0, "frames_undone": 0, "octets": 0, "files": 0}
        self._path = Path(spec.path)
        self._overwrite = spec.overwrite
        self._parts_in = None if spec.parts_in is None else Path(spec.parts_in)
        kind, self._compression = split_suffixes(self._path)
        self._suffixes = kind + self._compression
        self._is_pcap = is_pcap = kind == ".pcap"
        self._make_header = pcap_header if is_pcap else pcapng_header
        self._records = write_records if is_pcap else write_packet_blocks
        self._around_bytes = RECORD_HEADER_BYTES if is_pcap else _PCAPNG_BLOCK_BYTES
        self._rotate_ns = None if spec.rotate_s is None else spec.rotate_s * _SECOND_NS
        self._rotate_bytes = spec.rotate_bytes
        place = promise_place(self._path)
        if self._parts_in is not None:
            place = self._parts_in / place.name  # whoever watches the directory wants captures alone
        self._promise = PromiseFile(context, place, None if self._rotates else self._path, replaces=spec.overwrite)
        self._file: OutputFile | None = None
        self._compressor: _Compressor = _Plain()
        self._frames_in_file = 0
        self._bytes_in_file = 0
        self._interval = 0  # of the UTC grid, that the file is of

    @property
    def _rotates(self) -> bool:
        return self._rotate_ns is not None or self._rotate_bytes is not None

    def check(self) -> None:
        """Raise OutputError if the output could not be made now; leaves nothing behind."""
        if self._rotates:
            check_directory(self._path.parent)
            check_parts_directory(self._parts_in or self._path.parent, self._path.parent)
        else:
            OutputFile(self._path, overwrite=self._overwrite, parts_in=self._parts_in).check()

    def check_time(self, time_ns: int) -> None:
        """Raise OutputError if a file of this format has no such time."""
        if self._is_pcap:
            check_pcap_time(time_ns)

    def open(self) -> None:
        """Make the temporary file, unless the first frame names it."""
        self.check()
        if not self._rotates:
            self._begin(self._path)

    def write(self, frames: Frames) -> None:
        """Add frames as records."""
        self._promise.note()
        self.counters["frames"] += len(frames)
        self.counters["frames_undone"] += len(frames)  # until they are put
        at = 0
        while at < len(frames):
            count = len(frames)
            if self._rotates:
                self._rotate_where_due(
                    int(frames.observation_time_ns[at]), int(frames.offset[at + 1] - frames.offset[at])
                )
                count = self._room_for(frames, at)
            self._put(frames.slice(at, at + count) if count < len(frames) else frames)
            at += count

    def close(self) -> None:
        """Make the last file whole."""
        if self._file is None and not self._rotates:
            raise ValueError("a sink is closed once, after it was opened")
        self._end()

    def abort(self) -> None:
        """Remove what is not whole."""
        if self._file is not None and self._file.is_open:
            self.counters["frames_undone"] += self._frames_in_file
            self.counters["frames_written"] -= self._frames_in_file
            self._frames_in_file = 0
            self._file.abort()
        self._file = None

    def _put(self, frames: Frames) -> None:
        if self._file is None:
            raise ValueError("a sink is written to between open and close")
        records = self._records(frames.observation_time_ns, frames.offset, frames.octets)
        self._file.put(self._compressor.compress(records))
        self._frames_in_file += len(frames)
        self._bytes_in_file += len(frames.octets) + len(frames) * self._around_bytes
        self.counters["frames_undone"] -= len(frames)
        self.counters["frames_written"] += len(frames)
        self.counters["octets"] += len(frames.octets)

    def _rotate_where_due(self, time_ns: int, frame_bytes: int) -> None:
        """End the file that this frame no longer belongs to, and begin one for it."""
        interval = 0 if self._rotate_ns is None else time_ns // self._rotate_ns
        is_full = (
            self._rotate_bytes is not None
            and self._frames_in_file > 0
            and self._bytes_in_file + frame_bytes + self._around_bytes > self._rotate_bytes
        )
        if self._file is not None and (is_full or interval != self._interval):
            self._end()
        if self._file is None:
            self._interval = interval
            stamp = time.strftime("%Y%m%d%H%M%S", time.gmtime(time_ns // _SECOND_NS))
            stem = self._path.name.removesuffix(self._suffixes)
            name = f"{stem}_{self.counters['files'] + 1:05d}_{stamp}{self._suffixes}"
            self._begin(self._path.with_name(name))

    def _room_for(self, frames: Frames, at: int) -> int:
        """How many frames from `at` on belong into the file that is open; one at least."""
        stop = len(frames)
        if self._rotate_ns is not None:
            end_ns = (self._interval + 1) * self._rotate_ns
            stop = int(np.searchsorted(frames.observation_time_ns, end_ns))
        if self._rotate_bytes is not None:
            sizes = (
                frames.offset[at + 1 : stop + 1] - frames.offset[at] + self._around_bytes * np.arange(1, stop - at + 1)
            )
            stop = at + int(np.searchsorted(sizes, self._rotate_bytes - self._bytes_in_file, "right"))
        return max(stop - at, 1)

    def _begin(self, path: Path) -> None:
        self._file = OutputFile(path, overwrite=self._overwrite, parts_in=self._parts_in)
        self._file.open()
        self._compressor = COMPRESSORS[self._compression]()
        header = self._make_header()
        self._frames_in_file, self._bytes_in_file = 0, len(header)
        self._file.put(self._compressor.compress(header))

    def _end(self) -> None:
        if self._file is None:
            return
        self._file.put(self._compressor.flush())
        self._file.close()
        self._promise.put()
        self._frames_in_file = 0
        self.counters["files"] += 1
        self._file = None
