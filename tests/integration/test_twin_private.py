"""`nsstream twin --private`: the whole path by hand, and that nothing of the capture comes past the model."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints import blank_checkpoint
from made_captures import write_capture

from nsstream.capture import read_trace
from nsstream.clock import SystemClock
from nsstream.encode.address_map import AddressMap
from nsstream.errors import InputError, OutputError, StateError, TrainError
from nsstream.pipeline import Progress
from nsstream.pipeline.private_twin import PrivateTwin, PrivateTwinConfig, make_private_twin
from nsstream.privacy import as_dicts, epsilon, from_dicts
from nsstream.replay.promise_file import promise_beside
from nsstream.train.config import PrivateConfig
from nsstream.train.private_plan import mechanisms_of

DURING = "2017-07-14T02:40/2m"  # of `write_capture`
INTERVAL_NS = (1_500_000_000 * 10**9, 1_500_000_120 * 10**9)
PROMISE = {"epsilon": 3.0, "delta": 1e-5, "unit": "host", "steps": 5, "most_conversations": 64}
# Reads the chunk, and learns nothing of it: what comes of a capture beside its model is then the same for all of them.
DEAF_WORKER = """
import json, shutil, sys
from pathlib import Path
from nsstream.chunk import read_chunk
job, template = json.load(sys.stdin), Path(sys.argv[1])
assert len(read_chunk(Path(job["chunk"])).packets) > 0 and job["before"] is None and job["private"]["epsilon"] == 3.0
place = Path(job["out"]) / template.name
shutil.copytree(template, place)
print(json.dumps({"event": "progress", "stage": "private", "step": 1, "steps": 5, "loss": None}), flush=True)
told = json.loads((place / "manifest.json").read_text())
print(json.dumps({"event": "done", "checkpoint": str(place), "packets": told["packets"]}))
"""


def nsstream(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nsstream_daemon", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_capture(tmp_path_factory.mktemp("trace") / "trace.pcap", conversations=60)


@pytest.fixture(scope="module")
def private_model(seed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The seed, as if it had been learned privately."""
    place = tmp_path_factory.mktemp("private") / "model"
    shutil.copytree(seed, place)
    manifest = json.loads((place / "manifest.json").read_text())
    did = as_dicts(mechanisms_of(PrivateConfig(**PROMISE)))
    (place / "manifest.json").write_text(json.dumps(manifest | {"privacy": PROMISE | {"mechanisms": did}}))
    return place


@pytest.fixture(scope="module")
def seed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return blank_checkpoint(tmp_path_factory.mktemp("public") / "models")


def test_a_private_twin_says_what_was_spent_and_nothing_of_the_capture(trace: Path, seed: Path, tmp_path: Path):
    output = tmp_path / "twin.pcap"
    done = nsstream("twin", trace, "-o", output, "--private", 3, "--from", seed, "--during", DURING, "--steps", 5)
    assert done.returncode == 0, done.stderr
    assert "loss" not in done.stderr
    assert not any("packets" in line for line in done.stderr.splitlines() if "import" in line)
    assert "in the trace" not in done.stdout
    assert "epsilon 3, delta 1e-05, of each host" in done.stdout
    assert "whether a certain host started any of it, learns at most so much" in done.stdout
    assert "report  none" in done.stdout
    names = ("twin.pcap", "twin.pcap.config.json", "twin.pcap.privacy.json", "twin.pcap.state")
    assert sorted(path.name for path in tmp_path.iterdir()) == [*names]
    (model,) = (tmp_path / "twin.pcap.state" / "models").iterdir()
    assert str(model) in done.stdout
    manifest = json.loads((model / "manifest.json").read_text())
    assert 2.8 < epsilon(from_dicts(manifest["privacy"]["mechanisms"]), 1e-5) <= 3.0
    assert (manifest["start_ns"], manifest["end_ns"]) == INTERVAL_NS
    assert len(read_trace(output)[0]) > 0
    config = json.loads((tmp_path / "twin.pcap.config.json").read_text())
    assert config["private"] == PROMISE
    assert (tmp_path / "twin.pcap.state" / "address.key").read_text().strip() not in json.dumps(config)
    promise = promise_beside(output)
    assert promise is not None
    assert (promise["epsilon"], promise["delta"], promise["unit"]) == (3.0, 1e-5, "host")
    assert {each["kind"] for each in promise["mechanisms"]} == {"discrete_gaussian", "sampled_gaussian"}
    drawn = nsstream("draw", model, "-o", tmp_path / "drawn.pcapng", "--seed", 1)
    assert drawn.returncode == 0, drawn.stderr
    again = promise_beside(tmp_path / "drawn.pcapng")
    assert again is not None
    assert again | {"sha256": None} == promise | {"sha256": None}
    scored = nsstream("score", trace, output, "--privacy", "--json", tmp_path / "score.json")
    assert scored.returncode == 0, scored.stderr
    words = " ".join(scored.stdout.split())
    assert "promised epsilon 3, delta 1e-05, of each host" in words
    assert "odds change by a factor of 20, but for a chance of 1e-05" in words
    assert json.loads((tmp_path / "score.json").read_text())["privacy"]["promised"]["epsilon"] == 3.0


