"""Private mode in the daemon: jobs are refused by name or reserve before they read, whatever is killed in between."""

import json
import os
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from service_nest import Nest, wait_until

from nsstream.clock import SystemClock
from nsstream.encode.schema import SCHEMA_ID
from nsstream.errors import InputError
from nsstream.model.schemas import FORMAT
from nsstream.pipeline.backup import back_up
from nsstream.pipeline.doctor import examine
from nsstream.pipeline.ledger import Ledger
from nsstream.pipeline.privacy_config import PrivacySection
from nsstream.pipeline.private_jobs import PrivateJobs
from nsstream.pipeline.repair import repair
from nsstream.pipeline.restore import restore
from nsstream.privacy import SampledGaussian, as_dicts, epsilon

JOB = (SampledGaussian(4.0, 0.02, 100),)
PRIVATE = {"mode": "private", "epsilon": 4.0, "chunk_epsilon": 1.0}


@pytest.fixture
def nest(tmp_path: Path) -> Iterator[Nest]:
    made = Nest(tmp_path, privacy=PRIVATE)
    yield made
    made.close()


def can_train(nest: Nest) -> None:
    (nest.quick / "mechanisms").write_text(json.dumps(as_dicts(JOB)))


def test_what_cannot_be_trained_privately_is_refused_by_name_and_never_read(nest: Nest):
    nest.settings["control"]["metrics_port"] = port = 19_741
    nest.write_config()
    nest.put(4)
    nest.start()
    wait_until(lambda: nest.count("chunk WHERE reason = 'privacy_unsupported'") == 3)
    status = nest.ask("status")
    assert status["training"]["chunks"]["skipped_privacy_unsupported"] == 3
    assert status["training"]["privacy"]["refused"] == {"privacy_unsupported": 3}
    assert "goes on from a public model" in nest.log.read_text()
    assert not (nest.quick / "touched").exists()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as page:
        text = page.read().decode()
    assert 'nsstream_privacy_refused_total{reason="privacy_unsupported"} 3.0' in text
    assert 'nsstream_privacy_refused_total{reason="privacy_budget"} 0.0' in text  # before there is one
    assert 'nsstream_privacy_mode{mode="private"} 1.0' in text
    shown = nest.ctl("privacy")
    assert shown.returncode == 0, shown.stderr
    assert "3 privacy unsupported" in shown.stdout
    assert nest.stop() == 0


def test_a_reload_refuses_a_private_mode_that_could_learn_nothing_and_the_daemon_goes_on(tmp_path: Path):
    nest = Nest(tmp_path)
    try:
        nest.start()
        nest.settings["privacy"] = PRIVATE
        nest.settings["training"]["attempts"] = 9
        nest.write_config()
        refused = nest.ctl("reload")
        assert refused.returncode == 1
        assert f"{nest.config}: privacy.mode = 'private': private training goes on from a public" in refused.stderr
        assert nest.daemon is not None
        nest.daemon.send_signal(signal.SIGHUP)
        wait_until(lambda: nest.log.read_text().count("reload_refused") == 2)
        assert nest.ask("status")["training"]["privacy"]["mode"] == "remapped"
        del nest.settings["privacy"]
        nest.write_config()
        assert nest.ctl("reload").stdout == "training.attempts = 9\n"  # of what was refused nothing holds
        assert nest.stop() == 0
    finally:
        nest.close()


def test_kills_between_training_and_recording_never_count_too_little(nest: Nest):
    nest.settings["privacy"]["attempts"] = 9
    nest.write_config()
    can_train(nest)
    nest.put(2)
    for _ in range(3):  # the daemon, at work
        (nest.quick / "pid").unlink(missing_ok=True)
        (nest.quick / "slow").touch()
        nest.start()
        nest.worker_pid()
        nest.kill()
    (nest.quick / "pid").unlink()
    nest.start()
    os.kill(nest.worker_pid(), signal.SIGKILL)  # the worker
    (nest.quick / "slow").unlink()
    nest.put(3)
    wait_until(lambda: nest.done() == 4)
    touched = (nest.quick / "touched").read_text().split()
    assert nest.count("spending WHERE is_begun") == len(touched) == 8
    assert nest.count("spending WHERE settled_ns IS NOT NULL AND model IN (SELECT id FROM model)") == 4
    told = json.loads(nest.ctl("privacy", "--json", "--limit", "100").stdout)
    assert told["spent"] == pytest.approx(epsilon(JOB * len(touched), 1e-5), rel=1e-9)
    assert told["spent_for_ever"] == told["spent"]
    assert (told["jobs"], told["unsettled"]) == (8, 4)
    assert [row["epsilon"] for row in told["newest"]] == pytest.approx([epsilon(JOB, 1e-5)] * 8)
    shown = nest.ctl("privacy").stdout
    assert f"epsilon {told['spent']:.4g} in the newest horizon" in shown
    assert max(nest.stored()) in shown
    assert "private, epsilon" in nest.ctl("status").stdout
    assert nest.stop() == 0
    assert examine(nest.state, is_live=False).findings == []


