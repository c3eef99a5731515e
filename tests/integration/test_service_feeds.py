"""The daemon on feeds by name: eve.json is followed over a rotation, and by the daemon that follows a killed one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_logs import eve_line, eve_stats
from rotated_log import RotatedLog
from service_nest import Nest, wait_until
from test_ingest_followed import position

from nsstream.chunk import ChunkStore

FLOWS = 300
DAEMON = (sys.executable, "-m", "nsstream_daemon", "daemon", "-c")


@pytest.fixture
def log(tmp_path: Path) -> Iterator[RotatedLog]:
    made = RotatedLog(tmp_path / "eve.json")
    yield made
    made.close()


def test_the_daemon_follows_eve_over_rotations_and_a_kill(tmp_path: Path, log: RotatedLog) -> None:
    source = {"input": f"eve:{log.path}"}
    nest = Nest(tmp_path, source=source, chunks={"length_s": 10, "lateness_s": 1}, training={"enabled": False})

    try:
        nest.start(*DAEMON, str(nest.config))
        log.write(eve_stats() + b"".join(map(eve_line, range(FLOWS))))
        wait_until(lambda: position(nest.state).get("offset", 0) > 0)  # committed, though perhaps not to its end
        nest.kill()
        log.write(b"".join(map(eve_line, range(FLOWS, 2 * FLOWS))))
        log.rename()
        log.write(b"".join(map(eve_line, range(2 * FLOWS, 3 * FLOWS))))
        nest.start(*DAEMON, str(nest.config))
        store = ChunkStore(nest.state / "chunks")
        wait_until(lambda: sum(info.row_count for info in store.list()) == 3 * FLOWS)  # by the clock: it is live
        assert nest.ask("status")["capture"]["state"] == "running"
        assert nest.stop() == 0
    finally:
        nest.close()
    addresses = [bytes(one) for info in store.list() for one in store.read(info.id).flows.source_address]
    assert len(addresses) == len(set(addresses)) == 3 * FLOWS
