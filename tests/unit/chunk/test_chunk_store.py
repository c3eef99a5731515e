import contextlib
import os
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from nsstream.chunk import Chunk, Chunker, ChunkStore, read_chunk, whole_file
from nsstream.errors import OutputError, StateError
from nsstream.trace import PacketBatch
from nsstream.trace.fields import PACKET_FIELDS

S = 1_000_000_000


def a_chunk(n: int = 100, *, seed: int = 0) -> Chunk:
    rng = np.random.default_rng(seed)
    columns = {name: rng.integers(0, 256, (n, *cell)).astype(dtype) for name, (dtype, cell, _) in PACKET_FIELDS.items()}
    columns["observation_time_ns"] = rng.integers(0, 10 * S, n)
    chunker = Chunker(10 * S)
    chunker.push(PacketBatch.from_columns(columns))
    return chunker.flush()[0]


def test_what_is_written_is_read_back(tmp_path: Path):
    chunk, store = a_chunk(), ChunkStore(tmp_path / "chunks")
    path = store.write(chunk)
    for again in (store.read(chunk.id), store.read(path), read_chunk(path)):
        for name, column in chunk.packets.columns().items():
            np.testing.assert_array_equal(getattr(again.packets, name), column)
        for name in ("id", "start_ns", "end_ns", "tally", "is_partial", "digest"):
            assert getattr(again, name) == getattr(chunk, name)


def test_the_store_lists_chunks_by_start_without_reading_columns(tmp_path: Path):
    chunker = Chunker(10 * S)
    columns = {k: v.copy() for k, v in PacketBatch.empty(3).columns().items()}
    columns["observation_time_ns"] = np.array([31 * S, 1 * S, 2 * S])
    store = ChunkStore(tmp_path)
    for chunk in [*chunker.push(PacketBatch.from_columns(columns)), *chunker.flush()]:
        store.write(chunk)
    assert [(info.start_ns, info.packet_count) for info in store.list()] == [(30 * S, 1)]  # two were late
    assert store.list()[0].tally.late == 2


def test_a_chunk_opens_in_any_arrow_reader(tmp_path: Path):
    chunk = a_chunk()
    table = pa.ipc.open_file(str(ChunkStore(tmp_path).write(chunk))).read_all()
    assert table.column_names == list(PACKET_FIELDS)
    assert table.schema.field("source_address").type == pa.binary(16)
    assert table.column("source_address")[7].as_py() == chunk.packets.source_address[7].tobytes()


def test_writing_the_same_chunk_again_changes_nothing(tmp_path: Path):
    store = ChunkStore(tmp_path)
    first = store.write(a_chunk()).stat()
    assert store.write(a_chunk()).stat().st_mtime_ns == first.st_mtime_ns


def test_another_chunk_of_the_same_interval_is_refused(tmp_path: Path):
    store = ChunkStore(tmp_path)
    store.write(a_chunk(seed=0))
    with pytest.raises(StateError, match="another chunk of that interval"):
        store.write(a_chunk(seed=1))


def test_a_prepared_chunk_appears_when_it_is_published_and_is_swept_otherwise(tmp_path: Path):
    store = ChunkStore(tmp_path)
    store.prepare(a_chunk())
    assert store.list() == []
    assert store.publish(a_chunk().id)
    assert [info.digest for info in store.list()] == [a_chunk().digest]
    assert not store.publish(a_chunk().id)
    store.prepare(a_chunk(seed=1))
    assert store.sweep() == 1
    assert [info.digest for info in store.list()] == [a_chunk().digest]


def test_a_missing_chunk_is_named(tmp_path: Path):
    with pytest.raises(StateError, match="there is no chunk"):
        ChunkStore(tmp_path).read("nothing")


@pytest.mark.parametrize("octets", [b"", b"abc", b"ARROW1\0\0" + bytes(100)])
def test_octets_that_are_no_arrow_file_are_refused(tmp_path: Path, octets: bytes):
    path = tmp_path / "x.arrow"
    path.write_bytes(octets)
    with pytest.raises(StateError, match="not a chunk"):
        read_chunk(path)


def test_an_arrow_file_of_another_format_is_refused_by_name(tmp_path: Path):
    for metadata, words in [
        ({}, "format unknown"),
        ({"format": "pictures"}, "format pictures"),
        ({"format": "nsstream-chunk", "format_version": "99"}, "version 99"),
        ({"format": "nsstream-chunk", "format_version": "2"}, "damaged chunk"),
    ]:
        table = pa.table({"x": [1]}).replace_schema_metadata(metadata)
        with pa.OSFile(str(tmp_path / "x.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
        with pytest.raises(StateError, match=words):
            read_chunk(tmp_path / "x.arrow")


def test_a_cut_or_flipped_file_is_read_or_refused_but_never_crashes(tmp_path: Path):
    octets = bytearray(ChunkStore(tmp_path).write(a_chunk(5)).read_bytes())
    path = tmp_path / "hurt.arrow"
    for at in range(0, len(octets), 13):
        path.write_bytes(octets[:at])
        with pytest.raises(StateError):
            read_chunk(path)
        path.write_bytes(octets[:at] + bytes([octets[at] ^ 0x55]) + octets[at + 1 :])
        with contextlib.suppress(StateError):
            read_chunk(path)


def test_a_block_that_fails_leaves_what_was_there(tmp_path: Path):
    path = tmp_path / "x"
    path.write_bytes(b"old")

    def write_half() -> None:
        with whole_file(path) as file:
            file.write(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_an_output_error(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot make the chunk folder"):
        ChunkStore(tmp_path / "file" / "chunks")


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a tmpfs needs root")
def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], check=True)
    try:
        store = ChunkStore(tmp_path / "chunks")
        with pytest.raises(OutputError, match="No space left"):
            store.write(a_chunk(10_000))
        assert list(store.directory.iterdir()) == []
    finally:
        subprocess.run(["umount", tmp_path], check=True)