def test_a_job_is_not_paid_for_twice_unless_the_configuration_lets_it(nest: Nest):
    def touched() -> int:
        return len((nest.quick / "touched").read_text().split())

    nest.settings["training"]["attempts"] = 9
    nest.write_config()
    can_train(nest)
    (nest.quick / "error").touch()
    nest.put(2)
    nest.start()
    wait_until(lambda: nest.count("job WHERE state = 'poisoned'") == 1)  # at once, whatever training.attempts says
    assert (touched(), nest.count("spending WHERE is_begun")) == (1, 1)

    (nest.quick / "slow").touch()  # what began when the daemon was killed has spent, too
    (nest.quick / "pid").unlink()
    nest.put(1)
    nest.worker_pid()
    nest.kill()
    nest.start()
    wait_until(lambda: nest.count("chunk WHERE reason = 'privacy_attempts'") == 1)
    (nest.quick / "slow").unlink()
    assert (touched(), nest.count("spending WHERE is_begun")) == (2, 2)
    assert nest.ask("status")["training"]["privacy"]["refused"] == {"privacy_attempts": 1}

    (nest.quick / "ratio").write_text("no number")  # the judge fails: what was trained is judged again, for nothing
    nest.put(1)
    wait_until(lambda: nest.count("job WHERE state = 'failed'") or nest.count("job WHERE attempts > 0") == 2)
    (nest.quick / "ratio").unlink()
    wait_until(lambda: nest.done() == 1)
    assert (touched(), nest.count("spending WHERE is_begun")) == (3, 3)
    assert nest.count("spending WHERE model IN (SELECT id FROM model)") == 1

    assert nest.stop() == 0
    nest.settings["privacy"]["attempts"] = 3  # one may have gone to what was begun as the daemon stopped
    nest.write_config()
    (nest.quick / "error").touch()
    nest.start()
    nest.put(1)
    wait_until(lambda: nest.done() == 2)
    begun = nest.count("spending WHERE is_begun")
    assert begun >= touched() >= 5
    told = json.loads(nest.ctl("privacy", "--json").stdout)
    attempts = [row["attempt"] for row in told["newest"] if row["chunk"] == told["newest"][0]["chunk"]]
    assert attempts in ([2, 1], [3, 2, 1])
    assert "job_spends_again" in nest.log.read_text()
    assert "attempt=2 epsilon=" in nest.log.read_text()
    assert told["spent"] == pytest.approx(epsilon(JOB * begun, 1e-5), rel=1e-9)
    assert nest.stop() == 0


def test_flows_are_in_two_jobs_at_most_and_the_costs_of_others_do_not_add_up(tmp_path: Path):
    nest = Nest(tmp_path, privacy=PRIVATE | {"unit": "flow"})
    try:
        can_train(nest)
        nest.put(4)  # of the same flows
        nest.start()
        wait_until(lambda: nest.count("chunk WHERE reason = 'privacy_units'") == 1)
        assert nest.done() == 2
        nest.put(1, packets=200)  # half of them new
        nest.put(1)
        wait_until(lambda: nest.done() == 3)
        assert nest.count("chunk WHERE reason = 'privacy_units'") == 2
        assert (nest.quick / "rows").read_text().split() == ["100", "100", "100"]
        assert nest.count("unit_use") == 300
        told = json.loads(nest.ctl("privacy", "--json").stdout)
        assert told["spent"] == told["spent_for_ever"] == pytest.approx(epsilon(JOB * 2, 1e-5), rel=1e-9)
        assert told["refused"] == {"privacy_units": 2}
        assert "each of its flows is in 2 jobs of a horizon already" in nest.log.read_text()
        assert nest.stop() == 0
        assert list((nest.state / "work").iterdir()) == []
        assert examine(nest.state, is_live=False).findings == []
    finally:
        nest.close()


def test_candidates_that_do_not_pass_do_not_end_private_learning(nest: Nest):
    """Openly, five in a row let a new seed be learned; privately nothing is learned from nothing."""
    public = nest.folder / "public"
    public.mkdir()
    (public / "manifest.json").write_text(json.dumps({"id": "public", "format": FORMAT, "schema": SCHEMA_ID}))
    nest.settings["training"]["seed_model"] = str(public)
    nest.write_config()
    can_train(nest)
    (nest.quick / "faults").write_text("7")
    nest.put(8)
    nest.start()
    wait_until(lambda: nest.done() == 7)
    assert nest.rows("SELECT DISTINCT parent, passed FROM model") == [("public", 0)]
    assert nest.stop() == 0


