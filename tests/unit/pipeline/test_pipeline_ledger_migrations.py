"""A ledger of each version that was ever released comes to ours with all that it knows, and is then as a new one is."""

import re
import sqlite3
from pathlib import Path

import pytest

from nsstream.clock import ManualClock
from nsstream.pipeline import ledger_schema
from nsstream.pipeline.ledger import Ledger
from nsstream.pipeline.ledger_schema import MIGRATIONS
from nsstream.pipeline.model_records import ModelRecords
from nsstream.pipeline.training_queue import TrainingQueue

HERE = Path(__file__).parent
# The steps that led to a schema of which we keep a ledger: a step that was released is never changed.
FIRST_WRITTEN = HERE / "ledger_v1.sql"


def made(path: Path) -> Path:
    connection = sqlite3.connect(path)
    connection.executescript(FIRST_WRITTEN.read_text(encoding="utf-8"))
    connection.close()
    return path


def schema_of(path: Path) -> list[tuple[str, str]]:
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name").fetchall()
    connection.close()
    return [(name, " ".join(sql.split())) for name, sql in rows]


def test_the_first_step_is_the_schema_that_was_released():
    text = re.sub(r"^--.*$", "", FIRST_WRITTEN.read_text(encoding="utf-8"), flags=re.M)
    released = text.partition("INSERT INTO")[0]
    assert " ".join(released.split()) == " ".join(MIGRATIONS[0].split())


def test_a_ledger_of_the_first_version_keeps_all_it_knows_and_becomes_as_a_new_one(tmp_path: Path):
    path = made(tmp_path / "old.sqlite")
    before = sqlite3.connect(path)
    tables = ("setting", "job", "chunk", "model", "promotion")
    known = {table: before.execute(f"SELECT * FROM {table}").fetchall() for table in tables}
    columns = {table: ", ".join(row[1] for row in before.execute(f"PRAGMA table_info({table})")) for table in tables}
    before.close()
    ledger = Ledger(path)
    assert ledger.rows("PRAGMA user_version")[0][0] == len(MIGRATIONS)
    for table in tables:
        assert [tuple(row) for row in ledger.rows(f"SELECT {columns[table]} FROM {table}")] == known[table]
    assert ledger.rows("PRAGMA integrity_check")[0][0] == "ok"
    assert ledger.rows("PRAGMA foreign_key_check") == []
    ledger.close()
    Ledger(tmp_path / "new.sqlite").close()
    assert schema_of(path) == schema_of(tmp_path / "new.sqlite")


def test_a_daemon_goes_on_from_a_ledger_of_the_first_version(tmp_path: Path):
    ledger, clock = Ledger(made(tmp_path / "old.sqlite")), ManualClock(10**18)
    queue, models = TrainingQueue(ledger, clock), ModelRecords(ledger, clock)
    assert queue.counts() == {
        "pending": 1, "claimed": 0, "running": 1, "done": 2, "failed": 0, "poisoned": 1, "skipped": 1
    }  # fmt: skip
    assert queue.chunk_counts() == {"queued": 6, "held": 1, "skipped_behind": 1, "skipped_damaged": 1}
    assert models.counts() == {"passed": 1, "refused": 1, "promotions": 2}
    assert models.is_held
    assert queue.take_back_claims() == 1
    job = queue.claim()
    assert job is not None
    assert job.chunk_ids == ("c6", "c7")
    queue.run(job)
    models.settle(job, "c" * 16, parent="a" * 16, training_s=1.0, complaints=(), figures={"loss": 9.0})
    assert models.promoted().id == "a" * 16
    assert models.release().id == "c" * 16
    ledger.close()


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS)))
def test_a_kill_between_two_steps_is_gone_on_from(tmp_path: Path, version: int, monkeypatch: pytest.MonkeyPatch):
    path = made(tmp_path / "old.sqlite")
    with monkeypatch.context() as patch:
        patch.setattr("nsstream.pipeline.ledger.MIGRATIONS", ledger_schema.MIGRATIONS[:version])
        Ledger(path).close()
    ledger = Ledger(path)
    assert len(ledger.rows("SELECT * FROM job")) == 6
    assert ledger.totals("job") == {}
    ledger.close()


def test_what_every_job_and_every_status_asks_for_reads_no_table_from_end_to_end(tmp_path: Path):
    ledger, clock = Ledger(made(tmp_path / "old.sqlite")), ManualClock(10**18)
    queue, models = TrainingQueue(ledger, clock), ModelRecords(ledger, clock)
    asked: list[str] = []
    ledger._connection.set_trace_callback(asked.append)
    for ask in (models.seed, models.promoted, models.failures_in_a_row, models.counts):
        ask()
    models.newest(1)
    models.surplus(20)
    for ask in (queue.counts, queue.chunk_counts, queue.is_due):
        ask()
    ledger._connection.set_trace_callback(None)
    plans = [row["detail"] for query in asked for row in ledger.rows(f"EXPLAIN QUERY PLAN {query}")]
    assert len(plans) > 10
    assert [plan for plan in plans if plan in {f"SCAN {table}" for table in ("model", "chunk", "job")}] == []
    ledger.close()
