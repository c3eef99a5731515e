"""The scheduling of workers, with real child processes that stand in for the trainer."""

import json
import sys
from pathlib import Path
from threading import Lock

import pytest

from nsstream.encode.address_map import AddressMap
from nsstream.errors import TrainError
from nsstream.pipeline.ingest import Lesson
from nsstream.pipeline.progress import Progress, Stage
from nsstream.pipeline.training import TrainingConfig, train_lessons

WORKER = """
import json, pathlib, sys
job = json.load(sys.stdin)
out = pathlib.Path(job["out"])
out.mkdir(exist_ok=True)
name = pathlib.Path(job["chunk"]).stem
tries = out / (name + ".tries")
tries.write_text(str(int(tries.read_text()) + 1 if tries.exists() else 1))
(out / (name + ".job")).write_text(json.dumps(job))
print(json.dumps({"event": "progress", "stage": "likelihood", "step": 1, "steps": 2, "loss": 0.5}), flush=True)
FAIL
print(json.dumps({"event": "done", "checkpoint": str(out / name), "packets": 7}))
"""


def lessons(*conversation_counts: int) -> list[Lesson]:
    return [Lesson(Path(f"c{at}.arrow"), at, at + 1, 10 * n, n) for at, n in enumerate(conversation_counts)]


def train(
    tmp_path: Path, wanted: list[Lesson], *, fail: str = "", **settings: object
) -> tuple[list[Path], list[Progress]]:
    heard: list[Progress] = []
    lock = Lock()

    def report(progress: Progress) -> None:
        with lock:
            heard.append(progress)

    command = (sys.executable, "-c", WORKER.replace("FAIL", fail))
    defaults: dict[str, object] = {"seed": 5, "budget_s": 100.0, "steps": None, "cores": 2, "workers": 2}
    config = TrainingConfig(
        **(defaults | settings),  # type: ignore[arg-type]
        fewest_conversations=50,
        address_map=AddressMap(bytes(32)),
        command=command,
    )
    return train_lessons(wanted, tmp_path / "models", config, report, lambda: 0.0), heard


def job_of(tmp_path: Path, at: int) -> dict[str, object]:
    job: dict[str, object] = json.loads((tmp_path / "models" / f"c{at}.job").read_text())
    return job


def test_each_chunk_gets_a_checkpoint_and_all_but_the_seeds_start_from_it(tmp_path: Path):
    checkpoints, heard = train(tmp_path, lessons(10, 100, 100))
    assert [path.name for path in checkpoints] == ["c0", "c1", "c2"]
    parents = [job_of(tmp_path, at)["parent"] for at in range(3)]
    assert parents == [str(checkpoints[1]), None, str(checkpoints[1])]
    assert [job_of(tmp_path, at)["threads"] for at in range(3)] == [1, 2, 1]
    assert {p.stage for p in heard if p.chunk == 2} == {Stage.SEED}
    assert all(p.chunk_count == 3 for p in heard)


def test_every_worker_is_told_the_model(tmp_path: Path):
    train(tmp_path, lessons(10, 100), model="doppelganger")
    assert [job_of(tmp_path, at)["model"] for at in range(2)] == ["doppelganger"] * 2


def test_steps_take_the_place_of_the_budget(tmp_path: Path):
    train(tmp_path, lessons(100, 100), budget_s=None, steps=40)
    assert [job_of(tmp_path, at)["steps"] for at in range(2)] == [40, 10]
    assert [job_of(tmp_path, at)["budget_s"] for at in range(2)] == [None, None]


def test_a_worker_that_fails_once_is_tried_again(tmp_path: Path):
    _, heard = train(tmp_path, lessons(100), fail="if tries.read_text() == '1': sys.exit('cosmic ray')")
    assert [p.note for p in heard if p.note] == [
        "a worker failed and is tried once more: it ended with status 1: cosmic ray"
    ]


def test_a_worker_that_fails_twice_ends_the_run(tmp_path: Path):
    with pytest.raises(TrainError, match="the worker on chunk c1 failed twice: it ended with status 1: no luck"):
        train(tmp_path, lessons(100, 60, 60), fail="if name == 'c1': sys.exit('no luck')")


def test_a_failing_worker_ends_the_others(tmp_path: Path):
    fail = """
import os, time
if name == 'c2':
    (out / 'pid').write_text(str(os.getpid()))
    time.sleep(600)
if name == 'c1':
    while not (out / 'pid').exists():
        time.sleep(0.01)
    sys.exit(1)
"""
    with pytest.raises(TrainError, match="c1 failed twice"):
        train(tmp_path, lessons(100, 60, 60), fail=fail)
    pid = (tmp_path / "models" / "pid").read_text()
    assert not Path(f"/proc/{pid}").exists()
