"""Laws of reading exports: any batching gives the same rows; any octets give rows and counts; any split of a stream."""

from __future__ import annotations

import contextlib
import json
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from made_exports import (
    BASE,
    EXPORTER,
    NOW_NS,
    OTHER_EXPORTER,
    VARIABLE,
    Field,
    arrays,
    data_set,
    ipfix,
    options_template_set,
    record,
    template_set,
    v5,
    v5_record,
    v9,
)

from nsstream.counters import Tally
from nsstream.errors import WireError
from nsstream.trace import FlowTable
from nsstream.wire.netflow import ExportDecoder, MessageSplitter
from nsstream.wire.netflow.fates import REASONS

S = 10**9
SHAPES: tuple[tuple[Field, ...], ...] = (
    BASE,
    (*BASE, (22, 4), (21, 4)),
    (*BASE, (152, 8), (153, 8), (48, 2)),
    (*BASE, (96, VARIABLE), (2, 4, 29305), (1, 4, 29305)),
    ((27, 16), (28, 16), (2, 3), (1, 5), (5, 1)),
    ((56, 6), (2, 4)),
    ((8, 0), (230, 1)),
)
OPTIONS: tuple[tuple[Field, ...], ...] = (((34, 4),), ((160, 8),), ((48, 2), (50, 4)), ((82, VARIABLE), (34, 4)))
SET_IDS = st.sampled_from([256, 257, 258])
Datagram = tuple[bytes, bytes, int]  # octets, exporter, time of receipt


@st.composite
def sets(draw: st.DrawFn, version: int) -> bytes:
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return template_set(version, draw(SET_IDS), draw(st.sampled_from(SHAPES)))
    if kind == 1:
        return options_template_set(version, draw(SET_IDS), [(1, 4)], draw(st.sampled_from(OPTIONS)))
    if kind == 2:
        return data_set(draw(st.sampled_from([0, 1, 2, 3, 4, 256, 257, 300])), draw(st.binary(max_size=60)))
    shape = draw(st.sampled_from(SHAPES))
    values = {11: draw(st.integers(0, 65535)), 2: draw(st.integers(0, 3)), 48: draw(st.integers(0, 2))}
    values |= dict.fromkeys((21, 22), draw(st.integers(0, 2**32 - 1)))
    records = [record(shape, values)] * draw(st.integers(1, 4))
    return data_set(draw(SET_IDS), *records, padding=bytes(draw(st.integers(0, 3))))


@st.composite
def datagrams(draw: st.DrawFn) -> Datagram:
    kind = draw(st.integers(0, 7))
    if kind == 0:
        octets = v5(
            *[v5_record(packets=draw(st.integers(0, 2)))] * draw(st.integers(0, 3)), sequence=draw(st.integers(0, 9))
        )
    elif kind < 4:
        octets = v9(
            *draw(st.lists(sets(9), max_size=4)), sequence=draw(st.integers(0, 9)), source_id=draw(st.integers(1, 2))
        )
    else:
        octets = ipfix(
            *draw(st.lists(sets(10), max_size=4)), sequence=draw(st.integers(0, 9)), domain=draw(st.integers(1, 2))
        )
    changed = bytearray(octets)
    for at, value in draw(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=2)):
        if at < len(changed) and draw(st.booleans()):
            changed[at] = value
    if draw(st.integers(0, 9)) == 0:
        del changed[draw(st.integers(0, len(changed))) :]
    return bytes(changed), draw(st.sampled_from([EXPORTER, OTHER_EXPORTER])), NOW_NS + draw(st.integers(-50, 200)) * S


def small_decoder(max_parked_age_s: float = 60) -> ExportDecoder:
    """One whose bounds of time and memory matter within a few datagrams."""
    return ExportDecoder(
        template_lifetime_s=90, max_templates=5, max_parked_bytes=1500, max_parked_age_s=max_parked_age_s
    )


def read(
    datagrams: list[Datagram], sizes: list[int], *, is_tcp: bool = False, decoder: ExportDecoder | None = None
) -> tuple[FlowTable, ExportDecoder]:
    decoder = decoder or small_decoder()
    tables = []
    edges = [0, *sorted({size % (len(datagrams) + 1) for size in sizes}), len(datagrams)]
    for a, b in pairwise(edges):
        messages, exporters, times_ns = ([d[i] for d in datagrams[a:b]] for i in range(3))
        ports = np.full(b - a, 4444, np.uint16) if is_tcp else None
        tables.append(decoder.decode(*arrays(messages, exporters, times_ns), ports))
        decoder.tally.check()
        assert sum(map(len, tables)) == decoder.tally.kept
    return FlowTable.concatenate(tables), decoder


@settings(max_examples=300)
@given(
    datagrams=st.lists(datagrams(), max_size=14), cuts=st.lists(st.integers(0, 14), max_size=14), is_tcp=st.booleans()
)
def test_any_batching_gives_the_same_rows_tally_and_statistics(
    datagrams: list[Datagram], cuts: list[int], is_tcp: bool
) -> None:
    whole, one = read(datagrams, [], is_tcp=is_tcp)
    pieces, other = read(datagrams, cuts, is_tcp=is_tcp)
    for name, column in whole.columns().items():
        np.testing.assert_array_equal(column, getattr(pieces, name), err_msg=name)
    assert one.tally == other.tally
    assert one.exporters == other.exporters


