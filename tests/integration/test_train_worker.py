"""The training worker as a real child process: jobs in, checkpoints or one-line errors out."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made_traffic import MINUTE_NS, START_NS, batch_of, made_packets, packet

from nsstream.chunk import Chunk, ChunkStore
from nsstream.counters import Tally
from nsstream.model.checkpoint import load_checkpoint
from nsstream.trace import PacketBatch
from nsstream.trace.grouping import group_conversations

ADDRESS_MAP = {"key_hex": "5a" * 32}


def work(job):
    """Run a worker; gives its exit status, the lines it said, and its stderr."""
    text = job if isinstance(job, str) else json.dumps(job)
    child = subprocess.run(
        [sys.executable, "-m", "nsstream.train.worker"], input=text, capture_output=True, text=True, timeout=300
    )
    return child.returncode, [json.loads(line) for line in child.stdout.splitlines()], child.stderr


def chunk_of(packets, minute):
    begin = START_NS + minute * MINUTE_NS
    tally = Tally(offered=len(packets), kept=len(packets))
    return Chunk.of(begin, begin + MINUTE_NS, packets, tally, is_partial=False)


@pytest.fixture(scope="module")
def chunks(tmp_path_factory):
    """Two minutes in a row, as chunk files; the second goes on with what the first left open."""
    store = ChunkStore(tmp_path_factory.mktemp("state") / "chunks")
    first = made_packets(minute=0)
    open_ends = ("198.51.100.9", 443)
    table, _ = group_conversations(first)
    row = int(np.flatnonzero((table.responder_port == 443) & (table.is_open_at_end == 1))[0])
    client = "192.0.2." + str(int(table.initiator_address[row, 15])), int(table.initiator_port[row])
    rows = [packet(60_000 + 100 * i, client, open_ends, 6, 100, tcp_control_bits=16) for i in range(5)]
    second = PacketBatch.concatenate([batch_of(rows), made_packets(minute=1)])
    second = second.take(np.argsort(second.observation_time_ns, kind="stable"))
    return [str(store.write(chunk_of(packets, minute))) for minute, packets in enumerate((first, second))]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def job(chunks, out):
    return {"chunk": chunks[0], "out": str(out), "seed": 1, "steps": 3, "threads": 1, "address_map": ADDRESS_MAP}


@pytest.fixture(scope="module")
def done(job):
    status, lines, errors = work(job)
    assert (status, errors) == (0, "")
    return lines


def _path(lines):
    return Path(lines[-1]["checkpoint"])


def contents(directory):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(directory.iterdir())}


def test_the_last_line_is_done_and_names_a_checkpoint_that_loads(done, out, chunks):
    last = done[-1]
    packets = ChunkStore(out).read(chunks[0]).packets
    assert last["event"] == "done"
    assert last["packets"] == len(packets)
    assert last["conversations"] == len(group_conversations(packets)[0])
    assert {line["event"] for line in done[:-1]} <= {"progress"}
    model = load_checkpoint(_path(done))
    assert model.manifest["seed"] == 1
    assert model.manifest["parent"] is None
    assert model.manifest["packets"] == last["packets"]
    assert chunks[0].endswith(model.manifest["chunk"] + ".arrow")


def test_the_same_job_gives_the_same_octets(job, done, tmp_path):
    status, lines, _ = work(job | {"out": str(tmp_path)})
    assert status == 0
    first, second = _path(done), _path(lines)
    assert first.name == second.name
    assert contents(first) == contents(second)


def test_no_real_address_is_in_a_checkpoint(done):
    hosts = load_checkpoint(_path(done)).codec.host
    shown = {bytes(v[1:]) for v in hosts.slots if v is not None}
    assert shown
    for address in shown:
        assert address[:13] == bytes(10) + b"\xff\xff\x0a" or address[0] in (0xFD, 0xFE, 0xFF)


def test_a_fine_tune_goes_on_from_its_parent_and_knows_what_was_open_before(job, done, chunks):
    parent = done[-1]["checkpoint"]
    status, lines, errors = work(job | {"chunk": chunks[1], "before": chunks[0], "parent": parent})
    assert (status, errors) == (0, "")
    model, old = load_checkpoint(_path(lines)), load_checkpoint(_path(done))
    assert model.manifest["parent"] == old.manifest["id"]
    assert model.manifest["start_ns"] == START_NS + MINUTE_NS
    for i, value in enumerate(old.codec.host.slots):
        if value is not None and value in model.codec.host.slots:
            assert model.codec.host.slots[i] == value
    _, orphans, _ = work(job | {"chunk": chunks[1], "parent": parent})
    assert _path(orphans).name != _path(lines).name  # without the chunk before, nothing continues


def test_progress_is_told_while_a_budget_lasts(job, tmp_path):
    status, lines, _ = work(job | {"out": str(tmp_path), "steps": None, "budget_s": 2.0})
    assert status == 0
    told = lines[:-1]
    assert told
    for line in told:
        assert set(line) == {"event", "stage", "step", "steps", "loss", "elapsed_s", "left_s"}
        assert line["stage"] in ("likelihood", "adversary", "critic")


def refused(job):
    """The message of the error line with which a worker ends; its exit status is 1, and its stderr empty."""
    status, lines, errors = work(job)
    assert status == 1
    assert errors == ""
    assert {line["event"] for line in lines[:-1]} <= {"progress"}
    assert lines[-1]["event"] == "error"
    message = lines[-1]["message"]
    assert "\n" not in message
    return message


@pytest.mark.parametrize("text", ["", '{"chunk": 3}'])
def test_a_bad_job_is_one_error_line(text):
    assert refused(text).startswith("not a training job: ")


def test_a_chunk_that_is_not_there_is_one_error_line(job, tmp_path):
    missing = tmp_path / "20230101T000000Z-60s.arrow"
    assert missing.name in refused(job | {"chunk": str(missing)})


def test_a_chunk_that_is_garbage_is_one_error_line(job, tmp_path):
    path = tmp_path / "20230101T000000Z-60s.arrow"
    path.write_bytes(b"no arrow file at all" * 50)
    assert path.name in refused(job | {"chunk": str(path)})


def test_an_empty_chunk_is_one_error_line(job, tmp_path):
    path = ChunkStore(tmp_path).write(chunk_of(PacketBatch.empty(), 0))
    assert "holds no packets" in refused(job | {"chunk": str(path)})


def test_a_chunk_that_is_too_small_is_one_error_line(job, tmp_path):
    path = ChunkStore(tmp_path).write(chunk_of(batch_of([packet(0), packet(1)]), 0))
    assert "1 conversations is too small" in refused(job | {"chunk": str(path)})


def test_a_parent_that_is_not_whole_is_one_error_line(job, done, tmp_path):
    parent = tmp_path / "parent"
    parent.mkdir()
    for name in ("manifest.json", "codec.json", "weights.safetensors"):
        octets = (_path(done) / name).read_bytes()
        (parent / name).write_bytes(octets[:1000] if name == "weights.safetensors" else octets)
    assert "is not a whole checkpoint" in refused(job | {"parent": str(parent)})


def test_a_place_that_cannot_hold_checkpoints_is_one_error_line(job, tmp_path):
    (tmp_path / "models").write_text("a file")
    assert "cannot write a checkpoint" in refused(job | {"out": str(tmp_path / "models"), "steps": 1})
