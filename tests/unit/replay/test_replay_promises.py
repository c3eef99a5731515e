"""The promise beside a twin: of every model that its run draws, of that file alone, and gone with it."""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nsstream.assemble.frames import Frames
from nsstream.errors import InputError
from nsstream.privacy import SampledGaussian, as_dicts, epsilon
from nsstream.replay import run_models
from nsstream.replay.promise_file import in_plain_words, in_words, promise_beside
from nsstream.replay.registry import make_sink
from nsstream.replay.run_models import RunModels
from nsstream.replay.scenario import (
    Attack,
    FollowSpec,
    MixSpec,
    ModelSpec,
    ModelsSpec,
    Part,
    RecordedSpec,
    Scenario,
)
from nsstream.replay.sink import SinkContext

START_NS = 1_700_000_000 * 10**9
FRAME = bytes.fromhex("020000000002 020000000001 0800 4500001c000100004011 0000 c0000201 c6336407 d431003500080000")
DID = (SampledGaussian(3.0, 0.05, 100),)


def frames_at(*seconds: float) -> Frames:
    times = START_NS + (np.array(seconds) * 1e9).astype(np.int64)
    return Frames(times, np.arange(len(times) + 1) * len(FRAME), np.frombuffer(FRAME * len(times), np.uint8).copy())


def model(folder: Path, name: str, *, is_private: bool = True) -> str:
    place = folder / name
    place.mkdir(parents=True)
    privacy = {"epsilon": 4.0, "delta": 1e-5, "unit": "host", "mechanisms": as_dicts(DID)}
    (place / "manifest.json").write_text(
        json.dumps({"id": name, "chunk": "c"} | ({"privacy": privacy} if is_private else {}))
    )
    return str(place)


def write(models: RunModels, *frames: tuple[str, Frames], **sink: Any) -> None:
    """What a run writes, frames of one model after the other."""
    now = [""]
    made = make_sink({"kind": "pcap"} | sink, SinkContext(origin=lambda: (1, now[0]), models=models))
    made.open()
    for name, some in frames:
        now[0] = name
        made.write(some)
    made.close()


def run_of(stream: Any, **scenario: Any) -> RunModels:
    return RunModels(stream, Scenario(**scenario))


@pytest.mark.parametrize("name", ["twin.pcap", "twin.pcapng.zst", "flows.csv", "nfcapd"])
def test_a_file_of_a_private_model_comes_with_its_promise(tmp_path: Path, name: str):
    kind = {"flows.csv": "csv", "nfcapd": "nfcapd"}.get(name, "pcap")
    twin, models = tmp_path / name, run_of(ModelsSpec(models=[model(tmp_path / "models", "m")]))
    write(models, ("m", frames_at(0, 1, 2)), kind=kind, path=str(twin))
    told = promise_beside(twin)
    assert told is not None
    assert (told["epsilon"], told["delta"], told["unit"]) == (4.0, 1e-5, "host")
    assert told["mechanisms"] == as_dicts(DID)
    assert told["models"][0]["id"] == "m"
    assert in_words(told) == "epsilon 4, delta 1e-05, of each host (sampled_gaussian)"
    assert "whether a certain host started any of it" in in_plain_words(told)
    assert "change by a factor of 55, but for a chance of 1e-05" in in_plain_words(told)
    assert "rules out little" not in in_plain_words(told)
    assert "2,981, but for a chance of 1e-05. So large a factor rules out little" in in_plain_words(
        told | {"epsilon": 8.0}
    )
    assert "e^120" in in_plain_words(told | {"epsilon": 120.0, "unit": "flow"})


def test_words_tell_what_a_run_spent_from_what_was_spent_before_it():
    of_model = {"is_private": True, "epsilon": 8.0, "epsilon_before": 8.0}
    told = {
        "epsilon": 12.13, "delta": 1e-5, "unit": "host", "mechanisms": as_dicts(DID), "models": [of_model],
    }  # fmt: skip
    assert in_words(told) == (
        "epsilon 12.13, delta 1e-05, of each host (sampled_gaussian); that is in all: 8 of what its model learned "
        "last, 8 of what the models that it went on from had learned privately (less than the sum, 16)"
    )
    assert "that is of all 2 private models together" in in_words(told | {"models": [of_model, of_model]})
    without = {name: value for name, value in of_model.items() if name != "epsilon_before"}  # of a version before
    assert in_words(told | {"models": [without]}) == "epsilon 12.13, delta 1e-05, of each host (sampled_gaussian)"


