"""The training queue: each chunk is learned once, the newest first, and nothing is left out without a name."""

import multiprocessing
import os
import random
import signal
import sqlite3
import threading
import time
from pathlib import Path

import pytest

from nsstream.clock import ManualClock
from nsstream.errors import OutputError, StateError
from nsstream.pipeline import ledger as ledger_module
from nsstream.pipeline.ledger import Ledger, set_setting
from nsstream.pipeline.ledger_schema import MIGRATIONS
from nsstream.pipeline.model_records import ModelRecords
from nsstream.pipeline.training_queue import MOST_INTERRUPTIONS, Job, SeenChunk, TrainingQueue

S = 10**9


def chunk(at: int, conversations: int = 100, *, kind: str = "packets") -> SeenChunk:
    return SeenChunk(f"chunk-{at:06d}", f"digest-{at}", at * 60 * S, (at + 1) * 60 * S, kind, 1000, conversations)


class Nest:
    """A queue over a ledger, which can be opened again as by another process."""

    def __init__(self, path: Path) -> None:
        self.clock = ManualClock(10**18)
        self.path = path
        self.ledger = Ledger(path)
        self.queue = TrainingQueue(self.ledger, self.clock)
        self.models = ModelRecords(self.ledger, self.clock)

    def again(self) -> "Nest":
        self.ledger.close()
        return Nest(self.path)

    def see(self, *chunks: SeenChunk, fewest: int = 50, most_waiting: int = 4) -> None:
        for each in chunks:
            self.queue.see(each, fewest=fewest, most_waiting=most_waiting)

    def claim(self) -> Job:
        job = self.queue.claim()
        assert job is not None
        return job

    def fail(self, job: Job) -> str:
        return self.queue.fail(job, "it was killed", attempts=3, backoff_s=10.0)

    def settle(self, job: Job, model: str, *, parent: str | None = "p", complaints: tuple[str, ...] = ()) -> bool:
        self.clock.advance(S)
        return self.models.settle(job, model, parent=parent, training_s=1.0, complaints=complaints, figures={"a": 1})

    def learn(self, at: int, model: str, **told: object) -> bool:
        self.see(chunk(at))
        return self.settle(self.claim(), model, **told)  # type: ignore[arg-type]


@pytest.fixture
def nest(tmp_path: Path):
    made = Nest(tmp_path / "ledger.sqlite")
    yield made
    made.ledger.close()


def test_the_newest_is_claimed_first_and_each_only_once(nest: Nest):
    nest.see(chunk(1), chunk(2), chunk(3))
    assert [nest.claim().chunk_ids for _ in range(3)] == [("chunk-000003",), ("chunk-000002",), ("chunk-000001",)]
    assert nest.queue.claim() is None


def test_who_claims_is_told_how_long_it_waited(nest: Nest):
    nest.see(chunk(1))
    nest.clock.advance(20 * S)
    nest.see(chunk(2))
    assert [nest.claim().waited_s for _ in range(2)] == pytest.approx([0.0, 20.0])


def test_the_oldest_is_claimed_first_where_that_is_asked_for(nest: Nest):
    nest.see(chunk(1), chunk(2))
    assert nest.queue.claim(oldest=True).chunk_ids == ("chunk-000001",)


def test_a_chunk_that_is_seen_again_changes_nothing(nest: Nest):
    nest.see(chunk(1), chunk(1))
    nest.settle(nest.claim(), "m")
    nest.see(chunk(1))
    assert nest.queue.claim() is None
    assert nest.queue.counts()["done"] == 1
    assert nest.queue.unseen(["chunk-000001", "chunk-000002"]) == ["chunk-000002"]


def test_what_is_beyond_is_skipped_the_oldest_first_and_counted(nest: Nest):
    nest.see(*(chunk(at) for at in range(1, 8)), most_waiting=3)
    assert nest.queue.counts() == {
        "pending": 3, "claimed": 0, "running": 0, "done": 0, "failed": 0, "poisoned": 0, "skipped": 4
    }  # fmt: skip
    assert nest.queue.chunk_counts() == {"queued": 3, "skipped_behind": 4}
    assert nest.claim().start_ns == 7 * 60 * S


def test_what_is_claimed_is_never_skipped(nest: Nest):
    nest.see(chunk(1))
    job = nest.claim()
    nest.see(chunk(2), chunk(3), most_waiting=1)
    nest.queue.run(job)
    assert nest.queue.counts()["running"] == 1
    assert nest.queue.counts()["skipped"] == 1


