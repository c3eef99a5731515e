"""A journal cut, flipped or left over gives back what was committed, and nothing twice."""

import os
import resource
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from nsstream.chunk import Chunker, ChunkLimits, Kind
from nsstream.chunk.journal import COMMIT, Journal, Recovered
from nsstream.counters import Tally
from nsstream.errors import OutputError, StateError
from nsstream.trace import FlowTable, PacketBatch

S = 1_000_000_000


def packets(first: int, count: int) -> PacketBatch:
    """Rows named from `first` on, a second apart."""
    columns = dict(PacketBatch.empty(count).columns())
    number = np.arange(first, first + count)
    columns["observation_time_ns"] = number * S
    columns["tcp_sequence_number"] = number.astype(np.uint32)
    columns["source_transport_port"] = (number % 5000).astype(np.uint16)
    return PacketBatch.from_columns(columns)


def names_of(found: Recovered) -> list[int]:
    return [n for rows in found.intervals for piece in rows.pieces for n in piece.tcp_sequence_number.tolist()]


def nothing_stored(chunk_id: str) -> bool:
    return False


def test_what_was_synced_is_recovered_and_the_rest_is_not(tmp_path: Path):
    journal, chunker = Journal(tmp_path), Chunker(10 * S)
    chunker.push(packets(1, 8))
    chunker.account(Tally(offered=3, dropped=Tally().dropped + type(Tally().dropped)(ring=3)))
    assert journal.sync(chunker, progress={"at": 8}) == 8
    chunker.push(packets(9, 3))
    assert journal.sync(chunker) == 3
    assert journal.sync(chunker) == 0
    chunker.push(packets(12, 1))
    found = Journal(tmp_path).recover(nothing_stored)
    assert names_of(found) == list(range(1, 12))
    assert (found.length_ns, found.latest_ns, found.row_count) == (10 * S, 11 * S, 11)
    assert found.loose.dropped == {"ring": 3}


def test_a_chunker_goes_on_as_if_nothing_had_happened(tmp_path: Path):
    whole = Chunker(10 * S)
    chunks = [*whole.push(packets(0, 25)), *whole.flush()]

    journal, chunker = Journal(tmp_path), Chunker(10 * S)
    closed = chunker.push(packets(0, 13))
    journal.sync(chunker, closed)
    again, journal = Chunker(10 * S), Journal(tmp_path)
    found = journal.recover(nothing_stored)
    again.resume(found.latest_ns, found.closed_before, found.loose)
    for rows in found.intervals:
        again.restore(rows.index, rows.part, rows.kind, rows.pieces, level=rows.level, sampled_out=rows.sampled_out)
    resumed = [*closed, *again.push(packets(13, 12)), *again.flush()]
    assert [(c.id, c.digest, c.tally) for c in resumed] == [(c.id, c.digest, c.tally) for c in chunks]
    assert sum(c.recovered for c in resumed) == 13
    again.tally.check()


def test_a_file_cut_anywhere_gives_back_whole_batches_only(tmp_path: Path):
    journal, chunker = Journal(tmp_path), Chunker(100 * S)
    for first in (0, 5, 10):
        chunker.push(packets(first, 5))
        journal.sync(chunker)
    (path,) = tmp_path.glob("*.arrows")
    octets = path.read_bytes()
    seen = set()
    for cut in range(0, len(octets), 7):
        path.write_bytes(octets[:cut])
        found = Journal(tmp_path).recover(nothing_stored)
        names = names_of(found)
        assert names == list(range(len(names)))
        assert len(names) in (0, 5, 10, 15)
        seen.add(len(names))
        path.write_bytes(octets)  # an empty journal is removed as it is read
    assert seen == {0, 5, 10}


def test_a_flipped_octet_never_gives_a_wrong_row(tmp_path: Path):
    journal, chunker = Journal(tmp_path), Chunker(100 * S)
    chunker.push(packets(0, 4))
    journal.sync(chunker)
    chunker.push(packets(4, 4))
    journal.sync(chunker)
    (path,) = tmp_path.glob("*.arrows")
    octets = path.read_bytes()
    for at in range(0, len(octets), 5):
        path.write_bytes(octets[:at] + bytes([octets[at] ^ 0x5A]) + octets[at + 1 :])
        try:
            names = names_of(Journal(tmp_path).recover(nothing_stored))
        except StateError:
            names = []
        assert names in ([], [0, 1, 2, 3], list(range(8)))
        path.write_bytes(octets)


def test_a_batch_whose_commit_did_not_follow_is_not_recovered(tmp_path: Path):
    journal, chunker = Journal(tmp_path), Chunker(100 * S)
    chunker.push(packets(0, 5))
    journal.sync(chunker)
    commit = (tmp_path / COMMIT).read_bytes()
    chunker.push(packets(5, 5))
    journal.sync(chunker)
    (tmp_path / COMMIT).write_bytes(commit)
    found = Journal(tmp_path).recover(nothing_stored)
    assert (names_of(found), found.uncommitted_rows) == ([0, 1, 2, 3, 4], 5)


def test_what_was_not_committed_stays_so_when_the_next_process_commits(tmp_path: Path):
    journal, chunker = Journal(tmp_path), Chunker(100 * S)
    chunker.push(packets(0, 5))
    journal.sync(chunker)
    commit = (tmp_path / COMMIT).read_bytes()
    chunker.push(packets(5, 5))
    journal.sync(chunker)
    (tmp_path / COMMIT).write_bytes(commit)  # killed between the rows and their commit
    journal, chunker = Journal(tmp_path), Chunker(100 * S)
    (rows,) = journal.recover(nothing_stored).intervals
    chunker.restore(rows.index, rows.part, rows.kind, rows.pieces, level=rows.level, sampled_out=rows.sampled_out)
    chunker.push(packets(5, 2))  # read again from the file
    journal.sync(chunker)
    assert names_of(Journal(tmp_path).recover(nothing_stored)) == list(range(7))


