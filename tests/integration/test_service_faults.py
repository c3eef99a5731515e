"""Faults of what a service stands on: its disk, its files, its clock. Nothing is lost or done twice, and it says so."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from service_nest import PACKETS_A_CHUNK, Nest, wait_until

from nsstream.chunk import ChunkStore, read_chunk
from nsstream.model.identity import check_content
from nsstream.model.promotion import read_promoted

ONLY_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="mounts, and namespaces, need root")


@pytest.fixture
def nest(tmp_path: Path) -> Iterator[Nest]:
    made = Nest(tmp_path)
    yield made
    made.close()


def is_well(nest: Nest) -> bool:
    status = nest.ask_or_none("status")
    return status is not None and status["healthy"]


def all_is_accounted_for(nest: Nest) -> None:
    """Every closed chunk is stored and learned once, every model is whole, every row is counted."""
    wait_until(lambda: nest.done() == nest.spooled - 1)
    wait_until(lambda: nest.ask("status")["training"]["workers"][0]["state"] == "idle")
    trained = (nest.quick / "trained").read_text().split()
    assert sorted(trained) == sorted(set(trained)) == sorted(nest.stored())
    assert nest.rows("SELECT DISTINCT state FROM job") == [("done",)]
    infos = ChunkStore(nest.state / "chunks").list()
    assert [info.row_count for info in infos] == [PACKETS_A_CHUNK] * (nest.spooled - 1)
    for info in infos:
        read_chunk(info.path).check_digest()
    models = [path for path in (nest.state / "models").iterdir() if not path.is_symlink()]
    assert {check_content(path)["id"] for path in models} == {row[0] for row in nest.rows("SELECT id FROM model")}
    status = nest.ask("status")
    tally = status["capture"]["tally"]
    assert tally["offered"] == tally["kept"] == nest.spooled * PACKETS_A_CHUNK
    assert status["training"]["failures"] == {}
    assert status["training"]["promoted"]["id"] == read_promoted(nest.state / "models").name


@contextmanager
def disk_of(megabytes: int, folder: Path) -> Iterator[Path]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "nsstream", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def fill(ballast: Path) -> None:
    """Leave no room on the disk of a file."""
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


@pytest.mark.root
@ONLY_ROOT
def test_a_disk_that_is_full_and_has_room_again(tmp_path: Path):
    with disk_of(48, tmp_path / "s") as state:
        nest = Nest(tmp_path)
        try:
            nest.put(3)
            nest.start()
            wait_until(lambda: nest.done() == 2)
            ballast = state / "ballast"
            fill(ballast)
            nest.put(4)
            wait_until(lambda: "chunk_waits id=" in nest.log.read_text())
            wait_until(lambda: "training_waits_for_disk" in nest.log.read_text())
            wait_until(lambda: not is_well(nest))
            assert nest.ask("status")["problems"] == ["the disk refuses what is captured"]
            assert len(nest.stored()) == 2
            ballast.unlink()
            wait_until(lambda: is_well(nest) and len(nest.stored()) == 6)
            all_is_accounted_for(nest)
            assert nest.stop() == 0
            text = nest.log.read_text()
            assert "No space left on device" in text
            assert "training_goes_on" in text
            assert "chunk_dropped" not in text
        finally:
            nest.close()


@pytest.mark.root
@ONLY_ROOT
def test_a_kill_on_a_full_disk_loses_nothing_that_can_be_read_again(tmp_path: Path):
    with disk_of(48, tmp_path / "s") as state:
        nest = Nest(tmp_path)
        try:
            nest.put(2)
            nest.start()
            wait_until(lambda: nest.done() == 1)
            ballast = state / "ballast"
            fill(ballast)
            nest.put(3)
            wait_until(lambda: "chunk_waits id=" in nest.log.read_text())
            nest.kill()
            ballast.unlink()
            nest.start()
            wait_until(lambda: is_well(nest))
            wait_until(lambda: nest.done() == 4)
            assert [info.row_count for info in ChunkStore(state / "chunks").list()] == [PACKETS_A_CHUNK] * 4
            assert nest.stop() == 0
        finally:
            nest.close()


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """What is looked up in the folder is on a file system that is read-only; what is open already stays as it is."""
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.root
@ONLY_ROOT
def test_a_state_directory_that_becomes_read_only_and_writable_again(nest: Nest):
    nest.put(3)
    nest.start()
    wait_until(lambda: nest.done() == 2)
    with read_only(nest.state):
        nest.put(3)
        wait_until(lambda: not is_well(nest))
        wait_until(lambda: "training_waits_for_disk" in nest.log.read_text())
        assert "Read-only file system" in nest.log.read_text()
        assert len(nest.stored()) == 2
    wait_until(lambda: is_well(nest) and len(nest.stored()) == 5)
    all_is_accounted_for(nest)
    assert nest.stop() == 0
    with read_only(nest.state):
        nest.start(ready=False)
        assert nest.daemon is not None
        assert nest.daemon.wait(300) == 1
        assert f"cannot use the state directory {nest.state}: Read-only file system" in nest.log.read_text()
    nest.start()
    wait_until(lambda: is_well(nest))


def test_a_chunk_that_is_corrupted_before_it_is_learned_is_skipped_by_name(nest: Nest):
    nest.put(2)
    nest.start()
    wait_until(lambda: nest.done() == 1)
    nest.ask("pause")
    nest.put(2)
    wait_until(lambda: nest.count("job WHERE state = 'pending'") == 2)
    path = max((nest.state / "chunks").glob("*.arrow"))
    octets = bytearray(path.read_bytes())
    octets[len(octets) // 2] ^= 1
    path.write_bytes(octets)
    nest.ask("resume")
    wait_until(lambda: nest.done() == 2)
    told = nest.ask("status")["training"]
    assert told["chunks"] == {"queued": 2, "skipped_damaged": 1}
    assert (told["failures"], told["jobs"]["skipped"]) == ({}, 1)
    assert f" chunk={path.stem} reason=damaged" in nest.log.read_text()
    assert is_well(nest)
    nest.put(1)
    wait_until(lambda: nest.done() == 3)


@pytest.mark.parametrize("start_from", ["seed", "newest"])
def test_a_checkpoint_that_is_cut_short_is_set_aside_and_the_one_before_is_promoted(tmp_path: Path, start_from: str):
    nest = Nest(tmp_path, training={"start_from": start_from})
    try:
        nest.put(3)
        nest.start()
        wait_until(lambda: nest.done() == 2)
        [(newest,)] = nest.rows("SELECT id FROM model WHERE parent IS NOT NULL")
        promoted = nest.state / "models" / newest
        wait_until(lambda: read_promoted(nest.state / "models") == promoted)  # the mark follows the ledger
        os.truncate(promoted / "weights.safetensors", 3)
        nest.put(2)
        wait_until(lambda: nest.done() == 4)
        assert nest.ask("status")["training"]["failures"] == {}
        assert is_well(nest)
        assert (
            f"model_lost id={promoted.name} aside={nest.state}/quarantine/models/{promoted.name}"
            in nest.log.read_text()
        )
        assert not promoted.exists()
        assert read_promoted(nest.state / "models").name == nest.ask("status")["training"]["promoted"]["id"]
        parents = [row[0] for row in nest.rows("SELECT parent FROM model ORDER BY trained_ns")]
        assert parents.count(None) == 1  # the seed is whole: no other was trained
        assert promoted.name not in parents[2:]
    finally:
        nest.close()


def test_models_of_an_older_nsstream_are_set_aside_by_name_and_a_seed_is_trained(nest: Nest):
    nest.put(3)
    nest.start()
    wait_until(lambda: nest.done() == 2)
    assert nest.stop() == 0
    older = {name for (name,) in nest.rows("SELECT id FROM model")}
    for name in older:
        manifest = nest.state / "models" / name / "manifest.json"
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"schema": "conversations-5"}))
    nest.put(2)
    nest.start()
    wait_until(lambda: nest.done() == 4)  # and the chunk that was partial
    told, log = nest.ask("status")["training"], nest.log.read_text()
    assert (told["failures"], told["jobs"]) == ({}, told["jobs"] | {"failed": 0, "skipped": 0})
    for name in older:
        assert f"model_lost id={name} aside={nest.state}/quarantine/models/{name}" in log
    assert "schema conversations-5; this nsstream reads format 2, schema conversations-7 or" in log
    newer = {name: parent for name, parent in nest.rows("SELECT id, parent FROM model") if name not in older}
    assert len(newer) == 2
    assert list(newer.values()).count(None) == 1
    assert older.isdisjoint(newer.values())
    assert is_well(nest)
    assert read_promoted(nest.state / "models").name in newer


def test_the_seed_cut_short_while_nobody_runs_is_set_aside_and_another_is_trained(nest: Nest):
    nest.put(2)
    nest.start()
    wait_until(lambda: nest.done() == 1)
    assert nest.stop() == 0
    seed = read_promoted(nest.state / "models")
    os.truncate(seed / "codec.json", 1)
    nest.put(2)
    nest.start()
    wait_until(lambda: is_well(nest))
    wait_until(lambda: nest.done() == 3)  # and the chunk that was partial
    assert not seed.exists()
    assert nest.count("model WHERE parent IS NULL") == 2
    assert read_promoted(nest.state / "models").is_dir()
