"""Sink: where frames go, as the player sees it.

A sink is inert until `open`, which gives it what it needs or raises OutputError; then `write` any number of times; then
exactly one of `close`, which makes the output whole, or `abort`, which undoes it and never raises. `abort` may follow a
failure of any of the others, and may be repeated.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from nsstream.errors import OutputError

if TYPE_CHECKING:
    from nsstream.assemble.frames import Frames


class Sink(Protocol):
    """Takes frames in the order of their times."""

    def open(self) -> None:
        """Take hold of the output; raises OutputError."""
        ...

    def write(self, frames: Frames) -> None:
        """Add frames to the output; raises OutputError."""
        ...

    def close(self) -> None:
        """Make the output whole; raises OutputError."""
        ...

    def abort(self) -> None:
        """Undo the output as far as it can be undone; never raises."""
        ...


def output_error(path: Path, err: OSError) -> OutputError:
    """The system's error about a path as one sentence."""
    reason = {
        errno.ENOSPC: "no space is left on the device",
        errno.EDQUOT: "the disk quota is used up",
        errno.EEXIST: "was made by somebody else in the meantime, and is not overwritten",
        errno.EPIPE: "the reader has gone",
    }.get(err.errno or 0, (err.strerror or str(err)).lower())
    return OutputError(f"{path}: {reason}")
