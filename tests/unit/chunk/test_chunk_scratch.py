"""Rows in nameless files: the same rows, out of memory, and nothing left behind."""

import mmap
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from nsstream.chunk import Chunker, Kind
from nsstream.chunk.journal import Journal
from nsstream.chunk.rows import Rows, concatenate, time_of
from nsstream.chunk.scratch import BLOCK_ROWS, Scratch, ScratchFile, order_of, shed, shed_rows
from nsstream.trace import FlowTable, PacketBatch

S = 1_000_000_000


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    return Scratch(tmp_path, piece_rows=10, spare_octets=0)


def packets(n: int, *, seed: int = 0, span_s: int = 9) -> PacketBatch:
    rng = np.random.default_rng(seed)
    columns = {
        name: rng.integers(0, 256, column.nbytes, np.uint8).view(column.dtype).reshape(column.shape)
        for name, column in PacketBatch.empty(n).columns().items()
    }
    columns["observation_time_ns"] = rng.integers(0, span_s * S, n)
    return PacketBatch.from_columns(columns)


def put_into(scratch: Scratch, pieces: list[PacketBatch]) -> Rows:
    file = scratch.open(pieces[0], 60_000)
    assert file is not None
    put = file.append(pieces)
    assert put is not None
    return put


def assert_equal(one: Rows, other: Rows) -> None:
    for name, column in one.columns().items():
        np.testing.assert_array_equal(column, getattr(other, name), name)


def map_of(column: np.ndarray) -> mmap.mmap:
    base: object = column
    while isinstance(base, np.ndarray):
        base = base.base
    assert isinstance(base, memoryview)
    assert isinstance(base.obj, mmap.mmap)
    return base.obj


def resident_octets(column: np.ndarray) -> int:
    """Octets in memory of the mapping that a column is in."""
    address = column.__array_interface__["data"][0]
    is_ours = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split()[0]
        if "-" in first and not first.endswith(":"):
            start, end = (int(text, 16) for text in first.split("-"))
            is_ours = start <= address < end
        elif is_ours and first == "Rss:":
            return int(line.split()[1]) << 10
    raise AssertionError("the column is in no mapping")


def test_rows_are_the_same_in_a_file_and_nothing_is_left_in_the_folder(scratch: Scratch, tmp_path: Path):
    pieces = [packets(100), packets(0), packets(37, seed=1)]
    put = put_into(scratch, pieces)
    assert_equal(put, PacketBatch.concatenate(pieces))
    assert all(not column.flags.writeable for column in put.columns().values())
    assert list(tmp_path.iterdir()) == []


def test_what_was_looked_at_is_given_back_and_stays_as_it_is(scratch: Scratch):
    rows = packets(50_000)
    put = put_into(scratch, [rows])
    shed_rows(put)
    assert resident_octets(time_of(put)) == 0
    assert_equal(put, rows)
    assert resident_octets(time_of(put)) >= 50_000 * 82
    shed_rows(put)
    assert resident_octets(time_of(put)) == 0
    assert_equal(put, rows)
    assert map_of(put.ip_ttl) is map_of(time_of(put))


def test_memory_of_others_is_never_touched():
    private = mmap.mmap(-1, 4096)
    column = np.frombuffer(private, np.uint8)
    private[:5] = b"alive"
    shed([column, np.arange(5)])
    assert private[:5] == b"alive"


def test_pieces_are_joined_in_time_order_and_rows_of_one_time_as_they_came(scratch: Scratch):
    pieces: list[Rows] = [packets(1000, span_s=1), packets(1000, seed=1, span_s=1)]
    times = {"observation_time_ns": np.repeat(np.arange(10), 100)[::-1].copy()}
    pieces = [PacketBatch.from_columns({**piece.columns(), **times}) for piece in pieces]
    whole = concatenate(Kind.PACKETS, pieces)
    expected = whole.take(np.argsort(time_of(whole), kind="stable"))
    joined = scratch.join(pieces)
    assert joined is not None
    assert_equal(joined, expected)
    assert pieces == []


