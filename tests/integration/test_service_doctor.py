"""The doctor: what it finds in a state directory that a daemon left, what it repairs, and that the daemon goes on."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from checkpoints import blank_checkpoint
from nsstream_daemon.cli import app
from service_nest import Nest, wait_until
from typer.testing import CliRunner

from nsstream.model.promotion import read_promoted


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nest]:
    """What a daemon left that was killed: four chunks, three models of them, an open chunk in the journal."""
    nest = Nest(tmp_path_factory.mktemp("n"))
    blank_checkpoint(nest.folder / "blank").rename(nest.quick / "template")
    nest.put(4)
    nest.start()
    wait_until(lambda: nest.done() == 3 and (nest.state / "journal" / "commit.json").exists())
    nest.ask("pause")
    nest.put(1)
    wait_until(lambda: nest.count("job WHERE state = 'pending'") == 1)
    nest.kill()
    yield nest
    nest.close()


@pytest.fixture
def nest(left: Nest, tmp_path: Path) -> Iterator[Nest]:
    """The same, to be damaged."""
    shutil.copytree(left.state, tmp_path / "s", symlinks=True, ignore=shutil.ignore_patterns("control.sock"))
    made = Nest(tmp_path)
    made.spooled = left.spooled
    shutil.copytree(left.quick / "template", made.quick / "template")
    yield made
    made.close()


def doctor(nest: Nest, *options: str) -> tuple[int, dict[str, Any]]:
    done = CliRunner().invoke(app, ["doctor", str(nest.state), "--json", *options])  # here: torch is loaded but once
    assert done.stdout, done.exception
    return done.exit_code, json.loads(done.stdout)


def codes(told: dict[str, Any]) -> list[str]:
    return sorted(finding["code"] for finding in told["findings"])


def test_what_a_killed_daemon_left_is_in_order(nest: Nest):
    status, told = doctor(nest)
    assert (status, told["findings"]) == (0, [])
    assert told["facts"] | {"chunks": 4, "models": 3, "holder": None} == told["facts"]
    assert told["facts"]["promoted"] == read_promoted(nest.state / "models").name


def test_a_key_is_missed_unless_the_configuration_says_that_it_is_elsewhere(nest: Nest, tmp_path: Path):
    (nest.state / "address.key").unlink()
    assert codes(doctor(nest)[1]) == ["key"]
    elsewhere = tmp_path / "elsewhere.toml"
    told = f'state = "{nest.state}"\n[source]\ninput = "spool:{tmp_path}"\n[training]\naddress_key = "credential:key"\n'
    elsewhere.write_text(told)
    assert doctor(nest, "-c", str(elsewhere))[1]["findings"] == []


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    octets = bytearray(path.read_bytes())
    octets[len(octets) // 2] ^= 1
    path.write_bytes(octets)


def newest_chunk(nest: Nest) -> Path:
    return max((nest.state / "chunks").glob("*.arrow"))


def promoted(nest: Nest) -> Path:
    found = read_promoted(nest.state / "models")
    assert found is not None
    return found


def oldest_model(nest: Nest) -> Path:
    return nest.state / "models" / nest.rows("SELECT id FROM model ORDER BY end_ns")[0][0]


def half_written(nest: Nest) -> None:
    (nest.state / "models" / ".new-x").mkdir()
    (nest.state / "chunks" / ".x.arrow.abc.part").write_bytes(b"x")
    (nest.state / "chunks" / ".x.prepared").write_bytes(b"x")
    (nest.state / "work" / "job-99").mkdir()


def dangling(nest: Nest) -> None:
    (nest.state / "models" / "promoted").unlink()
    (nest.state / "models" / "promoted").symlink_to("nothing")


def of_an_older_schema(model: Path) -> None:
    manifest = model / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"schema": "conversations-5"}))


def orphan(nest: Nest) -> None:
    blank_checkpoint(nest.state / "models")


DAMAGES: dict[str, tuple[Callable[[Nest], object], list[str]]] = {
    "a chunk is cut": (lambda nest: cut(newest_chunk(nest)), ["chunk"]),
    "a bit of a chunk flipped": (lambda nest: flip(newest_chunk(nest)), ["chunk"]),
    "a checkpoint is cut": (lambda nest: cut(promoted(nest) / "weights.safetensors"), ["model"]),
    "a bit of a checkpoint flipped": (lambda nest: flip(promoted(nest) / "weights.safetensors"), ["model"]),
    "a checkpoint lacks its manifest": (lambda nest: (promoted(nest) / "manifest.json").unlink(), ["model"]),
    "a checkpoint is of an older schema": (lambda nest: of_an_older_schema(promoted(nest)), ["model"]),
    "a model is gone": (lambda nest: shutil.rmtree(promoted(nest)), ["model_missing"]),
    "the seed is gone": (lambda nest: shutil.rmtree(oldest_model(nest)), ["model_missing"]),
    "a model came from nowhere": (orphan, ["model_orphan"]),
    "the mark is gone": (lambda nest: (nest.state / "models" / "promoted").unlink(), ["mark"]),
    "the mark names nothing": (dangling, ["mark"]),
    "things are half-written": (half_written, ["left_over"] * 4),
    "the journal is garbled": (lambda nest: cut(nest.state / "journal" / "commit.json"), ["journal"]),
    "everybody may read a key": (lambda nest: (nest.state / "address.key").chmod(0o644), ["mode"]),
}


START_AFTER = {"a bit of a chunk flipped", "a checkpoint is cut", "a model is gone", "the journal is garbled"}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damage_is_found_and_repaired_and_the_daemon_goes_on(nest: Nest, what: str):
    harm, expected = DAMAGES[what]
    harm(nest)
    status, told = doctor(nest)
    assert (status, codes(told)) == (1, expected)
    assert all(finding["repair"] for finding in told["findings"])
    status, told = doctor(nest, "--repair")
    assert (status, told["findings"]) == (0, []), told
    assert [finding["code"] for finding in told["repaired"]] == expected
    assert (nest.state / "quarantine").exists() == (
        expected[0] in ("chunk", "model", "model_orphan", "left_over", "journal")
    )
    if what == "a bit of a chunk flipped":  # the one that waited
        assert nest.rows("SELECT state, reason FROM job ORDER BY start_ns DESC LIMIT 1") == [("skipped", "damaged")]
    if what in START_AFTER:
        goes_on(nest)


def goes_on(nest: Nest) -> None:
    """The daemon starts, has a promoted model that is whole, and learns what comes."""
    before = nest.done()
    nest.start()
    nest.ask("resume")
    assert promoted(nest).is_dir()
    nest.put(2)
    wait_until(lambda: nest.done() >= before + 1)
    status = nest.ask("status")
    assert status["healthy"]
    assert status["training"]["failures"] == {}
    assert status["training"]["promoted"]["id"] == promoted(nest).name
    assert nest.stop() == 0


@pytest.mark.parametrize("how", ["cut", "garbled"])
def test_a_damaged_ledger_is_begun_again_from_the_models_that_stand_there(nest: Nest, how: str):
    marked, known = promoted(nest), {row[0] for row in nest.rows("SELECT id FROM model")}
    learned = {row[0] for row in nest.rows("SELECT id FROM chunk WHERE job IN (SELECT job FROM model)")}
    path = nest.state / "ledger.sqlite"
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    path.write_bytes(path.read_bytes()[:5000] if how == "cut" else b"no ledger at all" * 400)
    status, told = doctor(nest)
    assert status == 1
    assert codes(told) == ["ledger"]
    nest.start(ready=False)
    assert nest.daemon is not None
    if how == "garbled":
        assert nest.daemon.wait(300) == 1
        assert "is no ledger, or damaged" in nest.log.read_text()
    else:
        nest.kill()
    status, told = doctor(nest, "--repair")
    assert (status, told["findings"]) == (0, []), told
    assert {row[0] for row in nest.rows("SELECT id FROM model")} == known
    assert promoted(nest) == marked
    assert len(list((nest.state / "quarantine").glob("ledger.sqlite*"))) >= 1
    goes_on(nest)
    text = (nest.quick / "trained").read_text().split()
    assert not set(text) & learned  # what a model is of is not learned again


def test_nothing_is_repaired_while_a_daemon_runs(nest: Nest):
    nest.start()
    (nest.state / "models" / ".new-x").mkdir()
    status, told = doctor(nest)
    assert (status, told["findings"]) == (0, [])  # who knows who makes it
    assert told["facts"]["holder"] == f"a daemon, pid {nest.daemon.pid}"
    command = [sys.executable, "-m", "nsstream_daemon", "doctor", str(nest.state), "--repair"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert f"is held by another daemon, pid {nest.daemon.pid}" in done.stderr
    assert (nest.state / "models" / ".new-x").exists()


@pytest.mark.root
def test_what_belongs_to_another_is_given_back(nest: Nest):
    for path in [nest.state, *nest.state.rglob("*")]:
        os.chown(path, 12345, 12345, follow_symlinks=False)
    os.chown(nest.state / "chunks", 0, 0)
    os.chown(promoted(nest) / "codec.json", 0, 0)
    (nest.state / "models" / ".new-x").mkdir()
    status, told = doctor(nest)
    assert codes(told) == ["left_over", "owner"]
    assert told["findings"][0]["says"].startswith("3 files and folders")
    status, told = doctor(nest, "--repair")
    assert (status, told["findings"]) == (0, []), told
    assert {path.lstat().st_uid for path in nest.state.rglob("*")} == {12345}
    (nest.state / "ingest.lock").unlink()
    assert doctor(nest, "--repair")[1]["repaired"] == []  # its own locks are no finding
    assert (nest.state / "ingest.lock").stat().st_uid == 12345


def test_a_disk_that_is_full_before_the_cap_is_told(nest: Nest):
    nest.settings["chunks"]["keep_octets"] = shutil.disk_usage(nest.state).total * 2
    nest.write_config()
    status, told = doctor(nest, "-c", str(nest.config))
    assert (status, codes(told)) == (1, ["room"])
    assert told["findings"][0]["repair"] is None
    assert "its disk is full before chunks.keep_octets" in told["findings"][0]["says"]
    assert doctor(nest)[0] == 0


def test_a_person_reads_what_is_wrong(nest: Nest):
    cut(newest_chunk(nest))
    command = [sys.executable, "-m", "nsstream_daemon", "doctor", str(nest.state)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert f"chunk         {newest_chunk(nest)}: is not a chunk" in done.stdout
    assert "--repair would move it to quarantine; a job that waits for it is skipped" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("held by nobody; 1 wrong")