def test_a_small_chunk_is_learned_with_the_next(nest: Nest):
    nest.see(chunk(1, 10), chunk(2, 20))
    assert nest.queue.claim() is None
    assert nest.queue.chunk_counts() == {"held": 2}
    nest.see(chunk(3, 30))
    job = nest.claim()
    assert job.chunk_ids == ("chunk-000001", "chunk-000002", "chunk-000003")
    assert (job.start_ns, job.end_ns, job.conversations) == (60 * S, 240 * S, 60)
    assert nest.queue.claim() is None


def test_a_small_chunk_that_stands_alone_is_skipped(nest: Nest):
    nest.see(chunk(1, 10), chunk(9))
    assert nest.claim().chunk_ids == ("chunk-000009",)
    assert nest.queue.chunk_counts() == {"queued": 1, "skipped_too_small": 1}


def test_packets_and_flows_are_not_learned_together(nest: Nest):
    nest.see(chunk(1, 10), chunk(2, 100, kind="flows"))
    assert nest.claim().chunk_ids == ("chunk-000002",)


def test_small_chunks_in_a_row_are_near_each_other_however_many_they_are(nest: Nest):
    nest.see(*(chunk(at, 5) for at in range(1, 11)))
    assert len(nest.claim().chunk_ids) == 10


def test_a_failed_job_waits_longer_each_time_and_is_poisoned_in_the_end(nest: Nest):
    nest.see(chunk(1))
    assert nest.fail(nest.claim()) == "failed"
    assert nest.queue.claim() is None
    nest.clock.advance(10 * S)
    assert nest.fail(nest.claim()) == "failed"
    nest.clock.advance(19 * S)
    assert nest.queue.claim() is None
    nest.clock.advance(1 * S)
    assert nest.fail(nest.claim()) == "poisoned"
    nest.clock.advance(10**6 * S)
    assert nest.queue.claim() is None
    assert nest.queue.is_drained()
    assert nest.ledger.rows("SELECT reason FROM job")[0]["reason"] == "it was killed"


def test_claims_of_a_dead_process_are_taken_back(nest: Nest):
    nest.see(chunk(1), chunk(2))
    nest.queue.run(nest.claim())
    nest.claim()
    nest = nest.again()
    assert nest.queue.claim() is None
    assert nest.queue.take_back_claims() == 2
    assert nest.claim().attempts == 0
    assert nest.ledger.rows("SELECT SUM(interruptions) FROM job")[0][0] == 1  # of the one that ran
    nest.ledger.close()


def test_a_job_that_was_running_at_each_of_many_deaths_is_poisoned(nest: Nest):
    nest.see(chunk(1))
    for _ in range(MOST_INTERRUPTIONS - 1):
        nest.queue.run(nest.claim())
        assert nest.queue.take_back_claims() == 1
    nest.queue.run(nest.claim())
    assert nest.queue.take_back_claims() == 0
    assert nest.queue.counts()["poisoned"] == 1


def test_a_checkpoint_that_was_trained_is_known_after_a_death(nest: Nest):
    nest.see(chunk(1))
    nest.queue.trained(nest.claim(), "abc")
    nest = nest.again()
    nest.queue.take_back_claims()
    assert nest.claim().candidate == "abc"
    nest.ledger.close()


def test_a_job_given_back_did_not_fail(nest: Nest):
    nest.see(chunk(1))
    nest.queue.give_back(nest.claim())
    assert nest.claim().attempts == 0


def test_a_job_given_back_for_a_while_is_not_claimed_before(nest: Nest):
    nest.see(chunk(1))
    nest.queue.give_back(nest.claim(), wait_s=10.0)
    assert nest.queue.claim() is None
    nest.clock.advance(10 * S)
    assert nest.claim().attempts == 0


def test_a_job_whose_machine_is_lost_waits_longer_each_time_and_is_poisoned_in_the_end(nest: Nest):
    nest.see(chunk(1))
    for times in range(MOST_INTERRUPTIONS - 1):
        assert nest.queue.interrupt(nest.claim(), "the node died", backoff_s=10.0) == "pending"
        if times:
            assert nest.queue.claim() is None
        nest.clock.advance(times * 10 * S)
    job = nest.claim()
    assert job.attempts == 0
    assert nest.queue.interrupt(job, "the node died", backoff_s=10.0) == "poisoned"
    assert nest.queue.claim() is None
    assert nest.queue.counts()["poisoned"] == 1


