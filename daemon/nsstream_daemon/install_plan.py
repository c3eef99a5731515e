"""The steps by which the service is installed or removed: each can be told before it is done, and tells what it did.

Order: files, then users, then the folders that those own, then the service manager reads its units. Below another root
than /, and where systemd does not run, what needs it is left for the next boot, which does the same.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nsstream.errors import OutputError
from nsstream_daemon.unit_files import EXAMPLE, GPU, SETTINGS, UNITS, UnitFile, place_of

BOOTED: Final = Path("/run/systemd/system")  # sd_booted(3)
COMMAND_TIMEOUT_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Step:
    """Something to do, in words, and how; None: there is nothing to do, and the words say why."""

    words: str
    do: Callable[[], None] | None = None


def install_steps(files: Sequence[UnitFile], root: Path) -> list[Step]:
    """How to install files below a root; raises OutputError where one's place is taken by something else."""
    steps = [_write_step(file, root) for file in files]
    below = [] if root == Path("/") else [f"--root={root}"]
    steps.append(_command_step(["systemd-sysusers", *below, "nsstream.conf"], "users: the next boot makes them"))
    steps.append(
        _command_step(["systemd-tmpfiles", "--create", *below, "nsstream.conf"], "folders: the next boot makes them")
    )
    return [*steps, _reload_step(root)]


def remove_steps(example: bytes, root: Path) -> list[Step]:
    """How to remove what `install_steps` installs; the configuration goes if it is the example still.

    State, caches, keys and users stay.
    """
    steps = []
    if any((root / place_of(unit).relative_to("/")).exists() for unit in UNITS):
        below = ["--now"] if _is_live(root) else [f"--root={root}"]
        steps.append(_command_step(["systemctl", "disable", *below, *UNITS], "units: systemctl is not installed"))
    for name in (*UNITS, GPU, *SETTINGS):
        steps.append(_remove_step(root, place_of(name)))
    configured = root / place_of(EXAMPLE).relative_to("/")
    if configured.is_file() and configured.read_bytes() != example:
        steps.append(Step(f"keep    {configured}: it was edited"))
    else:
        steps.append(_remove_step(root, place_of(EXAMPLE)))
    steps.append(Step("keep    what is in /var/lib, /var/cache, /etc/credstore, and the users, who own it"))
    return [*steps, _reload_step(root)]


def _write_step(file: UnitFile, root: Path) -> Step:
    path = root / file.place.relative_to("/")
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise OutputError(f"{path} is no file of ours, perhaps the mark of a masked unit; remove it first")
    if not path.exists():
        return Step(f"write   {path}", lambda: _write(path, file.octets))
    if file.is_kept:
        return Step(f"keep    {path}: one is there")
    if path.read_bytes() == file.octets:
        return Step(f"keep    {path}: it is the same")
    return Step(f"replace {path}", lambda: _write(path, file.octets))


def _remove_step(root: Path, place: Path) -> Step:
    path = root / place.relative_to("/")
    if not path.is_file() or path.is_symlink():
        return Step(f"keep    {path}: there is none of ours")
    return Step(f"remove  {path}", lambda: _remove(path))


def _command_step(command: list[str], otherwise: str) -> Step:
    if shutil.which(command[0]) is None:
        return Step(f"skip    {otherwise}")
    return Step(f"run     {' '.join(command)}", lambda: _run(command))


def _reload_step(root: Path) -> Step:
    if not _is_live(root):
        return Step("skip    systemctl daemon-reload: no systemd runs there")
    return Step("run     systemctl daemon-reload", lambda: _run(["systemctl", "daemon-reload"]))


def _is_live(root: Path) -> bool:
    return root == Path("/") and BOOTED.is_dir()


def _write(path: Path, octets: bytes) -> None:
    """Write a file whole or not at all, readable by everybody."""
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".nsstream-", delete=False) as file:
            try:
                file.write(octets)
                file.flush()
                os.fchmod(file.fileno(), 0o644)
                Path(file.name).replace(path)
            except BaseException:
                Path(file.name).unlink()
                raise
    except OSError as err:
        raise OutputError(f"{path}: {str(err.strerror).lower()}") from err


def _remove(path: Path) -> None:
    """Remove a file, and its folder if that was made for it and is empty."""
    try:
        path.unlink()
        if path.parent.name in ("nsstream", "nsstreamd.service.d") and not any(path.parent.iterdir()):
            path.parent.rmdir()
    except OSError as err:
        raise OutputError(f"{path}: {str(err.strerror).lower()}") from err


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as err:
        raise OutputError(f"{' '.join(command)}: {err}") from err
    if done.returncode:
        said = done.stderr.strip().rsplit("\n", 1)[-1] or f"ended with status {done.returncode}"
        raise OutputError(f"{' '.join(command)}: {said}")
