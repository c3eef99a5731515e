"""PysharkSource: any capture that tshark reads, dissected by tshark and pyshark, into the columns of the fast path.

For link types and tunnels that `PcapFileSource` does not know: 802.11, GTP-U, VXLAN, GRE, MPLS, PPPoE and so on; and
for file formats that are neither pcap nor pcapng. Three orders of magnitude slower than `PcapFileSource`.

How: tshark runs as a child; `wire.PdmlSplitter` cuts what it writes into packets, and `wire.pdml_packet` makes of each
what `wire.dissect` reads, so that every rule of the fast path holds here, too. Nothing is reassembled: a fragment is a
fragment.

Promises: a record gives one row at most, or a reason. Beside the fast path's there are ``unsupported["encrypted"]``
(802.11 data without its key) and ``["no_such_header"]`` (fewer IP headers than `ip_header` asks for), and
``malformed["tshark_output"]`` (what tshark wrote of the packet cannot be read). tshark is gone when `close` returns;
one that says nothing for `silence_s` is ended.

pyshark finds tshark and parses its packets. Its own event loop is not used: it cannot run inside another one, ends at
the first packet that it cannot parse, and depends on parts of asyncio that Python 3.14 has no more.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from nsstream.capture.source import IDLE_S
from nsstream.capture.tool_process import ToolProcess, wait_readable
from nsstream.counters import Tally
from nsstream.errors import InputError
from nsstream.trace import PacketBatch
from nsstream.wire.pdml import PdmlSplitter
from nsstream.wire.pdml_packet import DETAILED_PROTOCOLS, read_packets

CUT_RECORD: Final = "cut_record"

_ROWS: Final = 256  # records a batch
_GRACE_S: Final = 3.0
# Reassembly off; what depends on other packets than the one in hand, too.
_PREFERENCES: Final = {
    "ip.defragment": "FALSE", "ipv6.defragment": "FALSE", "tcp.desegment_tcp_streams": "FALSE",
    "tcp.analyze_sequence_numbers": "FALSE", "wlan.defragment": "FALSE",
}  # fmt: skip
_CUT: Final = "cut short in the middle of a packet"


class PysharkSource:
    """Reads a capture file through tshark.

    Args:
        path: any file that tshark reads, compressed or not.
        ip_header: which IP header of a packet is its row: 0 the outermost, 1 the next, -1 the innermost. Headers that
            an ICMP message quotes do not count.
        decode_as: as of ``tshark -d``: {"udp.port==4790": "vxlan"}.
        preferences: as of ``tshark -o``, such as keys: {"wlan.enable_decryption": "TRUE"}.
        allow_cut: as of `PcapFileSource`.
        silence_s: how long tshark may say nothing.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        ip_header: int = -1,
        decode_as: Mapping[str, str] | None = None,
        preferences: Mapping[str, str] | None = None,
        allow_cut: bool = False,
        silence_s: float = 60.0,
    ) -> None:
        self.tally = Tally()
        self._path = Path(path)
        self._ip_header = ip_header
        self._decode_as = dict(decode_as or {})
        self._preferences = _PREFERENCES | dict(preferences or {})
        self._allow_cut = allow_cut
        self._silence_s = silence_s
        self._tool: ToolProcess | None = None
        self._splitter = PdmlSplitter()
        self._pieces: deque[bytes | None] = deque()  # packets that wait
        self._is_at_end = False
        self._has_ended = False

    def open(self) -> None:
        """Start tshark on the file.

        Raises InputError if the file cannot be read, or pyshark or tshark is not installed.
        """
        self.close()
        try:
            with self._path.open("rb"):
                pass
        except OSError as err:
            raise InputError(f"{self._path}: cannot be read: {err.strerror}") from err
        command = [_find_tshark(), "-n", "-T", "pdml", "-j", DETAILED_PROTOCOLS, "-r", str(self._path.absolute())]
        for name, value in self._preferences.items():
            command += ["-o", f"{name}:{value}"]
        for criterion, protocol in self._decode_as.items():
            command += ["-d", f"{criterion},{protocol}"]
        self.tally = Tally()
        self._splitter = PdmlSplitter()
        self._pieces.clear()
        self._is_at_end = self._has_ended = False
        self._tool = ToolProcess(command)

    def read_batch(self) -> PacketBatch | None:
        """The next packets, None at the end.

        Raises InputError where tshark cannot read the file, or not to its end.
        """
        if self._has_ended:
            return None
        if self._tool is None:
            raise RuntimeError("read_batch before open")
        while True:
            while len(self._pieces) < _ROWS and not self._is_at_end:
                self._read_more(self._tool)
            if not self._pieces:
                self._finish(self._tool)
                return None
            pieces = [self._pieces.popleft() for _ in range(min(_ROWS, len(self._pieces)))]
            batch = PacketBatch.from_columns(read_packets(pieces, self._ip_header, self.tally))
            if len(batch):
                return batch

    def close(self) -> None:
        """End tshark; the tally stays."""
        if self._tool is not None:
            self._end(self._tool, grace_s=0)

    def _end(self, tool: ToolProcess, *, grace_s: float) -> int:
        self._tool = None
        self._has_ended = True
        self._pieces.clear()
        return tool.end(time.monotonic() + grace_s)

    def _read_more(self, tool: ToolProcess) -> None:
        until_s = time.monotonic() + self._silence_s
        while not wait_readable(tool.stdout, IDLE_S):
            tool.listen()
            if time.monotonic() > until_s:
                self.close()
                raise InputError(f"{self._path}: tshark said nothing for {self._silence_s:g} s")
        octets = os.read(tool.stdout, 1 << 18)
        self._is_at_end = not octets
        self._pieces += self._splitter.feed(octets)

    def _finish(self, tool: ToolProcess) -> None:
        """Judge how tshark ended."""
        status = self._end(tool, grace_s=_GRACE_S)
        is_cut = _CUT in tool.messages.reason
        if is_cut:
            self.tally.offered += 1
            self.tally.malformed[CUT_RECORD] += 1
            if not self._allow_cut:
                raise InputError(
                    f"{self._path}: ends in the middle of a record, after {self.tally.read - 1} whole ones; "
                    "`editcap IN OUT` repairs it: it keeps the whole ones"
                )
        elif status or self._splitter.is_inside_packet:
            raise InputError(f"{self._path}: {tool.obituary(status)}")


def _find_tshark() -> str:
    try:
        from pyshark.tshark.tshark import TSharkNotFoundException, get_process_path
    except ImportError as err:
        raise InputError("pyshark is not installed; `pip install nsstream[pyshark]` adds it") from err
    try:
        return str(get_process_path())
    except TSharkNotFoundException as err:
        raise InputError("tshark is not installed, or not in PATH; it comes with Wireshark") from err
