"""Backup and restore with the daemon at work: what is restored starts, knows the same, and goes on."""

import io
import json
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nsstream_daemon.cli import app
from service_nest import PACKETS_A_CHUNK, Nest, wait_until
from typer.testing import CliRunner

from nsstream.chunk import ChunkStore
from nsstream.errors import InputError, StateError
from nsstream.model.identity import check_content
from nsstream.model.promotion import read_promoted
from nsstream.pipeline.doctor import examine
from nsstream.pipeline.restore import restore


@pytest.fixture
def nest(tmp_path: Path) -> Iterator[Nest]:
    made = Nest(tmp_path)
    yield made
    made.close()


def command(*arguments: object) -> dict[str, Any]:
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert done.exit_code == 0, done.exception
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_what_is_restored_goes_on_where_the_backup_was_made(nest: Nest, tmp_path: Path):
    """Backups while chunks close and jobs run; each, restored, is sound; the last one is gone on with."""
    nest.put(2)
    nest.start()
    wait_until(lambda: nest.done() == 1)
    is_enough = threading.Event()

    def feed() -> None:
        while not is_enough.wait(0.15):
            nest.put(1)

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        for at in range(5):
            told = command("backup", nest.state, tmp_path / f"b{at}.tar")
            assert told["has_journal"]
            assert told["chunks"] >= 1
            assert not list(nest.state.glob(".backup-*"))
    finally:
        is_enough.set()
        feeder.join()
    for at in range(5):
        state = tmp_path / f"r{at}"
        told = command("restore", tmp_path / f"b{at}.tar", state)
        assert examine(state, is_live=False).findings == []
        models = {path.name for path in (state / "models").iterdir() if not path.is_symlink()}
        assert all(check_content(state / "models" / name)["id"] == name for name in models)
        assert read_promoted(state / "models") is not None
    nest.kill()

    state.rename(tmp_path / "s2")
    nest.state = tmp_path / "s2"
    nest.write_config()
    known, learned = {row[0] for row in nest.rows("SELECT id FROM model")}, nest.done()
    before = (nest.quick / "trained").read_text().split()
    done_before = {row[0] for row in nest.rows("SELECT id FROM chunk JOIN model USING (job)")}
    assert models == known
    nest.put(1)
    nest.start()
    wait_until(lambda: nest.done() == nest.spooled - 1)
    assert {row[0] for row in nest.rows("SELECT id FROM model")} > known
    again = (nest.quick / "trained").read_text().split()[len(before) :]
    assert not set(again) & done_before
    assert len(again) == len(set(again)) == nest.spooled - 1 - learned
    assert nest.stop() == 0
    # The source was at a place when the backup was made: from there on every row came once.
    infos = ChunkStore(nest.state / "chunks").list()
    assert sum(info.row_count for info in infos) == nest.spooled * PACKETS_A_CHUNK
    assert sum(info.tally.late for info in infos) == 0


def test_forgetting_through_the_socket(nest: Nest):
    nest.put(4)
    nest.start()
    wait_until(lambda: nest.done() == 3)
    names = sorted(nest.stored())
    counts = nest.ask("status")["training"]
    told = nest.ctl("forget", names[0])
    assert told.stdout == "forgot 1 chunks of 100 rows, 1 models\n", told.stderr
    assert nest.stored() == set(names[1:])
    assert "there is no chunk" in nest.ctl("forget", names[0]).stderr
    told = nest.ctl("forget", "--before", "2033-01-01")
    promoted = nest.ask("status")["training"]["promoted"]["id"]
    assert told.stdout.splitlines() == [
        "forgot 2 chunks of 200 rows, 1 models", f"kept model {promoted}: it is promoted"
    ]  # fmt: skip
    assert nest.stored() == set()
    assert [path.name for path in (nest.state / "models").iterdir() if not path.is_symlink()] == [promoted]
    after = nest.ask("status")["training"]
    assert (after["jobs"], after["chunks"], after["models"]) == (counts["jobs"], counts["chunks"], counts["models"])
    assert "chunks_forgotten asked=chunk_" in nest.log.read_text()
    assert nest.ctl("forget", "--before", "yesterday").returncode == 1
    assert nest.ctl("forget").returncode == 1
    for request in ({"chunk": 3}, {"before_ns": -1}, {"before_ns": True}, {}, {"chunk": "x", "before_ns": 3}):
        assert nest.exchange(json.dumps({"command": "forget", **request}).encode() + b"\n")["ok"] is False
    nest.put(2)  # and it goes on, from the model that stayed
    wait_until(lambda: nest.done() == 3)
    assert nest.ask("status")["training"]["failures"] == {}


