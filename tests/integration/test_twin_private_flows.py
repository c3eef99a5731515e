"""`nsstream twin TABLE --private`: from a bundled capture to a public seed of flows, and to a private table's twin."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from made_flows import START_NS, made_flows

from nsstream.capture.flow_csv import FlowCsvSource
from nsstream.capture.flow_presets import PRESETS
from nsstream.capture.flow_table_file import PLAIN, FlowTableWriter, preset_columns
from nsstream.chunk import read_chunk
from nsstream.privacy import epsilon, from_dicts
from nsstream.replay.promise_file import promise_beside

DURING = "2023-11-14T22:13:20/10m"  # of `made_flows`, but for its end


def nsstream(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nsstream_daemon", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def seed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A public seed, as a user makes it, but of few steps."""
    folder = tmp_path_factory.mktemp("public")
    metered = nsstream("chunk", "meter", "-o", folder / "chunks")
    assert metered.returncode == 0, metered.stderr
    (chunk,) = (folder / "chunks").glob("*.arrow")
    assert str(chunk) in metered.stdout
    flows = read_chunk(chunk).flows
    assert f"({len(flows):,} records)" in metered.stdout
    assert len(flows) > 1000
    assert not (flows.flow_start_ns % 1_000_000).any()
    trained = nsstream("train", chunk, "-o", folder / "models", "--steps", 2, "--cores", 1)
    assert trained.returncode == 0, trained.stderr
    return next((folder / "models").iterdir())


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "flows.csv"
    with path.open("wb") as file:
        preset = PRESETS[PLAIN]
        FlowTableWriter(file, preset, preset_columns(preset)).write(made_flows(count=150, labelled=False))
    return path


def read(path: Path):
    source, flows = FlowCsvSource(path), []
    source.open()
    while (batch := source.read_batch()) is not None:
        flows.append(batch)
    source.close()
    return flows


def test_a_private_twin_of_a_table_says_what_was_spent_and_nothing_of_the_table(seed, table, tmp_path):
    output = tmp_path / "twin.csv"
    options = ("--private", 3, "--from", seed, "--during", DURING, "--steps", 2, "--unit", "flow")
    done = nsstream("twin", table, "-o", output, *options)
    assert done.returncode == 0, done.stderr
    assert "epsilon 3, delta 1e-05, of each flow" in done.stdout
    assert "in the table" not in done.stdout
    assert "loss" not in done.stderr
    names = ["twin.csv", "twin.csv.config.json", "twin.csv.privacy.json", "twin.csv.state"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    (model,) = (tmp_path / "twin.csv.state" / "models").iterdir()
    manifest = json.loads((model / "manifest.json").read_text())
    assert 2.8 < epsilon(from_dicts(manifest["privacy"]["mechanisms"]), 1e-5) <= 3.0
    assert (manifest["start_ns"], manifest["end_ns"]) == (START_NS, START_NS + 600 * 10**9)
    assert "fit" not in manifest
    promise = promise_beside(output)
    assert promise is not None
    assert (promise["epsilon"], promise["delta"], promise["unit"]) == (3.0, 1e-5, "flow")
    flows = read(output)
    assert sum(map(len, flows)) >= 16
    assert min(int(part.flow_start_ns.min()) for part in flows) >= START_NS
    assert max(int(part.flow_end_ns.max()) for part in flows) <= START_NS + 600 * 10**9
    drawn = nsstream("draw", model, "-o", tmp_path / "drawn.csv")
    assert drawn.returncode == 0, drawn.stderr
    again = promise_beside(tmp_path / "drawn.csv")
    assert again is not None
    assert again | {"sha256": None} == promise | {"sha256": None}


def test_what_cannot_be_private_is_refused_and_leaves_nothing(seed, table, tmp_path, tmp_path_factory):
    common = ("twin", table, "-o", tmp_path / "twin.csv", "--private", 3)
    packets = tmp_path_factory.mktemp("packets")
    manifest = json.loads((seed / "manifest.json").read_text()) | {"schema": "packets"}
    (packets / "manifest.json").write_text(json.dumps(manifest))
    for options, why in (
        (("--from", seed), "--private needs --during"),
        (("--from", seed, "--during", DURING, "--chunk", "60s"), "no --chunk"),
        (("--from", seed, "--during", DURING, "--mtu", 1500), "--mtu is for packets"),
        (("--from", seed, "--during", DURING, "--score"), "what it says is not private"),
        (("--from", seed, "--during", "2017-07-15/24h"), "holds no flow that ended in that time"),
        (("--from", tmp_path / "none", "--during", DURING), "there is no model"),
        (("--from", packets, "--during", DURING), "is a model of packets"),
    ):
        refused = nsstream(*common, *options)
        assert refused.returncode == 1, options
        assert why in " ".join(refused.stderr.split()), refused.stderr
        assert "Traceback" not in refused.stderr
    assert list(tmp_path.iterdir()) == []
