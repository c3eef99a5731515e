"""Checkpoints: whole or not at all, named by their content, refused by name when they are something else."""

import copy
import json
import os
import subprocess

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from nsstream.errors import OutputError, StateError
from nsstream.model.checkpoint import load_checkpoint, new_networks, save_checkpoint
from nsstream.model.portrait import FEATURES
from nsstream.model.trees import Trees

FACTS = {"parent": None, "seed": 3, "chunk": "20230101T000000Z-60s"}


@pytest.fixture
def saved(tmp_path, networks, codec):
    return save_checkpoint(tmp_path / "models", networks, Trees.none(), codec, FACTS)


def test_what_is_saved_is_loaded_in_evaluation_mode_on_the_cpu(saved, networks, codec):
    model = load_checkpoint(saved)
    for name in ("attributes", "packets", "critic"):
        loaded = getattr(model, name)
        assert not loaded.training
        for key, weight in networks[name].state_dict().items():
            torch.testing.assert_close(loaded.state_dict()[key], weight, rtol=0, atol=0)
            assert loaded.state_dict()[key].device.type == "cpu"
    assert model.codec.as_json() == codec.as_json()
    assert model.manifest | FACTS == model.manifest
    assert model.manifest["id"] == saved.name
    assert (model.manifest["start_ns"], model.manifest["end_ns"]) == (codec.start_ns, codec.end_ns)
    assert model.manifest["packets"] == codec.packet_count


def test_the_same_content_has_the_same_id_and_another_has_another(tmp_path, saved, networks, codec):
    assert (
        save_checkpoint(tmp_path / "elsewhere", networks, Trees.none(), codec, dict(reversed(FACTS.items()))).name
        == saved.name
    )
    assert save_checkpoint(saved.parent, networks, Trees.none(), codec, FACTS) == saved
    assert save_checkpoint(saved.parent, networks, Trees.none(), codec, FACTS | {"seed": 4}) != saved
    other = copy.deepcopy(networks)
    with torch.no_grad():
        next(other.parameters()).view(-1)[0] += 1
    assert save_checkpoint(saved.parent, other, Trees.none(), codec, FACTS) != saved


def test_a_checkpoint_is_three_files_and_no_pickle(saved):
    assert sorted(p.name for p in saved.iterdir()) == ["codec.json", "manifest.json", "weights.safetensors"]
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]
    for path in saved.iterdir():
        octets = path.read_bytes()
        assert not octets.startswith((b"\x80\x02", b"\x80\x04", b"PK"))
    assert saved.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "format 99"),
        ({"format": 1}, "format 1, .* reads format 2"),
        ({"schema": "flows-7"}, "schema flows-7"),
        ({"format": None}, "format None"),
    ],
)
def test_another_format_or_schema_is_refused_by_name(saved, change, message):
    manifest = json.loads((saved / "manifest.json").read_text())
    (saved / "manifest.json").write_text(json.dumps(manifest | change))
    with pytest.raises(StateError, match=message):
        load_checkpoint(saved)


