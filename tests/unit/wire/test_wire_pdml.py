"""PdmlSplitter: any split gives the same packets; memory is bounded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nsstream.wire.pdml import PdmlSplitter

HEAD = b'<?xml version="1.0"?>\n<pdml>\n'
ONE = b'<packet>\n  <proto name="geninfo"/>\n</packet>'
TWO = b'<packet><field show="a &lt;/packet&gt;"/></packet>'


def fed(octets: bytes, cuts: list[int], limit: int = 1000) -> list[bytes | None]:
    splitter = PdmlSplitter(limit)
    packets: list[bytes | None] = []
    at = 0
    for cut in [*sorted(cut % (len(octets) + 1) for cut in cuts), len(octets)]:
        packets += splitter.feed(octets[at:cut])
        at = cut
    return packets


@given(cuts=st.lists(st.integers(0, 1000), max_size=9))
def test_any_split_gives_the_same_packets(cuts: list[int]) -> None:
    octets = HEAD + ONE + b"\n\n" + TWO + b"\n" + ONE + b"\n</pdml>\n"
    assert fed(octets, cuts) == [ONE, TWO, ONE]


def test_octet_by_octet_gives_the_same_packets() -> None:
    octets = HEAD + ONE + TWO + b"junk" + ONE + b"<packet><unfinished"
    assert fed(octets, list(range(len(octets)))) == [ONE, TWO, ONE]


@given(cuts=st.lists(st.integers(0, 10_000), max_size=9))
def test_packet_that_is_too_large_is_given_without_its_content(cuts: list[int]) -> None:
    octets = HEAD + ONE + b"<packet>" + b"x" * 5000 + b"</packet>" + TWO
    cuts = sorted({*cuts, *range(0, len(octets), 400)})  # a whole packet in one piece is no burden
    assert fed(octets, cuts) == [ONE, None, TWO]


def test_memory_is_bounded() -> None:
    splitter = PdmlSplitter(1000)
    for _ in range(100):
        assert splitter.feed(b"x" * 900) == []
        assert len(splitter._rest) < 2000
    assert splitter.is_inside_packet


@given(octets=st.binary(max_size=200) | st.text("</packet> ", max_size=200).map(str.encode))
def test_any_octets_are_taken(octets: bytes) -> None:
    assert fed(octets, []) == fed(octets, list(range(len(octets))))
