"""NfcapdFileSource: one file of nfdump (nfcapd, nfpcapd, sfcapd, `nfdump -w`) as a source of flows.

Promises: every flow record of the file is a row or counted by reason in `tally`; a file that cannot be used is refused
with one sentence that names it and says what to do. Files of nfdump 1.7 are read by `wire.nfcapd`, in any of their
compressions; those of nfdump 1.6 (layout 1) are first rewritten by nfdump, which must be installed for them.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from nsstream.capture.compression import STREAM_ERRORS, Reader, open_decompressed
from nsstream.capture.source import COLLECTOR_LATENESS_S
from nsstream.counters import Tally
from nsstream.errors import InputError, WireError
from nsstream.trace import FlowTable
from nsstream.wire.nfcapd import CUT_RECORD, LAYOUT, NfcapdReader, layout_of

_READ_BYTES: Final = 1 << 20
_OLD_LAYOUT: Final = 1
_NFDUMP_TIMEOUT_S: Final = 600


class NfcapdFileSource:
    """Reads a file in batches of the blocks, of about 10,000 flows each, that end in the next few MiB of it.

    A file that ends in the middle of a block (nfcapd still writes it, a full disk, a copy that broke off) is refused
    when its end is reached, or with `allow_cut` read as far as it goes, the rest counted as malformed. `nfdump` is the
    program that rewrites old files.
    """

    lateness_s: Final = COLLECTOR_LATENESS_S

    def __init__(self, path: Path | str, *, allow_cut: bool = False, nfdump: str = "nfdump") -> None:
        self.tally = Tally()
        self._path = Path(path)
        self._allow_cut = allow_cut
        self._nfdump = nfdump
        self._file: Reader | None = None
        self._head = b""  # octets read to see the layout
        self._reader = NfcapdReader()
        self._rewritten: tempfile.TemporaryDirectory[str] | None = None
        self._has_ended = False

    def open(self) -> None:
        """Open the file and read its first octets.

        Raises InputError if it is missing, not readable, not nfdump's, or old and nfdump cannot rewrite it.
        """
        self.close()
        self._reader = NfcapdReader()
        self.tally = self._reader.tally
        self._has_ended = False
        try:
            self._file, self._head = self._open(self._path)
            if layout_of(self._head) == _OLD_LAYOUT:
                self._file.close()
                self._file, self._head = self._open(self._rewrite())
        except (WireError, *STREAM_ERRORS) as err:
            self.close()
            reason = err.strerror if isinstance(err, OSError) and err.strerror else str(err)
            raise InputError(f"{self._path}: cannot be read: {reason}") from err
        except InputError:
            self.close()
            raise
        if layout_of(self._head) != LAYOUT:
            self.close()
            raise InputError(f"{self._path}: nfdump file of layout {layout_of(self._head)}: this version reads 1 and 2")

    def read_batch(self) -> FlowTable | None:
        """The next flows, None at the end.

        Raises InputError where the file is corrupt beyond a block, encrypted, or cut.
        """
        if self._file is None and not self._has_ended:
            raise RuntimeError("read_batch before open")
        while not self._has_ended:
            try:
                octets, is_stream_cut = self._read()
                if not octets:
                    self._end(is_stream_cut=is_stream_cut)
                elif blocks := self._reader.feed(octets):
                    return FlowTable.concatenate([FlowTable.from_columns(block) for block in blocks])
            except WireError as err:
                self._has_ended = True
                raise InputError(f"{self._path}: {err}") from err
        return None

    def close(self) -> None:
        """Close the file; the tally stays."""
        if self._file is not None:
            self._file.close()
            self._file = None
            self._has_ended = True
        if self._rewritten is not None:
            self._rewritten.cleanup()
            self._rewritten = None

    def _open(self, path: Path) -> tuple[Reader, bytes]:
        file = open_decompressed(path)
        try:
            head = bytearray()
            while len(head) < 4:
                piece = bytearray(4 - len(head))
                count = file.readinto1(memoryview(piece))
                if not count:
                    break
                head += piece[:count]
        except STREAM_ERRORS:
            file.close()
            raise
        return file, bytes(head)

    def _read(self) -> tuple[bytes | memoryview, bool]:
        """The next octets, none at the end; and whether the compressed stream around them is cut there."""
        if self._head:
            head, self._head = self._head, b""
            return head, False
        assert self._file is not None
        buffer = memoryview(bytearray(_READ_BYTES))
        try:
            return buffer[: self._file.readinto1(buffer)], False
        except EOFError:
            return b"", True
        except STREAM_ERRORS as err:
            self._has_ended = True
            raise InputError(
                f"{self._path}: corrupt, or its compression is, after {self.tally.read} whole records: {err}"
            ) from err

    def _end(self, *, is_stream_cut: bool) -> None:
        self._has_ended = True
        self._reader.finish()
        if is_stream_cut and not self.tally.malformed[CUT_RECORD]:
            self.tally.offered += 1
            self.tally.malformed[CUT_RECORD] += 1
        if self.tally.malformed[CUT_RECORD] and not self._allow_cut:
            whole = self.tally.read - self.tally.malformed[CUT_RECORD]
            raise InputError(
                f"{self._path}: ends in the middle of a block, after {whole} whole records; nfcapd still writes it, or "
                "a copy broke off"
            )

    def _rewrite(self) -> Path:
        """Let nfdump write the file anew, in its present layout and without compression; where it is."""
        program = shutil.which(self._nfdump)
        if program is None:
            raise InputError(
                f"{self._path}: written by nfdump 1.6 or older, and {self._nfdump} is not installed to convert it"
            )
        self._rewritten = tempfile.TemporaryDirectory(prefix="nsstream-nfdump-")
        plain = Path(self._rewritten.name, "plain")
        new = Path(self._rewritten.name, "new")
        file = open_decompressed(self._path)
        try:
            buffer = memoryview(bytearray(_READ_BYTES))
            with plain.open("wb") as copy:
                while count := file.readinto1(buffer):
                    copy.write(buffer[:count])
        finally:
            file.close()
        command = [program, "-q", "-r", str(plain), "-w", str(new)]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_NFDUMP_TIMEOUT_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as err:
            raise InputError(f"{self._path}: {program} cannot convert it: {err}") from err
        if done.returncode or not new.exists():
            told = done.stderr.decode(errors="replace").strip().splitlines()
            raise InputError(f"{self._path}: {program} cannot convert it: {told[-1] if told else done.returncode}")
        return new
