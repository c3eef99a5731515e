"""The rules of a plugin (`plugin.Plugin`) as a check that whoever writes one runs; no test framework is needed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from nsstream.errors import NsstreamError
from nsstream_plugins.installer import Installer
from nsstream_plugins.plugin import Plugin, PluginFile, Scope

__all__ = ["check_plugin"]

HOME_VARIABLES: Final = ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME")
FORBIDDEN_BITS: Final = 0o022  # what others could change would be run by the user


def check_plugin(plugin: Plugin, directory: Path) -> None:
    """Hold a plugin to its rules, in a home made in an empty directory; raises AssertionError.

    Its files are whole, below the home (of the system: not), not to be changed by others, and the same when asked
    again; installed twice and removed, it leaves nothing behind; when it is not installed, nothing is found wrong with
    its files.
    """
    with _home(directory):
        for scope in ("user", "system"):
            _check_files(plugin, scope, directory)
        installer = Installer("user")
        _expect(bool(installer.install(plugin)), "an install says what it did")
        _expect(not installer.install(plugin), "an install that changes nothing says so")
        for file in plugin.files("user"):
            _expect(file.path.read_bytes() == file.octets, f"{file.path} holds what the plugin gave")
        named = [finding.text for finding in installer.findings(plugin)]
        _expect(all("\n" not in text and text for text in named), f"findings of one line each, got {named}")
        installer.remove(plugin.name)
        left = sorted(str(path) for path in directory.rglob("*"))
        _expect(not left, f"nothing is left, got {left}")


def _check_files(plugin: Plugin, scope: Scope, home: Path) -> None:
    try:
        files = plugin.files(scope)
    except NsstreamError as err:
        _expect("\n" not in str(err), f"a refusal of one sentence, got {str(err)!r}")
        return
    _expect(bool(files), f"files for the {scope}")
    _expect(len({file.path for file in files}) == len(files), f"each path once, got {[str(f.path) for f in files]}")
    for file in files:
        _expect(isinstance(file, PluginFile), f"a PluginFile, got {file!r:.80}")
        _expect(file.path.is_absolute(), f"an absolute path, got {file.path}")
        _expect((home in file.path.parents) == (scope == "user"), f"{file.path} is where the {scope}'s things are")
        _expect(not file.mode & FORBIDDEN_BITS, f"{file.path} can be changed by others: mode {file.mode:o}")
    _expect(list(plugin.files(scope)) == list(files), "the same files when asked again")


@contextmanager
def _home(directory: Path) -> Iterator[None]:
    """An environment in which the directory is the user's home."""
    before = {name: os.environ.get(name) for name in ("HOME", *HOME_VARIABLES)}
    os.environ["HOME"] = str(directory)
    for name in HOME_VARIABLES:
        os.environ.pop(name, None)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _expect(is_so: bool, otherwise: str) -> None:
    if not is_so:
        raise AssertionError(otherwise)