def test_what_cannot_be_private_is_refused_and_leaves_nothing(trace: Path, seed: Path, tmp_path: Path):
    common = ("twin", trace, "-o", tmp_path / "twin.pcap", "--private", 3)
    public = ("--from", seed, "--during", DURING)
    for options, why in (
        ((), "--private needs --from"),
        ((*public, "--budget", "5s"), "no --budget or --seed"),
        ((*public, "--seed", 1), "no --budget or --seed"),
        ((*public, "--unit", "packet"), "--unit must be host or flow"),
        ((*public, "--delta", 0.5), "--delta above 0 and below 0.1"),
        ((*public, "--model", "doppelganger"), "a public model of the default kind"),
        (("--from", seed), "--private needs --during"),
        ((*public, "--score"), "what it says is not private"),
        ((*public, "--chunk", "60s"), "no --chunk"),
        (("--from", seed, "--during", "2017-07-15/24h"), "holds no IP packet of that time"),
        (("--from", tmp_path / "none", "--during", DURING), "there is no model"),
    ):
        refused = nsstream(*common, *options)
        assert refused.returncode == 1, options
        assert why in " ".join(refused.stderr.split())
        assert "Traceback" not in refused.stderr
    refused = nsstream("twin", trace, "-o", tmp_path / "twin.pcap", "--from", seed)
    assert "for --private" in refused.stderr
    assert list(tmp_path.iterdir()) == []


def run(
    trace: Path, seed: Path, folder: Path, template: Path, **settings: object
) -> tuple[PrivateTwin, list[Progress]]:
    heard: list[Progress] = []
    config = PrivateTwinConfig(
        trace=trace,
        output=folder / "twin.pcap",
        state=folder / "state",
        parent=seed,
        interval_ns=INTERVAL_NS,
        private=PROMISE,
        address_map=AddressMap(bytes(32)),
        seed=4,
        worker=(sys.executable, "-c", DEAF_WORKER, str(template)),
    )
    return make_private_twin(dataclasses.replace(config, **settings), heard.append, SystemClock()), heard


def test_given_its_model_a_twin_and_all_that_is_told_of_it_is_the_same_for_every_capture(
    seed: Path, private_model: Path, tmp_path: Path
):
    """Volume, times and order of the two captures differ: number and clock of chunks, and the account, of an open twin
    would.
    """
    saw = []
    for name, made in (("few", {"conversations": 8, "spread_s": 20.0}), ("many", {"conversations": 90, "seed": 3})):
        (folder := tmp_path / name / "twin").mkdir(parents=True)
        capture = write_capture(tmp_path / name / "trace.pcap", **made)
        if name == "many":
            octets = capture.read_bytes()
            record = octets[24 : 24 + 16 + int.from_bytes(octets[32:36], "little")]
            late = (1_500_000_900).to_bytes(4, "little") + record[4:]
            capture.write_bytes(octets[:24] + late + octets[24:])  # out of order, and of a time beyond the interval
        twin, heard = run(capture, seed, folder, private_model)
        told = json.loads(twin.config.read_text())
        for place in ("trace", "output", "state"):
            assert str(tmp_path / name) in told.pop(place)
        saw.append(
            (
                twin.output.read_bytes(), told, twin.packet_count, twin.verification, twin.model.name, twin.promise,
                [dataclasses.replace(each, elapsed_s=0.0) for each in heard if each.is_done],
                sorted(path.name for path in folder.iterdir()),
            )
        )  # fmt: skip
    assert saw[0] == saw[1]
    assert saw[0][2] > 0


def test_a_private_run_that_fails_leaves_nothing_behind_and_is_not_tried_again(trace: Path, seed: Path, tmp_path: Path):
    (tmp_path / "work").mkdir()
    touched = tmp_path / "touched"
    program = f"open({str(touched)!r}, 'a').write('x'); raise SystemExit('no luck')"
    with pytest.raises(TrainError, match="not tried again"):
        run(trace, seed, tmp_path / "work", seed, worker=(sys.executable, "-c", program))
    assert touched.read_text() == "x"
    with pytest.raises(TrainError, match="does not say what was done"):
        run(trace, seed, tmp_path / "work", seed)
    with pytest.raises(StateError, match="there is no model"):
        run(trace, tmp_path / "none", tmp_path / "work", seed)
    with pytest.raises(InputError, match="of that time"):
        run(trace, seed, tmp_path / "work", seed, interval_ns=(0, 10**9))
    late_ns = (1 << 32) * 10**9
    with pytest.raises(OutputError, match="no times after 7 February 2106"):
        run(trace, seed, tmp_path / "work", seed, interval_ns=(late_ns, late_ns + 10**9))
    assert list((tmp_path / "work").iterdir()) == []
    (tmp_path / "work" / "twin.pcap").write_bytes(b"precious")
    with pytest.raises(OutputError, match="exists already"):
        run(trace, seed, tmp_path / "work", seed)
    assert (tmp_path / "work" / "twin.pcap").read_bytes() == b"precious"
