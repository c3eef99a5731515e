"""Laws of reading nfdump's files: any split gives the same flows; any octets give flows, counts or WireError."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from nfcapd_files import COMPRESSIONS, block, element, file_of, flow, generic, ipv4, ipv6, record

from nsstream.counters import Tally
from nsstream.errors import WireError
from nsstream.trace import FlowTable
from nsstream.wire.lz4 import lz4_decompress
from nsstream.wire.lzo import lzo1x_decompress
from nsstream.wire.nfcapd import NfcapdReader

ELEMENTS = st.one_of(
    st.just(generic()),
    st.just(ipv4()),
    st.just(ipv6()),
    st.builds(element, st.integers(0, 40), st.binary(max_size=50)),
)
RECORDS = st.one_of(
    st.just(flow()),
    st.builds(lambda parts, flags: record(*parts, flags=flags), st.lists(ELEMENTS, max_size=6), st.integers(0, 3)),
    st.binary(min_size=4, max_size=40),
)


@st.composite
def files(draw: st.DrawFn) -> bytes:
    compression = draw(st.sampled_from(sorted(COMPRESSIONS)))
    blocks = [
        block(*[flow()] * draw(st.integers(1, 3)), *records, compression=compression)
        for records in draw(st.lists(st.lists(RECORDS, max_size=4), max_size=3))
    ]
    octets = bytearray(file_of(*blocks, compression=compression, count=draw(st.sampled_from([None, 0]))))
    for at, value in draw(st.lists(st.tuples(st.integers(16, 400), st.integers(0, 255)), max_size=3)):
        if at < len(octets):
            octets[at] = value
    return bytes(octets) + draw(st.binary(max_size=20))


def read(octets: bytes, cuts: list[int]) -> tuple[list[FlowTable], Tally, str]:
    reader = NfcapdReader()
    tables: list[FlowTable] = []
    complaint = ""
    try:
        for start, end in pairwise([0, *sorted(cut % (len(octets) + 1) for cut in cuts), len(octets)]):
            tables += [FlowTable.from_columns(columns) for columns in reader.feed(octets[start:end])]
            reader.tally.check()
        reader.finish()
    except WireError as err:
        complaint = str(err)
    reader.tally.check()
    return tables, reader.tally, complaint


@given(files(), st.lists(st.integers(0, 5000), max_size=5))
def test_any_split_of_a_file_gives_the_same(octets: bytes, cuts: list[int]) -> None:
    whole, parts, octet_by_octet = read(octets, []), read(octets, cuts), read(octets, list(range(len(octets))))
    assert whole[2] == parts[2] == octet_by_octet[2]
    if not whole[2]:  # what an error leaves depends on how much was fed with it
        assert whole[1] == parts[1] == octet_by_octet[1]
        first = FlowTable.concatenate(whole[0])
        for other in (parts, octet_by_octet):
            for name, column in FlowTable.concatenate(other[0]).columns().items():
                np.testing.assert_array_equal(column, first.columns()[name], name)


@given(st.binary(max_size=300))
def test_any_octets_give_flows_or_an_error_of_ours(octets: bytes) -> None:
    read(octets, [])
    read(file_of()[:40] + octets, [])


@given(st.binary(max_size=200), st.integers(0, 100))
def test_any_block_decompresses_within_its_room_or_is_refused(octets: bytes, room: int) -> None:
    for decompress in (lzo1x_decompress, lz4_decompress):
        out = np.full(room + 16, 0xAA, np.uint8)
        try:
            written = decompress(np.frombuffer(octets, np.uint8), out[:room])
        except WireError:
            pass
        else:
            assert written <= room
        assert (out[room:] == 0xAA).all()
