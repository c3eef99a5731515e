"""Following a journal that another writes: each row once, when it is committed, from now on."""

import json
from pathlib import Path

import numpy as np
import pytest

from nsstream.chunk import Chunker
from nsstream.chunk.journal import COMMIT, Journal
from nsstream.chunk.journal_follow import JournalFollower
from nsstream.errors import StateError
from nsstream.trace import PacketBatch

S = 1_000_000_000


def packets(first: int, count: int) -> PacketBatch:
    """Rows named from `first` on, a second apart."""
    columns = dict(PacketBatch.empty(count).columns())
    number = np.arange(first, first + count)
    columns["observation_time_ns"] = number * S
    columns["tcp_sequence_number"] = number.astype(np.uint32)
    return PacketBatch.from_columns(columns)


def names(follower: JournalFollower) -> list[int]:
    return [n for rows in follower.read(0.0) for n in rows.tcp_sequence_number.tolist()]


@pytest.fixture
def follower(tmp_path: Path):
    made = JournalFollower(tmp_path)
    yield made
    made.close()


def test_rows_come_once_from_now_on_over_files_that_come_and_go(tmp_path: Path, follower: JournalFollower):
    journal, chunker = Journal(tmp_path), Chunker(10 * S)
    chunker.push(packets(1, 3))
    journal.sync(chunker)
    follower.open()
    assert names(follower) == []  # what was there before
    chunker.push(packets(4, 3))
    assert names(follower) == []  # not committed
    journal.sync(chunker)
    assert names(follower) == [4, 5, 6]
    assert names(follower) == []
    chunker.push(packets(7, 5))
    journal.sync(chunker)  # rows of two intervals
    closed = chunker.push(packets(12, 10))
    journal.sync(chunker, closed)
    journal.remove([chunk.id for chunk in closed])  # before anybody looked
    assert sorted(names(follower))[:5] == [7, 8, 9, 10, 11]
    following = Journal(tmp_path)  # another life, which goes on in new files
    following.recover(lambda chunk_id: False)
    again = Chunker(10 * S)
    again.push(packets(100, 2))
    following.sync(again)
    assert names(follower) == [100, 101]


def test_a_message_that_is_not_whole_yet_comes_when_it_is(tmp_path: Path, follower: JournalFollower):
    journal, chunker = Journal(tmp_path), Chunker(100 * S)
    chunker.push(packets(1, 2))
    journal.sync(chunker)
    follower.open()
    chunker.push(packets(3, 2))
    journal.sync(chunker)
    (path,) = tmp_path.glob("*.arrows")
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    assert names(follower) == []
    path.write_bytes(whole)
    assert names(follower) == [3, 4]


def test_what_is_no_journal_is_refused(tmp_path: Path, follower: JournalFollower):
    with pytest.raises(StateError, match="nothing is being taken in"):
        follower.open()
    for text, complaint in (("[", "cannot be read"), (json.dumps({"format": "x", "format_version": 1}), "not ours")):
        (tmp_path / COMMIT).write_text(text)
        with pytest.raises(StateError, match=complaint):
            follower.open()
