"""Where a run writes: outputs appear when the run is complete, and a failed run leaves what was there before.

Files and folders are made in hidden folders beside their places, and renamed into them at the end.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from nsstream.errors import InputError, OutputError

KEY_FILE: Final = "address.key"  # in a state directory: the key of its address map, in hexadecimal


def beside(output: Path, suffix: str) -> Path:
    """The companion of an output: ``twin.pcap`` and ``.config.json`` make ``twin.pcap.config.json``."""
    return output.with_name(output.name + suffix)


def check_output(output: Path, *, inputs: Sequence[Path] = (), replaces: bool) -> None:
    """Raise OutputError if a file may not be written, InputError if it would overwrite an input."""
    _check_folder(output)
    if output.exists() and any(path.exists() and path.samefile(output) for path in inputs):
        raise InputError(f"{output} is the input as well; give another name for the output")
    if output.is_dir():
        raise OutputError(f"{output} is a folder; give the name of a file in it")
    if (output.exists() or output.is_symlink()) and not replaces:
        raise OutputError(f"{output} exists already; give --force to replace it, or another name")


def check_state(state: Path, *, replaces: bool) -> None:
    """Raise OutputError unless a state directory is free: missing, empty, or a state directory that may be replaced."""
    _check_folder(state)
    if not state.exists() or (state.is_dir() and not any(state.iterdir())):
        return
    if not (state / "chunks").is_dir():
        raise OutputError(f"{state} exists already and is no state directory; give another --state")
    if not replaces:
        raise OutputError(f"the state directory {state} exists already; give --force to replace it, or another --state")


@contextmanager
def staging(place: Path) -> Iterator[Path]:
    """A hidden folder beside a place, gone at the end of the block with whatever is left in it."""
    try:
        folder = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}.", suffix=".part"))
    except OSError as err:
        raise OutputError(f"cannot write in {place.parent}: {err.strerror}") from err
    try:
        yield folder
    finally:
        try:
            shutil.rmtree(folder, ignore_errors=True)
        except KeyboardInterrupt:  # a Ctrl-C that comes while cleaning up does not leave half a folder
            shutil.rmtree(folder, ignore_errors=True)
            raise


def publish(finished: Sequence[tuple[Path, Path]], *, trash: Path) -> None:
    """Rename finished files and folders, given as (made, place), into their places; all or none.

    What stood in a place goes into `trash`, a folder on the same file system; raises OutputError.
    """
    undo: list[tuple[Path, Path]] = []
    try:
        for number, (made, place) in enumerate(finished):
            if place.exists() or place.is_symlink():
                old = trash / f"replaced-{number}"
                shutil.move(place, old)
                undo.append((old, place))
            made.rename(place)
            undo.append((place, made))
    except BaseException as err:
        for now, before in reversed(undo):
            shutil.move(now, before)
        if isinstance(err, OSError):
            raise OutputError(f"cannot write {place}: {err.strerror}") from err
        raise


def _check_folder(place: Path) -> None:
    if not place.parent.is_dir():
        raise OutputError(f"the folder {place.parent} does not exist; make it first")
