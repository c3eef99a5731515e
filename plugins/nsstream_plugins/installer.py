"""Installer: puts a plugin's files where its tool looks, and takes them away again.

Promises: nothing that was there before is replaced or removed; what the user changed since is neither, unless forced.
The record is written before the first file, so that what a killed process put there can be removed. An install that
fails leaves what was there. When the last plugin is removed, the file system is as it was, down to the directories;
only those stay that somebody put something into, and they are named.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from nsstream.errors import InputError, OutputError
from nsstream_plugins.plugin import Finding, Plugin, PluginFile, Scope, in_path, ours_alone
from nsstream_plugins.record import Record, locked, read_record, record_path, write_record

DIRECTORY_MODE: Final = 0o755


class Installer:
    """What is installed in one scope."""

    def __init__(self, scope: Scope) -> None:
        self.scope: Final = scope
        self._record_path = record_path(scope)

    def installed(self) -> dict[str, list[Path]]:
        """The files of each installed plugin; raises StateError."""
        return {name: sorted(map(Path, files)) for name, files in read_record(self._record_path).plugins.items()}

    def install(self, plugin: Plugin, *, is_forced: bool = False) -> list[str]:
        """Install a plugin, or bring it up to date; what was done, line by line. Raises NsstreamError."""
        files = {str(_checked(file.path)): file for file in plugin.files(self.scope)}
        with locked(self.scope):
            record = read_record(self._record_path)
            before = record.plugins.get(plugin.name, {})
            _refuse_what_is_anothers(plugin.name, files, record)
            if not is_forced:
                _refuse_what_changed(plugin.name, before)
            made = self._missing_directories(files)
            kept = {path: Path(path).read_bytes() for path in {*files, *before} if Path(path).is_file()}
            modes = {path: Path(path).stat().st_mode for path in kept}
            after = {path: _digest(file.octets) for path, file in files.items()}
            done: list[str] = []
            try:
                for directory in made:
                    Path(directory).mkdir(DIRECTORY_MODE)
                    if self.scope == "system":  # whatever root's umask is, others must find it
                        Path(directory).chmod(DIRECTORY_MODE)
                    record.directories.append(directory)
                    done.append(f"made     {directory}/")
                record.plugins[plugin.name] = before | after
                write_record(self._record_path, record)
                for path, file in files.items():
                    if kept.get(path) != file.octets:
                        done.append(f"{'replaced' if path in kept else 'wrote   '} {path}")
                    _put(Path(path), file.octets, file.mode)
                for path in before.keys() - after.keys():
                    Path(path).unlink(missing_ok=True)
                    done.append(f"removed  {path}")
                record.plugins[plugin.name] = after
                done += self._settle(record)
            except OSError as err:
                for path in {*files, *before}:
                    with suppress(OSError):
                        if path in kept:
                            _put(Path(path), kept[path], modes[path] & 0o7777)
                        else:
                            Path(path).unlink(missing_ok=True)
                if before:
                    record.plugins[plugin.name] = before
                else:
                    record.plugins.pop(plugin.name, None)
                with suppress(OSError):
                    self._settle(record)
                raise OutputError(f"{err.filename or plugin.name}: {(err.strerror or str(err)).lower()}") from err
        return done

    def remove(self, name: str, *, is_forced: bool = False) -> list[str]:
        """Take a plugin away; what was done, line by line. Raises InputError if it is not installed, OutputError."""
        with locked(self.scope):
            record = read_record(self._record_path)
            if name not in record.plugins:
                raise InputError(f"{name!r:.80} is not installed for the {self.scope}")
            files = record.plugins[name]
            if not is_forced:
                _refuse_what_changed(name, files)
            done: list[str] = []
            try:
                for path in files:
                    is_there = os.path.lexists(path)
                    Path(path).unlink(missing_ok=True)
                    done.append(f"{'removed ' if is_there else 'was gone'} {path}")
                del record.plugins[name]
                return done + self._settle(record)
            except OSError as err:
                raise OutputError(f"{err.filename or name}: {(err.strerror or str(err)).lower()}") from err

    def findings(self, plugin: Plugin) -> list[Finding]:
        """How it stands with a plugin: its tool, its files as they should be, and what it says itself."""
        found = [in_path(program) for program in plugin.programs]
        files = read_record(self._record_path).plugins.get(plugin.name)
        if files is None:
            return found
        for path, digest in files.items():
            state = "is in place" if _digest_of(Path(path)) == digest else "was changed or is gone; install it again"
            found.append(Finding(state == "is in place", f"{path} {state}"))
        wanted = {str(file.path): _digest(file.octets) for file in plugin.files(self.scope)}
        if wanted != files:
            found.append(Finding(False, "this nsstream would install other files; install it again"))
        return [*found, ours_alone(self.scope), *plugin.check(self.scope)]

    def _missing_directories(self, files: dict[str, PluginFile]) -> list[str]:
        """The directories that have to be made, each behind those above it."""
        missing: list[str] = []
        for path in (*map(Path, files), self._record_path):
            for parent in reversed(path.parents):
                if not parent.exists() and str(parent) not in missing:
                    missing.append(str(parent))
        return missing

    def _settle(self, record: Record) -> list[str]:
        """Remove directories of ours that are empty now, and keep the record while it is of use; raises OSError."""
        done: list[str] = []
        if not record.plugins:
            self._record_path.unlink(missing_ok=True)
        for directory in reversed(record.directories.copy()):
            try:
                Path(directory).rmdir()
            except FileNotFoundError:
                record.directories.remove(directory)
            except OSError:
                if not record.plugins:
                    done.append(f"left     {directory}/, which is not empty")
            else:
                record.directories.remove(directory)
                done.append(f"removed  {directory}/")
        if record.plugins:
            write_record(self._record_path, record)
        return done


def _checked(path: Path) -> Path:
    if not path.is_absolute() or ".." in path.parts:
        raise InputError(f"a plugin's file must have an absolute path without .., got {path}")
    return path


def _refuse_what_is_anothers(name: str, files: dict[str, PluginFile], record: Record) -> None:
    for path in files:
        owner = next((other for other, owned in record.plugins.items() if path in owned), None)
        if owner not in (None, name):
            raise OutputError(f"{path} is there already, of the plugin {owner!r}")
        if owner is None and os.path.lexists(path):
            raise OutputError(f"{path} is there already, and not of nsstream; move it away first")


def _refuse_what_changed(name: str, files: dict[str, str]) -> None:
    changed = [path for path, digest in files.items() if os.path.lexists(path) and _digest_of(Path(path)) != digest]
    if changed:
        raise OutputError(f"{', '.join(changed)}: changed since {name} was installed; --force gives that up")


def _put(path: Path, octets: bytes, mode: int) -> None:
    """Write a file whole, under another name first; raises OSError."""
    new = path.with_name(f".{path.name}.new")
    try:
        new.unlink(missing_ok=True)  # of a process that was killed
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(octets)
            os.fchmod(file.fileno(), mode)
        new.replace(path)
    except OSError:
        with suppress(OSError):
            new.unlink(missing_ok=True)
        raise


def _digest(octets: bytes) -> str:
    return hashlib.sha256(octets).hexdigest()


def _digest_of(path: Path) -> str | None:
    """None of what cannot be read, or is no regular file."""
    try:
        return None if path.is_symlink() else _digest(path.read_bytes())
    except OSError:
        return None
