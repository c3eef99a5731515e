"""HandoverFiles: what a source hands over, in files that the commit of the journal names.

So it stands and falls with the rows and counts of the same commit, however large it is, and is written only when it is
another one. A file's name is the digest of its content; one that is no more what its name says is not read.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from nsstream.chunk.whole_file import PART_SUFFIX, whole_file
from nsstream.errors import OutputError

_log = logging.getLogger(__name__)

MAX_BYTES: Final = 64 << 20
_NAME: Final = re.compile(r"[0-9a-f]{32}\.json")


class HandoverFiles:
    """The files of one folder, which is made when the first one is written."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._saved: tuple[dict[str, Any], str] | None = None
        self._kept: str | None = ""

    def save(self, handover: dict[str, Any] | None) -> str | None:
        """Make it durable and give the name of its file; raises OutputError where the disk refuses."""
        if handover is None:
            return None
        if self._saved is not None and self._saved[0] is handover:
            return self._saved[1]
        octets = json.dumps(handover, separators=(",", ":")).encode()
        name = f"{_digest_of(octets)}.json"
        if not (self._directory / name).exists():
            try:
                self._directory.mkdir(exist_ok=True)
            except OSError as err:
                raise OutputError(f"cannot make the folder {self._directory}: {err.strerror}") from err
            with whole_file(self._directory / name, mode=0o600) as file:
                file.write(octets)
        self._saved = handover, name
        return name

    def read(self, name: object) -> dict[str, Any] | None:
        """What a file holds; None, and a line in the log, where it is missing or broken."""
        if name is None:
            return None
        try:
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise ValueError("that is no name of one")
            path = self._directory / name
            if path.stat().st_size > MAX_BYTES:
                raise ValueError("it is too large")
            octets = path.read_bytes()
            if f"{_digest_of(octets)}.json" != name:
                raise ValueError("its content is not what was written")
            handover = json.loads(octets)
            if not isinstance(handover, dict):
                raise ValueError("it holds no mapping")
        except (OSError, ValueError, RecursionError) as err:
            _log.warning("handover_unread name=%r error=%s", name, err)
            return None
        self._saved = handover, str(name)
        return handover

    def keep_only(self, name: str | None) -> None:
        """Remove all files but that one, which a commit has named."""
        if name == self._kept or not self._directory.is_dir():
            return
        for path in self._directory.iterdir():
            if path.name != name and (_NAME.fullmatch(path.name) or path.name.endswith(PART_SUFFIX)):
                with suppress(OSError):  # a left-over that the next one removes
                    path.unlink()
        self._kept = name


def _digest_of(octets: bytes) -> str:
    return hashlib.sha256(octets).hexdigest()[:32]
