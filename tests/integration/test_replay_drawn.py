"""Models, trained for a few steps by the real worker, played by the real server: `python -m nsstream.replay.server`."""

import json
import subprocess
import sys

import numpy as np
import pytest

from nsstream.chunk import Chunk, ChunkStore
from nsstream.counters import Tally
from nsstream.replay import spawn_server
from nsstream.trace import PacketBatch
from nsstream.trace.fields import UDP

MINUTE_NS = 60 * 10**9
EACH = 400


def made_chunk(minute):
    """Datagrams of twenty clients and one server within a minute."""
    rng = np.random.default_rng(minute)
    columns = {name: column.copy() for name, column in PacketBatch.empty(EACH).columns().items()}
    columns["observation_time_ns"] = np.sort(minute * MINUTE_NS + rng.integers(0, MINUTE_NS, EACH))
    columns["ip_version"][:] = 4
    for name, last in (("source_address", rng.integers(1, 21, EACH)), ("destination_address", 99)):
        columns[name][:, 10:12] = 255
        columns[name][:, 12] = 10
        columns[name][:, 15] = last
    columns["protocol_identifier"][:] = UDP
    columns["source_transport_port"] = (40_000 + rng.integers(0, 10, EACH)).astype(np.uint16)
    columns["destination_transport_port"][:] = 123
    columns["ip_total_length"][:] = 76
    columns["ip_header_length"][:] = 20
    columns["ip_ttl"][:] = 64
    packets = PacketBatch.from_columns(columns)
    tally = Tally(offered=EACH, kept=EACH)
    return Chunk.of(minute * MINUTE_NS, (minute + 1) * MINUTE_NS, packets, tally, is_partial=False)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    directory = tmp_path_factory.mktemp("state")
    store = ChunkStore(directory / "chunks")
    checkpoints = []
    for minute in (1000, 1001):
        job = {
            "chunk": str(store.write(made_chunk(minute))),
            "parent": checkpoints[-1] if checkpoints else None,
            "out": str(directory / "models"),
            "seed": 1,
            "steps": 2,
            "threads": 1,
            "address_map": {"key_hex": "00" * 32},
        }
        worker = subprocess.run(
            [sys.executable, "-m", "nsstream.train.worker"], input=json.dumps(job), capture_output=True, text=True
        )
        last = json.loads(worker.stdout.splitlines()[-1])
        assert last["event"] == "done", last
        checkpoints.append(last["checkpoint"])
    return checkpoints


@pytest.mark.slow
def test_the_real_server_draws_models_into_a_lawful_file_the_same_each_time(models, tmp_path):
    with spawn_server() as client:
        for name in ("a.pcap", "b.pcap"):
            client.start(models, {"kind": "pcap", "path": tmp_path / name}, seed=3)
            status = client.wait()
            assert (status.state, status.chunk) == ("done", 2)
    assert (tmp_path / "a.pcap").read_bytes() == (tmp_path / "b.pcap").read_bytes()
    lines = subprocess.run(
        ["tshark", "-n", "-r", tmp_path / "a.pcap", "-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE",
         "-T", "fields", "-e", "frame.time_epoch", "-e", "ip.checksum.status", "-e", "udp.checksum.status"],
        check=True, capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    assert len(lines) == status.packets_written > 0
    times = [line.split("\t")[0] for line in lines]
    assert times == sorted(set(times), key=float)
    assert {line.split("\t")[1] for line in lines} <= {"1", ""}
    assert {line.split("\t")[2] for line in lines} <= {"1", ""}
    assert float(times[0]) >= 1000 * 60
