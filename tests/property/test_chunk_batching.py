"""The chunker's laws: any batching of the same rows gives the same chunks, every row is accounted for, room is kept."""

import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsstream.chunk import UNLIMITED, Chunk, Chunker, ChunkLimits, Fate
from nsstream.chunk.rows import Kind, Rows, time_of
from nsstream.chunk.sampling import levels_of
from nsstream.chunk.scratch import Scratch
from nsstream.counters import Tally
from nsstream.trace import FlowTable, PacketBatch

S = 1_000_000_000
TIMES = st.lists(st.one_of(st.integers(-S, 60 * S), st.integers(-(2**63), 2**63 - 1)), max_size=40)
NEAR_TIMES = st.lists(st.integers(0, 30 * S), max_size=60)
LEAPS = st.lists(
    st.one_of(st.integers(0, 20 * S), st.integers(3600 * S, 3620 * S), st.sampled_from([-1, 2**62])), max_size=40
)
CUTS = st.lists(st.integers(0, 60), max_size=8)
LIMITS = st.builds(
    lambda a, b, apart: ChunkLimits(a, 1 << 40, a + b, 1 << 40, apart),
    st.integers(1, 20),
    st.integers(0, 20),
    st.integers(0, 6),
)
KINDS = st.sampled_from(list(Kind))
FIELDS = ("id", "start_ns", "end_ns", "digest", "tally", "is_partial", "sampling_interval")


def rows_at(times_ns: list[int], kind: Kind = Kind.PACKETS, conversations: int = 7) -> Rows:
    """Rows named 1, 2, ... of a few conversations, in either direction."""
    n = len(times_ns)
    name = np.arange(1, n + 1)
    hosts = np.zeros((n, 2, 16), np.uint8)
    hosts[:, 0, 15] = name * 5 % conversations
    hosts[:, 1, 14] = 1
    for i in range(1, n, 2):
        hosts[i] = hosts[i, ::-1].copy()
    columns: dict[str, np.ndarray] = {
        "source_address": np.ascontiguousarray(hosts[:, 0]),
        "destination_address": np.ascontiguousarray(hosts[:, 1]),
    }
    time_ns = np.array(times_ns, np.int64)
    if kind is Kind.PACKETS:
        columns |= {"observation_time_ns": time_ns, "ip_total_length": name.astype(np.uint32)}
        return PacketBatch.from_columns({**PacketBatch.empty(n).columns(), **columns})
    columns |= {"flow_start_ns": np.minimum(time_ns, 0), "flow_end_ns": time_ns, "label": (name % 3).astype(np.uint16)}
    return FlowTable.from_columns(columns | {"packet_delta_count": name.astype(np.uint64)}, ("web", "attack"))


def names_of(rows: Rows) -> list[int]:
    column = rows.ip_total_length if isinstance(rows, PacketBatch) else rows.packet_delta_count
    return column.tolist()


def chunks_of(rows: Rows, cuts: list[int], length_s: int, lateness_ns: int, **options) -> tuple[list[Chunk], Tally]:
    limits: ChunkLimits = options.get("limits", UNLIMITED)
    chunker = Chunker(length_s * S, allowed_lateness_ns=lateness_ns, **options)
    chunks: list[Chunk] = []
    cuts = sorted(min(cut, len(rows)) for cut in cuts)
    for start, end in zip([0, *cuts], [*cuts, len(rows)], strict=True):
        chunks += chunker.push(rows.take(slice(start, end)))
        chunker.tally.check()
        assert chunker.open_rows <= limits.open_rows
    chunks += chunker.flush()
    chunker.tally.check()
    left = chunker.close_apart()
    assert_apart_adds_up(chunks, left, chunker, limits)
    total = Tally()
    for tally in (*(chunk.tally for chunk in chunks), chunker.loose):
        tally.check()
        total.add(tally)
    assert total == chunker.tally
    return chunks, chunker.tally


def assert_apart_adds_up(chunks: list[Chunk], left: list[Chunk], chunker: Chunker, limits: ChunkLimits) -> None:
    """Each chunk's late and future rows stand beside it, or are told to have had no room."""
    assert chunker.apart.row_count == 0
    assert chunker.close_apart() == []
    for apart, tally in [*((c.apart, c.tally) for c in chunks), (left, chunker.loose)]:
        for rows in apart:
            rows.tally.check()
            assert (rows.tally.offered, rows.tally.kept) == (getattr(tally, rows.fate), len(rows.table))
            assert len(rows.table) <= limits.apart_rows
        if limits.apart_rows:
            fates = {Fate.LATE: tally.late, Fate.FUTURE: tally.future}
            assert [rows.fate for rows in apart] == sorted(fate for fate, count in fates.items() if count)
    for chunk in chunks:
        assert all((rows.start_ns, rows.end_ns) == (chunk.start_ns, chunk.end_ns) for rows in chunk.apart)


def assert_same(one: tuple[list[Chunk], Tally], other: tuple[list[Chunk], Tally]) -> None:
    for field in FIELDS:
        assert [getattr(c, field) for c in one[0]] == [getattr(c, field) for c in other[0]]
        assert [getattr(rows, field) for c in one[0] for rows in c.apart] == [
            getattr(rows, field) for c in other[0] for rows in c.apart
        ]
    assert one[1] == other[1]


