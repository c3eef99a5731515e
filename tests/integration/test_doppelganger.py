"""`doppelganger` for real: the worker trains it, the drawer draws it, the assembler makes lawful frames of it."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made_traffic import MINUTE_NS, START_NS, made_packets

from nsstream.assemble import Assembler
from nsstream.chunk import Chunk, ChunkStore
from nsstream.counters import Tally
from nsstream.draw import Drawer
from nsstream.errors import StateError
from nsstream.model.checkpoint import load_checkpoint
from nsstream.model.doppelganger_checkpoint import load_series_checkpoint
from nsstream.score.lawful import faults


def work(job):
    """Run a worker; gives its exit status, the last line it said, and its stderr."""
    child = subprocess.run(
        [sys.executable, "-m", "nsstream.train.worker"],
        input=json.dumps(job), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    return child.returncode, json.loads(child.stdout.splitlines()[-1]), child.stderr


@pytest.fixture(scope="module")
def chunks(tmp_path_factory):
    """Two minutes in a row, as chunk files."""
    store, paths = ChunkStore(tmp_path_factory.mktemp("state") / "chunks"), []
    for minute in (0, 1):
        packets, begin = made_packets(count=60, minute=minute), START_NS + minute * MINUTE_NS
        tally = Tally(offered=len(packets), kept=len(packets))
        paths.append(str(store.write(Chunk.of(begin, begin + MINUTE_NS, packets, tally, is_partial=False))))
    return paths


@pytest.fixture(scope="module")
def job(chunks, tmp_path_factory):
    return {
        "chunk": chunks[0], "out": str(tmp_path_factory.mktemp("models")), "model": "doppelganger",
        "seed": 1, "steps": 2, "threads": 1, "address_map": {"key_hex": "5a" * 32},
    }  # fmt: skip


@pytest.fixture(scope="module")
def seed_model(job):
    status, last, errors = work(job)
    assert (status, errors) == (0, "")
    return Path(last["checkpoint"])


@pytest.fixture(scope="module")
def tuned_model(job, chunks, seed_model):
    status, last, errors = work(job | {"chunk": chunks[1], "before": chunks[0], "parent": str(seed_model), "steps": 1})
    assert (status, errors) == (0, "")
    return Path(last["checkpoint"])


def test_a_checkpoint_says_what_it_is_and_is_not_taken_for_another(seed_model, tuned_model):
    model = load_series_checkpoint(seed_model)
    assert model.manifest["model"] == "doppelganger"
    assert model.manifest["rounds"] == 2
    assert load_series_checkpoint(tuned_model).manifest["parent"] == model.manifest["id"]
    assert load_series_checkpoint(tuned_model).generator.layout == model.generator.layout
    with pytest.raises(StateError, match=r"schema series-1; this nsstream reads format \d+, schema conversations"):
        load_checkpoint(seed_model)


def test_the_same_job_gives_the_same_octets(job, seed_model, tmp_path):
    status, last, _ = work(job | {"out": str(tmp_path)})
    assert status == 0
    for name in ("weights.safetensors", "codec.json", "manifest.json"):
        one, again = (hashlib.sha256((p / name).read_bytes()) for p in (seed_model, Path(last["checkpoint"])))
        assert one.digest() == again.digest()


def test_a_job_on_top_of_another_model_is_one_error_line(job, seed_model):
    status, last, errors = work(job | {"model": "autoregressive", "parent": str(seed_model)})
    assert (status, errors, last["event"]) == (1, "", "error")
    assert "schema series-1" in last["message"]


def test_two_chunks_are_drawn_whole_and_their_frames_are_lawful(seed_model, tuned_model):
    drawer, assembler = Drawer(seed=5), Assembler(np.random.default_rng(5))
    for model in (seed_model, tuned_model):
        codec = load_series_checkpoint(model).codec
        table = drawer.draw(model)
        assert len(table) == codec.conversation_count
        first_ns = table.observation_time_ns[table.packet_offset[:-1]]
        assert (np.diff(first_ns) >= 0).all()
        assert codec.first_ns <= table.observation_time_ns.min() <= table.observation_time_ns.max() <= codec.last_ns
        frames = assembler.assemble(table)
        assert len(frames) + assembler.tally["address_dropped"] + assembler.tally["protocol_dropped"] >= len(table)
        found = faults(frames.octets, frames.offset[:-1], np.diff(frames.offset))
        assert not found.any()


def test_a_drawing_is_the_same_for_the_same_seed(seed_model):
    one, again, other = (Drawer(seed).draw(seed_model) for seed in (5, 5, 6))
    for name, column in one.columns().items():
        np.testing.assert_array_equal(column, getattr(again, name))
    assert any(
        column.shape != getattr(other, name).shape or (column != getattr(other, name)).any()
        for name, column in one.columns().items()
    )


@pytest.mark.parametrize(
    "change",
    [
        {"length": 1 << 40}, {"pack": 0}, {"kinds": []}, {"kept_address": [[300] * 16]}, {"vlan_id": None},
        {"network": [["00", 8], ["00", 8]]}, {"words": {"words": [1, 2], "vectors": [[0.0]]}}, {"gap": [1]},
    ],
)  # fmt: skip
def test_a_codec_that_makes_no_sense_is_refused(seed_model, tmp_path, change):
    for name in ("manifest.json", "weights.safetensors"):
        (tmp_path / name).write_bytes((seed_model / name).read_bytes())
    codec = json.loads((seed_model / "codec.json").read_text())
    (tmp_path / "codec.json").write_text(json.dumps(codec | change))
    with pytest.raises(StateError, match="is not a whole checkpoint"):
        load_series_checkpoint(tmp_path)


def test_a_checkpoint_that_is_cut_is_refused(seed_model, tmp_path):
    for name in ("manifest.json", "codec.json", "weights.safetensors"):
        octets = (seed_model / name).read_bytes()
        (tmp_path / name).write_bytes(octets[:1000] if name == "codec.json" else octets)
    with pytest.raises(StateError, match="is not a whole checkpoint"):
        Drawer(1).draw(tmp_path)
