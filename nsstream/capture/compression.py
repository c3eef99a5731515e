"""Compressed files, recognised by their first octets and never by their suffix: gzip, bzip2, xz, Zstandard, zip of one.

Promises: `open_decompressed` gives a reader of the octets inside, or of the file itself where it is not compressed. It
raises EOFError where the compressed stream is cut, after all that could be decompressed was given, and another of
`STREAM_ERRORS` where it is corrupt. Memory is bounded whatever the ratio.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import zipfile
import zlib
from io import BufferedReader
from pathlib import Path
from typing import Final, Protocol, cast

import zstandard

GZIP_MAGIC: Final = b"\x1f\x8b"
BZIP2_MAGIC: Final = b"BZh"
XZ_MAGIC: Final = b"\xfd7zXZ\x00"
ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
ZIP_MAGIC: Final = b"PK\x03\x04"
STREAM_ERRORS: Final = (OSError, EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError, zipfile.BadZipFile)

_ZSTD_INPUT_BYTES: Final = 4096  # at most 32,768 times as much comes out: 128 MiB


class Reader(Protocol):
    """What is needed of a binary file."""

    def readinto1(self, buffer: memoryview, /) -> int:
        """Put what one read gives at the front of the buffer; how many octets, 0 only at the end."""

    def close(self) -> None:
        """Release the file."""


def open_decompressed(path: Path) -> Reader:
    """Open a file for reading its decompressed octets.

    Raises OSError if the file cannot be opened.
    """
    file = path.open("rb")
    head = file.peek(len(XZ_MAGIC))
    if head.startswith(GZIP_MAGIC):
        return cast(Reader, _Owning(gzip.GzipFile(fileobj=file, mode="rb"), file))
    if head.startswith(BZIP2_MAGIC):
        return cast(Reader, _Owning(bz2.BZ2File(file), file))
    if head.startswith(XZ_MAGIC):
        return cast(Reader, _Owning(lzma.LZMAFile(file), file))
    if head.startswith(ZSTD_MAGIC):
        return _ZstdReader(file)
    if head.startswith(ZIP_MAGIC) and file.seekable():
        return _open_zipped(file)
    return file


def _open_zipped(file: BufferedReader) -> Reader:
    """The only file in an archive.

    Raises OSError where there are more or none, where it is encrypted, or where the archive is broken.
    """
    try:
        archive = zipfile.ZipFile(file)
        members = [member for member in archive.infolist() if not member.is_dir()]
        if len(members) != 1:
            raise OSError(f"a zip archive of {len(members)} files: unpack it")
        member = archive.open(members[0])
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError) as err:
        file.close()
        raise OSError(f"a zip archive that cannot be read: {err}") from err
    except OSError:
        file.close()
        raise
    return cast(Reader, _Owning(cast(zipfile.ZipExtFile, member), file))


class _Owning:
    """A decompressor that closes the file under it, too."""

    def __init__(
        self, decompressor: gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile | zipfile.ZipExtFile, file: BufferedReader
    ) -> None:
        self._decompressor = decompressor
        self._file = file

    def readinto1(self, buffer: memoryview, /) -> int:
        return self._decompressor.readinto1(buffer)

    def close(self) -> None:
        self._decompressor.close()
        self._file.close()


class _ZstdReader:
    """Zstandard frames one after another; unlike zstandard's own stream_reader it tells a cut frame from the end."""

    def __init__(self, file: BufferedReader) -> None:
        self._file = file
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._is_inside_frame = False
        self._input = b""
        self._output = memoryview(b"")

    def readinto1(self, buffer: memoryview, /) -> int:
        while not self._output:
            self._input = self._input or self._file.read(_ZSTD_INPUT_BYTES)
            if not self._input:
                if self._is_inside_frame:
                    raise EOFError("Compressed file ended before the end-of-stream marker was reached")
                return 0
            if not self._is_inside_frame:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            self._output = memoryview(self._frame.decompress(self._input))
            self._is_inside_frame = not self._frame.eof
            self._input = self._frame.unused_data
        count = min(len(buffer), len(self._output))
        buffer[:count] = self._output[:count]
        self._output = self._output[count:]
        return count

    def close(self) -> None:
        self._file.close()
