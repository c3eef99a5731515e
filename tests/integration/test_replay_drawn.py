"""Models, trained for a few steps by the real worker, played by the real server: `python -m nsstream.replay.server`."""

import json
import subprocess
import sys
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from nsstream.chunk import Chunk, ChunkStore
from nsstream.counters import Tally
from nsstream.model.promotion import promote
from nsstream.replay import spawn_server
from nsstream.replay.framing import Framing
from nsstream.replay.scenario import Attack, FollowSpec, Limits, MixSpec, ModelSpec, ModelsSpec, Part, Scenario
from nsstream.replay.stream import open_stream
from nsstream.trace import PacketBatch
from nsstream.trace.fields import UDP
from nsstream.wire.pcap import pcap_header, write_records

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


@pytest.mark.slow
def test_a_start_says_what_drawn_packets_carry_and_where_they_stand(models, tmp_path):
    side = {"rules": [{"prefix": "0.0.0.0/0", "target": "192.168.0.0/16"}], "gateway_mac": "02:00:00:00:aa:01"}
    other = {"rules": [{"prefix": "255.0.0.0/8", "target": "172.16.0.0/16"}], "gateway_mac": "02:00:00:00:bb:01"}
    payloads = {}
    with spawn_server() as client:
        for payload in ("template", "zero"):
            path = tmp_path / f"{payload}.pcap"
            client.start(
                models[:1], {"kind": "pcap", "path": path}, payload=payload, testbed={"a": side, "b": other}, seed=3
            )
            assert client.wait().packets_written > 0
            lines = subprocess.run(
                ["tshark", "-n", "-r", path, "-o", "udp.check_checksum:TRUE", "--disable-protocol", "ntp", "-T",
                 "fields", "-e", "ip.src", "-e", "ip.dst", "-e", "udp.checksum.status", "-e", "data.data"],
                check=True, capture_output=True, text=True,
            ).stdout.splitlines()  # fmt: skip
            rows = [line.split("\t") for line in lines]
            assert {row[k].rsplit(".", 2)[0] for row in rows for k in (0, 1)} == {"192.168"}
            assert {row[2] for row in rows} == {"1"}
            payloads[payload] = [row[3] for row in rows if row[3]]
    assert all(set(data) == {"0"} for data in payloads["zero"])
    assert payloads["template"]
    assert not any(set(data) == {"0"} for data in payloads["template"])


def blocks_of(spec, scenario, **arguments):
    with closing(open_stream(spec, scenario, 5, Framing(), **arguments)) as stream:
        return list(iter(stream.read, None))


def octets_of(blocks):
    return b"".join(block.frames.octets.tobytes() for block in blocks)


def times_of(blocks):
    return np.concatenate([block.frames.observation_time_ns for block in blocks])


@pytest.mark.slow
def test_a_model_is_drawn_without_end_the_same_each_time_and_anew_in_every_chunk(models, tmp_path):
    scenario = Scenario(limits=Limits(packets=EACH * 7 // 2))
    blocks = blocks_of(ModelSpec(model=models[0]), scenario)
    again = blocks_of(ModelSpec(model=models[0]), scenario)
    assert octets_of(blocks) == octets_of(again)
    assert np.array_equal(times_of(blocks), times_of(again))
    chunks = [[b for b in blocks if b.chunk == n] for n in (1, 2, 3)]
    assert all(octets_of(a) != octets_of(b) for a, b in pairwise(chunks))
    for number, chunk in enumerate(chunks):
        assert times_of(chunk)[0] >= (1000 + number) * MINUTE_NS
        assert times_of(chunk)[-1] < (1001 + number) * MINUTE_NS
    assert (np.diff(times_of(blocks)) > 0).all()
    frames = [block.frames for block in blocks]
    records = [write_records(f.observation_time_ns, f.offset, f.octets) for f in frames]
    (tmp_path / "endless.pcap").write_bytes(pcap_header() + b"".join(records))
    bad = subprocess.run(
        ["tshark", "-n", "-r", tmp_path / "endless.pcap", "-o", "ip.check_checksum:TRUE", "-o",
         "udp.check_checksum:TRUE", "-Y", "ip.checksum.status == 0 || udp.checksum.status == 0 || _ws.malformed"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert bad == ""


@pytest.mark.slow
def test_a_followed_directory_gives_the_new_model_from_a_chunk_boundary_on(models):
    directory = Path(models[0]).parent
    promote(directory, Path(models[0]).name)
    with closing(open_stream(FollowSpec(directory=str(directory)), Scenario(), 5, Framing())) as stream:
        blocks = [stream.read()]
        promote(directory, Path(models[1]).name)
        while blocks[-1].model_id == blocks[0].model_id:
            blocks.append(stream.read())
            assert len(blocks) < 20
    assert blocks[-1].model_id == Path(models[1]).name
    assert blocks[-1].chunk == blocks[-2].chunk + 1
    assert blocks[-1].chunk <= 4
    times = times_of(blocks)
    assert (np.diff(times) > 0).all()
    assert times[-1] < (1000 + blocks[-1].chunk) * MINUTE_NS  # no gap in time, whatever the models' own
    assert blocks[-1].tally["models_switched"] == 1


@pytest.mark.slow
def test_models_are_mixed_and_an_attack_blended_in_with_labels(models, tmp_path):
    labels = tmp_path / "labels.csv"
    spec = MixSpec(parts=[Part(model=models[0], weight=3.0), Part(model=models[1])])
    attack = Attack(model=models[1], share=0.2, labels=str(labels))
    blocks = blocks_of(spec, Scenario(attack=attack, limits=Limits(packets=4 * EACH)))
    marked = sum(int(block.is_attack.sum()) for block in blocks)
    total = sum(len(block.frames) for block in blocks)
    assert total == 4 * EACH
    assert 0.1 < marked / total < 0.3
    assert sum(int(line.split(",")[7]) for line in labels.read_text().splitlines()[1:]) == marked


@pytest.mark.slow
def test_a_sequence_is_looped_sought_and_scaled(models):
    spec = ModelsSpec(models=models)
    once = blocks_of(spec, Scenario())
    twice = blocks_of(spec, Scenario(), loop=2)
    assert {b.chunk for b in twice} == {1, 2, 3, 4}
    assert octets_of(twice[: len(once)]) == octets_of(once)
    late = blocks_of(spec, Scenario(flows=2.0, clients="more"))
    assert 1.9 < len(times_of(late)) / len(times_of(once)) < 2.1
    middle = 1001 * MINUTE_NS + MINUTE_NS // 2
    with closing(open_stream(spec, Scenario(), 5, Framing())) as stream:
        stream.seek(middle)
        rest = list(iter(stream.read, None))
    times = times_of(once)
    np.testing.assert_array_equal(times_of(rest), times[times >= middle])


GROWTH = """
import resource, sys
from nsstream.replay.scenario import ModelSpec, Scenario
from nsstream.replay.framing import Framing
from nsstream.replay.stream import open_stream
stream, peaks = open_stream(ModelSpec(model=sys.argv[1]), Scenario(), 5, Framing()), []
for chunks in (6, 22):
    while stream.read().chunk < chunks:
        pass
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
stream.close()
print(peaks[1] - peaks[0])
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_chunks_drawn(models):
    done = subprocess.run([sys.executable, "-c", GROWTH, models[0]], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 16_384  # kibibytes
