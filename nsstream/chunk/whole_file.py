"""whole_file: a file appears under its name only when it is whole and on the disk.

Written beside its place under a temporary name, synced, renamed, and the folder synced. Any failure, Ctrl-C included,
leaves what was there before.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from nsstream.errors import OutputError

PART_SUFFIX: Final = ".part"  # of what is not whole yet


@contextmanager
def whole_file(path: Path, *, mode: int = 0o644) -> Iterator[BinaryIO]:
    """Yield a file to write; it replaces `path` when the block ends well, and vanishes when it does not.

    Raises OutputError where the file cannot be written: no space, no permission, no such folder.
    """
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PART_SUFFIX)
    except OSError as err:
        raise OutputError(f"cannot write {path}: {err.strerror}") from err
    part = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        sync_folder(path.parent)
    except OSError as err:
        raise OutputError(f"cannot write {path}: {err.strerror or err}") from err
    finally:
        part.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable; raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
