"""How much of a budget is a fit's: all but what the trainings before took beside theirs."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from nsstream.clock import ManualClock
from nsstream.encode.address_map import AddressMap
from nsstream.pipeline.engine import Errand, LocalEngine
from nsstream.pipeline.fit_time import FitTime
from nsstream.pipeline.job_runner import JobRunner, Material
from nsstream.pipeline.ledger import Ledger
from nsstream.pipeline.service_config import TrainingSection, WorkerSection
from nsstream.pipeline.training import START_S

PLACE = WorkerSection()


def test_before_the_first_training_a_usual_start_is_set_aside():
    assert FitTime().of(40.0) == 40.0 - START_S


def test_what_trainings_take_beside_their_fits_is_set_aside_of_the_next_ones():
    time = FitTime()
    time.note(36.0, 46.0)
    assert time.of(40.0) == 40.0 - 10.0
    for _ in range(5):
        time.note(30.0, 39.0)
    assert time.of(40.0) == 40.0 - 9.0


def test_a_first_training_that_compiles_shortens_the_next_one_alone():
    time = FitTime()
    time.note(36.0, 96.0)
    assert time.of(40.0) == 20.0
    time.note(20.0, 27.0)
    assert time.of(40.0) == 40.0 - 7.0


def test_one_training_of_five_that_was_held_up_shortens_none():
    time = FitTime()
    for beside_s in (9.0, 8.0, 54.0, 10.0, 8.0):
        time.note(30.0, 30.0 + beside_s)
    assert time.of(40.0) == 40.0 - 10.0


def test_the_newest_trainings_count():
    time = FitTime()
    for beside_s in (15.0, 15.0, 15.0, 15.0, 6.0, 6.0, 6.0, 6.0):
        time.note(30.0, 30.0 + beside_s)
    assert time.of(40.0) == 40.0 - 6.0


def test_a_fit_that_ended_early_tells_nothing():
    time = FitTime()
    time.note(36.0, 20.0)
    assert time.of(40.0) == 40.0 - START_S


def test_what_was_used_before_is_not_the_fits():
    time = FitTime()
    assert time.of(40.0, 10.0) == 30.0 - START_S
    assert time.of(40.0, 1000.0) == 20.0


@pytest.mark.parametrize(("budget_s", "fit_s"), [(40.0, 20.0), (3.0, 1.5), (0.5, 1.0)])
def test_half_of_a_budget_is_the_fits_whatever_the_rest_takes(budget_s: float, fit_s: float):
    time = FitTime()
    time.note(10.0, 110.0)
    assert time.of(budget_s) == fit_s


@dataclass
class Machine:
    """An engine on which a worker takes the time of its fit, and what `beside_s` gives next."""

    clock: ManualClock
    beside_s: Callable[[], float]
    places: tuple[WorkerSection, ...] = (PLACE,)
    name: str = "machine"

    def threads(self, place: WorkerSection) -> int:
        return 1

    def run(self, errand: Errand, place: WorkerSection, heard: Any, *, cancelled: Event) -> dict[str, Any]:
        took_s = float(errand.told["budget_s"]) + self.beside_s()  # type: ignore[arg-type]
        self.clock.advance(round(took_s * 1e9))
        return {"event": "done", "checkpoint": "c", "took_s": took_s}


@pytest.mark.parametrize("beside_s", [(9.0, 9.5, 8.8, 9.2, 9.4, 9.1), (5.0, 7.0, 6.0, 6.5, 5.5), (12.0, 11.0, 40.0)])
def test_most_fine_tunes_end_within_their_budget_once_the_machine_is_known(tmp_path: Path, beside_s: tuple[float, ...]):
    clock, told = ManualClock(), iter(beside_s * 20)
    ledger = Ledger(tmp_path / "ledger.sqlite")
    runner = JobRunner(
        tmp_path, ledger, AddressMap(bytes(32)), Event(), engine=Machine(clock, lambda: next(told))
    )  # fmt: skip
    material, training = Material(tmp_path / "c.arrow", None, tmp_path / "parent", 1), TrainingSection(budget_s=40)
    took = []
    for _ in range(30):
        began_ns = clock.monotonic_ns()
        clock.advance(10**9)  # it takes a second to gather what is learned
        runner.train_material(material, tmp_path, training, PLACE, lambda line: None, used_s=1.0)
        took.append((clock.monotonic_ns() - began_ns) * 1e-9)
    ledger.close()
    assert sorted(took[1:])[len(took) // 2] <= 40.0
    assert max(took) <= 40.0 + max(beside_s)


def test_an_engine_tells_what_a_child_took_until_it_was_gone():
    clock = ManualClock()
    program = "import json; print(json.dumps({'event': 'progress'})); print(json.dumps({'event': 'done'}))"
    errand = Errand((sys.executable, "-c", program), {}, 30, 30, None)
    engine = LocalEngine(clock=clock)
    done = engine.run(errand, PLACE, lambda line: clock.advance(3 * 10**9), cancelled=Event())
    assert done == {"event": "done", "took_s": 3.0}
