"""A seed of public captures: learned once before anything else, gone on from, never promoted; and where it fails."""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from service_nest import Nest, capture_of, wait_until

from nsstream.model.promotion import read_promoted


@pytest.fixture
def nest(tmp_path: Path) -> Iterator[Nest]:
    captures = [tmp_path / "one.pcap", tmp_path / "other.pcap"]
    for number, path in enumerate(captures):
        path.write_bytes(capture_of(1000 * number))
    made = Nest(tmp_path, training={"seed_captures": list(map(str, captures)), "attempts": 2})
    yield made
    made.close()


def trained(nest: Nest) -> list[str]:
    path = nest.quick / "trained"
    return path.read_text().split() if path.exists() else []


def parents(nest: Nest) -> set[str | None]:
    with sqlite3.connect(nest.state / "ledger.sqlite") as ledger:
        found = {row[0] for row in ledger.execute("SELECT parent FROM model")}
    ledger.close()
    return found


def test_every_chunk_goes_on_from_what_captures_gave_and_that_is_learned_once(nest: Nest):
    nest.put(3)
    nest.start()
    wait_until(lambda: nest.done() == 2)
    facts = json.loads((nest.state / "seed/captures.json").read_text())
    seed = facts["model"]
    assert [Path(one["path"]).name for one in facts["captures"]] == ["one.pcap", "other.pcap"]
    assert sorted(path.name for path in (nest.state / "seed").iterdir()) == sorted(["captures.json", seed])
    assert parents(nest) == {seed}
    assert len(trained(nest)) == 3
    assert trained(nest)[0] not in nest.stored()
    assert read_promoted(nest.state / "models").name != seed
    nest.kill()
    nest.put(1)
    nest.start()
    wait_until(lambda: nest.done() == 3)
    assert len(trained(nest)) == 4  # the chunk's, and no seed
    assert parents(nest) == {seed}
    assert nest.stop() == 0


def test_a_seed_that_was_being_learned_when_the_daemon_died_is_learned_by_the_next(nest: Nest):
    (nest.quick / "slow").touch()
    nest.put(2)
    nest.start()

    def learns() -> bool:
        (worker,) = nest.ask("status")["training"]["workers"]
        return bool(worker["chunk"] == "captures" and worker["is_seed"] and worker["step"])

    wait_until(learns)
    assert nest.done() == 0
    nest.kill()
    (nest.quick / "slow").unlink()
    nest.start()
    wait_until(lambda: nest.done() == 1)
    assert parents(nest) == {json.loads((nest.state / "seed/captures.json").read_text())["model"]}


def test_a_failure_is_tried_again_and_another_seed_learned_where_it_is_damaged(nest: Nest):
    (nest.quick / "error").touch()
    nest.put(2)
    nest.start()
    wait_until(lambda: nest.done() == 1)
    assert nest.ask("status")["training"]["failures"] == {"error": 1}
    assert "seed_of_captures_failed reason=the loss is nan" in nest.log.read_text()
    seed = nest.state / "seed" / json.loads((nest.state / "seed/captures.json").read_text())["model"]
    assert nest.stop() == 0
    (seed / "weights.safetensors").write_bytes(b"something else")
    nest.put(1)
    nest.start()
    wait_until(lambda: nest.done() == 2)
    assert "seed_of_captures_lost" in nest.log.read_text()
    assert (seed / "weights.safetensors").read_bytes() != b"something else"
    assert len(trained(nest)) == 4


def test_a_seed_that_draws_what_is_unlawful_is_none(nest: Nest):
    (nest.quick / "faults").write_text("3")
    nest.put(2)
    nest.start()
    failed = "seed_of_captures_failed reason=what was learned of captures cannot be used: 3 of 100 frames"
    wait_until(lambda: failed in nest.log.read_text())
    assert not (nest.state / "seed/captures.json").exists()
    (nest.quick / "faults").unlink()
    wait_until(lambda: nest.done() == 1)
    assert parents(nest) == {json.loads((nest.state / "seed/captures.json").read_text())["model"]}


def test_captures_that_cannot_be_read_are_given_up_and_the_first_good_chunk_gives_the_seed(nest: Nest):
    (nest.folder / "other.pcap").write_bytes(b"this is no capture")
    nest.put(3)
    nest.start()
    wait_until(lambda: nest.done() == 2)
    said = nest.log.read_text()
    assert "seed_of_captures_failed" in said
    assert "seed_of_captures_given_up" in said
    assert "other.pcap" in said
    assert None in parents(nest)
    assert not (nest.state / "seed/captures.json").exists()
    (nest.folder / "other.pcap").write_bytes(capture_of(7))
    assert nest.stop() == 0
    nest.start()  # it has a seed of its own by now
    nest.put(1)
    wait_until(lambda: nest.done() == 3)
    assert not (nest.state / "seed/captures.json").exists()
