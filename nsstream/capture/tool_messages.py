"""ToolMessages: what a capture tool says on its standard error, kept within bounds, and the losses that it sums up.

Promises: memory is bounded whatever the tool writes; no octets raise. The sums are those of tcpdump 4.99 and dumpcap 4,
which print them when they end; any other text is kept as a message only.
"""

from __future__ import annotations

import re
from collections import deque
from typing import Final

MAX_LINES: Final = 50
MAX_LINE_BYTES: Final = 500

_CAPTURED: Final = re.compile(r"^(?:(\d+) packets? captured|Packets captured: (\d+))$")
_TCPDUMP_DROPPED: Final = re.compile(r"^(\d+) packets? dropped by (kernel|interface)$")
_DUMPCAP_DROPPED: Final = re.compile(r"\(pcap:(\d+)/dumpcap:(\d+)/flushed:(\d+)/ps_ifdrop:(\d+)\)")
_PLACES: Final = {"kernel": "ring", "interface": "nic"}
_CHATTER: Final = re.compile(
    r"^(?:tcpdump: listening on|tcpdump: data link type|tcpdump: verbose output|dropped privs|Capturing on|File:"
    r"|Packets[ :]|\d+ packets? |Running as user"
    r"|(?:Fatal Error|Warning) in |(?:Unable to parse args|Failed): From |May need to run as root)"  # tcpreplay's
)


class ToolMessages:
    """The last lines that a tool wrote, and the counts among all of them."""

    def __init__(self) -> None:
        self.dropped: dict[str, int] = {}  # by `counters.PLACES`, once the tool has summed up
        self.captured: int | None = None  # packets that the tool says it wrote
        self._lines: deque[str] = deque(maxlen=MAX_LINES)
        self._rest = b""

    @property
    def reason(self) -> str:
        """The first kept line that is neither chatter nor a sum, "" if there is none: as a rule why the tool failed."""
        return next((line for line in self._lines if not _CHATTER.match(line)), "")

    def feed(self, octets: bytes) -> None:
        """Take what the tool wrote, cut anywhere."""
        *lines, rest = re.split(rb"[\r\n]+", self._rest + octets)
        self._rest = rest[:MAX_LINE_BYTES]
        for line in lines:
            self._take(line[:MAX_LINE_BYTES].decode(errors="replace").strip())

    def finish(self) -> None:
        """Take a last line that has no end."""
        self.feed(b"\n")

    def _take(self, line: str) -> None:
        if not line:
            return
        self._lines.append("".join(c if c.isprintable() else "?" for c in line))
        if found := _CAPTURED.match(line):
            self.captured = int(found[1] or found[2])
        elif found := _TCPDUMP_DROPPED.match(line):
            self._add(_PLACES[found[2]], int(found[1]))
        elif found := _DUMPCAP_DROPPED.search(line):  # one such line an interface
            in_ring, in_queue, at_the_end, at_interface = map(int, found.groups())
            self._add("ring", in_ring)
            self._add("tool", in_queue + at_the_end)
            self._add("nic", at_interface)

    def _add(self, place: str, count: int) -> None:
        self.dropped[place] = self.dropped.get(place, 0) + count
