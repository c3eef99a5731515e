"""nsstream-dumpcap: dumpcap's ring of files, each handed to a spool as dumpcap closes it, the last one too.

dumpcap writes into a hidden directory of the spool, says the name of each file that it has closed (``-b printname``),
and the file is moved into the spool then. When this process is killed, so is dumpcap; what it left is handed over at
the next start. Options of dumpcap's own follow the spool's name.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from nsstream.capture.source import IDLE_S
from nsstream.capture.spool_file import is_being_written
from nsstream.capture.tool_process import ToolProcess, wait_readable
from nsstream.errors import NsstreamError, OutputError
from nsstream_plugins.handover import MOST_FILES, hand_over, is_spool, say_gone, trim

RING: Final = ".ring"
INTERVAL_S: Final = 60
SNAPLEN: Final = 192  # no payload is kept
BUFFER_MIB: Final = 32
GRACE_S: Final = 0.6  # dumpcap's own timeout is 0.25 s: then it has taken what came before the signal
END_S: Final = 10.0


class Ring:
    """One dumpcap and its spool."""

    def __init__(self, spool: Path, options: Sequence[str], most_files: int = MOST_FILES) -> None:
        """Check the spool; `options` are dumpcap's, such as ``-i eth0``. Raises NsstreamError."""
        self._spool = is_spool(spool)
        self._ring = spool / RING
        self._most_files = most_files
        rotation = [] if "-b" in options or "--ring-buffer" in options else ["-b", f"interval:{INTERVAL_S}"]
        defaults = ["-q", "-s", str(SNAPLEN), "-B", str(BUFFER_MIB)]
        self._command = ["dumpcap", *defaults, *options, *rotation, "-b", "printname:stdout"]
        self._command += ["-w", str(self._ring / "ring.pcapng")]
        self._is_stopped = False
        self.file_count = 0

    def stop(self, number: int = 0, frame: FrameType | None = None) -> None:
        """Let dumpcap end; may be a signal's handler."""
        self._is_stopped = True

    def run(self) -> str:
        """Capture until dumpcap ends or is stopped; what it says of its end. Raises NsstreamError if it failed."""
        try:
            self._ring.mkdir(mode=0o700, exist_ok=True)
        except OSError as err:
            raise OutputError(f"{self._ring}: {(err.strerror or str(err)).lower()}") from err
        self._take_left()
        tool = ToolProcess(self._command)
        said, asked_s = b"", 0.0
        try:
            while True:
                tool.listen()
                if self._is_stopped:
                    asked_s = asked_s or time.monotonic()
                    if time.monotonic() - asked_s >= GRACE_S:
                        tool.ask_to_end()
                if not wait_readable(tool.stdout, IDLE_S):
                    continue
                octets = os.read(tool.stdout, 1 << 16)
                *names, said = (said + octets).split(b"\n")
                for name in names:
                    self._take(Path(os.fsdecode(name)))
                if not octets:
                    break
        finally:
            status = tool.end(time.monotonic() + END_S)
            self._take_left()
        if status and not asked_s:
            raise OutputError(tool.obituary(status))
        lost = ", ".join(f"{count} lost in {place}" for place, count in tool.messages.dropped.items() if count)
        return f"{self.file_count} files handed over" + (f"; {lost}" if lost else "")

    def _take(self, path: Path) -> None:
        if path.exists() and hand_over(path, self._spool, moves=True) is not None:
            self.file_count += 1
            say_gone(trim(self._spool, self._most_files))

    def _take_left(self) -> None:
        """Hand over what nobody writes to: of a life before, or what dumpcap did not name any more."""
        for path in sorted(self._ring.iterdir()):
            if path.is_file() and path.stat().st_size and is_being_written(path) is not True:
                self._take(path)


def main(arguments: Sequence[str]) -> int:
    """``SPOOL [dumpcap's options]``: capture into a spool; the exit status."""
    parser = argparse.ArgumentParser(
        description="Capture with dumpcap into a spool directory that nsstream reads: nsstream ingest spool:SPOOL.",
        epilog="All other options are dumpcap's: -i eth0 -f 'not port 22' -b interval:10.",
        allow_abbrev=False,
    )
    parser.add_argument("--most-files", type=int, default=MOST_FILES, help="that stay in the spool (%(default)s)")
    parser.add_argument("spool", type=Path)
    asked, options = parser.parse_known_args(arguments)
    try:
        ring = Ring(asked.spool, options, asked.most_files)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, ring.stop)
        print(f"nsstream: {ring.run()}", file=sys.stderr)
    except NsstreamError as err:
        print(f"nsstream: {err}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
