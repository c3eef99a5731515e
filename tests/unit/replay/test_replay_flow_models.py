"""Streams of flow records: chunk after chunk by their ends, shifted, selected, sought, limited; and what is refused."""

import threading
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_flows import START_NS, made_flows

from nsstream.assemble.frames import Frames
from nsstream.clock import SystemClock
from nsstream.errors import InputError, StateError
from nsstream.replay.checkpoints import CheckpointInfo, read_checkpoints
from nsstream.replay.flow_rows import FlowBlock, FlowRows
from nsstream.replay.framing import Framing
from nsstream.replay.player import Player
from nsstream.replay.scenario import Attack, Limits, Scenario
from nsstream.replay.sink import check_counters
from nsstream.replay.streams.ahead import AheadLimits, DrawnAhead
from nsstream.replay.streams.flow_models import BLOCK_FLOWS, FlowModelStream, check_flows_agree
from nsstream.replay.streams.limited import LimitedStream
from nsstream.replay.streams.plan import SequencePlan
from nsstream.replay.streams.timeline import Timeline
from nsstream.trace.flows import FlowTable

CHUNK_NS = 700 * 10**9
PATIENCE_S = 300.0


def checkpoint(name="a"):
    return CheckpointInfo(Path("/models") / name, name, START_NS, START_NS + CHUNK_NS, is_of_flows=True)


class Draws:
    """Made flows for any checkpoint but one called `broken`; more of them for a larger scale."""

    def __init__(self, count=240):
        self.count = count
        self.seeds = []

    def __call__(self, directory, seed, scale, /):
        if directory.name == "broken":
            raise StateError(f"{directory}: cannot be read")
        self.seeds.append(seed)
        return made_flows(seed % 2**32, round(self.count * scale))


def stream_of(draws=None, passes=2, seed=1, scenario=Scenario(), start_ns=START_NS):  # noqa: B008 - frozen
    plan = SequencePlan([checkpoint()], gaps="squeezed", passes=passes)
    return FlowModelStream(plan, Timeline(START_NS, start_ns, scenario.time_compression), scenario, seed, (), draws)


def rows_of(stream):
    blocks = list(iter(stream.read, None))
    assert all(isinstance(block, FlowBlock) and 0 < len(block.rows) <= BLOCK_FLOWS for block in blocks)
    return blocks, FlowTable.concatenate([block.rows.table for block in blocks])


def test_records_come_by_their_ends_chunk_after_chunk_and_no_pass_repeats_another():
    draws = Draws(count=BLOCK_FLOWS + 300)
    blocks, table = rows_of(stream_of(draws, passes=2))
    assert [block.chunk for block in blocks] == [1, 1, 2, 2]
    assert (np.diff(table.flow_end_ns) >= 0).all()
    assert draws.seeds[0] != draws.seeds[1]
    expected = made_flows(draws.seeds[1] % 2**32, draws.count)
    second = FlowTable.concatenate([block.rows.table for block in blocks[2:]])
    assert np.array_equal(second.flow_end_ns, np.sort(expected.flow_end_ns + CHUNK_NS))
    assert second.label_names == expected.label_names


def test_the_same_seed_gives_the_same_records():
    a, b, c = (rows_of(stream_of(Draws(), seed=seed))[1] for seed in (1, 1, 2))
    assert all(np.array_equal(a.columns()[name], b.columns()[name]) for name in a.columns())
    assert not np.array_equal(a.flow_end_ns, c.flow_end_ns)


def test_a_scenario_moves_squeezes_scales_and_selects():
    plain = rows_of(stream_of(Draws(), passes=1))[1]
    moved = rows_of(stream_of(Draws(), passes=1, scenario=Scenario(time_compression=60.0), start_ns=0))[1]
    np.testing.assert_allclose(moved.flow_end_ns, (plain.flow_end_ns - START_NS) / 60, atol=2, rtol=0)
    assert (moved.flow_start_ns <= moved.flow_end_ns).all()
    assert len(rows_of(stream_of(Draws(), passes=1, scenario=Scenario(flows=3.0)))[1]) > 2.5 * len(plain)
    asked = (plain.source_transport_port == 53) | (plain.destination_transport_port == 53)
    blocks, some = rows_of(stream_of(Draws(), passes=1, scenario=Scenario(services=["udp/53"])))
    assert len(some) == np.count_nonzero(asked) > 0
    assert blocks[-1].tally == {"flows_not_selected": np.count_nonzero(~asked)}
    none = rows_of(stream_of(Draws(), passes=1, scenario=Scenario(hosts=["192.0.2.0/24"])))[0]
    assert none == []


def test_seeking_skips_what_ended_before_and_counts_it():
    stream = stream_of(Draws(), passes=3)
    _, whole = rows_of(stream_of(Draws(), passes=3))
    stream.read()
    at_ns = START_NS + CHUNK_NS + CHUNK_NS // 2
    stream.seek(at_ns)
    blocks, rest = rows_of(stream)
    assert np.array_equal(rest.flow_end_ns, whole.flow_end_ns[whole.flow_end_ns >= at_ns])
    assert blocks[-1].tally["flows_sought_past"] > 0
    with pytest.raises(InputError, match="before the stream's first chunk"):
        stream.check_seek(START_NS - 1)
    stream.set_loop(4)
    assert len(rows_of(stream)[1])