@pytest.mark.parametrize("span_ns", [1, 1000, 1 << 62])
def test_times_are_put_in_order_span_by_span_those_that_are_the_same_as_they_came(span_ns: int):
    rng = np.random.default_rng(1)
    n = 3 * BLOCK_ROWS + 5
    for times_ns in (rng.integers(0, span_ns, n), np.arange(n) + rng.integers(0, 900, n), np.full(n, 7)):
        np.testing.assert_array_equal(order_of(times_ns), np.argsort(times_ns, kind="stable"))


def test_a_file_takes_what_it_has_room_for_and_tells_whether_that_is_in_time_order(scratch: Scratch, tmp_path: Path):
    file = ScratchFile(tmp_path, packets(0), 25)
    pieces = [packets(1), packets(1, seed=1), packets(20)]
    times_ns = [np.array([5]), np.array([5]), np.arange(6, 26)]
    pieces = [
        PacketBatch.from_columns({**piece.columns(), "observation_time_ns": time_ns})
        for piece, time_ns in zip(pieces, times_ns, strict=True)
    ]
    assert file.append(pieces[:2]) is not None
    last = file.append(pieces[2:])
    assert last is not None
    assert_equal(last, pieces[2])
    assert file.is_in_time_order
    assert_equal(file.rows(), PacketBatch.concatenate(pieces))
    assert file.append(pieces[2:]) is None
    assert file.append(pieces[:1]) is not None
    assert (file.row_count, file.is_in_time_order) == (23, False)
    assert_equal(last, pieces[2])


def test_labels_of_flows_keep_their_names(scratch: Scratch):
    def flows(codes: list[int], names: tuple[str, ...]) -> FlowTable:
        end = np.arange(len(codes)) * S
        columns = {"flow_start_ns": end, "flow_end_ns": end, "packet_delta_count": np.ones(len(codes), np.uint64)}
        return FlowTable.from_columns(columns | {"label": np.array(codes, np.uint16)}, names)

    put = scratch.join([flows([1, 2, 0], ("web", "attack")), flows([1, 1, 2], ("attack", "dns"))])
    assert isinstance(put, FlowTable)
    named = [("", *put.label_names)[code] for code in put.label]
    assert named == ["web", "attack", "attack", "attack", "", "dns"]


def test_where_there_is_no_room_rows_stay_in_memory(tmp_path: Path):
    for scratch in (Scratch(tmp_path, spare_octets=1 << 62), Scratch(tmp_path / "gone", spare_octets=0)):
        pieces: list[Rows] = [packets(100)]
        assert scratch.open(pieces[0]) is None
        assert scratch.join(pieces) is None
        assert len(pieces) == 1
        chunker = Chunker(10 * S, allowed_lateness_ns=10 * S, scratch=scratch)
        for seed in range(20):
            chunker.push(packets(10_000, seed=seed))
        (chunk,) = chunker.flush()
        assert len(chunk.table) == 200_000


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a tmpfs needs root")
def test_a_disk_that_fills_up_costs_no_row_and_no_order(tmp_path: Path):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", tmp_path], check=True)
    try:
        scratch = Scratch(tmp_path, piece_rows=1000, spare_octets=0)
        chunker = Chunker(10 * S, allowed_lateness_ns=10 * S, scratch=scratch)
        in_memory = Chunker(10 * S, allowed_lateness_ns=10 * S)
        for seed in range(30):
            for each in (chunker, in_memory):
                each.push(packets(1500, seed=seed))
        assert os.statvfs(tmp_path).f_bavail < 100
        assert [chunk.digest for chunk in chunker.flush()] == [chunk.digest for chunk in in_memory.flush()]
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_the_journal_gets_each_row_once_from_files_too(scratch: Scratch, tmp_path: Path):
    journal, chunker = Journal(tmp_path / "journal"), Chunker(10 * S, allowed_lateness_ns=10 * S, scratch=scratch)
    rows = [packets(7, seed=seed) for seed in range(9)]
    for batch in rows:
        chunker.push(batch)
        assert journal.sync(chunker) == 7
    (found,) = Journal(tmp_path / "journal").recover(lambda chunk_id: False).intervals
    assert_equal(concatenate(Kind.PACKETS, found.pieces), PacketBatch.concatenate(rows))
