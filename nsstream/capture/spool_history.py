"""SpoolHistory: what a ledger knows of a file that is there now: as itself, by another name, or before compression."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Final

from nsstream.capture.spool_file import COMPRESSION_SUFFIXES, HEAD_BYTES, SpoolFile, head_of
from nsstream.capture.spool_ledger import Entry, Ledger
from nsstream.clock import Clock

_MTIME_SLACK_NS: Final = 1_000_000_000  # compressors keep a file's time, some only to the second


class SpoolHistory:
    """The history of one directory. Every method raises InputError where the ledger cannot be used."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock

    def is_read(self, path: Path, file: SpoolFile) -> bool:
        """Whether all of the file was read, as itself or before it was compressed."""
        if file.size == 0:
            return True  # it will have octets, or it is none of ours
        try:
            known = self.known(path, file)
        except OSError:
            return False  # reading it will say why
        return known is not None and known.is_done and known.file.size == file.size

    def known(self, path: Path, file: SpoolFile) -> Entry | None:
        """How far the file was read, None if it was never begun; raises OSError if it cannot be read."""
        entry = self._ledger.find(path, file)
        if entry is not None:
            if entry.name != path.name:
                entry = replace(entry, name=path.name)
                self.put(entry)
            return entry
        if path.suffix in COMPRESSION_SUFFIXES:
            plain = self._ledger.find_name(path.stem)
            if plain is not None and abs(plain.file.mtime_ns - file.mtime_ns) < _MTIME_SLACK_NS:
                return self._inherit(plain, path, file)
        return None

    def begin(self, path: Path, file: SpoolFile) -> Entry:
        """The entry of a file that is about to be read, not written down; raises OSError if it cannot be."""
        head_bytes = min(HEAD_BYTES, file.size)
        return Entry(path.name, file, head_bytes, head_of(path, head_bytes), is_done=False)

    def refuse(self, path: Path, file: SpoolFile) -> None:
        """Write down that the file, as it is, cannot be read."""
        self.put(Entry(path.name, file, 0, "", is_done=True))

    def knows_inode(self, device: int, inode: int) -> bool:
        """Whether any file with that inode was begun."""
        return self._ledger.knows_inode(device, inode)

    def put(self, entry: Entry) -> None:
        """Write down how far a file was read."""
        self._ledger.put(entry, self._clock.wall_ns())

    def forget_gone(self, there: Collection[tuple[int, int]]) -> None:
        """Remove old entries of files whose device and inode are not among those that are there."""
        self._ledger.forget_gone(there, self._clock.wall_ns())

    def _inherit(self, plain: Entry, path: Path, file: SpoolFile) -> Entry:
        """Give a file's entry to its compressed self, for its own goes when its inode is used again."""
        entry = replace(self.begin(path, file), is_done=plain.is_done, tally=plain.tally)
        self.put(entry)
        return entry
