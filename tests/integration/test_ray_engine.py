"""The daemon with its jobs on a real Ray cluster of loopback: the same checkpoints; losses cost nothing."""

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_traffic import MINUTE_NS, START_NS, made_packets
from service_nest import HERE, Nest, is_gone, wait_until
from test_service_real import two_chunks_of_the_lab

from nsstream.chunk import Chunk, ChunkStore
from nsstream.counters import Tally
from nsstream.encode.address_map import AddressMap
from nsstream.pipeline.engine import LocalEngine
from nsstream.pipeline.parallel_seed import ParallelSeed, train_parallel_seed
from nsstream.pipeline.ray_engine import RayEngine
from nsstream.pipeline.service_config import RaySection

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: nsstream[ray]"),
]
KEY = bytes(range(7, 39))


class Nodes:
    """A cluster of two nodes, of a processor and a (so called) GPU each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "tmp").mkdir()
        environment = {
            "RAY_TMPDIR": str(folder), "TMPDIR": str(folder / "tmp"), "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_health_check_period_ms": "500", "RAY_health_check_failure_threshold": "3",
            "QUICK": str(folder / "quick"),
        }  # fmt: skip
        with (folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(HERE / "ray_cluster.py"), "2"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=log, env=os.environ | environment,
            )  # fmt: skip
        self.address = self._hear()

    def _hear(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, (self.folder / "log").read_text()
        return str(json.loads(line)["address"])

    def add(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"add\n")
        self.process.stdin.flush()
        self._hear()

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(300)
        finally:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
            shutil.rmtree(self.folder)

    def rooms(self) -> list[Path]:
        """The folders of jobs, of those that run and of those that left theirs."""
        return list((self.folder / "tmp").glob("nsstream-ray-*/job-*"))

    def told(self) -> Iterator[bytes]:
        """All that Ray and the tasks wrote to a disk."""
        for path in self.folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                yield path.read_bytes()


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    nodes = Nodes(Path(tempfile.mkdtemp(prefix="nsr-", dir="/tmp")))  # a socket's path has little room
    try:
        yield nodes
    finally:
        nodes.close()


@pytest.fixture
def nest(tmp_path: Path, nodes: Nodes) -> Iterator[Nest]:
    nest = Nest(tmp_path, training={"engine": "ray"}, ray={"address": nodes.address, "jobs": 1})
    nest.settings["training"] |= {"memory_octets": 256 << 20}
    nest.write_config()
    (nodes.folder / "quick").unlink(missing_ok=True)
    (nodes.folder / "quick").symlink_to(nest.quick)
    yield nest
    nest.close()


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def variable_of(pid: int, name: str) -> str:
    pairs = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next(pair.partition(b"=")[2].decode() for pair in pairs if pair.startswith(name.encode() + b"="))


def trained(nest: Nest) -> list[str]:
    return (nest.quick / "trained").read_text().split()


def test_the_same_jobs_give_the_same_checkpoints(tmp_path: Path, nodes: Nodes):
    (tmp_path / "lab.pcap").write_bytes(two_chunks_of_the_lab())
    made = {}
    for engine in ("local", "ray"):
        folder = tmp_path / engine
        (folder / "s").mkdir(parents=True)
        (folder / "s" / "address.key").write_text(KEY.hex())
        nest = Nest(
            folder,
            source={"input": str(tmp_path / "lab.pcap"), "at_end": "drain"},
            chunks={"length_s": 10, "lateness_s": 5},
            training={"engine": engine, "seed_steps": 4, "steps": 4, "silence_s": 600},
            gate={"drawn_conversations": 60, "worst_ratio": 1.5},
            ray={"address": nodes.address},
        )
        try:
            daemon = nest.start(sys.executable, "-m", "nsstream_daemon", "daemon", "-c", str(nest.config))
            assert daemon.wait(600) == 0, nest.log.read_text()
        finally:
            nest.close()
        assert nest.rows("SELECT DISTINCT state, attempts FROM job") == [("done", 0)]
        models = nest.state / "models"
        made[engine] = {
            str(path.relative_to(models)): path.read_bytes() for path in models.rglob("*") if path.is_file()
        }
    assert len(made["local"]) >= 6
    assert made["ray"] == made["local"]
    assert not nodes.rooms()
    assert not any(KEY.hex().encode() in octets or KEY in octets for octets in nodes.told())


def test_a_killed_worker_of_ray_costs_a_job_nothing(nest: Nest, nodes: Nodes):
    (nest.quick / "slow").touch()
    nest.put(3)
    nest.start()
    pid = nest.worker_pid()
    worker = parent_of(pid)
    assert b"ray::" in Path(f"/proc/{worker}/cmdline").read_bytes()
    assert len(nodes.rooms()) == 1
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: is_gone(pid))
    (nest.quick / "slow").unlink()
    wait_until(lambda: nest.done() == 2)
    assert sorted(trained(nest)) == sorted(nest.stored())
    assert nest.rows("SELECT SUM(attempts), SUM(interruptions) FROM job") == [(0, 1)]
    assert nest.ask("status")["training"]["failures"] == {"lost": 1}
    assert nest.stop() == 0
    assert not nodes.rooms()  # the next job removed what the killed one left


def test_a_lost_node_costs_a_job_nothing(nest: Nest, nodes: Nodes):
    (nest.quick / "slow").touch()
    nest.put(3)
    nest.start()
    pid = nest.worker_pid()
    os.kill(int(variable_of(parent_of(pid), "RAY_RAYLET_PID")), signal.SIGKILL)
    wait_until(lambda: is_gone(pid))
    (nest.quick / "slow").unlink()
    wait_until(lambda: nest.done() == 2)
    assert sorted(trained(nest)) == sorted(nest.stored())
    assert nest.rows("SELECT SUM(attempts) FROM job") == [(0,)]
    assert nest.ask("status")["training"]["failures"] == {"lost": 1}
    assert nest.stop() == 0
    nodes.add()


def test_bounds_hold_on_a_node_and_faults_are_told_by_kind(nest: Nest):
    nest.settings["training"] |= {"silence_s": 60, "attempts": 5}
    nest.write_config()
    for fault in ("leak", "crash", "error", "stuck"):
        (nest.quick / fault).touch()
    nest.put(2)
    nest.start()
    wait_until(lambda: nest.done() == 1)
    assert nest.ask("status")["training"]["failures"] == {"memory": 1, "died": 1, "error": 1, "stuck": 1}
    assert trained(nest) == sorted(nest.stored())
    assert nest.stop() == 0


def test_a_daemon_that_stops_takes_its_job_off_the_cluster(nest: Nest, nodes: Nodes):
    (nest.quick / "slow").touch()
    nest.put(2)
    nest.start()
    pid = nest.worker_pid()
    assert nest.stop() == 0
    wait_until(lambda: is_gone(pid) and not nodes.rooms())
    assert nest.rows("SELECT DISTINCT state, attempts, interruptions FROM job") == [("pending", 0, 0)]


def test_a_daemon_that_is_killed_takes_its_job_off_the_cluster(nest: Nest, nodes: Nodes):
    (nest.quick / "slow").touch()
    nest.put(2)
    nest.start()
    pid = nest.worker_pid()
    nest.kill()
    wait_until(lambda: is_gone(pid))
    (nest.quick / "slow").unlink()
    nest.start()
    wait_until(lambda: nest.done() == 1)
    assert trained(nest) == sorted(nest.stored())
    assert nest.stop() == 0


def test_gpus_are_resources_of_ray_and_paths_may_be_shared(nest: Nest, nodes: Nodes):
    nest.settings["ray"] |= {"gpus": 1.0, "files": "shared"}
    nest.write_config()
    nest.put(2)
    nest.start()
    wait_until(lambda: nest.done() == 1)
    assert (nest.quick / "gpu").read_text() == "0"
    assert not nodes.rooms()
    assert nest.stop() == 0


def test_a_cluster_that_is_not_there_costs_no_attempt(nest: Nest):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nest.settings["ray"]["address"] = f"127.0.0.1:{taken.getsockname()[1]}"
        nest.write_config()
        nest.put(2)
        nest.start()
        wait_until(lambda: nest.ask("status")["training"]["failures"].get("unreachable", 0) >= 2)
    assert nest.ask("status")["healthy"]
    assert "no Ray cluster answers at 127.0.0.1" in nest.log.read_text()
    assert nest.stop() == 0
    assert nest.rows("SELECT DISTINCT state, attempts, interruptions FROM job") == [("pending", 0, 0)]


def test_a_seed_of_several_chunks_is_the_same_on_the_cluster(tmp_path: Path, nodes: Nodes):
    store, chunks = ChunkStore(tmp_path / "chunks"), []
    for minute in (0, 1):
        packets, begin = made_packets(count=60, minute=minute), START_NS + minute * MINUTE_NS
        tally = Tally(offered=len(packets), kept=len(packets))
        chunks.append(store.write(Chunk.of(begin, begin + MINUTE_NS, packets, tally, is_partial=False)))
    plan = ParallelSeed(tuple(chunks), 1, 2, 5, AddressMap(KEY))
    cluster = RayEngine(RaySection(address=nodes.address, jobs=2))
    made = [
        train_parallel_seed(plan, tmp_path / engine.name, engine, lambda progress: None, time.monotonic)
        for engine in (LocalEngine(), cluster)
    ]
    assert made[0].name == made[1].name  # which is the hash of what it holds
    assert [path.read_bytes() for path in sorted(made[0].iterdir())] == [
        path.read_bytes() for path in sorted(made[1].iterdir())
    ]
