"""Quarantine: what cannot be used is set aside in the state directory, never deleted; who wants the room removes it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from nsstream.errors import OutputError

FOLDER: Final = "quarantine"


def set_aside(state: Path, path: Path) -> Path:
    """Move a file or folder of a state directory into its quarantine, under its own path; gives where it is now.

    Raises OutputError where the disk refuses.
    """
    wanted = state / FOLDER / path.relative_to(state)
    target, number = wanted, 1
    while target.exists() or target.is_symlink():
        number += 1
        target = wanted.with_name(f"{wanted.name}.{number}")
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.rename(target)
    except OSError as err:
        raise OutputError(f"cannot move {path} to {target}: {err.strerror}") from err
    return target
