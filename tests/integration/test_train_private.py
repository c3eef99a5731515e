"""Private training as a user has it: a worker, a command line, a checkpoint that says what was spent."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints import blank_checkpoint
from made_traffic import MINUTE_NS, START_NS, made_packets

from nsstream.chunk import Chunk, ChunkStore
from nsstream.counters import Tally
from nsstream.model.checkpoint import load_checkpoint
from nsstream.privacy import epsilon, from_dicts


@pytest.fixture(scope="module")
def chunk(tmp_path_factory):
    packets = made_packets(seed=4, count=60, minute=1)
    begin, tally = START_NS + MINUTE_NS, Tally(offered=len(packets), kept=len(packets))
    store = ChunkStore(tmp_path_factory.mktemp("state") / "chunks")
    return store.write(Chunk.of(begin, begin + MINUTE_NS, packets, tally, is_partial=False))


@pytest.fixture(scope="module")
def seed(tmp_path_factory):
    return blank_checkpoint(tmp_path_factory.mktemp("public") / "models")


def train(*arguments):
    command = [sys.executable, "-m", "nsstream_daemon", "train", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_a_model_that_was_learned_privately_says_what_it_spent(chunk, seed, tmp_path):
    done = train(chunk, "-o", tmp_path / "models", "--from", seed, "--private", 3, "--steps", 5, "--unit", "host")
    assert done.returncode == 0, done.stderr
    assert "loss" not in done.stderr
    model = load_checkpoint(Path(done.stdout.split()[1]))
    privacy = model.manifest["privacy"]
    assert (privacy["epsilon"], privacy["delta"], privacy["unit"], privacy["steps"]) == (3.0, 1e-5, "host", 5)
    assert 2.8 < epsilon(from_dicts(privacy["mechanisms"]), 1e-5) <= 3.0
    assert model.manifest["parent"] == json.loads((seed / "manifest.json").read_text())["id"]
    assert model.manifest["conversations"] == model.codec.profile.sum()
    assert (model.codec.start_ns, model.codec.end_ns) == (START_NS + MINUTE_NS, START_NS + 2 * MINUTE_NS)


def test_what_cannot_be_private_is_refused(chunk, seed, tmp_path):
    common = (chunk, "-o", tmp_path / "models", "--private", 3)
    for options, why in (
        ((), "--private needs --from"),
        (("--from", seed, "--budget", "5s"), "no --budget or --seed"),
        (("--from", seed, "--seed", 1), "no --budget or --seed"),
        (("--from", seed, "--unit", "packet"), "--unit must be host or flow"),
        (("--from", seed, "--delta", 0.5), "--delta above 0 and below 0.1"),
        (("--from", seed, "--model", "doppelganger"), "a public model of the default kind"),
    ):
        refused = train(*common, *options)
        assert refused.returncode == 1
        assert why in " ".join(refused.stderr.split())
    assert not (tmp_path / "models").exists()
