"""PysharkSource: any capture that tshark reads, dissected by tshark and pyshark, into the columns of the fast path.

For link types and tunnels that `PcapFileSource` does not know: 802.11, GTP-U, VXLAN, GRE, MPLS, PPPoE and so on; and
for file formats that are neither pcap nor pcapng. Three orders of magnitude slower than `PcapFileSource`.

How: tshark says where in the frame each field lies and which octets it holds. The octets of the chosen IP header, and
of the transport header behind it, are put together again and go through `wire.dissect`, so that every rule of the fast
path holds here, too. Nothing is reassembled: a fragment is a fragment.

Promises: a record gives one row at most, or a reason. Beside the fast path's there are ``unsupported["encrypted"]``
(802.11 data without its key) and ``["no_such_header"]`` (fewer IP headers than `ip_header` asks for), and
``malformed["tshark_output"]`` (what tshark wrote of the packet cannot be read). tshark is gone when `close` returns;
one that says nothing for `silence_s` is ended.

pyshark finds tshark and parses its packets. Its own event loop is not used: it cannot run inside another one, ends at
the first packet that it cannot parse, and depends on parts of asyncio that Python 3.14 has no more.
"""

from __future__ import annotations

import os
import struct
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from nsstream.capture.pdml import PdmlSplitter
from nsstream.capture.source import IDLE_S
from nsstream.capture.tool_process import ToolProcess, wait_readable
from nsstream.counters import Tally
from nsstream.errors import InputError
from nsstream.trace import PacketBatch
from nsstream.wire import RecordIndex, dissect
from nsstream.wire.fates import add_fates
from nsstream.wire.link import ETHERNET
from nsstream.wire.records import NO_TIME, OUT_OF_RANGE

CUT_RECORD: Final = "cut_record"
TSHARK_OUTPUT: Final = "tshark_output"
ENCRYPTED: Final = "encrypted"
NO_SUCH_HEADER: Final = "no_such_header"

_ROWS: Final = 256  # records a batch
_GRACE_S: Final = 3.0
_MAX_HEADER_BYTES: Final = 4096  # of IP with all its extension headers and options, and the transport header
_MAX_SECONDS: Final = 9_223_372_035
_ETHERTYPES: Final = {"ip": 0x0800, "ipv6": 0x86DD}
_BETWEEN: Final = frozenset({"ah", "mipv6", "ipv6.hopopts", "ipv6.dstopts", "ipv6.routing", "ipv6.fraghdr"})
_TRANSPORT: Final = frozenset({"tcp", "udp", "sctp", "icmp", "icmpv6", "data"})
_VLAN_FIELDS: Final = {"vlan": "vlan.id", "ieee8021ad": "ieee8021ad.id"}
# Why a packet has no IP header, by the first of its layers that says so; the names are those of `wire.fates`.
_REASONS: Final = {
    "arp": "arp", "eapol": "eapol", "lldp": "lldp", "pppoed": "pppoe", "pppoes": "pppoe", "mpls": "mpls", "llc": "llc",
}  # fmt: skip
# Reassembly off; what depends on other packets than the one in hand, too.
_PREFERENCES: Final = {
    "ip.defragment": "FALSE", "ipv6.defragment": "FALSE", "tcp.desegment_tcp_streams": "FALSE",
    "tcp.analyze_sequence_numbers": "FALSE", "wlan.defragment": "FALSE",
}  # fmt: skip
_DETAILED: Final = (
    "ip ipv6 ipv6.hopopts ipv6.dstopts ipv6.routing ipv6.fraghdr tcp udp sctp icmp icmpv6 ah mipv6 data vlan ieee8021ad"
)
_MALFORMED: Final = frozenset({TSHARK_OUTPUT, "cut_by_snaplen", "short_frame"})
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
        command = [_find_tshark(), "-n", "-T", "pdml", "-j", _DETAILED, "-r", str(self._path.absolute())]
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
            batch = self._rows([self._pieces.popleft() for _ in range(min(_ROWS, len(self._pieces)))])
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

    def _rows(self, pieces: list[bytes | None]) -> PacketBatch:
        """The rows of these packets; what gives none is counted."""
        frames: list[_Frame] = []
        for piece in pieces:
            found = _read_packet(piece, self._ip_header)
            if isinstance(found, _Frame):
                frames.append(found)
                continue
            reasons = self.tally.malformed if found in _MALFORMED else self.tally.unsupported
            reasons[found] += 1
            self.tally.offered += 1
        index = RecordIndex.with_room_for(len(frames))
        block = bytearray()
        for record, frame in enumerate(frames):
            index.time_ns[record] = frame.time_ns
            index.start[record] = len(block)
            index.captured_length[record] = len(frame.octets)
            index.original_length[record] = max(frame.wire_length, len(frame.octets))
            index.link_type[record] = ETHERNET
            block += frame.octets
        columns, counts = dissect(np.frombuffer(bytes(block), np.uint8), index, len(frames))
        add_fates(self.tally, counts)
        return PacketBatch.from_columns(columns)


