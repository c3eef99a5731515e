"""Forgetting: what is asked for goes, files first; what is old leaves the ledger and stays in its counts."""

import fcntl
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nsstream.chunk import Chunk, Chunker, ChunkStore
from nsstream.clock import ManualClock
from nsstream.errors import InputError, StateError
from nsstream.pipeline.forgetting import MOST_AT_ONCE, Forgetting
from nsstream.pipeline.ledger import Ledger
from nsstream.pipeline.model_records import ModelRecords
from nsstream.pipeline.training_queue import SeenChunk, TrainingQueue
from nsstream.trace import PacketBatch

S = 10**9
DAY_S = 86_400


class Nest:
    """A state directory without a daemon."""

    def __init__(self, state: Path) -> None:
        self.state, self.clock = state, ManualClock(10**18)
        self.ledger = Ledger(state / "ledger.sqlite")
        self.queue = TrainingQueue(self.ledger, self.clock)
        self.models = ModelRecords(self.ledger, self.clock)
        self.forgetting = Forgetting(state, self.ledger, self.clock)
        self.store = ChunkStore(state / "chunks")

    def store_chunk(self, at: int, conversations: int = 100) -> str:
        chunk = a_chunk(at)
        self.store.write(chunk)
        seen = SeenChunk(chunk.id, chunk.digest, chunk.start_ns, chunk.end_ns, "packets", 10, conversations)
        self.queue.see(seen, fewest=50, most_waiting=1000)
        return chunk.id

    def learn(self, model: str, *, passes: bool = True) -> None:
        job = self.queue.claim(oldest=True)
        assert job is not None
        self.queue.run(job)
        (self.state / "models" / model).mkdir(parents=True)
        self.clock.advance(S)
        complaints = () if passes else ("it is bad",)
        self.models.settle(job, model, parent="p", training_s=1.0, complaints=complaints, figures={"loss": 1.0})

    def counts(self) -> dict[str, Any]:
        states = {state: count for state, count in self.queue.counts().items() if count}
        return {"jobs": states, "chunks": self.queue.chunk_counts(), "models": self.models.counts()}

    def row_count(self) -> int:
        tables = ("chunk", "job", "model", "promotion")
        return sum(self.ledger.rows(f"SELECT COUNT(*) FROM {table}")[0][0] for table in tables)

    def models_there(self) -> set[str]:
        return {path.name for path in (self.state / "models").iterdir()}


def a_chunk(at: int) -> Chunk:
    columns = dict(PacketBatch.empty(10).columns())
    columns["observation_time_ns"] = at * 10 * S + np.arange(10)
    chunker = Chunker(10 * S)
    chunker.push(PacketBatch.from_columns(columns))
    return chunker.flush()[0]


@pytest.fixture
def nest(tmp_path: Path) -> Nest:
    return Nest(tmp_path)


def test_a_chunk_goes_with_its_file_its_rows_and_its_model(nest: Nest):
    names = [nest.store_chunk(at) for at in range(3)]
    for model in ("one", "two", "three"):
        nest.learn(model)
    before = nest.counts()
    done = nest.forgetting.forget(names[0])
    assert (done.chunks, done.models, done.kept_models, done.row_count) == ([names[0]], ["one"], [], 10)
    assert not nest.store.path_of(names[0]).exists()
    assert nest.models_there() == {"two", "three"}
    assert nest.counts() == before
    assert nest.ledger.rows("SELECT asked, chunks, row_count, models FROM forgetting")[0][:] == (
        f"chunk {names[0]}", 1, 10, 1
    )  # fmt: skip
    assert nest.queue.unseen([names[0]]) == [names[0]]
    with pytest.raises(StateError, match="there is no chunk"):
        nest.forgetting.forget(names[0])


def test_a_promoted_model_stays(nest: Nest):
    name = nest.store_chunk(0)
    nest.learn("one")
    done = nest.forgetting.forget(name)
    assert (done.chunks, done.models, done.kept_models) == ([name], [], ["one"])
    assert nest.models_there() == {"one"}
    assert nest.models.promoted().id == "one"
    assert not nest.store.path_of(name).exists()


