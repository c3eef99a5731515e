"""PcapSink: frames to a capture file, pcap or pcapng, compressed or not.

Promises: the path holds nothing until the file is whole and on disk: octets go to a temporary name in the same
directory, which is linked to the path at the end. A file that exists is replaced only where the specification says so.
The same frames give the same octets, compressed or not. A server that is killed leaves `.nsstream-*.part` behind.
"""

from __future__ import annotations

import errno
import lzma
import os
import tempfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, Literal, Protocol

import zstandard

from nsstream.errors import OutputError
from nsstream.replay.messages import AbsolutePath
from nsstream.replay.sink import SinkContext, SinkSpec, output_error
from nsstream.wire.pcap import pcap_header, write_records
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
    ".gz": lambda: zlib.compressobj(6, zlib.DEFLATED, 31),  # 31: gzip framing, whose time field is then 0
    ".xz": lambda: lzma.LZMACompressor(preset=1),
    ".zst": lambda: zstandard.ZstdCompressor(level=3).compressobj(),
}
FORMATS: Final = (".pcap", ".pcapng")


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
    """A capture file: `.pcap` or `.pcapng`, compressed where `.gz`, `.zst` or `.xz` follows."""

    kind: Literal["pcap"] = "pcap"
    path: AbsolutePath
    overwrite: bool = False


class PcapSink:
    """A capture file, whole or not there at all."""

    spec_type: ClassVar[type[SinkSpec]] = PcapSinkSpec

    def __init__(self, spec: PcapSinkSpec, context: SinkContext) -> None:
        self.counters = {"frames": 0, "frames_written": 0, "frames_undone": 0, "octets": 0}
        self._path = Path(spec.path)
        self._replaces = spec.overwrite
        kind, compression = split_suffixes(self._path)
        self._header, self._records = (
            (pcap_header, write_records) if kind == ".pcap" else (pcapng_header, write_packet_blocks)
        )
        self._compressor = COMPRESSORS[compression]() if compression else _Plain()
        self._descriptor: int | None = None
        self._temporary: Path | None = None

    def check(self) -> None:
        """Raise OutputError if the output could not be made now; leaves nothing behind."""
        if not self._path.parent.is_dir():
            raise OutputError(f"{self._path}: the directory does not exist")
        if not os.access(self._path.parent, os.W_OK | os.X_OK):
            raise OutputError(f"{self._path}: no permission to write in the directory")
        if os.path.lexists(self._path):
            if not self._replaces:
                raise OutputError(f"{self._path}: exists already, and is not overwritten")
            if not self._path.is_file():
                raise OutputError(f"{self._path}: exists and is not a regular file")

    def open(self) -> None:
        """Make the temporary file and write the file header."""
        self.check()
        try:
            self._descriptor, name = tempfile.mkstemp(".part", ".nsstream-", self._path.parent)
        except OSError as err:
            raise output_error(self._path, err) from err
        self._temporary = Path(name)
        self._put(self._compressor.compress(self._header()))

    def write(self, frames: Frames) -> None:
        """Add frames as records."""
        self.counters["frames"] += len(frames)
        self.counters["frames_written"] += len(frames)
        records = self._records(frames.observation_time_ns, frames.offset, frames.octets)
        self._put(self._compressor.compress(records))
        self.counters["octets"] += len(frames.octets)

    def close(self) -> None:
        """Bring everything to disk and give it its name."""
        self._put(self._compressor.flush())
        if self._descriptor is None or self._temporary is None:
            raise ValueError("a sink is closed once, after it was opened")
        try:
            os.fchmod(self._descriptor, 0o666 & ~_umask())
            os.fsync(self._descriptor)
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)
            self._name_it(self._temporary)
            self._temporary = None
            directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as err:
            raise output_error(self._path, err) from err

    def abort(self) -> None:
        """Remove the temporary file."""
        if self._temporary is not None:
            self.counters["frames_undone"] += self.counters["frames_written"]
            self.counters["frames_written"] = 0
        with suppress(OSError):
            if self._descriptor is not None:
                os.close(self._descriptor)
        self._descriptor = None
        with suppress(OSError):
            if self._temporary is not None:
                self._temporary.unlink(missing_ok=True)
        self._temporary = None

    def _put(self, octets: bytes) -> None:
        if self._descriptor is None:
            raise ValueError("a sink is written to between open and close")
        rest = memoryview(octets)
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError as err:
            raise output_error(self._path, err) from err

    def _name_it(self, temporary: Path) -> None:
        """Give the whole file its name. A link, unlike a rename, fails where the name was taken in the meantime."""
        if self._replaces:
            temporary.replace(self._path)
            return
        try:
            os.link(temporary, self._path)
        except PermissionError:  # a file system without hard links
            if os.path.lexists(self._path):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
            temporary.replace(self._path)
            return
        temporary.unlink()


def _umask() -> int:
    """The process's umask, read without changing it (Linux 4.7 and later)."""
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return 0o022