def test_a_stray_file_is_left_out_and_told_and_the_rest_can_be_restored(tmp_path: Path):
    state = tmp_path / "s"
    for folder in ("chunks", "models/abc"):
        (state / folder).mkdir(parents=True)
    strays = ["chunks/my_copy.arrow", "models/abc/.manifest.json.x1.part"]
    for name in ("chunks/c.arrow", "models/abc/manifest.json", *strays):
        (state / name).write_text("{}")
    told = command("backup", state, tmp_path / "b.tar")
    assert told["left_out"] == strays
    restored = restore(tmp_path / "b.tar", tmp_path / "r")
    assert sorted(restored["files"]) == ["chunks/c.arrow", "models/abc/manifest.json"]
    done = CliRunner().invoke(app, ["backup", str(state), str(tmp_path / "c.tar")])
    assert all(f"{name} is not in it" in done.stdout for name in strays)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup."""
    nest = Nest(tmp_path_factory.mktemp("n"))
    try:
        nest.put(3)
        nest.start()
        wait_until(lambda: nest.done() == 2)
        assert nest.stop() == 0
        command("backup", nest.state, nest.folder / "b.tar")
        assert (nest.folder / "b.tar").stat().st_mode & 0o777 == 0o600
    finally:
        nest.close()
    return nest.folder / "b.tar"


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_a_backup_that_was_cut_is_refused(made: Path, tmp_path: Path, share: float):
    octets = made.read_bytes()
    (tmp_path / "cut.tar").write_bytes(octets[: int(len(octets.rstrip(b"\0")) * share)])
    with pytest.raises(InputError, match=r"cut\.tar: is no backup"):
        restore(tmp_path / "cut.tar", tmp_path / "state")
    assert [path.name for path in tmp_path.iterdir()] == ["cut.tar"]


def test_a_backup_that_was_changed_is_refused(made: Path, tmp_path: Path):
    octets = bytearray(made.read_bytes())
    with tarfile.open(made) as tar:
        places = [member.offset_data for member in tar if member.name.endswith((".arrow", "ledger.sqlite"))]
    for place in places:
        octets[place + 100] ^= 1
        (tmp_path / "x.tar").write_bytes(octets)
        with pytest.raises(InputError, match=r"is damaged: .* is not what was written"):
            restore(tmp_path / "x.tar", tmp_path / "state")
        octets[place + 100] ^= 1
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("name", ["../escaped", "/tmp/escaped", "chunks/../../escaped", "models/x/../../e", "passwd"])
def test_a_backup_that_would_write_elsewhere_is_refused(tmp_path: Path, name: str):
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        member = tarfile.TarInfo(name)
        member.size = 1
        tar.addfile(member, io.BytesIO(b"x"))
    with pytest.raises(InputError, match="is no backup of a state"):
        restore(tmp_path / "evil.tar", tmp_path / "state")
    assert [path.name for path in tmp_path.iterdir()] == ["evil.tar"]


def test_links_in_a_backup_are_refused(tmp_path: Path):
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        member = tarfile.TarInfo("chunks/x.arrow")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(InputError, match="is no backup of a state"):
        restore(tmp_path / "evil.tar", tmp_path / "state")


def test_a_state_that_is_there_is_not_written_over(made: Path, tmp_path: Path):
    (tmp_path / "state").mkdir()
    restore(made, tmp_path / "state")
    assert (tmp_path / "state" / "address.key").stat().st_mode & 0o777 == 0o600
    with pytest.raises(StateError, match="is there already, and not empty"):
        restore(made, tmp_path / "state")
    done = subprocess.run(
        [sys.executable, "-m", "nsstream_daemon", "restore", str(made), str(tmp_path / "state")],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1
    assert "is there already" in done.stderr
