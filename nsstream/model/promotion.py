"""The mark of promotion: which checkpoint of a directory is to be used now. No torch.

A directory of checkpoints has an entry `promoted`: a symbolic link whose target is the name of a checkpoint's directory
beside it, nothing more. Who promotes makes the new link under another name and renames it over the old one, so a reader
finds the old mark or the new one, never half of either, and needs no lock. The checkpoint must be whole before it is
promoted (`checkpoint.save_checkpoint` gives it so), and be kept while the mark names it.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Final

from nsstream.errors import OutputError, StateError

MARK: Final = "promoted"
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}", re.ASCII)


def promote(directory: Path, name: str) -> None:
    """Make the checkpoint `name` of a directory the promoted one; raises OutputError."""
    if not _NAME.fullmatch(name) or not (directory / name / "manifest.json").is_file():
        raise OutputError(f"{directory / name}: is not a checkpoint, and cannot be promoted")
    new = directory / f".{MARK}-{os.getpid()}"
    try:
        new.unlink(missing_ok=True)  # of a process of that number that was killed
        new.symlink_to(name)
        new.rename(directory / MARK)
    except OSError as err:
        with suppress(OSError):
            new.unlink(missing_ok=True)
        raise OutputError(f"{directory / MARK}: {(err.strerror or str(err)).lower()}") from err


def demote(directory: Path) -> None:
    """Let no checkpoint of a directory be the promoted one; raises OutputError."""
    try:
        (directory / MARK).unlink(missing_ok=True)
    except OSError as err:
        raise OutputError(f"{directory / MARK}: {(err.strerror or str(err)).lower()}") from err


def read_promoted(directory: Path) -> Path | None:
    """The promoted checkpoint's directory; None if there is no mark yet. Raises StateError if it is not a mark."""
    mark = directory / MARK
    try:
        name = os.readlink(mark)  # noqa: PTH115  (Path.readlink would give a path where we want the text)
    except FileNotFoundError:
        return None
    except OSError as err:
        raise StateError(
            f"{mark}: is not a symbolic link to a checkpoint: {(err.strerror or str(err)).lower()}"
        ) from err
    if not _NAME.fullmatch(name):
        raise StateError(f"{mark}: must name a checkpoint beside it, got {name!r:.80}")
    return directory / name