def test_a_job_that_is_settled_can_neither_fail_nor_be_given_back(nest: Nest):
    nest.see(chunk(1))
    job = nest.claim()
    nest.settle(job, "m")
    nest.fail(job)
    nest.queue.give_back(job)
    nest.queue.interrupt(job, "the node died", backoff_s=0.0)
    assert nest.queue.counts()["done"] == 1
    assert nest.queue.claim() is None


def test_an_expired_chunk_is_skipped_by_name(nest: Nest):
    nest.see(chunk(1))
    nest.queue.skip(nest.claim(), "expired")
    assert nest.queue.chunk_counts() == {"skipped_expired": 1}


def test_what_passed_is_promoted_unless_a_later_chunk_is(nest: Nest):
    assert nest.learn(5, "five")
    assert not nest.learn(3, "three")
    assert nest.models.promoted().id == "five"
    assert nest.learn(6, "six")
    assert nest.models.promoted().id == "six"
    assert nest.models.counts() == {"passed": 3, "refused": 0, "promotions": 2}


def test_a_model_of_a_time_to_come_gives_way_once_the_clock_was_set_back(nest: Nest):
    nest.clock.advance(10_000 * S)
    nest.learn((10**9 + 10_000) // 60 - 1, "before")
    nest.clock._now_ns -= 3600 * S
    assert nest.learn((10**9 + 6_500) // 60 - 1, "after")
    assert nest.models.promoted().id == "after"


def test_models_stay_in_the_order_of_their_training_where_the_clock_was_set_back(nest: Nest):
    nest.clock.advance(10_000 * S)
    nest.learn(1, "one", parent=None)
    nest.clock._now_ns -= 3600 * S
    assert not nest.learn(2, "two", complaints=("worse",))
    assert not nest.learn(3, "three", complaints=("worse",))
    assert [model.id for model in nest.models.newest()] == ["three", "two", "one"]
    assert nest.models.failures_in_a_row() == 2
    assert nest.models.surplus(2) == []  # the oldest is the seed, and promoted


def test_a_job_that_failed_before_the_clock_was_set_back_does_not_wait_for_it(nest: Nest):
    nest.clock.advance(10_000 * S)
    nest.see(chunk(1))
    assert nest.fail(nest.claim()) == "failed"
    assert nest.queue.claim() is None
    nest.clock._now_ns -= 3600 * S
    assert nest.claim().attempts == 1


def test_a_job_that_was_given_back_before_the_clock_was_set_back_does_not_wait_for_it(nest: Nest):
    nest.clock.advance(10_000 * S)
    nest.see(chunk(1))
    nest.queue.give_back(nest.claim(), wait_s=10.0)
    assert not nest.queue.is_due()
    nest.clock._now_ns -= 3600 * S
    assert nest.queue.is_due()
    assert nest.claim().attempts == 0


def test_what_did_not_pass_leaves_the_last_good_one(nest: Nest):
    nest.learn(1, "one", parent=None)
    assert not nest.learn(2, "two", complaints=("worse than its parent",))
    assert nest.models.promoted().id == "one"
    assert nest.models.failures_in_a_row() == 1
    assert nest.models.newest()[0].complaints == ("worse than its parent",)
    assert nest.models.seed().id == "one"
    nest.learn(3, "three")
    assert nest.models.failures_in_a_row() == 0


def test_an_operators_promotion_holds_until_it_is_released(nest: Nest):
    nest.learn(1, "one")
    nest.learn(2, "two")
    nest.models.promote("one")
    assert not nest.learn(3, "three")
    assert nest.models.is_held
    assert nest.models.promoted().id == "one"
    assert nest.models.release().id == "three"
    assert nest.models.promoted().id == "three"
    assert not nest.models.is_held
    with pytest.raises(StateError, match="there is no stored model 'nine'"):
        nest.models.promote("nine")


def test_surplus_models_are_the_oldest_but_never_the_seed_or_what_is_promoted(nest: Nest):
    nest.learn(1, "seed", parent=None)
    for at in range(2, 7):
        nest.learn(at, f"m{at}")
    nest.models.promote("m2")
    assert sorted(nest.models.surplus(1)) == ["m3", "m4", "m5"]
    nest.models.forget_files("m3")
    assert sorted(nest.models.surplus(1)) == ["m4", "m5"]
    with pytest.raises(StateError):
        nest.models.promote("m3")


def test_threads_claim_each_job_once(nest: Nest):
    nest.see(*(chunk(at) for at in range(40)), most_waiting=100)
    claimed: list[int] = []

    def work() -> None:
        while (job := nest.queue.claim()) is not None:
            claimed.append(job.id)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == list(range(1, 41))


def test_a_change_that_fails_halfway_changes_nothing(nest: Nest):
    def half() -> None:
        with nest.ledger.transaction() as db:
            set_setting(db, "a", "1")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half()
    assert nest.ledger.setting("a") is None


def test_a_ledger_of_a_newer_nsstream_is_refused_by_name(tmp_path: Path):
    path = tmp_path / "l.sqlite"
    Ledger(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StateError, match=f"has schema 99, of a newer nsstream; this one knows up to {len(MIGRATIONS)}"):
        Ledger(path)


def test_a_ledger_goes_through_the_steps_that_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "l.sqlite"
    first = Nest(path)
    first.see(chunk(1))
    first.ledger.close()
    step = "ALTER TABLE job ADD COLUMN note TEXT; UPDATE job SET note = 'x'"
    monkeypatch.setattr(ledger_module, "MIGRATIONS", (*MIGRATIONS, step))
    later = Ledger(path)
    assert later.rows("SELECT note, start_ns FROM job")[0]["note"] == "x"
    assert later.rows("PRAGMA user_version")[0][0] == len(MIGRATIONS) + 1
    later.close()
    monkeypatch.setattr(ledger_module, "MIGRATIONS", (*MIGRATIONS, step, "CREATE TABLE b (c); CREATE TABLE b (c)"))
    with pytest.raises(OutputError):
        Ledger(path)
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone()[0] == len(MIGRATIONS) + 1
        assert not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'b'").fetchall()
    connection.close()


def test_what_is_no_ledger_is_told(tmp_path: Path):
    (tmp_path / "l.sqlite").write_bytes(b"this is no ledger" * 100)
    with pytest.raises(StateError, match="is no ledger, or damaged"):
        Ledger(tmp_path / "l.sqlite")
    with pytest.raises(OutputError, match="cannot be used now"):
        Ledger(tmp_path / "missing" / "l.sqlite")


def test_a_ledger_that_another_process_locks_is_an_output_error(nest: Nest):
    nest.ledger.rows("PRAGMA busy_timeout = 50")
    other = sqlite3.connect(nest.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(OutputError, match="locked"):
        nest.see(chunk(1))
    other.execute("COMMIT")
    other.close()
    nest.see(chunk(1))
    assert nest.claim().chunk_ids == ("chunk-000001",)


def churn(path: str, first: int) -> None:
    """See, claim, run, settle and fail until killed."""
    nest, chance = Nest(Path(path)), random.Random(first)
    nest.queue.take_back_claims()
    for at in range(first, first + 10_000):
        nest.see(chunk(at, chance.choice([10, 100])), most_waiting=3)
        while (job := nest.queue.claim()) is not None:
            nest.queue.run(job)
            if chance.random() < 0.3:
                nest.fail(job)
            else:
                nest.queue.trained(job, f"m-{job.digest}")
                nest.settle(job, f"m-{job.digest}")


def test_a_ledger_survives_kill_minus_nine_with_each_job_done_once(tmp_path: Path):
    path, chance = tmp_path / "ledger.sqlite", random.Random(1)
    spawn = multiprocessing.get_context("spawn")
    for run in range(5):
        process = spawn.Process(target=churn, args=(str(path), run * 10_000))
        process.start()
        deadline = time.monotonic() + 300
        before = done(path)
        while done(path) < before + chance.randint(1, 30):
            assert time.monotonic() < deadline
            assert process.is_alive()
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join(30)
    nest = Nest(path)
    assert nest.ledger.rows("PRAGMA integrity_check")[0][0] == "ok"
    nest.queue.take_back_claims()
    counts = nest.queue.counts()
    assert counts["claimed"] == counts["running"] == 0
    assert counts["done"] == nest.ledger.rows("SELECT COUNT(*) FROM model")[0][0]
    lost = "SELECT COUNT(*) FROM chunk WHERE (fate = 'queued' AND job IS NULL) OR (fate = 'held' AND job IS NOT NULL)"
    assert nest.ledger.rows(lost)[0][0] == 0
    undone = "SELECT COUNT(*) FROM job WHERE state = 'done' AND id NOT IN (SELECT job FROM model)"
    assert nest.ledger.rows(undone)[0][0] == 0
    nest.ledger.close()


def done(path: Path) -> int:
    """Jobs that are done, as another process sees it."""
    if not path.exists():
        return 0
    connection = sqlite3.connect(path, timeout=300)
    try:
        return int(connection.execute("SELECT COUNT(*) FROM job WHERE state = 'done'").fetchone()[0])
    except sqlite3.OperationalError:  # its schema is not there yet
        return 0
    finally:
        connection.close()
