"""The mark of promotion is what the ledger says, whoever promotes meanwhile."""

import threading
from pathlib import Path

from nsstream.clock import ManualClock
from nsstream.model.promotion import read_promoted
from nsstream.pipeline.ledger import Ledger
from nsstream.pipeline.model_records import ModelRecords
from nsstream.pipeline.promoter import Promoter
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
