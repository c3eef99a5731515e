"""OutputFile: a file that a run writes, whole under its name or not there at all.

Promises: the path holds nothing until the file is whole and on disk: octets go to a temporary name in the same
directory, or in another one of the same file system, which is linked to the path at the end; the file's time of change
is then that of its end, by which tools that poll a directory know what is new. A file that exists is replaced only
where that was asked for. A process that is killed leaves `.nsstream-*.part` behind; a full disk is one sentence, and
leaves nothing.
"""

from __future__ import annotations

import errno
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from nsstream.chunk.whole_file import PART_SUFFIX, sync_folder
from nsstream.errors import OutputError
from nsstream.replay.sink import output_error

_NO_LINKS: Final = (errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOSYS)  # of a file system without hard links


class OutputFile:
    """One file; `octet_count` is what was put so far.

    Args:
        path: where it is once it is whole.
        overwrite: whether a file of that name is replaced.
        parts_in: a directory on the same file system for what is not whole; None: the file's own.
    """

    def __init__(self, path: Path, *, overwrite: bool, parts_in: Path | None = None) -> None:
        self.path = path
        self._parts_in = parts_in or path.parent
        self.octet_count = 0
        self._replaces = overwrite
        self._descriptor: int | None = None
        self._temporary: Path | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is something to close or abort."""
        return self._temporary is not None

    def check(self) -> None:
        """Raise OutputError if the file could not be made now; leaves nothing behind."""
        check_directory(self.path.parent)
        check_parts_directory(self._parts_in, self.path.parent)
        if os.path.lexists(self.path):
            if not self._replaces:
                raise OutputError(f"{self.path}: exists already, and is not overwritten")
            if not self.path.is_file():
                raise OutputError(f"{self.path}: exists and is not a regular file")

    def open(self) -> None:
        """Make the temporary file."""
        self.check()
        try:
            self._descriptor, name = tempfile.mkstemp(PART_SUFFIX, ".nsstream-", self._parts_in)
        except OSError as err:
            raise output_error(self.path, err) from err
        self._temporary = Path(name)

    def put(self, octets: bytes | memoryview) -> None:
        """Add octets."""
        if self._descriptor is None:
            raise ValueError("a file is written to between open and close")
        rest = memoryview(octets)
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError as err:
            raise output_error(self.path, err) from err
        self.octet_count += len(octets)

    def put_at_start(self, octets: bytes) -> None:
        """Replace the first octets by as many others."""
        if self._descriptor is None:
            raise ValueError("a file is written to between open and close")
        try:
            os.pwrite(self._descriptor, octets, 0)
        except OSError as err:
            raise output_error(self.path, err) from err

    def close(self) -> None:
        """Bring everything to disk and give it its name."""
        if self._descriptor is None or self._temporary is None:
            raise ValueError("a file is closed once, after it was opened")
        try:
            os.fchmod(self._descriptor, 0o666 & ~_umask())
            os.utime(self._descriptor)  # nothing may have been put for a while
            os.fsync(self._descriptor)
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)
            self._name_it(self._temporary)
            self._temporary = None
            sync_folder(self.path.parent)
        except OSError as err:
            raise output_error(self.path, err) from err

    def abort(self) -> None:
        """Remove the temporary file; may be repeated, never raises."""
        with suppress(OSError):
            if self._descriptor is not None:
                os.close(self._descriptor)
        self._descriptor = None
        with suppress(OSError):
            if self._temporary is not None:
                self._temporary.unlink(missing_ok=True)
        self._temporary = None

    def _name_it(self, temporary: Path) -> None:
        """Give the whole file its name. A link, unlike a rename, fails where the name was taken in the meantime."""
        if self._replaces:
            temporary.replace(self.path)
            return
        try:
            os.link(temporary, self.path)
        except OSError as err:
            if err.errno not in _NO_LINKS:
                raise
            if os.path.lexists(self.path):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
            temporary.replace(self.path)
            return
        temporary.unlink()


def check_directory(directory: Path) -> None:
    """Raise OutputError if files cannot be made in a directory."""
    if not directory.is_dir():
        raise OutputError(f"{directory}: the directory does not exist")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise OutputError(f"{directory}: no permission to write in the directory")


def check_parts_directory(parts_in: Path, directory: Path) -> None:
    """Raise OutputError if files cannot be made there, and be moved from there into the directory."""
    if parts_in == directory:
        return
    check_directory(parts_in)
    if parts_in.stat().st_dev != directory.stat().st_dev:
        raise OutputError(f"{parts_in}: is not on the file system of {directory}, so no file can be moved there whole")


def _umask() -> int:
    """The process's umask, read without changing it (Linux 4.7 and later)."""
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return 0o022
