"""Record: what is installed in one scope, so that it can be taken away as it was put there.

One JSON file: of each plugin its files with their SHA-256, and the directories that were made for them (and for the
record itself). It is replaced as a whole, and gone when nothing is installed. Who changes it holds `locked`.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from nsstream.errors import OutputError, StateError
from nsstream_plugins.plugin import Scope, state_home

FORMAT: Final = "nsstream-plugins"
FORMAT_VERSION: Final = 1
SYSTEM_RECORD: Final = Path("/var/lib/nsstream-plugins/plugins.json")


@dataclass
class Record:
    """What is installed: digests by path by plugin, and the directories made, in the order of their making."""

    plugins: dict[str, dict[str, str]] = field(default_factory=dict)
    directories: list[str] = field(default_factory=list)


def record_path(scope: Scope) -> Path:
    """Where the record of a scope is."""
    return SYSTEM_RECORD if scope == "system" else state_home() / "nsstream" / "plugins.json"


def read_record(path: Path) -> Record:
    """The record in a file, an empty one where there is none; raises StateError where it cannot be read."""
    try:
        told: Any = json.loads(path.read_bytes())
        if (told["format"], told["version"]) != (FORMAT, FORMAT_VERSION):
            raise StateError(f"{path} is {told['format']!r:.40} version {told['version']!r:.40}, not ours")
        plugins = {str(name): {str(p): str(d) for p, d in files.items()} for name, files in told["plugins"].items()}
        return Record(plugins, [str(name) for name in told["directories"]])
    except FileNotFoundError:
        return Record()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
        raise StateError(f"{path} cannot be read: {err}") from err


def write_record(path: Path, record: Record) -> None:
    """Replace the file, durably; raises OSError."""
    told = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "plugins": record.plugins,
        "directories": record.directories,
    }
    new = path.with_name(f".{path.name}.new")
    with new.open("w", encoding="utf-8") as file:
        json.dump(told, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


@contextmanager
def locked(scope: Scope) -> Iterator[None]:
    """Let nobody else change what is installed; the lock is on a directory that was there before, and leaves nothing.

    Raises OutputError where the scope is not ours to change.
    """
    anchor = SYSTEM_RECORD.parent.parent if scope == "system" else Path.home()
    try:
        if scope == "user" and anchor.stat().st_uid != os.geteuid():
            raise OutputError(f"{anchor} is another user's home; run this as that user, or with --system")
        if scope == "system" and os.geteuid() != 0:
            raise OutputError("--system changes the file system for all users: run it as root, or use --user")
        descriptor = os.open(anchor, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as err:
        raise OutputError(f"{anchor}: {(err.strerror or str(err)).lower()}") from err
    try:
        with suppress(OSError):  # a home on a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
