"""What a place's GPU means to its jobs: told, warned of once, and left for the CPU in the last of a job's tries."""

import json
import logging
import sys
from pathlib import Path
from threading import Event

import pytest

from nsstream.clock import ManualClock
from nsstream.encode.address_map import AddressMap
from nsstream.errors import InputError, TrainError
from nsstream.pipeline.child import ChildFailedError, Failure
from nsstream.pipeline.engine import LocalEngine
from nsstream.pipeline.job_runner import JobRunner, Material
from nsstream.pipeline.lane import Lane
from nsstream.pipeline.ledger import Ledger
from nsstream.pipeline.progress import Progress
from nsstream.pipeline.service_config import TrainingSection, WorkerSection
from nsstream.pipeline.training import TrainJob, device_named, train_one

WORKER = """
import json, os, pathlib, sys
job = json.load(sys.stdin)
out = pathlib.Path(job["out"])
out.mkdir(exist_ok=True)
jobs = out / "jobs"
jobs.write_text((jobs.read_text() if jobs.exists() else "") + json.dumps(job) + "\\n")
unused = "a GPU was given and is not used: " + os.environ["CUDA_VISIBLE_DEVICES"]
print(json.dumps({"event": "warning", "message": unused}))
if job["device"] != "cpu" and FULL:
    print(json.dumps({"event": "error", "message": "the GPU has no room", "kind": "gpu_memory"}))
    sys.exit(1)
print(json.dumps({"event": "done", "checkpoint": str(out / "model"), "packets": 7, "device": "cpu"}))
"""
PLACE = WorkerSection(gpu="3")


def command(*, is_full: bool) -> tuple[str, ...]:
    return (sys.executable, "-c", WORKER.replace("FULL", str(is_full)))


def devices_of(models: Path) -> list[str]:
    return [json.loads(line)["device"] for line in (models / "jobs").read_text().splitlines()]


def by_hand(models: Path, device: str, *, is_full: bool, heard: list[Progress]) -> Path:
    job = TrainJob(
        Path("c.arrow"), None, None, models, 1, None, 5, 1, AddressMap(bytes(32)), device=device_named(device)
    )
    return train_one(job, heard.append, lambda: 0.0, cancelled=Event(), command=command(is_full=is_full))


@pytest.fixture(autouse=True)
def visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")


def test_by_hand_a_gpu_without_room_is_left_for_the_cpu(tmp_path: Path):
    heard: list[Progress] = []
    assert by_hand(tmp_path, "auto", is_full=True, heard=heard) == tmp_path / "model"
    assert devices_of(tmp_path) == ["auto", "cpu"]
    notes = [progress.note for progress in heard if progress.note]
    warned = "a GPU was given and is not used: 0"
    assert notes == [warned, "a worker failed and is tried once more: the GPU has no room", warned]


def test_by_hand_a_gpu_that_was_insisted_on_is_not_left(tmp_path: Path):
    with pytest.raises(TrainError, match="failed twice: the GPU has no room"):
        by_hand(tmp_path, "cuda", is_full=True, heard=[])
    assert devices_of(tmp_path) == ["cuda", "cuda"]


def test_a_device_that_is_none_is_refused_by_name():
    with pytest.raises(InputError, match="the device must be one of auto, cpu, cuda, got 'tpu'"):
        device_named("tpu")


@pytest.mark.parametrize(
    ("failures", "attempts", "device"),
    [(0, 3, "auto"), (1, 3, "auto"), (2, 3, "cpu"), (0, 1, "auto"), (1, 2, "cpu"), (4, 3, "cpu")],
)
def test_the_last_try_of_a_job_is_made_on_the_cpu(tmp_path: Path, failures: int, attempts: int, device: str):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    runner = JobRunner(
        tmp_path, ledger, AddressMap(bytes(32)), Event(), command(is_full=True), engine=LocalEngine((PLACE,))
    )
    training = TrainingSection(attempts=attempts, gpu_memory_octets=3 << 30)
    lines: list[dict[str, object]] = []
    material = Material(tmp_path / "c.arrow", None, None, 1)

    def train() -> Path:
        return runner.train_material(material, tmp_path / "models", training, PLACE, lines.append, failures=failures)

    if device == "auto":
        with pytest.raises(ChildFailedError, match="the GPU has no room") as raised:
            train()
        assert raised.value.kind is Failure.GPU_MEMORY
    else:
        assert train() == tmp_path / "models" / "model"
    assert devices_of(tmp_path / "models") == [device]
    (told,) = [json.loads(line) for line in (tmp_path / "models" / "jobs").read_text().splitlines()]
    assert told["gpu_memory_octets"] == 3 << 30
    assert [line["message"] for line in lines] == ["a GPU was given and is not used: 3"]
    ledger.close()


def test_a_lane_logs_what_its_worker_warns_of_once(caplog: pytest.LogCaptureFixture):
    lane = Lane("train-0", PLACE, ManualClock())
    lane.begin("c1", is_seed=False)
    lane.hear({"event": "progress", "stage": "likelihood", "step": 4})
    with caplog.at_level(logging.WARNING):
        for message in ("no driver", "no driver", "too old"):
            lane.hear({"event": "warning", "message": message})
    assert [record.getMessage() for record in caplog.records] == [
        "worker_warns lane=train-0 message=no driver",
        "worker_warns lane=train-0 message=too old",
    ]
    assert lane.as_dict()["step"] == 4
