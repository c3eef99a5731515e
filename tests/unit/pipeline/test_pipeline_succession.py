"""Which job is next, and from what: the first seed is of the oldest chunk, another one of the newest."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsstream.clock import ManualClock
from nsstream.encode.schema import SCHEMA_ID
from nsstream.model.identity import identity_of
from nsstream.model.schemas import FORMAT
from nsstream.pipeline import succession as succession_module
from nsstream.pipeline.capture_seed import CaptureSeed
from nsstream.pipeline.ledger import Ledger
from nsstream.pipeline.model_records import DRIFTS, ModelRecords
from nsstream.pipeline.promoter import Promoter
from nsstream.pipeline.service_config import GateSection, TrainingSection
from nsstream.pipeline.succession import Succession
from nsstream.pipeline.trainer_parts import Counters, Settings
from nsstream.pipeline.training_queue import SeenChunk, TrainingQueue

S = 10**9
BOUND = 1.5


class Nest:
    """A succession over a ledger of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock, self.ledger = folder, ManualClock(10**18), Ledger(folder / "ledger.sqlite")
        self.queue, self.models = TrainingQueue(self.ledger, self.clock), ModelRecords(self.ledger, self.clock)
        self.succession = Succession(
            self.ledger, self.queue, self.models, Promoter(folder / "models", self.models),
            CaptureSeed(folder, (), self.clock),
            Settings(TrainingSection(start_from="newest"), GateSection(reseed_drift=BOUND)), Counters(),
        )  # fmt: skip

    def see(self, *numbers: int) -> None:
        for at in numbers:
            chunk = SeenChunk(f"c{at}", f"digest-{at}", at * 60 * S, (at + 1) * 60 * S, "packets", 1000, 100)
            self.queue.see(chunk, fewest=50, most_waiting=4)

    def learn(self, at: int, drift: float) -> Path:
        """Have a chunk learned; gives the model's folder."""
        self.see(at)
        job = self.queue.claim()
        assert job is not None
        self.clock.advance(S)
        facts = {"chunk": f"c{at}"}
        place = self.folder / "models" / identity_of(b"weights", b"{}", facts)
        place.mkdir(parents=True)
        (place / "weights.safetensors").write_bytes(b"weights")
        (place / "codec.json").write_bytes(b"{}")
        manifest = facts | {"id": place.name, "format": FORMAT, "schema": SCHEMA_ID}
        (place / "manifest.json").write_text(json.dumps(manifest))
        self.models.settle(job, place.name, parent="p", training_s=1.0, complaints=(), figures={"drift": drift})
        return place


@pytest.fixture
def nest(tmp_path: Path) -> Iterator[Nest]:
    made = Nest(tmp_path)
    yield made
    made.ledger.close()


def test_the_first_seed_is_of_the_oldest_chunk_and_trained_alone(nest: Nest):
    nest.see(1, 2)
    job, parent = nest.succession.claim()
    assert (job.chunk_ids, parent) == (("c1",), None)
    assert nest.succession.claim() is None
    nest.succession.end_seeding()
    assert nest.succession.claim()[0].chunk_ids == ("c2",)


def test_another_seed_is_of_the_newest_chunk_and_told_of_with_its_job_alone(
    nest: Nest, caplog: pytest.LogCaptureFixture
):
    for at in range(DRIFTS):
        nest.learn(5 + at, 2 * BOUND)
    with caplog.at_level("WARNING", logger="nsstream.pipeline.succession"):
        for _ in range(3):  # as lanes ask that have nothing to do
            assert nest.succession.claim() is None
        assert caplog.records == []
        nest.see(1, 9)  # one that waited while later ones were learned, and one that is new
        job, parent = nest.succession.claim()
    assert (job.chunk_ids, parent) == (("c9",), None)
    assert [record.getMessage() for record in caplog.records] == [f"reseeding drift_above={BOUND:g}"]


def test_a_damaged_model_is_noticed_while_nothing_is_to_be_learned(nest: Nest, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(succession_module, "CHECK_EVERY_S", 0.0)
    first, second = nest.learn(1, 1.0), nest.learn(2, 1.0)
    assert nest.succession.claim() is None
    assert nest.models.promoted().id == second.name
    (second / "weights.safetensors").write_bytes(b"w")
    assert nest.succession.claim() is None
    assert nest.models.promoted().id == first.name
    assert not second.exists()
