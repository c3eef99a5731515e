"""What private jobs spend: reserved before, never forgotten, refused by name; and a day of it, with kills."""

import json
import os
import random
import signal
import sqlite3
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nsstream.clock import ManualClock
from nsstream.encode.flow_schema import FLOW_SCHEMA_ID
from nsstream.errors import TrainError
from nsstream.pipeline.ledger import Ledger
from nsstream.pipeline.privacy_config import PrivacySection
from nsstream.pipeline.privacy_ledger import (
    OTHER_UNIT,
    OVER_CHUNK,
    OVER_FOR_EVER,
    OVER_HORIZON,
    UNKNOWN,
    PrivacyLedger,
    SpendingRefusedError,
    open_gap,
)
from nsstream.pipeline.private_jobs import PrivateJobs, terms_of
from nsstream.pipeline.private_training import ATTEMPTS, PARENT, UNSUPPORTED, PrivatePlan
from nsstream.pipeline.service_config import TrainingSection
from nsstream.pipeline.training_queue import Job, SeenChunk, TrainingQueue
from nsstream.privacy import DiscreteGaussian, SampledGaussian, as_dicts, epsilon, from_dicts

S = 10**9
HOUR = 3600 * S
DELTA = 1e-5
JOB = (SampledGaussian(3.0, 0.05, 100), DiscreteGaussian(60.0))
SECTION = PrivacySection(mode="private", epsilon=2.5, chunk_epsilon=2.0, horizon_s=86_400.0)


def job(at: int, *, digest: str | None = None) -> Job:
    return Job(at + 1, digest or f"digest-{at}", at * HOUR, (at + 1) * HOUR, 100, 0, (f"chunk-{at}",), None)


def planner(*_: object) -> PrivatePlan:
    return PrivatePlan(JOB, {"noise_multiplier": 3.0})


class Nest:
    """A privacy ledger in a file, which can be opened again as by another process."""

    def __init__(self, folder: Path, section: PrivacySection = SECTION, now: int = 24) -> None:
        self.folder, self.clock = folder, ManualClock(now * HOUR)
        self.open(section)

    def open(self, section: PrivacySection) -> None:
        self.ledger = Ledger(self.folder / "ledger.sqlite")
        self.spending = PrivacyLedger(self.ledger, self.clock, terms_of(section))

    def again(self, section: PrivacySection = SECTION) -> None:
        self.ledger.close()
        self.open(section)

    def refused(self, of: Job, mechanisms: Any = JOB) -> str:
        with pytest.raises(SpendingRefusedError) as caught:
            self.spending.reserve(of, mechanisms)
        return caught.value.reason


@pytest.fixture
def nest(tmp_path: Path):
    nest = Nest(tmp_path)
    yield nest
    nest.ledger.close()


def test_what_is_reserved_counts_before_anything_is_done_and_after_a_restart(nest: Nest) -> None:
    nest.spending.reserve(job(0), JOB)
    assert nest.spending.status()["spent"] == pytest.approx(epsilon(JOB, DELTA))
    nest.again()
    assert nest.spending.status()["spent"] == pytest.approx(epsilon(JOB, DELTA))
    assert nest.spending.status()["unsettled"] == 1


def test_an_attempt_whose_worker_began_has_cost_what_it_reserved_and_the_next_reserves_anew(nest: Nest) -> None:
    first = nest.spending.reserve(job(0), JOB)
    assert nest.spending.reserve(job(0), JOB).id == first.id  # no worker began
    nest.spending.begin(first)
    second = nest.spending.reserve(job(0), JOB)
    assert second.id != first.id
    nest.spending.begin(second)
    nest.spending.never_began(second)  # there was no machine
    assert nest.spending.reserve(job(0), JOB).id == second.id
    assert nest.spending.reserve(job(0), (*JOB, JOB[1])).id not in (first.id, second.id)  # not the same
    assert nest.spending.status()["jobs"] == 3


