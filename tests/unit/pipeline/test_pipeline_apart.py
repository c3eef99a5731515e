"""Late and future rows over the whole path: into a folder of their own, over restarts, a kill and a full disk."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nsstream.chunk import ChunkLimits, ChunkStore
from nsstream.clock import ManualClock
from nsstream.counters import Tally
from nsstream.pipeline.intake import Intake, IntakeConfig
from nsstream.trace import PacketBatch

S = 1_000_000_000
CONFIG = IntakeConfig(length_s=10, allowed_lateness_s=0, allowed_future_s=None)


def packets_at(*times_s: float) -> PacketBatch:
    columns = dict(PacketBatch.empty(len(times_s)).columns())
    columns["observation_time_ns"] = np.array([round(t * S) for t in times_s], np.int64)
    return PacketBatch.from_columns(columns)


def intake_of(state: Path, config: IntakeConfig = CONFIG, source_id: str = "made") -> Intake:
    return Intake(state, source_id, config, clock=ManualClock())


def take(intake: Intake, *times_s: float) -> None:
    intake.take(packets_at(*times_s), Tally(offered=len(times_s), kept=len(times_s)))


def apart_in(state: Path) -> dict[str, list[float]]:
    store = ChunkStore(state / "apart")
    return {info.id[9:]: (store.read(info.id).table.observation_time_ns / S).tolist() for info in store.list()}


def test_they_are_stored_with_the_chunk_and_at_the_end(tmp_path: Path):
    intake = intake_of(tmp_path)
    take(intake, 1, 25, 3, 35, 4)
    assert apart_in(tmp_path) == {"000020Z-10s-late": [3]}
    intake.flush()
    assert apart_in(tmp_path) == {"000020Z-10s-late": [3], "000030Z-10s-late": [4]}
    assert (intake.tally.late, intake.apart_rows, intake.chunk_count) == (2, 2, 3)
    intake.close()
    again = intake_of(tmp_path)  # late rows that come where nothing is open
    take(again, 5)
    again.flush()
    assert apart_in(tmp_path)["000030Z-10s-late-p1"] == [5]
    take(again, 36, 6)
    again.flush()
    assert apart_in(tmp_path)["000030Z-10s-late-p2"] == [6]
    again.close()
    assert sorted(info.id[9:] for info in ChunkStore(tmp_path / "chunks").list())[-1] == "000030Z-10s-p1"


@pytest.mark.parametrize("source_id", ["made", "other"])
def test_what_was_committed_is_stored_by_the_process_after_a_kill(tmp_path: Path, source_id: str):
    intake = intake_of(tmp_path)
    take(intake, 1, 25, 3)
    assert intake.sync()
    take(intake, 4)
    intake.close()  # as a killed process leaves it
    again = intake_of(tmp_path, source_id=source_id)
    take(again, 45)
    again.flush()
    again.close()
    assert apart_in(tmp_path) == {"000020Z-10s-late": [3]}
    assert ChunkStore(tmp_path / "apart").list()[0].recovered == 1
    assert sum(info.tally.late for info in ChunkStore(tmp_path / "chunks").list()) == 1
    assert list((tmp_path / "journal").glob("apart-*")) == []


def test_a_kill_between_commit_and_publication_loses_none_and_doubles_none(tmp_path: Path):
    intake = intake_of(tmp_path)
    take(intake, 1, 25, 3)
    intake.sync()
    (chunk,) = intake._chunker.push(packets_at(35))
    for prepared in (chunk, *chunk.apart):
        assert intake._closed.prepare(prepared) is None
    assert intake.sync(closing=[chunk, *chunk.apart])
    intake.close()
    again = intake_of(tmp_path)
    again.flush()
    again.close()
    assert apart_in(tmp_path) == {"000020Z-10s-late": [3]}
    assert list((tmp_path / "journal").glob("apart-*")) == []


def test_there_may_be_no_room_for_them(tmp_path: Path):
    intake = intake_of(tmp_path, replace(CONFIG, limits=ChunkLimits(apart_rows=0)))
    take(intake, 1, 25, 3)
    intake.flush()
    intake.close()
    assert (apart_in(tmp_path), intake.tally.late, intake.apart_rows) == ({}, 1, 0)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a tmpfs needs root")
def test_those_that_a_full_disk_refuses_are_counted_by_the_next(tmp_path: Path):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", tmp_path], check=True)
    try:
        intake = intake_of(tmp_path / "state")
        take(intake, 1, 25)
        ballast = tmp_path / "ballast"
        with pytest.raises(OSError, match="No space left"):
            ballast.write_bytes(bytes(500_000))
        take(intake, *[3.0] * 2000)
        take(intake, 35, 4)
        assert (intake.tally.late, intake.apart_rows) == (2001, 0)
        assert apart_in(tmp_path / "state") == {}
        ballast.unlink()
        assert intake.sync()
        intake.close()  # killed: what was lost is told all the same
        again = intake_of(tmp_path / "state")
        take(again, 45)
        again.flush()
        again.close()
        (info,) = ChunkStore(tmp_path / "state" / "apart").list()
        assert (info.tally.offered, info.tally.kept, info.tally.dropped) == (2001, 1, {"disk": 2000})
    finally:
        subprocess.run(["umount", tmp_path], check=True)
