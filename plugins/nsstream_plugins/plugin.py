"""Plugin: what is installed where for one tool, and how to see whether it works.

A plugin is a value. `files` gives whole files for a scope, which is one user or the whole system; `installer` puts them
there, remembers them and takes them away, so a plugin writes nothing itself. `check` looks, and changes nothing.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

Scope = Literal["user", "system"]

PROGRAM_MODE: Final = 0o755
FILE_MODE: Final = 0o644
NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,39}", re.ASCII)


@dataclass(frozen=True, slots=True)
class PluginFile:
    """A file to install: an absolute path, its octets and its mode."""

    path: Path
    octets: bytes
    mode: int = FILE_MODE


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: whether it is as it should be, and a sentence about it."""

    is_good: bool
    text: str


def _nothing_to_check(scope: Scope) -> Sequence[Finding]:
    return ()


@dataclass(frozen=True)
class Plugin:
    """One tool's part of nsstream.

    Args:
        name: as in ``nsstream plugin install NAME``: small letters, digits and dashes; that of its entry point.
        tool: what users call the tool.
        summary: what they have when it is installed, in one line.
        files: what is put where; raises NsstreamError where that scope is not possible.
        programs: of the tool, which must be in PATH for the plugin to be of use.
        check: looks deeper than at files and programs, when the plugin is installed; may start the tool.
        next_step: what to do once it is installed.
    """

    name: str
    tool: str
    summary: str
    files: Callable[[Scope], Sequence[PluginFile]]
    programs: Sequence[str] = ()
    check: Callable[[Scope], Sequence[Finding]] = _nothing_to_check
    next_step: str = ""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError(f"a plugin's name is of small letters, digits and dashes, got {self.name!r:.80}")


def launcher(plugin: str, module: str, *arguments: str) -> bytes:
    """A program that runs ``python -m module arguments`` in our interpreter, with what it is given behind them.

    It becomes the interpreter (``exec``), so that whoever ends it ends that; ``-P`` keeps the directory in which it
    happens to be started out of Python's path.
    """
    words = " ".join(map(shlex.quote, (sys.executable, "-P", "-m", module, *arguments)))
    return f'#!/bin/sh\n{made_by(plugin)}exec {words} "$@"\n'.encode()


def made_by(plugin: str) -> str:
    """The comment that an installed text file begins with."""
    return f"# Installed by `nsstream plugin install {plugin}`; `nsstream plugin remove {plugin}` takes it away.\n"


def config_home() -> Path:
    """Where a user's tools keep their configuration (XDG Base Directory Specification)."""
    return _xdg("XDG_CONFIG_HOME", ".config")


def program_directory(scope: Scope) -> Path:
    """Where programs of ours go that a user, or a unit, starts by name."""
    return Path("/usr/local/bin") if scope == "system" else Path.home() / ".local/bin"


def share_directory(scope: Scope) -> Path:
    """Where examples and configurations of ours go."""
    home = Path("/usr/local/share") if scope == "system" else _xdg("XDG_DATA_HOME", ".local/share")
    return home / "nsstream"


def state_home() -> Path:
    """Where a user's programs remember things."""
    return _xdg("XDG_STATE_HOME", ".local/state")


def in_path(program: str) -> Finding:
    """Whether a program is installed; Debian keeps daemons in sbin, which is not in a user's PATH."""
    path = shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin")
    return Finding(path is not None, f"{program} is {path}" if path else f"{program} is not installed")


def ours_alone(scope: Scope) -> Finding:
    """Whether what is installed for the system runs nothing that an ordinary user could change."""
    parts = [Path(sys.executable).resolve(), Path(sys.prefix), Path(__file__).parent]
    others = [path for path in parts if scope == "system" and _is_others(path)]
    if not others:
        return Finding(True, "what is installed runs nothing of another user's")
    return Finding(
        False, f"{others[0]} can be changed by another user than root, and with it what all users of the tool run"
    )


def _is_others(path: Path) -> bool:
    told = path.stat()
    return told.st_uid != 0 or bool(told.st_mode & 0o022)


def _xdg(variable: str, otherwise: str) -> Path:
    path = Path(os.environ.get(variable, ""))
    return path if path.is_absolute() else Path.home() / otherwise