@dataclass(frozen=True, slots=True)
class _Frame:
    """An Ethernet frame made for `wire.dissect`: the VLAN tag, IP header and transport header that tshark showed."""

    time_ns: int
    octets: bytes
    wire_length: int


def _read_packet(piece: bytes | None, ip_header: int) -> _Frame | str:
    """A packet of tshark's as a frame, or the reason why it gives no row."""
    from pyshark.tshark.output_parser.tshark_xml import packet_from_xml_packet

    if piece is None:
        return TSHARK_OUTPUT
    try:
        packet = packet_from_xml_packet(piece)
        layers = [(layer.layer_name.lower(), layer) for layer in packet.layers]
        places = [i for i, (name, _) in enumerate(layers) if name in _ETHERTYPES]
        if not places:
            return _why_no_ip([name for name, _ in layers])
        if not -len(places) <= ip_header < len(places):
            return NO_SUCH_HEADER
        at = places[ip_header]
        behind_last = max((place + 1 for place in places if place < at), default=0)
        link = _made_link(layers[behind_last:at], layers[at][0])
        start = int(layers[at][1].get_field(f"{layers[at][0]}.version").pos)
        octets = _painted(layers[at:], start)
        on_wire, captured = int(packet.length), int(packet.captured_length)
        is_length_told = any(octets[2:4] if layers[at][0] == "ip" else octets[4:6])
        wire_length = len(octets) if captured >= on_wire and is_length_told else on_wire - start
        return _Frame(_time_ns(packet.sniff_timestamp), link + octets, len(link) + wire_length)
    except (AttributeError, LookupError, TypeError, ValueError, SyntaxError):  # lxml's own errors are SyntaxErrors
        return TSHARK_OUTPUT


def _why_no_ip(names: list[str]) -> str:
    for name in names:
        if name in _REASONS:
            return _REASONS[name]
    if "_ws.short" in names:
        return "cut_by_snaplen"
    if "_ws.malformed" in names:
        return "short_frame"
    if "wlan" in names and names[-1] == "data":
        return ENCRYPTED
    return "llc" if "llc" in names else "non_ip"


def _made_link(layers: list[tuple[str, Any]], ip: str) -> bytes:
    """An Ethernet header with the outermost VLAN tag among the layers."""
    for name, layer in layers:
        if name in _VLAN_FIELDS:
            vlan_id = int(str(layer.get_field(_VLAN_FIELDS[name])), 0)
            return struct.pack("!12xHHH", 0x8100, vlan_id & 0x0FFF, _ETHERTYPES[ip])
    return struct.pack("!12xH", _ETHERTYPES[ip])


def _painted(layers: list[tuple[str, Any]], start: int) -> bytes:
    """The octets of the first layer, an IP header at `start` of the frame, and of the headers that belong to it.

    What tshark does not show in front of the transport header (padding between options) is zeros; behind it the octets
    end where it shows no more.
    """
    octets = bytearray()
    shown = bytearray()
    transport = 0
    for i, (name, layer) in enumerate(layers):
        if i and name not in _BETWEEN and name not in _TRANSPORT:
            break
        first = _paint(layer, start, octets, shown)
        if name in _TRANSPORT:
            transport = first
            break
    end = shown.find(0, transport) if transport else -1
    return bytes(octets if end < 0 else octets[:end])


def _paint(layer: Any, start: int, octets: bytearray, shown: bytearray) -> int:
    """Put the octets of a layer's fields where they were in the frame; the first place that was painted."""
    first = _MAX_HEADER_BYTES
    for container in layer._all_fields.values():  # its public names are found by a search each
        for field in container.all_fields:
            if not field.pos or not field.size or field.size == "0":
                continue
            at, size = int(field.pos) - start, int(field.size)
            text = field.unmaskedvalue or field.raw_value
            if not text or len(text) != 2 * size or not 0 <= at < _MAX_HEADER_BYTES:
                continue
            if len(octets) < at + size:
                octets.extend(bytes(at + size - len(octets)))
                shown.extend(bytes(at + size - len(shown)))
            octets[at : at + size] = bytes.fromhex(text)
            shown[at : at + size] = b"\1" * size
            first = min(first, at)
    return first


def _time_ns(text: str | None) -> int:
    """Nanoseconds of tshark's ``seconds.fraction``."""
    if not text:
        return NO_TIME
    seconds, _, fraction = text.partition(".")
    if not seconds.isdecimal() or int(seconds) > _MAX_SECONDS or not (fraction or "0").isdecimal():
        return OUT_OF_RANGE
    return int(seconds) * 1_000_000_000 + int(fraction[:9].ljust(9, "0"))


def _find_tshark() -> str:
    try:
        from pyshark.tshark.tshark import TSharkNotFoundException, get_process_path
    except ImportError as err:
        raise InputError("pyshark is not installed; `pip install nsstream[pyshark]` adds it") from err
    try:
        return str(get_process_path())
    except TSharkNotFoundException as err:
        raise InputError("tshark is not installed, or not in PATH; it comes with Wireshark") from err