def test_a_promise_does_not_outlive_its_twin(tmp_path: Path):
    twin = tmp_path / "twin.pcap"
    private, public = (ModelsSpec(models=[model(tmp_path / "models", n, is_private=n == "m")]) for n in ("m", "p"))
    write(run_of(private), ("m", frames_at(0)), path=str(twin))
    assert promise_beside(twin) is not None
    write(run_of(public), ("p", frames_at(0)), path=str(twin), overwrite=True)
    assert promise_beside(twin) is None
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["twin.pcap"]


def test_a_promise_is_of_the_very_file_that_it_was_made_for(tmp_path: Path):
    twin, path = tmp_path / "twin.pcap", tmp_path / "twin.pcap.privacy.json"
    write(run_of(ModelsSpec(models=[model(tmp_path, "m")])), ("m", frames_at(0)), path=str(twin))
    twin.write_bytes(twin.read_bytes() + b"x")
    with pytest.raises(InputError, match="of another file"):
        promise_beside(twin)
    for octets in (b"", b"[]", b"{}", b'{"unit": "host"}', b"[" * 100_000, b"\xff", b" " * (2 << 20)):
        path.write_bytes(octets)
        with pytest.raises(InputError, match="no promise of a twin"):
            promise_beside(twin)


def test_of_a_row_of_files_there_is_one_promise_out_of_the_way_of_who_watches(tmp_path: Path):
    drop, parts, row = (tmp_path / name for name in ("drop", "parts", "row"))
    for path in (drop, parts, row):
        path.mkdir()
    stream = ModelsSpec(models=[model(tmp_path / "models", "m")])
    frames = ("m", frames_at(0, 5, 15, 35))
    write(run_of(stream), frames, path=str(drop / "twin.pcap"), rotate_s=10, parts_in=str(parts))
    assert len(list(drop.glob("*.pcap"))) == len(list(drop.iterdir())) == 3
    assert json.loads((parts / "twin.pcap.privacy.json").read_text())["epsilon"] == 4.0
    write(run_of(stream), frames, kind="nfcapd", path=str(row), rotate_s=60)
    assert json.loads((tmp_path / "row.privacy.json").read_text())["epsilon"] == 4.0
    assert subprocess.run(["nfdump", "-R", str(row), "-q"], capture_output=True, check=False).returncode == 0


def test_every_model_that_a_command_names_counts(tmp_path: Path):
    a, b, public = (model(tmp_path, name, is_private=name != "p") for name in ("a", "b", "p"))
    both = epsilon(DID * 2, 1e-5)
    mix = MixSpec(parts=[Part(model=a, weight=1.0), Part(model=b, weight=1.0)])
    attack = Attack(model=b, share=0.1)
    for models, spent, count in (
        (run_of(ModelSpec(model=a)), 4.0, 1),
        (run_of(ModelsSpec(models=[a, b, public])), both, 3),
        (run_of(mix), both, 2),
        (run_of(ModelSpec(model=a), attack=attack), both, 2),
    ):
        assert models.promise() is None  # of what was not drawn yet
        models.drawn("a")
        promise = models.promise()
        assert promise is not None
        assert promise["epsilon"] == pytest.approx(spent)
        assert len(promise["models"]) == count
        assert models.promise() is promise
        assert ("1 more of its models" in in_words(promise)) == (count == 3)
    recorded = run_of(RecordedSpec(path="/nowhere.pcap"))
    recorded.drawn("x")
    assert recorded.promise() is None


def test_models_that_are_followed_count_as_they_are_drawn_and_so_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(run_models, "MOST_MODELS", 3)
    for name in ("a", "b", "c", "d"):
        model(tmp_path / "models", name)
    models = run_of(FollowSpec(directory=str(tmp_path / "models")))
    models.drawn("")
    assert models.promise() is None
    models.drawn("a")
    write(models, ("a", frames_at(0)), ("b", frames_at(15)), path=str(tmp_path / "twin.pcap"), rotate_s=10)
    told = json.loads((tmp_path / "twin.pcap.privacy.json").read_text())
    assert told["epsilon"] == pytest.approx(epsilon(DID * 2, 1e-5))
    models.drawn("gone")
    promise = models.promise()
    assert promise is not None
    assert [m["is_private"] for m in promise["models"]] == [True, True, False]
    write(models, ("d", frames_at(0)), path=str(tmp_path / "other.pcap"), rotate_s=10)
    assert models.promise() is None  # of a part nothing is said
    assert not (tmp_path / "other.pcap.privacy.json").exists()