@given(TIMES, CUTS, st.sampled_from([1, 7, 60]), st.integers(0, 20 * S))
def test_any_batching_of_the_same_packets_gives_the_same_chunks(times_ns, cuts, length_s, lateness_ns):
    rows = rows_at(times_ns)
    assert_same(chunks_of(rows, [], length_s, lateness_ns), chunks_of(rows, cuts, length_s, lateness_ns))


@given(NEAR_TIMES, CUTS, KINDS)
def test_any_batching_of_the_same_flows_gives_the_same_chunks(times_ns, cuts, kind):
    rows = rows_at(times_ns, kind)
    assert_same(chunks_of(rows, [], 7, 2 * S), chunks_of(rows, cuts, 7, 2 * S))


@given(NEAR_TIMES, CUTS, LIMITS, st.integers(0, 20 * S), KINDS)
def test_any_batching_gives_the_same_chunks_where_there_is_no_room(times_ns, cuts, limits, lateness_ns, kind):
    rows = rows_at(times_ns, kind)
    whole = chunks_of(rows, [], 5, lateness_ns, limits=limits)
    assert_same(whole, chunks_of(rows, cuts, 5, lateness_ns, limits=limits))
    assert_same(whole, chunks_of(rows, list(range(len(rows))), 5, lateness_ns, limits=limits))


@given(LEAPS, CUTS, st.integers(1, 4), st.integers(0, 10 * S), st.one_of(st.just(UNLIMITED), LIMITS), KINDS)
def test_any_batching_gives_the_same_chunks_where_times_leap(times_ns, cuts, witnesses, lateness_ns, limits, kind):
    rows = rows_at(times_ns, kind)
    options = {"allowed_future_ns": 100 * S, "witnesses": witnesses, "limits": limits}
    whole = chunks_of(rows, [], 5, lateness_ns, **options)
    assert_same(whole, chunks_of(rows, cuts, 5, lateness_ns, **options))
    assert_same(whole, chunks_of(rows, list(range(len(rows))), 5, lateness_ns, **options))


@given(NEAR_TIMES, CUTS, st.one_of(st.just(UNLIMITED), LIMITS), st.integers(0, 20 * S), KINDS, st.integers(1, 9))
def test_rows_that_wait_in_files_give_the_same_chunks(times_ns, cuts, limits, lateness_ns, kind, piece_rows):
    rows = rows_at(times_ns, kind)
    in_memory = chunks_of(rows, cuts, 5, lateness_ns, limits=limits)
    with tempfile.TemporaryDirectory() as directory:
        scratch = Scratch(Path(directory), piece_rows=piece_rows, spare_octets=0)
        in_files = chunks_of(rows, cuts, 5, lateness_ns, limits=limits, scratch=scratch)
        assert list(Path(directory).iterdir()) == []
    assert_same(in_memory, in_files)


@given(TIMES, st.sampled_from([1, 7, 60]), st.integers(0, 20 * S))
def test_every_packet_is_kept_once_or_counted(times_ns, length_s, lateness_ns):
    chunks, tally = chunks_of(rows_at(times_ns), [], length_s, lateness_ns)
    names = [name for chunk in chunks for name in names_of(chunk.table)]
    apart = [name for chunk in chunks for rows in chunk.apart for name in names_of(rows.table)]
    assert tally.offered == len(times_ns)
    assert tally.kept == len(names)
    assert tally.late == len(apart)
    assert len({*names, *apart}) == len(names) + len(apart)
    assert tally.late == sum(c.tally.late for c in chunks)
    assert [c.start_ns for c in chunks] == sorted({c.start_ns for c in chunks})


@given(NEAR_TIMES, LIMITS, st.binary(min_size=16, max_size=16), KINDS)
def test_a_conversation_is_whole_or_absent_and_the_chunk_says_at_what_rate(times_ns, limits, key, kind):
    rows = rows_at(times_ns, kind)
    everything, _ = chunks_of(rows, [], 10, 60 * S)
    sampled, _ = chunks_of(rows, [], 10, 60 * S, limits=limits, sampling_key=key)
    assert len(sampled) == len(everything)
    for chunk, whole in zip(sampled, everything, strict=True):
        is_kept = 2.0 ** levels_of(whole.table, key).astype(np.float64) >= chunk.sampling_interval
        assert names_of(chunk.table) == names_of(whole.table.take(is_kept))
        assert chunk.tally.sampled_out == int((~is_kept).sum())
        assert len(chunk.table) <= limits.chunk_rows
    assert sum(len(chunk.table) for chunk in sampled) <= limits.open_rows


@pytest.mark.parametrize("kind", list(Kind))
def test_both_directions_have_one_level_and_each_level_half_of_the_conversations(kind: Kind):
    n = 20_000
    rows = rows_at([0] * n, kind)
    columns = dict(rows.columns())
    ports = np.random.default_rng(1).integers(0, 65_536, (2, n)).astype(np.uint16)
    columns["source_transport_port"], columns["destination_transport_port"] = ports
    forward = type(rows).from_columns(columns, *([("web", "attack")] if kind is Kind.FLOWS else []))
    for end in ("address", "transport_port"):
        one, other = f"source_{end}", f"destination_{end}"
        columns[one], columns[other] = columns[other], columns[one]
    back = type(rows).from_columns(columns, *([("web", "attack")] if kind is Kind.FLOWS else []))
    key = struct.pack("<QQ", 1, 2)
    levels = levels_of(forward, key)
    assert (levels == levels_of(back, key)).all()
    for level in range(4):
        assert abs((levels >= level).mean() - 0.5**level) < 0.02
    assert time_of(rows).dtype == np.int64