def test_what_a_job_did_replaces_what_it_might_have_done_once_and_only_if_it_is_part_of_it(nest: Nest) -> None:
    less = (replace(JOB[0], steps=40), JOB[1])
    for at, (told, counted) in enumerate([(less, less), (JOB, JOB), ((replace(JOB[0], steps=101),), JOB), ((), ())]):
        reservation = nest.spending.reserve(job(at), JOB)
        nest.spending.begin(reservation)
        nest.spending.settle(reservation, told, f"model-{at}")
        nest.spending.settle(reservation, (), "again")
        nest.spending.never_began(reservation)
        assert set(nest.spending.costs()[at].mechanisms) == set(counted)
    assert [row["model"] for row in nest.spending.newest(9)] == ["model-3", "model-2", "model-1", "model-0"]
    assert nest.spending.left_open(job(0)) is None


def test_what_would_overspend_is_refused_by_name_and_reserves_nothing(nest: Nest) -> None:
    assert nest.refused(job(0), (SampledGaussian(0.8, 0.5, 100),)) == OVER_CHUNK
    at = 0
    while epsilon(JOB * (at + 1), DELTA) <= SECTION.epsilon and at < 24:
        nest.spending.reserve(job(at), JOB)
        at += 1
    assert 5 < at < 24
    assert nest.refused(job(at)) == OVER_HORIZON
    assert nest.refused(job(at + 1)) == OVER_HORIZON
    assert len(nest.spending.costs()) == at
    assert nest.spending.status()["refused"] == {OVER_CHUNK: 1, OVER_HORIZON: 2}
    nest.spending.reserve(job(at + 24), JOB)  # by then the first have left every window that it is in
    assert nest.refused(job(at + 1)) == OVER_HORIZON  # what is learned late is in windows with both
    assert nest.spending.status()["runs_out_s"] is not None


def test_the_budget_for_ever_is_another_one(tmp_path: Path) -> None:
    nest = Nest(tmp_path, PrivacySection(
        mode="private", epsilon=3.0, epsilon_for_ever=3.0, chunk_epsilon=2.0, horizon_s=3600.0
    ))  # fmt: skip
    done = 0
    while epsilon(JOB * (done + 1), DELTA) <= 3.0:
        nest.spending.reserve(job(10 * done), JOB)
        done += 1
    assert nest.refused(job(10 * done)) == OVER_FOR_EVER
    told = nest.spending.status()
    assert told["spent_for_ever"] + told["left_for_ever"] == pytest.approx(3.0)
    assert told["spent"] < told["spent_for_ever"]
    nest.ledger.close()


def test_spending_that_is_not_known_refuses_every_window_that_touches_it(nest: Nest) -> None:
    with nest.ledger.transaction() as db:
        open_gap(db, 10 * HOUR, 11 * HOUR, "restored")
    assert nest.refused(job(12)) == UNKNOWN
    assert nest.refused(job(33)) == UNKNOWN
    assert nest.spending.status()["unknown"]
    assert nest.spending.status()["left"] == 0
    nest.spending.reserve(job(34), JOB)  # a horizon later
    ever = SECTION.model_copy(update={"epsilon_for_ever": 100.0})
    nest.again(ever)
    assert nest.refused(job(90)) == UNKNOWN


def test_a_promise_to_another_unit_is_not_counted_as_this_one(nest: Nest) -> None:
    nest.spending.reserve(job(0), JOB)
    nest.again(SECTION.model_copy(update={"unit": "flow"}))
    assert nest.refused(job(1)) == OTHER_UNIT
    nest.spending.reserve(job(25), JOB)


