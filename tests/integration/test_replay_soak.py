"""A short soak by the real server: clients die and stall, a tcpreplay is killed; what was sent came, or is counted."""

import os
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

from bars.replay_frames import lab_frames, write_frames
from bars.soak_lane import Lane, run

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(
        not all(map(shutil.which, ("ip", "tcpreplay", "capinfos"))), reason="needs iproute2, tcpreplay and capinfos"
    ),
]


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    path = tmp_path_factory.mktemp("soak") / "lab.pcap"
    write_frames(path, lab_frames(60))
    return path


@pytest.mark.parametrize("name", ["stdout", "tcpreplay"])
def test_a_stream_survives_its_clients_and_a_kill_and_all_is_counted(capture, name):
    found = run(Lane(name, 8.0, 5000.0, str(capture)))
    assert (found.state, found.error, found.exit_status) == ("done", None, 0), found.log_tail
    for what, (came, told) in found.agreement.items():
        assert came == told, what
    assert found.violations == []
    assert found.statuses > 0
    assert found.polite_clients_unanswered == 0
    assert found.descriptors[1] <= found.descriptors[0]
    assert found.threads[1] <= found.threads[0]
    assert min(found.clients.values()) > 0
    if name == "tcpreplay":
        assert found.counters["child_deaths"] == 1
