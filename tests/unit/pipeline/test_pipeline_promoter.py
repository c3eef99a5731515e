"""The mark of promotion is what the ledger says, whoever promotes meanwhile."""

import threading
from pathlib import Path

from nsstream.clock import ManualClock
from nsstream.model.promotion import read_promoted
from nsstream.pipeline.ledger import Ledger
from nsstream.pipeline.model_records import ModelRecords
from nsstream.pipeline.promoter import Promoter
from nsstream.pipeline.service_config import GateSection
from nsstream.pipeline.training_queue import SeenChunk, TrainingQueue

S = 10**9
NAMES = ("a", "b", "c", "d")
ROUNDS = 25


def test_a_lane_and_an_operator_who_promote_at_once_leave_the_mark_at_what_holds(tmp_path: Path):
    clock, ledger, folder = ManualClock(10**18), Ledger(tmp_path / "ledger.sqlite"), tmp_path / "models"
    queue, records = TrainingQueue(ledger, clock), ModelRecords(ledger, clock)
    promoter = Promoter(folder, records)
    for at, name in enumerate(NAMES):
        (folder / name).mkdir(parents=True)
        (folder / name / "manifest.json").write_text("{}")
        queue.see(SeenChunk(name, name, at * S, (at + 1) * S, "packets", 100, 100), fewest=50, most_waiting=4)
        job = queue.claim()
        assert job is not None
        records.settle(job, name, parent=None, training_s=1.0, complaints=(), figures={})
    errors: list[Exception] = []
    begin = threading.Barrier(len(NAMES))

    def promote(name: str) -> None:
        begin.wait()
        for _ in range(ROUNDS):
            try:
                records.promote(name)
                promoter.follow_ledger()
            except Exception as err:
                errors.append(err)

    threads = [threading.Thread(target=promote, args=(name,)) for name in NAMES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    promoted = records.promoted()
    assert promoted is not None
    assert errors == []
    assert read_promoted(folder) == folder / promoted.id
    ledger.close()


def test_half_a_manifest_that_a_killed_process_left_does_not_come_along(tmp_path: Path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    candidate = tmp_path / "work" / "a"
    candidate.mkdir(parents=True)
    (tmp_path / "models").mkdir()
    (candidate / "manifest.json").write_text('{"parent": "p"}')
    (candidate / ".manifest.json.x1.part").write_text('{"par')
    promoter = Promoter(tmp_path / "models", ModelRecords(ledger, ManualClock(10**18)))
    figures = {"loss": 1.0, "ratio": None, "frames": None, "faults": None, "copied": None, "copied_floor": None}
    verdict = promoter.place(candidate, figures, GateSection())
    assert (verdict.parent, verdict.complaints) == ("p", ())
    assert [path.name for path in (tmp_path / "models" / "a").iterdir()] == ["manifest.json"]
    ledger.close()