def test_two_threads_do_not_find_the_same_room(nest: Nest) -> None:
    most = 0
    while epsilon(JOB * (most + 1), DELTA) <= SECTION.epsilon:
        most += 1
    told: list[str] = []

    def reserve(at: int) -> None:
        try:
            nest.spending.reserve(job(at), JOB)
        except SpendingRefusedError as err:
            told.append(err.reason)

    threads = [threading.Thread(target=reserve, args=(at,)) for at in range(most + 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told == [OVER_HORIZON] * 3
    assert len(nest.spending.costs()) == most


def private(nest: Nest, section: PrivacySection = SECTION, **told: Any) -> PrivateJobs:
    return PrivateJobs(section, nest.ledger, nest.clock, **told)


def test_nothing_is_learned_in_private_mode_without_a_public_model(nest: Nest) -> None:
    with pytest.raises(SpendingRefusedError, match="goes on from a public model") as caught:
        private(nest).reserve(job(0), None, TrainingSection())
    assert caught.value.reason == UNSUPPORTED
    assert private(nest).status()["refused"] == {UNSUPPORTED: 1}


def test_other_modes_reserve_nothing(nest: Nest) -> None:
    jobs = private(nest, SECTION.model_copy(update={"mode": "remapped"}), planner=planner)
    assert jobs.reserve(job(0), None, TrainingSection()) is None
    assert jobs.status()["jobs"] == 0


def test_a_parent_that_was_learned_openly_is_refused(nest: Nest) -> None:
    jobs, parent = private(nest, planner=planner), nest.folder / "parent"
    parent.mkdir()
    (parent / "manifest.json").write_text("{}")
    with pytest.raises(SpendingRefusedError) as caught:
        jobs.reserve(job(0), parent, TrainingSection())
    assert caught.value.reason == PARENT
    assert (
        jobs.reserve(job(0), parent, TrainingSection(seed_model=parent)) is not None
    )  # the operator says it is public
    (parent / "manifest.json").write_text(json.dumps({"privacy": {"mechanisms": as_dicts(JOB)}}))
    assert jobs.reserve(job(0), parent, TrainingSection()) is not None


@pytest.mark.parametrize(("schema", "refused"), [("packets-1", True), (FLOW_SCHEMA_ID, False)])
def test_jobs_of_flow_records_go_on_from_models_of_flow_records_alone(nest: Nest, schema: str, refused: bool) -> None:
    queue, parent = TrainingQueue(nest.ledger, nest.clock), nest.folder / "parent"
    queue.see(SeenChunk("flows", "digest", 0, HOUR, "flows", 1000, 100), fewest=50, most_waiting=9)
    parent.mkdir()
    (parent / "manifest.json").write_text(json.dumps({"schema": schema}))
    claimed, public = queue.claim(), TrainingSection(seed_model=parent)
    assert claimed is not None
    if not refused:
        assert private(nest, planner=planner).reserve(claimed, parent, public) is not None
        return
    with pytest.raises(SpendingRefusedError, match="model of packets, and the chunk is of flow records") as caught:
        private(nest, planner=planner).reserve(claimed, parent, public)
    assert caught.value.reason == UNSUPPORTED
    assert nest.spending.status()["jobs"] == 0


def test_another_bound_of_units_is_another_reservation(nest: Nest) -> None:
    first = nest.spending.reserve(job(0), JOB)
    nest.again(bounded := SECTION.model_copy(update={"most_chunks_of_a_unit": 2}))
    second = nest.spending.reserve(job(0), JOB)
    assert second.id != first.id  # its units will be let in otherwise
    assert nest.spending.reserve(job(0), JOB).id == second.id
    assert [cost.most_chunks for cost in nest.spending.costs()].count(2) == 1
    nest.again(bounded.model_copy(update={"horizon_s": 2 * SECTION.horizon_s}))
    assert [cost.most_chunks for cost in nest.spending.costs()] == [None, None]  # of a longer time nothing is known
    nest.again(bounded.model_copy(update={"horizon_s": SECTION.horizon_s / 2}))
    assert [cost.most_chunks for cost in nest.spending.costs()].count(2) == 1


@pytest.mark.parametrize("attempts", [1, 3])
def test_each_worker_that_begins_is_an_attempt_and_there_are_so_many(
    nest: Nest, caplog: pytest.LogCaptureFixture, attempts: int
) -> None:
    jobs = private(nest, SECTION.model_copy(update={"attempts": attempts}), planner=planner)
    for attempt in range(1, attempts + 1):
        assert jobs.may_spend_again(job(0))
        reserved = jobs.reserve(job(0), None, TrainingSection())
        assert reserved is not None
        assert reserved.attempt == attempt
        again = jobs.reserve(job(0), None, TrainingSection())  # no worker began: it is the same attempt
        assert again is not None
        assert again.reservation.id == reserved.reservation.id
        nest.clock.advance(S)
        jobs.ledger.begin(reserved.reservation)
    assert not jobs.may_spend_again(job(0))
    with pytest.raises(SpendingRefusedError, match="each has spent") as caught:
        jobs.reserve(job(0), None, TrainingSection())
    assert caught.value.reason == ATTEMPTS
    assert jobs.may_spend_again(job(1))
    assert [row["attempt"] for row in jobs.ledger.newest(9)] == list(range(attempts, 0, -1))
    told = [record.getMessage() for record in caplog.records if "job_spends_again" in record.getMessage()]
    assert [line.partition("attempt=")[2].split()[0] for line in told[::2]] == [
        str(at) for at in range(2, attempts + 1)
    ]
    assert private(nest, SECTION.model_copy(update={"mode": "remapped"})).may_spend_again(job(0))


def test_what_was_paid_for_is_judged_again_and_nothing_else_is(nest: Nest) -> None:
    jobs, candidate = private(nest, planner=planner), nest.folder / "candidate"
    assert jobs.paid_for(None) is None
    assert jobs.paid_for(candidate) is None
    candidate.mkdir()
    for told, is_paid in (
        ("{}", False),
        ("no json", False),
        (json.dumps({"privacy": {"mechanisms": as_dicts(JOB)}}), True),
    ):
        (candidate / "manifest.json").write_text(told)
        assert (jobs.paid_for(candidate) == candidate) == is_paid
    assert private(nest, SECTION.model_copy(update={"mode": "remapped"})).paid_for(candidate) is None


def test_a_checkpoint_that_does_not_say_what_it_did_is_not_gone_on_with(nest: Nest) -> None:
    jobs, candidate = private(nest, planner=planner), nest.folder / "candidate"
    candidate.mkdir()
    (candidate / "manifest.json").write_text(json.dumps({"privacy": {"mechanisms": [{"kind": "hope"}]}}))
    assert not jobs.accepts(candidate)
    with pytest.raises(TrainError, match="does not say"):
        jobs.settle(job(0), candidate)


# --- a day ------------------------------------------------------------------------------------------------------------

CHUNK_NS = 600 * S
DAY = PrivacySection(
    mode="private", epsilon=2.7, chunk_epsilon=1.0, horizon_s=6 * 3600.0, most_chunks_of_a_unit=12, attempts=100
)  # fmt: skip
HOSTS = 60


def hosts_of(at: int) -> list[int]:
    """Who is there in a chunk: some always, most come and go, some once."""
    chance = random.Random(at)
    return [host for host in range(HOSTS) if host < 5 or chance.random() < 0.3] + [1000 + at]


class Killed(BaseException):
    """Never raised: the child kills itself."""


def live(folder: Path, life: int) -> None:
    """One life of a daemon: goes on with the day where it stands, and is killed at a moment of chance, or ends it.

    What reads traffic says so in the file `touched`, on the disk, before it does; a checkpoint is a manifest.
    """
    chance = random.Random(1000 + life)
    deadly = chance.randrange(4, 60)

    def step() -> None:
        nonlocal deadly
        deadly -= 1
        if deadly == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    clock = ManualClock()
    ledger = Ledger(folder / "ledger.sqlite")
    queue = TrainingQueue(ledger, clock)
    jobs = PrivateJobs(DAY, ledger, clock, lambda *_: PrivatePlan(JOB, {}))
    queue.take_back_claims()
    for at in range(24 * 6):
        clock.advance(CHUNK_NS)
        seen = SeenChunk(f"c{at:03d}", f"d{at:03d}", at * CHUNK_NS, (at + 1) * CHUNK_NS, "packets", 1000, 100)
        if queue.unseen([seen.id]):
            queue.see(seen, fewest=50, most_waiting=1000)
        while (claimed := queue.claim(oldest=at % 3 == 0)) is not None:
            work(folder, queue, jobs, claimed, step)
    ledger.close()
    (folder / "ended").touch()


def work(folder: Path, queue: TrainingQueue, jobs: PrivateJobs, claimed: Job, step: Any) -> None:
    """What the scheduler does with a job, in its order (`Scheduler._do`)."""
    candidate = folder / f"candidate-{claimed.id}"
    if not (candidate / "manifest.json").exists():
        try:
            reserved = jobs.reserve(claimed, None, TrainingSection())
        except SpendingRefusedError as err:
            queue.skip(claimed, err.reason)
            return
        assert reserved is not None
        step()
        queue.run(claimed)
        units = np.array(hosts_of(int(claimed.digest[1:])), np.uint64)
        admitted = units[jobs.ledger.uses.admit(claimed, units)].tolist()
        step()
        jobs.ledger.begin(reserved.reservation)
        step()
        steps = 50 + claimed.id % 51  # it may stop early
        done = (replace(JOB[0], steps=steps), JOB[1])
        with (folder / "touched").open("a") as file:
            told = {"digest": claimed.digest, "hosts": admitted, "did": as_dicts(done)}
            file.write(json.dumps(told) + "\n")
            file.flush()
            os.fsync(file.fileno())
        step()
        candidate.mkdir(exist_ok=True)
        manifest = json.dumps({"privacy": {"mechanisms": as_dicts(done)}})
        (candidate / ".new").write_text(manifest)
        (candidate / ".new").rename(candidate / "manifest.json")
        step()
    jobs.settle(claimed, candidate)
    step()
    queue.skip(claimed, "learned")  # no gate here


def test_a_day_with_kills_is_never_counted_too_low_and_adds_up_to_what_its_rows_say(tmp_path: Path) -> None:
    lives = 0
    while not (tmp_path / "ended").exists():
        lives += 1
        assert lives < 200
        child = os.fork()
        if child == 0:
            try:
                live(tmp_path, lives)
                os._exit(0)
            except BaseException:
                os._exit(1)
        status = os.waitpid(child, 0)[1]
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    assert lives > 10

    # The ledger as it says it is, and from nothing but its rows, by other code.
    clock = ManualClock(24 * HOUR)
    ledger = Ledger(tmp_path / "ledger.sqlite")
    spending = PrivacyLedger(ledger, clock, terms_of(DAY))
    told = spending.status()
    connection = sqlite3.connect(tmp_path / "ledger.sqlite")
    rows = connection.execute("SELECT digest, start_ns, end_ns, reserved, spent, is_begun FROM spending").fetchall()
    connection.close()
    done = [(start, end, from_dicts(json.loads(spent or reserved))) for _, start, end, reserved, spent, _ in rows]
    assert told["spent_for_ever"] == pytest.approx(epsilon([each for *_, did in done for each in did], DELTA), rel=1e-9)
    touched = [json.loads(line) for line in (tmp_path / "touched").read_text().splitlines()]
    assert len(rows) > len({row[0] for row in rows})  # attempts that were killed stand there

    # No touch without its row; none cheaper than what was done.
    for digest in {touch["digest"] for touch in touched}:
        mine = [touch for touch in touched if touch["digest"] == digest]
        begun = [row for row in rows if row[0] == digest and row[5]]
        assert len(begun) >= len(mine)
        steps = [sum(each["steps"] for each in touch["did"] if "steps" in each) for touch in mine]
        counted = [
            sum(each["steps"] for each in json.loads(row[4] or row[3]) if "steps" in each) for row in begun
        ]  # fmt: skip
        assert sum(counted) >= sum(steps)
    for path in tmp_path.glob("candidate-*/manifest.json"):  # what a manifest says is what the ledger says
        said = json.loads(path.read_text())["privacy"]["mechanisms"]
        assert any(row[4] is not None and json.loads(row[4]) == said for row in rows), path

    # What was really done to each host, in every window of the horizon, is within what is promised and what is told.
    jobs_of: dict[int, list[tuple[int, Any]]] = {}
    for touch in touched:
        for host in touch["hosts"]:
            jobs_of.setdefault(host, []).append((int(touch["digest"][1:]), from_dicts(touch["did"])))
    length = round(DAY.horizon_s * 1e9) // CHUNK_NS
    for host in [*range(8), 1003]:
        for first in range(0, 24 * 6, 6):
            window = [did for at, did in jobs_of.get(host, []) if first <= at < first + length]
            assert len({at for at, _ in jobs_of.get(host, []) if first <= at < first + length}) <= 12
            assert epsilon([each for did in window for each in did], DELTA) <= DAY.epsilon
        ever = epsilon([each for _, did in jobs_of.get(host, []) for each in did], DELTA)
        assert ever <= told["spent_for_ever"]
    assert jobs_of[0], "a host that is always there is learned"
    refused = ledger.rows("SELECT COUNT(*) FROM job WHERE reason = ?", (OVER_HORIZON,))[0][0]
    assert 0 < refused <= told["refused"][OVER_HORIZON] < len(rows)
    ledger.close()
