"""What is installed where systemd runs the service: units, users, folders, an example of the configuration.

The files are those of ``systemd/`` in the repository, which a wheel carries as data. Only the program's path is
written anew: the units name it where a virtual environment at /opt/nsstream has it.
"""

from __future__ import annotations

import os
import re
import stat
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nsstream.errors import InputError

SHARED: Final = "share/nsstream/systemd"  # where a wheel puts them, below its environment
SHIPPED_PROGRAM: Final = "/opt/nsstream/bin/nsstream"
UNITS: Final = ("nsstreamd.service", "nsstreamd.socket", "nsstream-replay.service")
GPU: Final = "nsstreamd.service.d/gpu.conf"
SETTINGS: Final = ("sysusers.d/nsstream.conf", "tmpfiles.d/nsstream.conf")
EXAMPLE: Final = "nsstream.toml"

_PLAIN: Final = re.compile(r"/[A-Za-z0-9/._+@-]+", re.ASCII)
_HIDDEN: Final = {  # from the units, by what they say
    "/home": "ProtectHome=", "/root": "ProtectHome=", "/run/user": "ProtectHome=",
    "/tmp": "PrivateTmp=", "/var/tmp": "PrivateTmp=", "/var/lib": "TemporaryFileSystem=",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class UnitFile:
    """A file to install: its place, what it holds, and whether one that is there is somebody's own, and stays."""

    place: Path  # absolute, below any root
    octets: bytes
    is_kept: bool = False


def unit_files(program: Path, *, has_gpu: bool) -> list[UnitFile]:
    """What to install for a program at this path."""
    names = [*UNITS, GPU] if has_gpu else UNITS
    files = [
        UnitFile(place_of(name), _text(name).replace(SHIPPED_PROGRAM, str(program)).encode())
        for name in (*names, *SETTINGS)
    ]
    return [*files, UnitFile(place_of(EXAMPLE), _text(EXAMPLE).encode(), is_kept=True)]


def place_of(name: str) -> Path:
    """Where a file of ``systemd/`` goes to."""
    if name == EXAMPLE:
        return Path("/etc/nsstream") / name
    return Path("/etc") / name if name in SETTINGS else Path("/etc/systemd/system") / name


def own_program() -> Path:
    """The ``nsstream`` of the Python that runs; raises InputError where there is none."""
    program = Path(sys.executable).parent / "nsstream"
    if not program.is_file():
        raise InputError(f"there is no {program}; install nsstream into that environment, or give --program")
    return program.parent.resolve() / program.name


def check_program(program: Path, root: Path) -> None:
    """Raise InputError for a program that the units could not run: hidden from them, or from their users."""
    if not _PLAIN.fullmatch(str(program)):
        raise InputError(f"the program's path must be absolute and plain for a unit to name it, got {str(program)!r}")
    wanted = [program]
    if root == Path("/") and program.parent == Path(sys.executable).parent.resolve():
        wanted.append(Path(os.path.realpath(sys.executable)))  # what a virtual environment's Python is a link to
    for path in wanted:
        for folder, setting in _HIDDEN.items():
            if path.is_relative_to(folder):
                raise InputError(
                    f"{path} is below {folder}, which the units do not see ({setting} in them); "
                    "install nsstream into a virtual environment such as /opt/nsstream"
                )
        _check_reach(root, path)


def _check_reach(root: Path, path: Path) -> None:
    """Raise InputError where other users cannot come to a program and run it."""
    for part in (*reversed(path.parents), path):
        inside = root / part.relative_to("/")
        try:
            mode = inside.stat().st_mode
        except OSError as err:
            raise InputError(f"{inside}: {str(err.strerror).lower()}; the units could not start it") from err
        if not mode & stat.S_IXOTH:
            raise InputError(f"{inside}: the services' users may not enter or run it; chmod o+rx it")


def _text(name: str) -> str:
    """What is in a file of ``systemd/``, from the wheel or from the repository that this is run in."""
    repository = Path(__file__).parents[2] / "systemd"
    folder = repository if (repository / name).is_file() else Path(sysconfig.get_path("data")) / SHARED
    try:
        return (folder / name).read_text(encoding="utf-8")
    except OSError as err:
        raise InputError(f"{folder}: has no {name}; is this installation whole?") from err