def test_a_left_over_of_a_stored_chunk_is_removed_and_its_counts_come_once(tmp_path: Path):
    journal, chunker = Journal(tmp_path), Chunker(10 * S)
    chunker.push(packets(0, 10))
    chunker.push(packets(9000, 0))
    journal.sync(chunker)
    chunks = chunker.push(packets(16, 1))
    assert [c.id for c in chunks] == ["19700101T000000Z-10s"]
    journal.sync(chunker, chunks)
    found = Journal(tmp_path).recover(lambda chunk_id: chunk_id == chunks[0].id)
    assert names_of(found) == [16]
    assert [path.name[:20] for path in tmp_path.glob("*.arrows")] == ["19700101T000010Z-10s"]


def test_counts_of_a_chunk_that_was_not_stored_are_recovered(tmp_path: Path):
    journal, chunker = Journal(tmp_path), Chunker(10 * S)
    chunker.push(packets(0, 5))
    chunker.account(Tally(offered=2, dropped=Counter(nic=2), behind=Tally(offered=7, kept=7)))
    journal.sync(chunker)
    chunks = chunker.push(packets(16, 1))
    journal.sync(chunker, chunks)
    assert chunks[0].tally.dropped == {"nic": 2}
    found = Journal(tmp_path).recover(nothing_stored).loose
    assert found == Tally(offered=2, dropped=Counter(nic=2), behind=Tally(offered=7, kept=7))
    assert Journal(tmp_path).recover(lambda chunk_id: chunk_id == chunks[0].id).loose == Tally()


def test_a_sampled_chunk_keeps_its_level_and_its_whole_conversations(tmp_path: Path):
    limits = ChunkLimits(chunk_rows=500, open_rows=500)
    key = bytes(range(16))
    journal, chunker = Journal(tmp_path), Chunker(10_000 * S, limits=limits, sampling_key=key)
    for first in range(0, 4000, 250):
        chunker.push(packets(first, 250))
        journal.sync(chunker)
    (whole,) = chunker.flush()
    found = Journal(tmp_path).recover(nothing_stored)
    again = Chunker(10_000 * S, limits=limits, sampling_key=key)
    (rows,) = found.intervals
    again.restore(rows.index, rows.part, rows.kind, rows.pieces, level=rows.level, sampled_out=rows.sampled_out)
    again.tally.check()
    (chunk,) = again.flush()
    assert (chunk.digest, chunk.sampling_interval) == (whole.digest, whole.sampling_interval)
    assert chunk.sampling_interval > 1
    assert chunk.tally.sampled_out == whole.tally.sampled_out


def test_flows_keep_their_label_names(tmp_path: Path):
    end = np.arange(3) * S
    columns = {"flow_start_ns": end, "flow_end_ns": end, "packet_delta_count": np.ones(3, np.uint64)}
    table = FlowTable.from_columns(columns | {"label": np.array([2, 0, 1], np.uint16)}, ("web", "größe"))
    journal, chunker = Journal(tmp_path), Chunker(10 * S)
    chunker.push(table)
    journal.sync(chunker)
    (rows,) = Journal(tmp_path).recover(nothing_stored).intervals
    assert rows.kind is Kind.FLOWS
    (piece,) = rows.pieces
    assert isinstance(piece, FlowTable)
    assert (piece.label.tolist(), piece.label_names) == ([2, 0, 1], ("web", "größe"))


def test_no_journal_and_a_garbled_one_are_told_apart(tmp_path: Path):
    assert Journal(tmp_path).recover(nothing_stored) == Recovered()
    (tmp_path / COMMIT).write_text("{}")
    with pytest.raises(StateError, match="cannot be read"):
        Journal(tmp_path).recover(nothing_stored)


def test_more_open_intervals_than_files_may_be_open(tmp_path: Path):
    journal, chunker = Journal(tmp_path), Chunker(1 * S, allowed_lateness_ns=10_000 * S)
    chunker.push(packets(0, 300))
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, before[1]))
    try:
        assert journal.sync(chunker) == 300
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert names_of(Journal(tmp_path).recover(nothing_stored)) == list(range(300))


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a tmpfs needs root")
def test_a_full_disk_takes_back_what_was_begun_and_the_next_sync_catches_up(tmp_path: Path):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", tmp_path], check=True)
    try:
        journal, chunker = Journal(tmp_path / "journal"), Chunker(10_000 * S)
        chunker.push(packets(0, 500))
        journal.sync(chunker)
        ballast = tmp_path / "ballast"
        with pytest.raises(OSError, match="No space left"):
            ballast.write_bytes(bytes(300_000))
        chunker.push(packets(500, 1000))
        with pytest.raises(OutputError, match="No space left"):
            journal.sync(chunker)
        assert names_of(Journal(tmp_path / "journal").recover(nothing_stored)) == list(range(500))
        ballast.unlink()
        assert journal.sync(chunker) == 1000
        assert names_of(Journal(tmp_path / "journal").recover(nothing_stored)) == list(range(1500))
    finally:
        subprocess.run(["umount", tmp_path], check=True)
