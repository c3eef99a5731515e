"""A capture as a plain file, for tools that do not read every compression: itself, or unpacked for a while."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from nsstream.capture.compression import GZIP_MAGIC, STREAM_ERRORS, XZ_MAGIC, ZSTD_MAGIC, open_decompressed
from nsstream.errors import InputError

_BLOCK_BYTES: Final = 1 << 20


@contextmanager
def plain_file(path: Path) -> Iterator[Path]:
    """The path of the uncompressed capture; what had to be unpacked for it is gone after the context.

    Raises InputError if the file cannot be read or unpacked.
    """
    with tempfile.NamedTemporaryFile(prefix="nsstream-", suffix=".pcap") as plain:
        try:
            with path.open("rb") as file:
                is_plain = not file.read(len(XZ_MAGIC)).startswith((GZIP_MAGIC, XZ_MAGIC, ZSTD_MAGIC))
            if not is_plain:
                block = memoryview(bytearray(_BLOCK_BYTES))
                with closing(open_decompressed(path)) as packed:
                    while count := packed.readinto1(block):
                        plain.write(block[:count])
                plain.flush()
        except STREAM_ERRORS as err:
            raise InputError(f"{path}: cannot be unpacked: {err}") from err
        yield path if is_plain else Path(plain.name)
