import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nsstream.chunk import Chunk, Chunker, ChunkStore, read_chunk
from nsstream.chunk import store as store_module
from nsstream.chunk.chunk_file import ChunkInfo, read_info
from nsstream.chunk.retention import Reason, Retention, expire
from nsstream.errors import StateError
from nsstream.trace import PacketBatch

S = 1_000_000_000
NOW_NS = 1_000_000 * S


@pytest.fixture
def store(tmp_path: Path) -> ChunkStore:
    """Four chunks, stored 40, 30, 20 and 10 s ago."""
    store = ChunkStore(tmp_path / "chunks")
    for at in range(4):
        path = store.write(a_chunk(at))
        stored_ns = NOW_NS - (4 - at) * 10 * S
        os.utime(path, ns=(stored_ns, stored_ns))
    return store


def a_chunk(at: int) -> Chunk:
    columns = dict(PacketBatch.empty(1000).columns())
    columns["observation_time_ns"] = at * 10 * S + np.arange(1000)
    chunker = Chunker(10 * S)
    chunker.push(PacketBatch.from_columns(columns))
    return chunker.flush()[0]


def starts_of(store: ChunkStore) -> list[int]:
    return [info.start_ns // S for info in store.list()]


def test_without_bounds_nothing_expires(store: ChunkStore):
    assert expire(store, Retention(), NOW_NS).expired == []
    assert starts_of(store) == [0, 10, 20, 30]


def test_what_is_too_old_expires_and_is_told(store: ChunkStore):
    done = expire(store, Retention(max_age_ns=25 * S), NOW_NS)
    assert [(judged.id[9:15], judged.reason) for judged in done.expired] == [
        ("000000", Reason.AGE),
        ("000010", Reason.AGE),
    ]
    assert starts_of(store) == [20, 30]


def test_the_oldest_expire_until_the_rest_fits(store: ChunkStore):
    size = sum(info.path.stat().st_size for info in store.list()[2:])
    done = expire(store, Retention(max_octets=size), NOW_NS)
    assert [judged.reason for judged in done.expired] == [Reason.SIZE, Reason.SIZE]
    assert done.octets_left == size
    assert starts_of(store) == [20, 30]


def test_a_pinned_chunk_never_expires(store: ChunkStore):
    store.pin(store.list()[0].id)
    done = expire(store, Retention(max_age_ns=0), NOW_NS)
    assert [judged.reason for judged in done.spared] == [Reason.PINNED]
    assert starts_of(store) == [0]
    store.unpin(store.list()[0].id)
    expire(store, Retention(max_age_ns=0), NOW_NS)
    assert starts_of(store) == []
    with pytest.raises(StateError, match="there is no chunk"):
        store.pin("nothing")


def test_a_chunk_does_not_expire_while_a_column_of_it_lives(store: ChunkStore):
    column = read_chunk(store.list()[0].path).packets.observation_time_ns
    done = expire(store, Retention(max_age_ns=0), NOW_NS)
    assert [judged.reason for judged in done.spared] == [Reason.IN_USE]
    assert starts_of(store) == [0]
    assert column[999] == 999
    del column
    assert expire(store, Retention(max_age_ns=0), NOW_NS).spared == []
    assert starts_of(store) == []


def test_a_chunk_that_another_process_reads_does_not_expire(store: ChunkStore):
    program = (
        "import sys; from pathlib import Path; from nsstream.chunk import read_chunk\n"
        "chunk = read_chunk(Path(sys.argv[1])); print('reading', flush=True); sys.stdin.read()"
    )
    path = store.list()[1].path
    reader = subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert reader.stdin is not None
    assert reader.stdout is not None
    try:
        assert reader.stdout.readline() == "reading\n"
        expire(store, Retention(max_age_ns=0), NOW_NS)
        assert starts_of(store) == [10]
    finally:
        reader.stdin.close()
        assert reader.wait(timeout=300) == 0
        reader.stdout.close()
    expire(store, Retention(max_age_ns=0), NOW_NS)
    assert starts_of(store) == []


def test_a_partial_chunk_expires_like_a_whole_one_and_left_overs_are_swept(store: ChunkStore):
    assert all(info.is_partial for info in store.list())
    (store.directory / ".x.arrow.abc.part").write_bytes(b"half")
    assert store.sweep() == 1
    assert len(expire(store, Retention(max_age_ns=0), NOW_NS).expired) == 4
    assert list(store.directory.iterdir()) == []


def test_a_negative_bound_is_refused():
    with pytest.raises(ValueError, match="max_octets"):
        Retention(max_octets=-1)


def test_a_file_that_is_no_chunk_expires_like_one_and_holds_nothing_up(store: ChunkStore):
    damaged = store.list()[1].path
    damaged.write_bytes(b"no chunk")
    os.utime(damaged, ns=(NOW_NS - 30 * S, NOW_NS - 30 * S))
    done = expire(store, Retention(max_age_ns=25 * S), NOW_NS)
    assert sorted(judged.id[9:15] for judged in done.expired) == ["000000", "000010"]
    assert starts_of(store) == [20, 30]


def test_a_file_is_read_once_however_often_it_is_looked_at(store: ChunkStore, monkeypatch: pytest.MonkeyPatch):
    read: list[str] = []

    def counted(path: Path) -> ChunkInfo:
        read.append(path.stem)
        return read_info(path)

    monkeypatch.setattr(store_module, "read_info", counted)
    for _ in range(3):
        expire(store, Retention(max_age_ns=25 * S), NOW_NS)
    assert sorted(name[9:15] for name in read) == ["000000", "000010", "000020", "000030"]
    store.write(a_chunk(4))
    expire(store, Retention(max_age_ns=25 * S), NOW_NS)
    assert [name[9:15] for name in read[4:]] == ["000040"]
    assert starts_of(store) == [20, 30, 40]
