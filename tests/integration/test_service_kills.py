"""The short form of bench/service_faults.py: a few kills of daemon, worker and replay, under load."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

from service_faults import run


@pytest.mark.slow
def test_kills_of_daemon_worker_and_replay_under_load_lose_nothing_and_do_nothing_twice(tmp_path: Path):
    found = run(tmp_path, 4, 7)
    assert [len(times) for times in found.well_s.values()] == [2, 1, 1]
    assert found.chunks > 4
    assert (found.chunks_lost, found.rows_lost, found.jobs_not_done_once, found.models_damaged) == (0, 0, 0, 0)
    assert (found.findings, found.unexplained) == ([], 0)
