"""The daemon with its real trainer and judge, on the bundled capture: chunks in, a promoted model out."""

import json
import lzma
import os
import struct
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
from service_nest import Nest, wait_until

from nsstream.clock import SystemClock
from nsstream.model.checkpoint import load_checkpoint
from nsstream.model.identity import check_content
from nsstream.model.promotion import read_promoted
from nsstream.pipeline.ledger import Ledger
from nsstream.pipeline.privacy_config import PrivacySection
from nsstream.pipeline.private_jobs import PrivateJobs
from nsstream.privacy import epsilon, from_dicts


def test_the_bundled_capture_becomes_promoted_models(tmp_path: Path):
    core = min(os.sched_getaffinity(0))
    capture = tmp_path / "lab.pcap"
    capture.write_bytes(two_chunks_of_the_lab())
    nest = Nest(
        tmp_path,
        source={"input": str(capture), "at_end": "drain"},
        chunks={"length_s": 10, "lateness_s": 5},
        training={"seed_steps": 4, "steps": 4, "silence_s": 170},
        gate={"drawn_conversations": 60, "worst_ratio": 1.5},
    )
    nest.tail = f"[[training.workers]]\ncores = [{core}]\ngpu = 'GPU-that-is-not-here'\n"
    nest.write_config()
    try:
        daemon = nest.start(sys.executable, "-m", "nsstream_daemon", "daemon", "-c", str(nest.config))
        worker = wait_until(lambda: children_with(daemon.pid, b"nsstream.train.worker"))
        assert os.sched_getaffinity(worker[0]) == {core}
        assert os.getpriority(os.PRIO_PROCESS, worker[0]) >= min(os.nice(0) + 10, 19)
        assert b"CUDA_VISIBLE_DEVICES=GPU-that-is-not-here\0" in Path(f"/proc/{worker[0]}/environ").read_bytes()
        assert daemon.wait(300) == 0, nest.log.read_text()
    finally:
        nest.close()
    told = [json.loads(row[0]) for row in nest.rows("SELECT figures FROM model ORDER BY trained_ns")]
    assert nest.rows("SELECT DISTINCT state FROM job") == [("done",)]
    assert len(told) == len(nest.stored()) == 2
    seed, fine_tune = told
    assert (seed["ratio"], seed["faults"]) == (None, 0)
    assert fine_tune["faults"] == 0
    assert fine_tune["drawn"] == 60
    assert 0 < fine_tune["ratio"] < 1.5
    assert 0 < fine_tune["drift"] < 3
    promoted = read_promoted(nest.state / "models")
    assert promoted is not None
    model = load_checkpoint(promoted)
    assert check_content(promoted) == model.manifest
    assert model.manifest["device"] == "cpu"
    (warned,) = [line for line in nest.log.read_text().splitlines() if "worker_warns" in line]  # once for all jobs
    assert f"lane=train-0 message=a GPU was given and is not used: {model.manifest['gpu_unused']}" in warned
    assert model.manifest["gate"]["passed"]
    assert model.manifest["gate"]["figures"] in told
    # What the judge found is what the fit saw: the same conversations were held out.
    held_out = model.manifest["held_out_nats"]
    figures = model.manifest["gate"]["figures"]
    assert abs(figures["nats_a_packet"] / held_out["packet"] - 1) < 0.05
    assert abs(figures["nats_a_conversation"] / held_out["conversation"] - 1) < 0.05
    loaded = subprocess.run(
        [sys.executable, "-c", "import nsstream_daemon.supervisor, sys; print('torch' in sys.modules)"],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert loaded.stdout == "False\n"


def test_a_private_stream_is_learned_from_public_captures_and_accounted_for(tmp_path: Path):
    capture = tmp_path / "lab.pcap"
    capture.write_bytes(two_chunks_of_the_lab())
    nest = Nest(
        tmp_path,
        source={"input": str(capture), "at_end": "drain"},
        chunks={"length_s": 10, "lateness_s": 5},
        training={"seed_steps": 4, "silence_s": 170, "seed_captures": [str(capture)]},
        gate={"drawn_conversations": 60},
        privacy={"mode": "private", "epsilon": 8.0, "chunk_epsilon": 3.0},
    )
    try:
        daemon = nest.start(sys.executable, "-m", "nsstream_daemon", "daemon", "-c", str(nest.config))
        assert daemon.wait(400) == 0, nest.log.read_text()
    finally:
        nest.close()
    log = nest.log.read_text()
    assert nest.rows("SELECT DISTINCT state FROM job") == [("done",)], log
    models = [load_checkpoint(nest.state / "models" / row[0]) for row in nest.rows("SELECT id FROM model")]
    assert len(models) == len(nest.stored()) == 2
    for model in models:
        told = model.manifest["privacy"]
        assert (told["unit"], told["epsilon"], told["delta"]) == ("host", 3.0, 1e-5)
        assert 2.9 < epsilon(from_dicts(told["mechanisms"]), 1e-5) <= 3.0
    ledger = Ledger(nest.state / "ledger.sqlite")
    spending = PrivateJobs(PrivacySection(mode="private", epsilon=8.0, chunk_epsilon=3.0), ledger, SystemClock())
    told = spending.status()
    ledger.close()
    done = [mechanism for model in models for mechanism in from_dicts(model.manifest["privacy"]["mechanisms"])]
    assert (told["jobs"], told["unsettled"], told["refused"]) == (2, 0, {})
    assert told["spent_for_ever"] == pytest.approx(epsilon(done, 1e-5), rel=1e-9)
    assert read_promoted(nest.state / "models") is not None


def two_chunks_of_the_lab() -> bytes:
    """The bundled capture's packets of two chunks of ten seconds."""
    with resources.as_file(resources.files("nsstream_daemon") / "data" / "lab.pcap.xz") as path:
        octets = lzma.decompress(path.read_bytes())
    records, at, first_s = bytearray(octets[:24]), 24, None
    while at < len(octets):
        second_s, _, length = struct.unpack_from("<III", octets, at)
        first_s = first_s or (second_s // 10 + 1) * 10
        if first_s <= second_s < first_s + 20:
            records += octets[at : at + 16 + length]
        at += 16 + length
    return bytes(records)


def children_with(pid: int, words: bytes) -> list[int]:
    """The children of a process whose command line has these words."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            numbers = (task / "children").read_text().split()
        except OSError:
            continue
        for number in map(int, numbers):
            try:
                command = Path(f"/proc/{number}/cmdline").read_bytes()
                if words in command and command.startswith(sys.executable.encode()):  # behind nice and taskset
                    found.append(number)
            except OSError:
                continue
    return found
