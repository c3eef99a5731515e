"""One packet of tshark's PDML as an Ethernet frame for `dissect`, or the reason why it gives no row. Sans-IO.

tshark says where in the frame each field lies and which octets it holds. The octets of the chosen IP header, and of the
transport header behind it, are put together again, so that every rule of the fast path holds for them, too.

Promises: any octets give a frame or a reason, and nothing is raised; a frame takes `MAX_FRAME_BYTES` at most. pyshark
parses the XML.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from nsstream.counters import Tally
from nsstream.wire.dissect import Columns, dissect
from nsstream.wire.fates import add_fates
from nsstream.wire.link import ETHERNET
from nsstream.wire.records import NO_TIME, OUT_OF_RANGE, RecordIndex

TSHARK_OUTPUT: Final = "tshark_output"
ENCRYPTED: Final = "encrypted"
NO_SUCH_HEADER: Final = "no_such_header"
DETAILED_PROTOCOLS: Final = (  # whose fields tshark must show (its -j)
    "ip ipv6 ipv6.hopopts ipv6.dstopts ipv6.routing ipv6.fraghdr tcp udp sctp icmp icmpv6 ah mipv6 data vlan ieee8021ad"
)
MAX_HEADER_BYTES: Final = 4096  # of IP with all its extension headers and options, and the transport header
MAX_DATAGRAM_BYTES: Final = 65_575  # of IPv6; what a jumbogram has behind that is not read
MAX_FRAME_BYTES: Final = 18 + MAX_DATAGRAM_BYTES  # Ethernet with a VLAN tag

_MAX_LENGTH: Final = 0xFFFFFFFF  # pcapng's
_MAX_SECONDS: Final = 9_223_372_035
_ETHERTYPES: Final = {"ip": 0x0800, "ipv6": 0x86DD}
_BETWEEN: Final = frozenset({"ah", "mipv6", "ipv6.hopopts", "ipv6.dstopts", "ipv6.routing", "ipv6.fraghdr"})
_TRANSPORT: Final = frozenset({"tcp", "udp", "sctp", "icmp", "icmpv6", "data"})
_VLAN_FIELDS: Final = {"vlan": "vlan.id", "ieee8021ad": "ieee8021ad.id"}
# Why a packet has no IP header, by the first of its layers that says so; the names are those of `fates`.
_REASONS: Final = {
    "arp": "arp", "eapol": "eapol", "lldp": "lldp", "pppoed": "pppoe", "pppoes": "pppoe", "mpls": "mpls", "llc": "llc",
}  # fmt: skip
_MALFORMED: Final = frozenset({TSHARK_OUTPUT, "cut_by_snaplen", "short_frame"})


def read_packets(pieces: Sequence[bytes | None], ip_header: int, tally: Tally) -> Columns:
    """The rows of these packets, as `PdmlSplitter` gives them; each is counted, kept or by its reason.

    Args:
        pieces: one a packet.
        ip_header: which IP header of a packet is its row: 0 the outermost, 1 the next, -1 the innermost.
        tally: is added to.
    """
    frames: list[Frame] = []
    for piece in pieces:
        found = read_packet(piece, ip_header)
        if isinstance(found, Frame):
            frames.append(found)
            continue
        reasons = tally.malformed if found in _MALFORMED else tally.unsupported
        reasons[found] += 1
        tally.offered += 1
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
    add_fates(tally, counts)
    return columns


@dataclass(frozen=True, slots=True)
class Frame:
    """An Ethernet frame made for `wire.dissect`: the VLAN tag, IP header and transport header that tshark showed."""

    time_ns: int
    octets: bytes
    wire_length: int


def read_packet(piece: bytes | None, ip_header: int) -> Frame | str:
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
        if min(on_wire, captured) < 0 or max(on_wire, captured) > _MAX_LENGTH:
            return TSHARK_OUTPUT
        is_length_told = any(octets[2:4] if layers[at][0] == "ip" else octets[4:6])
        wire_length = len(octets) if captured >= on_wire and is_length_told else on_wire - start
        return Frame(_time_ns(packet.sniff_timestamp), link + octets, len(link) + wire_length)
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
    first = MAX_HEADER_BYTES
    for container in layer._all_fields.values():  # its public names are found by a search each
        for field in container.all_fields:
            if not field.pos or not field.size or field.size == "0":
                continue
            at, size = int(field.pos) - start, int(field.size)
            text = field.unmaskedvalue or field.raw_value
            if not text or len(text) != 2 * size or not 0 <= at < MAX_HEADER_BYTES or at + size > MAX_DATAGRAM_BYTES:
                continue
            held = bytes.fromhex(text)
            if len(held) != size:  # it takes blanks
                continue
            if len(octets) < at + size:
                octets.extend(bytes(at + size - len(octets)))
                shown.extend(bytes(at + size - len(shown)))
            octets[at : at + size] = held
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