def test_a_job_that_would_overspend_is_refused_and_the_promoted_model_stays(tmp_path: Path):
    room = epsilon(JOB * 2, 1e-5) * 1.01
    nest = Nest(tmp_path, privacy=PRIVATE | {"epsilon": room, "chunk_epsilon": room})
    try:
        can_train(nest)
        nest.put(3)
        nest.start()
        wait_until(lambda: nest.done() == 2)
        nest.put(2)
        wait_until(lambda: nest.count("chunk WHERE reason = 'privacy_budget'") == 2)
        assert nest.done() == 2
        assert len((nest.quick / "touched").read_text().split()) == 2
        assert nest.ask("status")["training"]["promoted"] is not None
        assert nest.stop() == 0
    finally:
        nest.close()


def test_a_restored_state_knows_what_was_spent_after_the_backup_or_that_it_does_not(nest: Nest, tmp_path: Path):
    can_train(nest)
    nest.put(2)
    nest.start()
    wait_until(lambda: nest.done() == 1)
    back_up(nest.state, tmp_path / "b.tar", SystemClock().wall_ns())
    nest.put(2)
    wait_until(lambda: nest.done() == 3)
    assert nest.stop() == 0

    def spending(state: Path) -> tuple[set[tuple[object, ...]], int]:
        ledger = Ledger(state / "ledger.sqlite")
        rows = {tuple(row) for row in ledger.rows("SELECT * FROM spending")}
        gaps = ledger.rows("SELECT COUNT(*) FROM spending_gap")[0][0]
        ledger.close()
        return rows, gaps

    everything = spending(nest.state)
    assert len(everything[0]) >= 3
    assert everything[1] == 0
    restore(tmp_path / "b.tar", tmp_path / "joined", spent_in=nest.state)
    assert spending(tmp_path / "joined") == everything
    restore(tmp_path / "b.tar", tmp_path / "told", is_complete=True)
    assert [len(spending(tmp_path / "told")[0]), spending(tmp_path / "told")[1]] == [1, 0]
    restore(tmp_path / "b.tar", tmp_path / "unknown")
    assert [len(spending(tmp_path / "unknown")[0]), spending(tmp_path / "unknown")[1]] == [1, 1]
    for state in ("joined", "told", "unknown"):
        assert examine(tmp_path / state, is_live=False).findings == []
    Ledger(tmp_path / "other.sqlite").close()  # which is not what came after
    with pytest.raises(InputError, match="lacks 1 rows of spending"):
        restore(tmp_path / "b.tar", tmp_path / "not", spent_in=tmp_path / "other.sqlite")
    assert not (tmp_path / "not").exists()

    # What does not know what was spent learns nothing of the same time.
    lost = Nest.__new__(Nest)
    lost.__dict__ |= nest.__dict__ | {"state": tmp_path / "unknown", "daemon": None}
    lost.write_config()
    lost.start()
    try:
        wait_until(lambda: lost.count("chunk WHERE reason = 'privacy_unknown'") >= 2)
        told = lost.ask("privacy")
        assert told["unknown"]
        assert told["left"] == 0
        assert lost.stop() == 0
    finally:
        lost.close()


def test_the_doctor_finds_spending_that_cannot_be_and_models_that_nobody_paid_for(nest: Nest):
    can_train(nest)
    nest.put(2)
    nest.start()
    wait_until(lambda: nest.done() == 1)
    assert nest.stop() == 0
    ledger = Ledger(nest.state / "ledger.sqlite")
    with ledger.transaction() as db:
        db.execute("UPDATE spending SET model = NULL")
    found = examine(nest.state, is_live=False).findings
    assert [finding.code for finding in found] == ["spending"]
    assert "the ledger does not know what that cost" in found[0].says
    with ledger.transaction() as db:
        db.execute("UPDATE spending SET reserved = '[]'")
    ledger.close()
    found = examine(nest.state, is_live=False).findings
    assert "1 rows of spending cannot be what was written" in found[0].says
    assert found[0].remedy is None

    # A ledger that was begun again, or another one, does not pass as one that knows.
    (nest.state / "ledger.sqlite").write_bytes(b"no ledger" * 1000)
    repair(nest.state, examine(nest.state, is_live=False).findings, SystemClock())
    ledger = Ledger(nest.state / "ledger.sqlite")
    assert ledger.rows("SELECT reason FROM spending_gap")[0][0] == "the ledger was damaged, and begun again"
    ledger.close()
    other = Ledger(nest.folder / "other.sqlite")
    for mode, gaps in (("remapped", 0), ("private", 1), ("private", 1)):
        PrivateJobs(PrivacySection(mode=mode), other, SystemClock()).mistrust(nest.state / "models")
        assert len(other.rows("SELECT * FROM spending_gap")) == gaps
    other.close()
