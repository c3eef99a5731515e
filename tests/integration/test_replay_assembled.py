"""Conversations through the real assembler, the stream, the player and a sink, to what tshark says of the file."""

import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest

from nsstream.clock import SystemClock
from nsstream.replay.checkpoints import CheckpointInfo
from nsstream.replay.framing import Framing
from nsstream.replay.pcap_sink import PcapSink, PcapSinkSpec
from nsstream.replay.player import Player
from nsstream.replay.sink import SinkContext
from nsstream.replay.streams.drawn import DrawnStream
from nsstream.replay.streams.line import Line
from nsstream.replay.streams.plan import SequencePlan
from nsstream.replay.streams.timeline import Timeline
from nsstream.trace import PacketBatch
from nsstream.trace.fields import UDP
from nsstream.trace.grouping import group_conversations

MINUTE_NS = 60 * 10**9
MINUTES = 3
EACH = 200
CHECKPOINTS = [
    CheckpointInfo(Path(f"/{i}"), f"m{i}", i * MINUTE_NS, (i + 1) * MINUTE_NS) for i in range(10, 10 + MINUTES)
]


def draw(directory):
    """Datagrams of twenty clients from the start of a minute until half a minute after its end."""
    start_ns = int(directory.name) * MINUTE_NS
    rng = np.random.default_rng(int(directory.name))
    columns = {name: column.copy() for name, column in PacketBatch.empty(EACH).columns().items()}
    columns["observation_time_ns"] = np.sort(start_ns + rng.integers(0, MINUTE_NS * 3 // 2, EACH))
    columns["ip_version"][:] = 4
    for name, last in (("source_address", rng.integers(1, 21, EACH)), ("destination_address", 99)):
        columns[name][:, 10:12] = 255
        columns[name][:, 12] = 10
        columns[name][:, 15] = last
    columns["protocol_identifier"][:] = UDP
    columns["source_transport_port"][:] = 40_000
    columns["destination_transport_port"][:] = 7
    columns["ip_total_length"][:] = rng.integers(28, 1500, EACH)
    columns["ip_header_length"][:] = 20
    columns["ip_ttl"][:] = 64
    return group_conversations(PacketBatch.from_columns(columns), None)[0]


class MadeDrawer:
    """Gives made conversations where a drawer gives a model's."""

    def draw(self, checkpoint, *, line, turn, select):
        return draw(checkpoint)


def assembled(checkpoints, seed, mtu=1500):
    plan, drawer = SequencePlan(checkpoints), MadeDrawer()
    timeline = Timeline(plan.origin_ns, plan.origin_ns)
    return DrawnStream([Line(0, plan, drawer, seed)], drawer, timeline, seed, Framing(mtu=mtu))


def play_to(path, open_stream=lambda: assembled(CHECKPOINTS, seed=1)):
    ended = threading.Event()
    sink = PcapSink(PcapSinkSpec(path=str(path)), SinkContext())
    player = Player(open_stream, lambda is_stopped: sink, "max", SystemClock(), ended.set)
    player.start()
    assert ended.wait(300)
    return player


def test_spilling_chunks_make_one_lawful_file_in_order(tmp_path):
    path = tmp_path / "twin.pcap"
    player = play_to(path)
    assert (player.outcome, player.progress.error) == ("done", None)
    assert player.progress.packets_written == MINUTES * EACH
    lines = subprocess.run(
        ["tshark", "-n", "-r", path, "-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE", "-T", "fields",
         "-e", "frame.time_epoch", "-e", "ip.checksum.status", "-e", "udp.checksum.status", "-e", "_ws.malformed"],
        check=True, capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    times = [line.split("\t")[0] for line in lines]
    assert len(times) == MINUTES * EACH
    assert times == sorted(set(times), key=float)
    assert {line.split("\t", 1)[1] for line in lines} == {"1\t1\t"}
    drawn = np.sort(np.concatenate([draw(c.directory).observation_time_ns for c in CHECKPOINTS]))
    assert times == [f"{t // 10**9}.{t % 10**9:09d}" for t in drawn.tolist()]


def test_the_same_seed_gives_the_same_file(tmp_path):
    play_to(tmp_path / "a.pcap")
    play_to(tmp_path / "b.pcap")
    assert (tmp_path / "a.pcap").read_bytes() == (tmp_path / "b.pcap").read_bytes()


def test_an_error_that_is_a_bug_fails_the_run_and_names_itself(tmp_path, caplog):
    def raise_bug():
        raise ZeroDivisionError("of ours")

    player = play_to(tmp_path / "twin.pcap", raise_bug)
    assert player.join(30)
    assert player.outcome == "failed"
    assert player.progress.error == "an error inside nsstream ended the run: ZeroDivisionError: of ours"
    assert [record.message for record in caplog.records] == ["run failed"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seed", [0, 2**63 - 1])
def test_every_seed_of_the_protocol_is_taken(seed):
    block = assembled(CHECKPOINTS[:1], seed, 576).read()
    assert block.model_id == "m10"
    assert int(np.diff(block.frames.offset).max()) <= 576 + 14