def test_a_model_that_cannot_be_loaded_is_an_error():
    plan = SequencePlan([replace(checkpoint(), directory=Path("/models/broken"))])
    with pytest.raises(StateError):
        FlowModelStream(plan, Timeline(START_NS, START_NS), Scenario(), 1, (), Draws()).read()


@pytest.mark.parametrize("limits", [Limits(packets=100), Limits(octets=100_000), Limits(twin_s=60.0)])
def test_limits_hold_for_records(limits):
    whole = rows_of(stream_of(Draws()))[1]
    ahead = DrawnAhead(stream_of(Draws()), AheadLimits(), SystemClock(), threading.Event())
    with closing(LimitedStream(ahead, limits)) as stream:
        table = rows_of(stream)[1]
    assert 0 < len(table) < len(whole)
    assert np.array_equal(table.flow_end_ns, whole.flow_end_ns[: len(table)])
    octets = int((table.octet_delta_count + table.reverse_octet_delta_count).sum())
    if limits.packets:
        assert len(table) == limits.packets
    elif limits.octets:
        assert octets <= limits.octets < octets + int(whole.octet_delta_count[len(table)])
    else:
        assert table.flow_end_ns[-1] - table.flow_end_ns[0] <= 60 * 10**9


@pytest.mark.parametrize(
    ("scenario", "framing", "path"),
    [
        (Scenario(attack=Attack(model="/m", share=0.1)), Framing(), "scenario.attack"),
        (Scenario(flows=2.0, clients="more"), Framing(), "scenario.clients"),
        (Scenario(), Framing(payload="zero"), "payload"),
        (Scenario(), Framing(oversize="segment"), "oversize"),
    ],
)
def test_what_only_frames_have_is_refused(scenario, framing, path):
    with pytest.raises(InputError, match=f"^{path}: a model of flows draws no frames"):
        check_flows_agree(scenario, framing)
    check_flows_agree(Scenario(flows=2.0, services=["tcp/443"]), Framing())


def test_rows_out_of_order_are_no_rows():
    table = made_flows(1, 50)
    with pytest.raises(ValueError, match="flow_end_ns must never fall"):
        FlowRows(table.take(np.argsort(-table.flow_end_ns)))


def test_models_of_flows_and_of_packets_make_no_line(tmp_path):
    for minute, (name, schema) in enumerate((("a", "flows-4"), ("b", "conversations-2"))):
        path = tmp_path / name
        path.mkdir()
        (path / "manifest.json").write_text(
            f'{{"id": "{name}", "schema": "{schema}", "start_ns": {minute}, "end_ns": {minute + 1}}}'
        )
    with pytest.raises(InputError, match="models of packets and of flows are not played in one line"):
        read_checkpoints([str(tmp_path / "a"), str(tmp_path / "b")])


class Collects:
    """A sink that keeps flows, and counts them."""

    def __init__(self):
        self.tables = []
        self.end = None

    @property
    def counters(self):
        count = sum(map(len, self.tables))
        return {"frames": 0, "frames_written": 0, "flows": count, "flows_written": count}

    def open(self):
        pass

    def write(self, frames: Frames):
        raise AssertionError("no frames were expected")

    def write_flows(self, table):
        self.tables.append(table)

    def close(self):
        self.end = "closed"

    def abort(self):
        self.end = "aborted"


def play(sink, rate="max"):
    ended = threading.Event()
    player = Player(lambda: stream_of(Draws(), passes=1), lambda is_stopped: sink, rate, SystemClock(), ended.set)
    player.start()
    assert ended.wait(PATIENCE_S)
    return player


def test_a_player_writes_flows_and_counts_the_packets_that_they_count():
    sink = Collects()
    player = play(sink, rate=1e6)
    whole = rows_of(stream_of(Draws(), passes=1))[1]
    got = FlowTable.concatenate(sink.tables)
    assert (player.outcome, sink.end) == ("done", "closed")
    assert np.array_equal(got.flow_end_ns, whole.flow_end_ns)
    done = player.progress
    assert done.packets_written == int(whole.packet_delta_count.sum() + whole.reverse_packet_delta_count.sum())
    assert done.octets_written == int(whole.octet_delta_count.sum() + whole.reverse_octet_delta_count.sum())
    assert (done.twin_start_ns, done.twin_end_ns) == (whole.flow_end_ns[0], whole.flow_end_ns[-1])
    assert player.packets_drawn_ahead == 0
    check_counters(player.counters)


def test_a_sink_of_frames_fails_a_run_of_flows():
    class Plain:
        def __init__(self):
            self.counters = Counter(frames=0)
            self.end = None

        def open(self):
            pass

        def write(self, frames):
            raise AssertionError

        def close(self):
            raise AssertionError

        def abort(self):
            self.end = "aborted"

    sink = Plain()
    player = play(sink)
    assert (player.outcome, sink.end) == ("failed", "aborted")
    assert player.progress.error == "this sink takes frames, and a model of flows draws none"
