"""The daemon on feeds by name: eve.json, followed over a rotation and a kill; eve over a socket; ntop's publisher."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from made_logs import eve_line, eve_stats
from rotated_log import RotatedLog
from service_nest import Nest, wait_until
from test_ingest_followed import position

from nsstream.chunk import ChunkStore
from nsstream.wire.ntop_message import write_header

sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))

from test_zmq_sources import bound, free_endpoint, record

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


def send_eve(path: Path) -> None:
    wait_until(path.exists)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sender:
        sender.connect(str(path))
        sender.sendall(b"".join(map(eve_line, range(FLOWS))))


def publish(endpoint: str) -> None:
    with bound(zmq.XPUB, endpoint) as publisher:
        for number in range(FLOWS):
            payload = json.dumps(record(number)).encode()
            header = write_header(36, 1, number + 1, payload, is_tlv=False, is_zlib=False, unpacked_bytes=len(payload))
            publisher.send_multipart([header, payload])


@pytest.mark.parametrize("name", ["eve-socket", "ntop"])
def test_the_daemon_takes_what_comes_live(name: str, tmp_path: Path) -> None:
    target = str(tmp_path / "eve.sock") if name == "eve-socket" else free_endpoint()
    chunks = {"length_s": 10, "lateness_s": 1}
    nest = Nest(tmp_path, source={"input": f"{name}:{target}"}, chunks=chunks, training={"enabled": False})
    try:
        nest.start(*DAEMON, str(nest.config))
        send_eve(Path(target)) if name == "eve-socket" else publish(target)
        store = ChunkStore(nest.state / "chunks")
        wait_until(lambda: sum(info.row_count for info in store.list()) == FLOWS)
        status = nest.ask("status")["capture"]
        assert (status["state"], status["tally"]["offered"], status["tally"]["kept"]) == ("running", FLOWS, FLOWS)
        assert nest.stop() == 0
    finally:
        nest.close()
    assert not (tmp_path / "eve.sock").exists()
