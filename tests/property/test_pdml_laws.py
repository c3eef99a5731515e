"""The law of tshark's PDML: whatever it says, each packet is a row or counted once, and nothing is raised."""

from __future__ import annotations

from xml.sax.saxutils import quoteattr

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nsstream.counters import Tally
from nsstream.wire.pdml import PdmlSplitter
from nsstream.wire.pdml_packet import DETAILED_PROTOCOLS, MAX_FRAME_BYTES, Frame, read_packet, read_packets

pytest.importorskip("pyshark")

NUMBERS = [
    "0",
    "1",
    "14",
    "20",
    "34",
    "-1",
    "4095",
    "4096",
    "65575",
    "9" * 25,
    "9" * 5000,
    "0x10",
    " 2",
    "\u0663",
    "q",
    "",
]
VALUES = [
    "45",
    "60",
    "0800",
    "4 5 ",
    "    ",
    "zz",
    "a",
    "45000028000140004006",
    "00" * 40,
    "b0" * 70_000,
    "\u0663\u0663",
]
TIMES = ["1795232164.886504864", "1", "", "-1.5", "9223372036.9", "9" * 5000, "1.2.3", "\u00b2.1", "1.\u0663"]
numbers, values = st.sampled_from(NUMBERS), st.sampled_from(VALUES)
layers = st.sampled_from([*DETAILED_PROTOCOLS.split(), "eth", "wlan", "arp", "llc", "_ws.short", "_ws.malformed", ""])


def field(name: str, value: str, show: str = "1", at: str = "0", size: str = "1", where: str = "value") -> str:
    words = {"name": name, "pos": at, "size": size, "show": show, where: value}
    return "<field " + " ".join(f"{key}={quoteattr(word)}" for key, word in words.items()) + "/>"


def packet(time: str, length: str, captured: str, protocols: list[str]) -> bytes:
    general = field("len", "1", length) + field("caplen", "1", captured) + field("timestamp", time)
    text = f'<packet><proto name="geninfo">{general}</proto><proto name="frame"/>{"".join(protocols)}</packet>'
    return text.encode()


@st.composite
def protocols(draw: st.DrawFn) -> str:
    """A layer whose fields are where they say, or not."""
    name = draw(layers)
    fields = [field(f"{name}.version", "45", "4", draw(numbers))]
    for _ in range(draw(st.integers(0, 4))):
        value = draw(values)
        size = draw(st.just(str(len(value) // 2)) | numbers)
        at = draw(st.integers(0, 100).map(str) | numbers)
        where = draw(st.sampled_from(["value", "unmaskedvalue"]))
        fields.append(field(draw(st.sampled_from(["vlan.id", "ip.len", "x"])), value, draw(numbers), at, size, where))
    return f"<proto name={quoteattr(name)}>{''.join(fields)}</proto>"


packets = st.builds(packet, st.sampled_from(TIMES), numbers, numbers, st.lists(protocols(), max_size=5))
HUGE = packet("1.0", "9" * 25, "1", ['<proto name="ip">' + field("ip.version", "45", at="14") + "</proto>"])
BLANKS = packet("1.0", "60", "60", ['<proto name="ip">' + field("ip.version", "45  ", at="14", size="2") + "</proto>"])


@example(pieces=[HUGE], ip_header=0)
@example(pieces=[BLANKS], ip_header=0)
@given(
    pieces=st.lists(
        packets | st.binary(max_size=60) | st.text("<packet/>& proto", max_size=60).map(str.encode), max_size=4
    ),
    ip_header=st.integers(-3, 3) | st.just(10**30),
)
def test_any_pdml_gives_rows_and_counts(pieces: list[bytes], ip_header: int) -> None:
    tally = Tally()
    given_pieces = [*pieces, None]
    columns = read_packets(given_pieces, ip_header, tally)
    tally.check()
    assert tally.offered == len(given_pieces)
    assert len(columns["ip_ttl"]) == tally.kept
    for piece in pieces:
        found = read_packet(piece, ip_header)
        assert not isinstance(found, Frame) or len(found.octets) <= MAX_FRAME_BYTES


@given(pieces=st.lists(packets, min_size=1, max_size=3), step=st.integers(1, 400))
def test_packets_come_out_of_a_split_stream_as_they_went_in(pieces: list[bytes], step: int) -> None:
    stream = b"<pdml>\n" + b"\n\n".join(pieces)
    splitter = PdmlSplitter()
    assert [p for at in range(0, len(stream), step) for p in splitter.feed(stream[at : at + step])] == pieces
