"""What stands in the chunk folder is taken up once, under its own name."""

import shutil
from pathlib import Path

import numpy as np

from nsstream.chunk import Chunker, ChunkStore
from nsstream.clock import ManualClock
from nsstream.pipeline.chunk_watch import ChunkWatch
from nsstream.pipeline.ledger import Ledger
from nsstream.pipeline.training_queue import TrainingQueue
from nsstream.trace import PacketBatch

S = 10**9


def test_a_copy_of_a_chunk_under_another_name_is_left_out_and_looked_at_once(tmp_path: Path):
    columns = dict(PacketBatch.empty(100).columns())
    columns["observation_time_ns"] = np.arange(100)
    chunker = Chunker(10 * S)
    chunker.push(PacketBatch.from_columns(columns))
    store, ledger = ChunkStore(tmp_path / "chunks"), Ledger(tmp_path / "ledger.sqlite")
    path = store.write(chunker.flush()[0])
    shutil.copy(path, path.with_name("copy.arrow"))
    queue = TrainingQueue(ledger, ManualClock(10**18))
    watch = ChunkWatch(store, queue, lambda: False)
    seen: list[None] = []
    for _ in range(2):
        watch.look(fewest=16, most_waiting=4, on_seen=lambda: seen.append(None))
        assert not watch.has_new()
    assert len(seen) == 1
    assert {row["id"]: row["reason"] for row in ledger.rows("SELECT id, reason FROM chunk")} == {
        path.stem: None,
        "copy": "damaged",
    }
    ledger.close()