def test_a_model_of_several_chunks_goes_with_the_last_of_them(nest: Nest):
    first, second = nest.store_chunk(0, 30), nest.store_chunk(1, 30)
    nest.learn("both", passes=False)
    assert nest.forgetting.forget(first).models == []
    assert nest.models_there() == {"both"}
    assert nest.forgetting.forget(second).models == ["both"]
    assert nest.models_there() == set()


def test_a_job_that_waits_is_never_run(nest: Nest):
    name = nest.store_chunk(0)
    nest.forgetting.forget(name)
    assert nest.queue.claim() is None
    assert nest.counts()["jobs"] == {"skipped": 1}


def test_what_is_learned_read_or_pinned_is_spared(nest: Nest):
    learned, read, pinned, free = (nest.store_chunk(at) for at in range(4))
    nest.queue.claim(oldest=True)
    nest.store.pin(pinned)
    with nest.store.path_of(read).open("rb") as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        done = nest.forgetting.forget_before(10**12)
        assert done.chunks == [free]
        assert done.spared == {learned: "being learned", read: "being read", pinned: "pinned"}
        with pytest.raises(StateError, match="it is being read"):
            nest.forgetting.forget(read)
    assert nest.forgetting.forget(read).chunks == [read]


def test_all_before_a_time_go_and_the_rest_stays(nest: Nest):
    names = [nest.store_chunk(at) for at in range(5)]
    nest.store.write(a_chunk(-0 + 7))  # which the ledger has not seen
    done = nest.forgetting.forget_before(30 * S)
    assert done.chunks == names[:3]
    assert done.left == 0
    assert len(nest.store.list()) == 3


def test_so_many_at_once_and_the_rest_when_asked_again(nest: Nest):
    with nest.ledger.transaction() as db:
        db.executemany(
            "INSERT INTO chunk (id, digest, start_ns, end_ns, kind, row_count, conversations, seen_ns, fate, reason)"
            " VALUES (?, '', ?, ?, 'packets', 1, 1, 0, 'skipped', 'behind')",
            [(f"c{at}", at + 1, at + 2) for at in range(MOST_AT_ONCE + 7)],
        )
    first, second = nest.forgetting.forget_before(10**9), nest.forgetting.forget_before(10**9)
    assert (len(first.chunks), first.left, len(second.chunks), second.left) == (MOST_AT_ONCE, 7, 7, 0)
    assert nest.counts()["chunks"] == {"skipped_behind": MOST_AT_ONCE + 7}


@pytest.mark.parametrize("name", ["../address", "", "a/b", ".hidden", "x" * 200])
def test_what_is_no_name_is_refused(nest: Nest, name: str):
    with pytest.raises(InputError):
        nest.forgetting.forget(name)


def test_old_rows_are_dropped_and_counted_once_no_file_is_of_them(nest: Nest):
    names = [nest.store_chunk(at) for at in range(6)]
    for at, model in enumerate(("one", "two", "three", "four")):
        nest.learn(model, passes=at != 1)
    nest.queue.leave_out("garbled", "damaged")
    before, rows = nest.counts(), nest.row_count()
    nest.clock.advance(100 * DAY_S * S)
    nest.store_chunk(9)
    before["jobs"]["pending"] += 1
    before["chunks"]["queued"] += 1
    assert nest.forgetting.forget_old_rows(90 * DAY_S) == 1  # the garbled one: of all others there are files
    for name in names[:5]:
        nest.store.path_of(name).unlink()
    for model in ("one", "two"):
        nest.models.forget_files(model)
    assert nest.forgetting.forget_old_rows(90 * DAY_S) == 2  # of three and four the models stand, and five waits
    assert nest.forgetting.forget_old_rows(90 * DAY_S) == 0
    assert nest.counts() == before
    assert nest.row_count() == rows - 1 - 7 + 2
    assert nest.models.promoted().id == "four"
    assert nest.forgetting.forget_old_rows(1000 * DAY_S) == 0