@settings(max_examples=300)
@given(datagrams=st.lists(datagrams(), max_size=14), cut=st.integers(0, 14))
def test_a_decoder_that_takes_over_reads_on_as_if_it_had_read_all(datagrams: list[Datagram], cut: int) -> None:
    patient = 1000  # what is parked expires by the clock of `take_over`, too
    whole, one = read(datagrams, [], decoder=small_decoder(patient))
    before, first = read(datagrams[:cut], [], decoder=small_decoder(patient))
    second = small_decoder(patient)
    handed = json.loads(json.dumps(first.handover(is_final=True)))
    second.take_over(handed, max((time_ns for *_, time_ns in datagrams[:cut]), default=NOW_NS))
    after = FlowTable.empty()
    if datagrams[cut:]:
        messages, exporters, times_ns = ([d[i] for d in datagrams[cut:]] for i in range(3))
        after = second.decode(*arrays(messages, exporters, times_ns))
    second.tally.check()
    pieces = FlowTable.concatenate([before, after])
    for name, column in whole.columns().items():
        np.testing.assert_array_equal(column, getattr(pieces, name), err_msg=name)
    both = Tally()
    both.add(first.tally)
    both.add(second.tally)
    both.offered -= first.tally.parked  # which the second was offered again
    both.parked -= first.tally.parked
    assert both == one.tally


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just([]), st.just({}),
    st.sampled_from([1 << 63, -(1 << 63), 1 << 64, "AAAA", "::ffff:192.0.2.1", [[1, 2]], [0] * 8]),
)  # fmt: skip


@settings(max_examples=300)
@given(
    datagrams=st.lists(datagrams(), max_size=8),
    path=st.lists(st.integers(0, 50), max_size=5),
    value=VALUES,
    after=st.lists(datagrams(), max_size=4),
)
def test_a_broken_handover_is_refused_whole_or_does_no_harm(
    datagrams: list[Datagram], path: list[int], value: object, after: list[Datagram]
) -> None:
    handed = read(datagrams, [])[1].handover(is_final=True)
    place: object = handed
    for step in path:
        if not isinstance(place, list | dict) or not place:
            break
        key = list(place)[step % len(place)] if isinstance(place, dict) else step % len(place)
        inner = place[key]  # type: ignore[index, call-overload]
        if step == path[-1] or not isinstance(inner, list | dict) or not inner:
            place[key] = value  # type: ignore[index, call-overload]
            break
        place = inner
    decoder = small_decoder()
    with contextlib.suppress(WireError):
        decoder.take_over(handed, NOW_NS)
        assert len(decoder.exporters) == len(handed["sessions"])
    decoder.tally.check()
    for datagram in after:
        decoder.decode(*arrays([datagram[0]], [datagram[1]], [datagram[2]]))
        decoder.tally.check()


@settings(max_examples=300)
@given(messages=st.lists(st.binary(max_size=200) | st.builds(bytes.__add__, st.sampled_from([v5(), v9(), ipfix()[:3]]),
                                                             st.binary(max_size=200)), max_size=5))  # fmt: skip
def test_any_octets_give_rows_and_counts_by_name(messages: list[bytes]) -> None:
    decoder = small_decoder()
    flows = decoder.decode(*arrays(messages))
    decoder.tally.check()
    assert len(flows) == decoder.tally.kept
    assert {*decoder.tally.malformed, *decoder.tally.unsupported} <= set(REASONS[1:])


@given(datagrams=st.lists(datagrams(), max_size=14))
def test_times_lie_near_the_time_of_receipt(datagrams: list[Datagram]) -> None:
    flows, _ = read(datagrams, [])
    error_ns = np.abs(flows.flow_end_ns - NOW_NS)
    assert (error_ns <= (3600 + 200) * S).all()


@given(datagrams=st.lists(datagrams(), max_size=20))
def test_memory_stays_in_its_bounds(datagrams: list[Datagram]) -> None:
    decoder = small_decoder()
    for octets, exporter, time_ns in datagrams:
        decoder.decode_message(octets, exporter, time_ns)
        assert decoder.tally.parked <= 1500 // 256
        assert sum(e.templates for e in decoder.exporters) <= 5


@given(
    messages=st.lists(st.builds(ipfix, sets(10)), max_size=6),
    junk=st.binary(max_size=40),
    cuts=st.lists(st.integers(0, 2000), max_size=8),
)
def test_any_split_of_a_stream_gives_the_same_messages(messages: list[bytes], junk: bytes, cuts: list[int]) -> None:
    stream = b"".join(messages) + junk
    assert split(stream, [])[: len(messages)] == messages
    assert split(stream, cuts) == split(stream, []) == split(stream, list(range(len(stream))))


def split(stream: bytes, cuts: list[int]) -> list[bytes | str]:
    """The messages of a stream fed in pieces; last, what was wrong with it."""
    splitter = MessageSplitter()
    found: list[bytes | str] = []
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    try:
        for a, b in pairwise(edges):
            found += splitter.feed(stream[a:b])
        splitter.finish()
    except WireError as err:
        found.append(str(err))
    return found


@given(stream=st.binary(max_size=200), cuts=st.lists(st.integers(0, 200), max_size=4))
def test_no_stream_raises_anything_but_wire_error(stream: bytes, cuts: list[int]) -> None:
    with contextlib.suppress(WireError):
        splitter = MessageSplitter()
        for a, b in pairwise([0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]):
            splitter.feed(stream[a:b])
        splitter.finish()
