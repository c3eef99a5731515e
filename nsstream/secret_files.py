"""Secrets in files: one that others may read is not used, and what a service manager handed over is found by its name.

A service manager puts secrets into a directory that the service alone can enter, and names it in CREDENTIALS_DIRECTORY
(``LoadCredential=`` of systemd.exec(5)). ``credential:NAME`` means the file of that name in there; any other text is a
path. systemd lets the service's user in by an access list, which shows as a group's right to read: so the modes of
credentials are not judged, the directory's keeper has seen to them.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nsstream.errors import InputError

SCHEME: Final = "credential:"
DIRECTORY: Final = "CREDENTIALS_DIRECTORY"

_NAME: Final = re.compile(r"[A-Za-z0-9_.@-]{1,255}", re.ASCII)


@dataclass(frozen=True, slots=True)
class SecretFile:
    """Where a secret is; `is_credential`: a service manager guards it."""

    path: Path
    is_credential: bool = False

    def read(self, most_octets: int) -> bytes:
        """What is in it; raises InputError where others may read it, too."""
        return read_bounded(self.path, most_octets, is_private=not self.is_credential)


def find_secret(text: str, environ: Mapping[str, str]) -> SecretFile:
    """The file that is meant by ``credential:NAME`` or by a path; raises InputError where there are no credentials."""
    if not text.startswith(SCHEME):
        return SecretFile(Path(text))
    name = text.removeprefix(SCHEME)
    if not _NAME.fullmatch(name) or name in (".", ".."):
        raise InputError(f"the name of a credential is of letters, digits and _ . @ -, got {name!r:.80}")
    directory = environ.get(DIRECTORY, "")
    if not directory:
        raise InputError(f"{text}: there are no credentials; a service manager hands them over (LoadCredential={name})")
    path = Path(directory) / name
    if not path.exists():
        raise InputError(f"{text}: was not handed over; put it where LoadCredential={name} of the unit looks for it")
    return SecretFile(path, is_credential=True)


def read_bounded(path: Path, most_octets: int, *, is_private: bool) -> bytes:
    """What is in a regular file, and nothing where it is of another kind.

    Raises InputError for a file that cannot be read, of more octets, or, if it `is_private`, that others may read.
    """
    try:
        # Not blocking, so that a FIFO of that name stalls nobody.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            octets = file.read(most_octets + 1) if stat.S_ISREG(status.st_mode) else b""
    except OSError as err:
        raise InputError(f"{path}: {str(err.strerror).lower()}") from err
    if is_private and status.st_mode & 0o077:
        raise InputError(f"{path}: others may read or write this secret key; chmod 600 it, or make another one")
    if len(octets) > most_octets:
        raise InputError(f"{path}: has more than {most_octets} octets, too many for a key")
    return octets


def write_new(path: Path, mode: int, octets: bytes) -> None:
    """Make a file that was not there, with this mode from its first moment on; raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)  # whatever the umask
        file.write(octets)