@pytest.mark.parametrize("name", ["codec.json", "manifest.json", "weights.safetensors"])
@pytest.mark.parametrize("fate", ["missing", "empty", "half", "garbage", "json", "list", "directory"])
def test_a_checkpoint_that_is_not_whole_is_refused(saved, name, fate):
    path = saved / name
    octets = path.read_bytes()
    path.unlink()
    if fate == "directory":
        path.mkdir()
    elif fate != "missing":
        made = {"empty": b"", "half": octets[: len(octets) // 2], "garbage": os.urandom(500), "json": b"{}"}
        path.write_bytes(made.get(fate, b"[1, 2]"))
    with pytest.raises(StateError, match=saved.name):
        load_checkpoint(saved)


@pytest.mark.parametrize("change", [{"rare_fresh": []}, {"host": 4}, {"length": {"bins": [[10**6, 1, 0]]}}])
def test_a_codec_of_another_shape_is_refused(saved, change):
    codec = json.loads((saved / "codec.json").read_text())
    (saved / "codec.json").write_text(json.dumps(codec | change))
    with pytest.raises(StateError, match="not a whole checkpoint"):
        load_checkpoint(saved)


def test_weights_of_other_networks_are_refused(saved, tmp_path, codec):
    other = new_networks()
    del other["critic"]
    with pytest.raises(StateError, match="not a whole checkpoint"):
        load_checkpoint(save_checkpoint(tmp_path, other, Trees.none(), codec, FACTS))


def stump(threshold=40.0):
    """One tree of one split."""
    whole = {"roots": [0], "feature": [7, -1, -1], "left": [1, 0, 0], "right": [2, 0, 0]}
    real = {"start": [0.25], "threshold": [threshold, 0, 0], "value": [0, -1.5, 2]}
    kinds = {name: np.array(v, np.int64) for name, v in whole.items()}
    return Trees(**kinds, **{name: np.array(v, np.float64) for name, v in real.items()})


def test_trees_are_saved_and_are_of_the_content(tmp_path, networks, codec, saved):
    made = save_checkpoint(tmp_path, networks, stump(), codec, FACTS)
    assert made.name not in (saved.name, save_checkpoint(tmp_path, networks, stump(41.0), codec, FACTS).name)
    loaded = load_checkpoint(made).trees
    for name, array in stump().as_arrays().items():
        np.testing.assert_array_equal(getattr(loaded, name), array)
        assert getattr(loaded, name).dtype == array.dtype
    rows = np.full((2, FEATURES), 40, np.float32)
    rows[1] += 1
    np.testing.assert_array_equal(loaded(rows), [-1.25, 2.25])


@pytest.mark.parametrize(
    "change",
    [
        {"left": torch.tensor([0, 0, 0])},  # a cycle
        {"right": torch.tensor([3, 0, 0])},
        {"roots": torch.tensor([-1])},
        {"feature": torch.tensor([FEATURES, -1, -1])},
        {"feature": torch.tensor([7.0, -1, -1])},
        {"value": torch.tensor([0, 1.0, float("nan")], dtype=torch.float64)},
        {"value": torch.tensor([0, 1.0], dtype=torch.float64)},
        {"threshold": torch.zeros(3)},
        {"start": torch.zeros((), dtype=torch.float64)},
        {"start": torch.zeros(1, dtype=torch.bfloat16)},
        {"left": None},
        {"of_another_name": torch.zeros(1)},
    ],
)
def test_damaged_trees_are_refused(tmp_path, networks, codec, change):
    made = save_checkpoint(tmp_path, networks, stump(), codec, FACTS)
    weights = load_file(made / "weights.safetensors")
    for name, tensor in change.items():
        weights.pop(f"trees.{name}", None)
        if tensor is not None:
            weights[f"trees.{name}"] = tensor
    save_file(weights, made / "weights.safetensors")
    with pytest.raises(StateError, match=f"{made.name} is not a whole checkpoint"):
        load_checkpoint(made)


def test_where_nothing_can_be_written_nothing_is_left(tmp_path, networks, codec):
    (tmp_path / "models").write_text("a file")
    with pytest.raises(OutputError, match="cannot write a checkpoint to "):
        save_checkpoint(tmp_path / "models", networks, Trees.none(), codec, FACTS)
    assert (tmp_path / "models").read_text() == "a file"


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_a_full_disk_leaves_nothing_behind(tmp_path, networks, codec):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "nsstream", tmp_path], check=True)
    try:
        with pytest.raises(OutputError, match="No space left on device"):
            save_checkpoint(tmp_path / "models", networks, Trees.none(), codec, FACTS)
        assert list((tmp_path / "models").iterdir()) == []
    finally:
        subprocess.run(["umount", tmp_path], check=True)
