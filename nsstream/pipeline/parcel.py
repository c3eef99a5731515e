"""Parcel: the files that a job names, as octets that travel, and as files again in a folder of another machine.

A job names them under the keys of `INPUTS`: a chunk's file or a checkpoint's folder, one or a list. What it makes is a
folder of plain files in the one that it names as ``out``. Names that come back from elsewhere are taken for what they
are: a name with a path in it is refused.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nsstream.chunk import whole_file
from nsstream.errors import OutputError, StateError

INPUTS: Final = ("chunk", "before", "parent", "candidate", "chunks", "models")
OUT: Final = "out"
MOST_FILES: Final = 64  # of one folder
Octets = NDArray[np.uint8]
Folder = dict[str, Octets]  # name of a file -> what it holds


def pack(told: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The files that a job names, by key: `name`, and `file` or `folder`; raises StateError if one cannot be read."""
    packed = {}
    for key in INPUTS:
        value = told.get(key)
        if value is None:
            continue
        paths = [Path(str(path)) for path in (value if isinstance(value, list) else [value])]
        packed[key] = [_packed(path) for path in paths]
    return packed


def unpack(told: Mapping[str, Any], packed: Mapping[str, list[dict[str, Any]]], room: Path) -> dict[str, Any]:
    """Write files into a folder of the job's own; gives the job that names them there, its ``out`` too.

    Raises OutputError where there is no room, StateError where a name is none.
    """
    here = dict(told)
    for key, items in packed.items():
        paths = []
        for number, item in enumerate(items):
            folder = room / f"{key}-{number}"
            folder.mkdir(mode=0o700)
            place = folder / _plain(item["name"])
            if "file" in item:
                _write(place, item["file"])
            else:
                place.mkdir()
                for name, octets in item["folder"].items():
                    _write(place / _plain(name), octets)
            paths.append(str(place))
        here[key] = paths if isinstance(told[key], list) else paths[0]
    if OUT in told:
        (room / OUT).mkdir(mode=0o700)
        here[OUT] = str(room / OUT)
    return here


def read_folder(path: Path) -> Folder:
    """The plain files of a folder; raises StateError where they cannot be read."""
    try:
        names = sorted(entry.name for entry in path.iterdir() if entry.is_file())
        if len(names) > MOST_FILES:
            raise StateError(f"{path} has {len(names)} files, more than a checkpoint has")
        return {name: np.fromfile(path / name, np.uint8) for name in names}
    except OSError as err:
        raise StateError(f"cannot read {path}: {err.strerror}") from err


def place_folder(out: Path, name: str, files: Folder) -> Path:
    """Write a folder under `out`, whole or not at all, and give it; one of that name stays. Raises as `unpack` does."""
    target = out / _plain(name)
    if target.exists():
        return target
    try:
        out.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".new-", dir=out))
    except OSError as err:
        raise OutputError(f"cannot write {target}: {err.strerror}") from err
    try:
        for each, octets in files.items():
            with whole_file(work / _plain(each)) as file:
                file.write(octets.tobytes())
        work.chmod(0o755)
        work.rename(target)
    except OSError as err:
        raise OutputError(f"cannot write {target}: {err.strerror}") from err
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _packed(path: Path) -> dict[str, Any]:
    if path.is_dir():
        return {"name": path.name, "folder": read_folder(path)}
    try:
        return {"name": path.name, "file": np.fromfile(path, np.uint8)}
    except OSError as err:
        raise StateError(f"cannot read {path}: {err.strerror}") from err


def _write(path: Path, octets: Octets) -> None:
    try:
        path.write_bytes(octets.data)
    except OSError as err:
        raise OutputError(f"cannot write {path}: {err.strerror}") from err


def _plain(name: object) -> str:
    """A name of one file, visible and without a path."""
    if not isinstance(name, str) or not name or name.startswith(".") or "/" in name or "\0" in name:
        raise StateError(f"{name!r:.80} is no name of a file or checkpoint")
    return name
